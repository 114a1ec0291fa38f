"""What changed in a module since its factory built it: module name -> attributes. It stays with the module, through deep copies.

So saving a stripped network needs nothing but the module. Never here: what the attributes mean (rebuild.py, fold.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

Record = Mapping[str, Mapping[str, Any]]
_RECORD = "_compress_modules"


def record_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    """What changed in `module` since its factory built it: module name -> new attributes. Empty for a fresh one."""
    return {name: dict(entry) for name, entry in getattr(module, _RECORD, {}).items()}


def note(module: nn.Module, record: Record) -> None:
    """Add to the record of `module`; a new entry of a module replaces its old one."""
    object.__setattr__(module, _RECORD, {name: dict(entry) for name, entry in {**record_of(module), **record}.items()})
