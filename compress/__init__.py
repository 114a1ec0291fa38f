"""mobile-compress: make image-to-image CNNs small and fast for phones, and prove at each step that nothing was lost.

In memory, for people with their own training loop: `load`, `save`, `plan`, `apply`, `hold_masks`, `strip`. Each is imported
when it is first used, so `import compress` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "compress.api",
    "save": "compress.api",
    "plan": "compress.api",
    "apply": "compress.api",
    "hold_masks": "compress.api",
    "strip": "compress.api",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from compress.api import apply, hold_masks, load, plan, save, strip  # noqa: F401


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'compress' has no attribute {name!r}")
