"""Who really executed the graph: what the tool and the runtime say of delegates, and whether that is what was asked for.

A refused delegate does not fail by itself: the tool runs on the CPU and exits with 0. So an accelerator that leaves no evidence
in the log has not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from android_bench.benchmark_model.flags import Options
from android_bench.benchmark_model.lines import LONGEST, Line
from android_bench.benchmark_model.result import Delegation, Replacement, Verdict

_APPLIED = re.compile(
    r"(?:Explicitly a|A)pplied (?P<name>\w[\w ]{0,40}) delegate, and the model graph will be (?P<how>completely|partially)"
    r" executed (?:by|w/) the delegate(?: w/ (?P<kernels>[0-9]{1,7}) delegate kernels)?\."
)
_THOUGH = re.compile(
    r"Though (?P<name>\w[\w ]{0,40}) delegate is (?:explicitly )?applied, the model graph will not be executed"
    r" (?:by|w/) the delegate\."
)
_REPLACING = re.compile(
    r"Replacing ([0-9]{1,9})(?: out of ([0-9]{1,9}))? node\(s\) with delegate \(([^()]{1,80})\) node,"
    r" yielding ([0-9]{1,9}) partitions(?: for (the whole graph|subgraph [0-9]{1,6}))?\."
)
_NOT_MADE = re.compile(
    r"Failed to apply (?P<name>\w[\w ]{0,40}) delegate\.?|(?P<platform>GPU|NNAPI) acceleration is unsupported on this platform\.?"
)
_REFUSALS = (
    "Disallowed CPU fallback detected",
    "Some ops are not accelerated",
    "failed to prepare",
    "delegate is not initialized",
)
_BACKEND = re.compile(r"Initialized (OpenCL|OpenGL)-based API\.")
_ACCELERATORS = re.compile(r"NNAPI accelerators available: \[([\w.,: -]{0,400})\]")
_XNNPACK_MADE = "Created TensorFlow Lite XNNPACK delegate for CPU."
_ECHO = re.compile(
    r"(?:Use )?(gpu|nnapi|xnnpack|Require full delegation|External delegate path) ?: ?\[(.{0,400})\]", re.IGNORECASE
)
_ARGS = re.compile(r"--(?:use_)?(gpu|nnapi|xnnpack|require_full_delegation)=(true|false|1|0)(?=\s|$)")
_FULL, _EXTERNAL = "require full delegation", "external delegate path"
# What the runtime calls them; others are external.
_OURS = {
    "TfLiteXNNPackDelegate": "xnnpack",
    "TfLiteGpuDelegate": "gpu",
    "TfLiteGpuDelegateV2": "gpu",
    "LITERT_CL": "gpu",
    "LITERT_OPENCL": "gpu",
    "LITERT_OPENGL": "gpu",
    "LITERT_WEBGPU": "gpu",
    "TfLiteNnapiDelegate": "nnapi",
    "TfLiteFlexDelegate": "flex",
    "TfLiteHexagonDelegate": "hexagon",
    "TfLiteCoreMlDelegate": "coreml",
    "GPU": "gpu",
    "NNAPI": "nnapi",
    "XNNPACK": "xnnpack",
}


@dataclass(frozen=True)
class Evidence:
    """What a log says of delegates. `asked`: by our names, as the options say, or as the tool echoes its flags.

    `no_xnnpack`: it was switched off; `is_xnnpack_explicit`: asked for by its flag; `xnnpack_made`: the runtime made one.
    `is_full_demanded`: the tool was to fail when a node stays behind. `refusals`: lines that say why a delegate was not made.
    """

    asked: tuple[str, ...] = ()
    no_xnnpack: bool = False
    is_xnnpack_explicit: bool = False
    is_full_demanded: bool = False
    delegations: tuple[Delegation, ...] = ()
    replacements: tuple[Replacement, ...] = ()
    gpu_backend: str | None = None
    accelerators: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    xnnpack_made: bool = False

    @property
    def executed_by(self) -> tuple[str, ...]:
        """Delegates that took nodes, by our names, in the order of the log."""
        said = [ours(one.delegate) for one in self.delegations if one.taken != "not"]
        return tuple(dict.fromkeys([*said, *(ours(one.delegate) for one in self.replacements if one.nodes)]))

    @property
    def xnnpack(self) -> str | None:
        """`explicit`, `default`, `off`, or None when nothing tells."""
        if self.is_xnnpack_explicit:
            return "explicit"
        if self.xnnpack_made or "xnnpack" in self.executed_by:
            return "default"
        return "off" if self.no_xnnpack else None


def ours(name: str) -> str:
    """Our name of a delegate that the tool or the runtime names: of `flags.DELEGATES`, or one that nobody can ask for here."""
    return _OURS.get(name, "external")


def read_evidence(lines: Sequence[Line], options: Options | None) -> Evidence:
    """Everything that `lines`, in any order of their streams, say of delegates."""
    short = [line for line in lines if line.is_whole and len(line.text) <= LONGEST]
    texts = [line.text for line in short]
    said = _asked(options) if options else _echoed(texts)
    asked = [name for name in ("gpu", "nnapi", "external", "xnnpack") if said.get(_EXTERNAL if name == "external" else name)]
    if len(asked) > 1 and asked[-1] == "xnnpack":  # for what the others leave, which may be nothing
        asked.pop()
    accelerators = [match[1] for match in _all(_ACCELERATORS, texts)]
    refused = [text for text in texts if _NOT_MADE.fullmatch(text) or any(words in text for words in _REFUSALS)]
    return Evidence(
        asked=tuple(asked),
        no_xnnpack=said.get("xnnpack") is False,
        is_xnnpack_explicit=said.get("xnnpack") is True,
        is_full_demanded=said.get(_FULL, said.get("require_full_delegation", False)),
        delegations=tuple(dict.fromkeys(_delegations(texts))),
        replacements=tuple(dict.fromkeys(_replacements(texts))),
        gpu_backend=next((match[1] for match in reversed(_all(_BACKEND, texts))), None),
        accelerators=tuple(name for name in re.split("[, ]+", accelerators[-1]) if name) if accelerators else (),
        refusals=tuple(dict.fromkeys(refused)),
        xnnpack_made=_XNNPACK_MADE in texts,
    )


def judge(evidence: Evidence) -> tuple[Verdict, tuple[str, ...]]:
    """(EXECUTED, PARTLY or REFUSED; why not EXECUTED). The worst of all delegates that were asked for."""
    verdicts = [_judge_one(name, evidence) for name in evidence.asked]
    refused = tuple(why for verdict, why in verdicts if verdict is Verdict.REFUSED)
    if refused:
        return Verdict.REFUSED, refused + evidence.refusals
    if evidence.no_xnnpack and evidence.xnnpack == "default":
        return Verdict.FAILED, ("XNNPACK executed it, though it was switched off",)
    partly = tuple(why for verdict, why in verdicts if verdict is Verdict.PARTLY)
    return (Verdict.PARTLY, partly) if partly else (Verdict.EXECUTED, ())


def _judge_one(name: str, evidence: Evidence) -> tuple[Verdict, str]:
    if name == "nnapi" and evidence.accelerators == ("nnapi-reference",):
        return Verdict.REFUSED, "NNAPI has no accelerator here: nnapi-reference is the CPU"
    said = [one for one in evidence.delegations if ours(one.delegate) == name]
    replaced = [one for one in evidence.replacements if ours(one.delegate) == name]
    if any(one.taken == "not" for one in said):
        return Verdict.REFUSED, f"the {name} delegate was applied, and executes nothing of the graph"
    parts = [one for one in said if one.taken == "partially"]
    left = [one for one in replaced if one.total is None or one.nodes < one.total]
    if parts or (left and not said):
        return Verdict.PARTLY, _share(name, parts, left)
    if said or any(one.nodes for one in replaced):
        return Verdict.EXECUTED, ""
    if evidence.is_full_demanded or (name == "xnnpack" and evidence.xnnpack_made):  # desktop builds do not say what it took
        return Verdict.EXECUTED, ""
    return Verdict.REFUSED, f"nothing in the log says that the {name} delegate executed anything"


def _share(name: str, parts: Sequence[Delegation], left: Sequence[Replacement]) -> str:
    nodes = [f"{one.nodes} of {one.total if one.total is not None else 'an unknown number of'} nodes" for one in left]
    kernels = [f"{one.kernels} kernels" for one in parts if one.kernels is not None]
    partitions = [f"{one.partitions} partitions" for one in left]
    return f"the {name} delegate took a part: {', '.join((nodes + (partitions or kernels)) or ['how much is not said'])}"


def _asked(options: Options) -> dict[str, bool]:
    name = _EXTERNAL if options.delegate == "external" else options.delegate
    said = {} if name == "none" else {name: True}
    if options.xnnpack is not None:
        said["xnnpack"] = options.xnnpack
    return said | {_FULL: options.full_delegation}


def _echoed(texts: Iterable[str]) -> dict[str, bool]:
    """What the tool says of its own flags."""
    said: dict[str, bool] = {}
    for text in texts:
        if echo := _ECHO.fullmatch(text):
            said[echo[1].lower()] = echo[2] not in ("", "0", "false")
        elif "args: " in text:
            said |= {name: value in ("true", "1") for name, value in _ARGS.findall(text)}
            if " --external_delegate_path=" in text:
                said[_EXTERNAL] = True
    return said


def _delegations(texts: Iterable[str]) -> list[Delegation]:
    found = []
    for text in texts:
        if match := _APPLIED.fullmatch(text):
            found.append(Delegation(match["name"], match["how"], int(match["kernels"]) if match["kernels"] else None))
        elif match := _THOUGH.fullmatch(text):
            found.append(Delegation(match["name"], "not"))
    return found


def _replacements(texts: Iterable[str]) -> list[Replacement]:
    found = []
    for match in _all(_REPLACING, texts):
        nodes, total, partitions = int(match[1]), int(match[2]) if match[2] else None, int(match[4])
        if total is None or nodes <= total:
            found.append(Replacement(match[3], nodes, total, partitions, match[5]))
    return found


def _all(pattern: re.Pattern[str], texts: Iterable[str]) -> list[re.Match[str]]:
    return [match for text in texts if (match := pattern.fullmatch(text))]
