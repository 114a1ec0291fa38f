"""The kinds of `.tflite` file that one network becomes: a table. Plain data, imports no TensorFlow.

To add one: a row. What a row cannot say is work for tflite.py, the only file that knows the converter.
"""

from __future__ import annotations

from dataclasses import dataclass

from compress.errors import UsageError


@dataclass(frozen=True)
class Variant:
    """How one kind of file is made. `way`: who makes it, the converter, or of its float file `static` or `mixed` quantisation.

    For the converter: `optimise`: quantise weights; `weights`: the types that they may be stored as (empty: int8); `operators`:
    OpsSet names, empty for its default. `calibrated`: activations are quantised too, with ranges seen on photos. `usual`: made
    when nobody says which variants.
    """

    name: str
    way: str = "converter"
    optimise: bool = True
    weights: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    calibrated: bool = False
    usual: bool = True


_INT16X8 = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
VARIANTS = {
    row.name: row
    for row in (
        Variant("fp32", optimise=False),
        Variant("fp16", weights=("float16",)),
        Variant("dynamic"),
        Variant("int8", "static", calibrated=True),
        Variant("mixed", "mixed", calibrated=True),
        Variant("int16x8", operators=(_INT16X8, "TFLITE_BUILTINS"), calibrated=True, usual=False),  # exact, and 100 x slower
    )
}
REFERENCE = "fp32"  # the one that every other is held against; always made


def parse(text: str) -> tuple[Variant, ...]:
    """`fp32,int8` -> rows, in the table's order, each once. Raises UsageError for a name that there is not."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        raise UsageError(f"no variant named {', '.join(unknown) or repr(text)}", f"there are {', '.join(VARIANTS)}")
    return tuple(row for name, row in VARIANTS.items() if name in names)
