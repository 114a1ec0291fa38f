"""What a pickle would call, read off its bytes. Nothing is unpickled, nothing is imported.

Only to tell the user why a file was refused: what is safe to load is torch's `weights_only` to decide, never this file.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MOST_BYTES = 64 << 20  # of a pickle that are looked at: names come early, and the tensors' bytes are elsewhere
_HARMLESS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_\w+|torch(\.storage)? \w*Storage|torch (Size|device|\w*\d+)"
)
_PYTHON_2 = {"__builtin__": "builtins", "commands": "subprocess", "copy_reg": "copyreg"}  # names that protocols 0 to 2 write


def calls_in(path: Path) -> list[str]:
    """Dotted names that the pickle in `path` (bare, or inside a torch zip) would call, beyond what tensors need; in order."""
    data = _pickle_bytes(path)
    found = dict.fromkeys(name for name in _globals(io.BytesIO(data)) if not _HARMLESS.fullmatch(name))
    return [".".join((_PYTHON_2.get(module, module), attribute)) for module, _, attribute in (n.partition(" ") for n in found)]


def looks_like_pickle(start: bytes) -> bool:
    """True for the first bytes of a pickle of any protocol (0 and 1 have no magic number: their first opcodes are tried)."""
    if start[:1] == b"\x80":
        return len(start) > 1 and start[1] <= 5
    return start[:1] in b"(}]c" and next(_globals(io.BytesIO(start)), None) is not None


def _pickle_bytes(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return file.read(MOST_BYTES)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                with archive.open(name) as member:
                    return member.read(MOST_BYTES)
    return b""


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """`module name` of each global, over all pickles that follow each other in `stream` (torch's old format has five)."""
    strings: list[str] = []
    try:
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument)
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    yield f"{strings[-2]} {strings[-1]}"
                elif isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, EOFError, IndexError, OverflowError, struct.error):
        return  # the end, or damage: what was named before it stays named
