"""What a phone's runtime will like or not about a network, each as one remark with its reason.

Only what was measured or read in the runtimes' own sources; what a converter or `compress export` takes care of is said to be
taken care of. In: layers and what the program's operators are. Never here: time, which is measured (`compress bench`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from compress.channels.layers import Layer
from compress.channels.walk import arguments_of, module_of, op_of
from compress.image_format import ImageFormat

BLOCK = 8  # channels that XNNPACK computes at once; GPU delegates: 4
SPARSE = 0.1  # share of scattered zeros from which a layer counts as masked
LARGE = 5  # kernels of so many pixels a side, or more


@dataclass(frozen=True)
class Remark:
    """`topic`: in a word or two; `text`: what, and why it matters; `where`: layers, in order. `care`: something to act on."""

    topic: str
    text: str
    where: tuple[str, ...]
    care: bool

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "where": list(self.where)}


@dataclass(frozen=True)
class Case:
    """What remarks are made on. `calls`: every call of the program, in order."""

    layers: Sequence[Layer]
    calls: Sequence[Node]
    taken: ImageFormat | None


def remarks(program: ExportedProgram, layers: Sequence[Layer], taken: ImageFormat | None) -> tuple[Remark, ...]:
    """`taken`: image format of the first input. Those to act on come first."""
    case = Case(layers, [node for node in program.graph.nodes if node.op == "call_function"], taken)
    found = [remark for rule in RULES if (remark := rule(case))]
    return tuple(sorted(found, key=lambda remark: not remark.care))


def _widths(case: Case) -> Remark | None:
    odd = [layer for layer in case.layers if layer.window and layer.out and layer.out % BLOCK and layer is not case.layers[-1]]
    if not odd:
        return None
    few = ", ".join(dict.fromkeys(str(layer.out) for layer in odd[:4])) + (" ..." if len(odd) > 4 else "")
    fours = all(layer.out and layer.out % 4 == 0 for layer in odd)
    gpu = "on a GPU, which works on 4, they fill up" if fours else "a GPU on 4"
    text = (
        f"widths that are no multiple of {BLOCK} ({few}): XNNPACK works on {BLOCK} channels at once, and computes what is missing"
        f" for nothing; {gpu}"
    )
    return Remark("widths", text, _names(odd), True)


def _sparse(case: Case) -> Remark | None:
    masked = [layer for layer in case.layers if layer.window and (layer.scattered or 0) > SPARSE]
    if not masked:
        return None
    pointwise = all(layer.window and set(layer.window.kernel) == {1} for layer in masked)
    why = (
        "XNNPACK's sparse kernels want 2/3 zeros in 1x1 convolutions behind a 3x3 one of stride 2 with 3 inputs, in float"
        if pointwise
        else "TFLite has no sparse kernel for these convolutions"
    )
    text = f"zeros scattered among weights make the compressed download smaller, not the network faster: {why}; whole channels do"
    return Remark("sparse weights", text, _names(masked), True)


def _large(case: Case) -> Remark | None:
    large = [layer for layer in case.layers if layer.window and max(layer.window.kernel) >= LARGE and layer.groups == 1]
    share = sum(layer.share for layer in large)
    if not large or share < 0.05:
        return None
    kinds = ", ".join(dict.fromkeys("x".join(map(str, layer.window.kernel)) for layer in large if layer.window))
    return Remark("large kernels", f"{kinds} kernels take {share:.0%} of the MACs", _names(large), share > 0.3)


def _grouped(case: Case) -> Remark | None:
    grouped = [layer for layer in case.layers if 1 < layer.groups < min(layer.into or 1, layer.out or 1)]
    if not grouped:
        return None
    text = "grouped convolutions: not every runtime has a kernel for them; `compress bench` shows what they cost"
    return Remark("groups", text, _names(grouped), True)


def _instance_norm(case: Case) -> Remark | None:
    norms = _calls(case, {"instance_norm"}, lambda a: bool(a.get("use_input_stats", True)))
    if not norms:
        return None
    text = (
        "InstanceNorm cannot be folded: every run takes a mean and a variance over the picture, and full int8 costs quality"
        " there. `compress export` writes it in operators that have integer kernels, and measures what int8 costs"
    )
    return Remark("InstanceNorm", text, _names(norms), False)


def _half_precision(case: Case) -> Remark | None:
    wide = case.taken is not None and max(case.taken.std) <= 1
    norms = _calls(case, {"instance_norm"}, lambda a: bool(a.get("use_input_stats", True)))
    if not (wide and norms):
        return None
    text = (
        "pixels 0..255 go in unscaled: a GPU sums variances in 16 bit, where more than 65,504 is infinite; compare on the phone"
    )
    return Remark("half precision", text, (), True)


def _batch_norm(case: Case) -> Remark | None:
    def folds(node: Node) -> bool:
        source = arguments_of(node).get("input")
        return isinstance(source, Node) and "conv" in op_of(source) and len(source.users) == 1

    norms = [node for node in case.calls if op_of(node) == "batch_norm"]
    loose = [node for node in norms if not folds(node)]
    if not norms:
        return None
    if not loose:
        return Remark("BatchNorm", "every BatchNorm lies behind a convolution, and is folded into it on export", (), False)
    text = "BatchNorm that does not lie right behind a convolution stays as a multiplication and an addition"
    return Remark("BatchNorm", text, _names(loose), False)


def _pads(case: Case) -> Remark | None:
    pads = _calls(case, {"pad"}, lambda a: a.get("mode") in ("reflect", "replicate"))
    pads += _calls(case, {f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)}, lambda _: True)
    if not pads:
        return None
    text = (
        "pads that reflect or replicate are no XNNPACK operators, and cut the network into pieces; `compress export --target cpu`"
        " rewrites them exactly"
    )
    return Remark("pads", text, _names(pads), False)


def _nearest(case: Case) -> Remark | None:
    found = [node for node in case.calls if op_of(node).startswith("upsample_nearest")]
    if not found:
        return None
    text = (
        "XNNPACK has no nearest-neighbour resize; `compress export --target cpu` merges it, exactly, with the convolution behind"
        " it where there is one"
    )
    return Remark("resizes", text, _names(found), False)


RULES: tuple[Callable[[Case], Remark | None], ...] = (
    _widths, _sparse, _large, _grouped, _half_precision, _instance_norm, _batch_norm, _pads, _nearest,
)  # fmt: skip


def _calls(case: Case, ops: Iterable[str], holds: Callable[[dict[str, Any]], bool]) -> list[Node]:
    wanted = set(ops)
    return [node for node in case.calls if op_of(node) in wanted and holds(arguments_of(node))]


def _names(found: Sequence[Layer | Node]) -> tuple[str, ...]:
    named = (item.name if isinstance(item, Layer) else module_of(item) or item.name for item in found)
    return tuple(dict.fromkeys(named))
