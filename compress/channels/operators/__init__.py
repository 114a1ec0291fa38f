"""What each operator means for channels: a table from ATen name to handler, one file a family.

To add an operator: a handler `(walk, node, arguments) -> None` with `@handles("name")` in the file of its family. An operator
that is not in the table makes the channels that it touches untouchable, and is named in the report.
"""

from __future__ import annotations

from collections.abc import Callable

from compress.channels.walk import Handler

HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for these ATen operators (without namespace, overload and the `_` of in-place)."""

    def register(handler: Handler) -> Handler:
        for name in names:
            if name in HANDLERS:
                raise ValueError(f"{name} has a handler already")
            HANDLERS[name] = handler
        return handler

    return register


from compress.channels.operators import (  # noqa: E402, F401  (they fill the table)
    creation,
    elementwise,
    linear,
    moves,
    norms,
    pieces,
    products,
    reductions,
    spatial,
)
