"""What can go wrong through input or environment, as one family. Each says in one line what is wrong and what to do.

    CompressError                exit 1   kind
    ├── UsageError               exit 2   usage        options that contradict each other, values out of range
    ├── CheckpointError          exit 1   checkpoint   missing, damaged, hostile or foreign network file
    ├── NetworkError             exit 1   network      unknown name, factory that differs, weights that do not fit, NaN
    ├── ImageError               exit 1   image        photo that cannot be read, is too small; folder without photos
    ├── OutputError              exit 1   output       exists already, is the input, cannot be written, disk full
    ├── MissingToolError         exit 1   missing      a package, program or weight file that has to be installed first
    ├── TraceError               exit 1   trace        the network cannot be traced
    ├── PlanError                exit 1   plan         a plan that does not fit, or would leave no channel
    ├── TrainingError            exit 1   training     loss not finite, state file that does not belong
    ├── ParityError              exit 1   parity       a stage changed what the network computes
    ├── ConversionError          exit 1   conversion   the converter refused, crashed or hung; a file that does not run
    ├── ArtifactError            exit 1   artifact     a card that does not match its file, a broken .onnx or .tflite
    ├── MeasurementError         exit 1   measurement  a benchmark process failed, a damaged file of records
    ├── DeviceError              exit 1   device       a phone that is not there, not allowed, not fit, or that went away
    ├── BudgetFileError          exit 1   budget-file  a budget that cannot be read, or says what nobody understands
    └── BudgetError              exit 3   budget       over budget

Never here: programming errors. Those stay tracebacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# What code of the user's own (a factory, a forward) raises when it does not work. `is_exhausted` (memory.py) comes first.
OF_OTHERS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError,
)  # fmt: skip


class CompressError(Exception):
    """One clear line in `message`; `hint`, where there is one, says what to do."""

    kind = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = _one_line(message)
        self.hint = _one_line(hint) if hint else None

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def to_json(self) -> dict[str, Any]:
        """`{"error": {"kind", "message", "hint"}}`, the shape that `--json` prints."""
        return {"error": {"kind": self.kind, "message": self.message, "hint": self.hint}}


def _one_line(text: str) -> str:
    """Names out of hostile files come into messages: no line breaks, no commands to the terminal."""
    return "".join(c if c.isprintable() else " " for c in text.strip())


class _DocumentError(CompressError):
    """`document`: what was made or checked; it stands beside the error in `--json`, so that a machine sees all of it."""

    def __init__(self, message: str, hint: str | None = None, document: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.document = dict(document or {})

    def to_json(self) -> dict[str, Any]:
        return {**self.document, **super().to_json()}


class UsageError(CompressError):
    kind = "usage"
    exit_code = 2


class CheckpointError(CompressError):
    kind = "checkpoint"


class NetworkError(CompressError):
    kind = "network"


class ImageError(CompressError):
    kind = "image"


class OutputError(CompressError):
    kind = "output"


class MissingToolError(CompressError):
    kind = "missing"


class TraceError(CompressError):
    kind = "trace"


class PlanError(CompressError):
    kind = "plan"


class TrainingError(CompressError):
    kind = "training"


class ParityError(CompressError):
    kind = "parity"


class ConversionError(_DocumentError):
    kind = "conversion"


class ArtifactError(CompressError):
    kind = "artifact"


class MeasurementError(CompressError):
    kind = "measurement"


class DeviceError(CompressError):
    """`reason`: one word for machines (`offline`, `unauthorized`, `hot`, `timeout` ...)."""

    kind = "device"

    def __init__(self, message: str, hint: str | None = None, reason: str = "device") -> None:
        super().__init__(message, hint)
        self.reason = reason

    def to_json(self) -> dict[str, Any]:
        document = super().to_json()
        return {"error": {**document["error"], "reason": self.reason}}


class BudgetFileError(CompressError):
    kind = "budget-file"


class BudgetError(_DocumentError):
    kind = "budget"
    exit_code = 3


def said_by(error: BaseException) -> str:
    """The first line of what other people's code raised, with the error's type where the line says little (a KeyError's)."""
    line = next(iter(str(error).strip().splitlines()), "")
    return line if " " in line else f"{type(error).__name__}: {line}".rstrip(": ")


class TheirCode:
    """Around code that is not ours (a user's factory, a user's forward), which may raise anything, or end the program.

    `say` makes an error of ours of what was raised, or None to let it pass. Ctrl-C always passes.

        with TheirCode(lambda error: NetworkError(f"the factory fails: {said_by(error)}")):
            module = factory()
    """

    def __init__(self, say: Callable[[BaseException], CompressError | None]) -> None:
        self._say = say

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception | SystemExit) and not isinstance(error, CompressError):
            made = self._say(error)
            if made is not None:
                raise made from error


def require(package: str, extra: str) -> None:
    """Raise `MissingToolError` naming the extra when `package` is not importable. Imports nothing."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise MissingToolError(f"{package} is not installed", f"pip install 'mobile-compress[{extra}]'")
