"""What each operator does to the windows through which a network looks at its input: a table from ATen name to rule.

Operators on single numbers change nothing; convolutions, pools and resizes widen; views and permutations carry along. An operator
that is not in the table is named, and behind it nothing is known. Never here: interval arithmetic (reach.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch.fx import Node

from compress.channels import reach
from compress.channels.operators.elementwise import POINTWISE, SAME
from compress.channels.reach import Reach, Taps
from compress.channels.walk import Arguments, arguments_of, in_place, is_data, line_of, module_of, op_of, shape_of

Axis = tuple[int, Reach] | None  # axis of the input, and how it is read; None: does not move with the picture


@dataclass(frozen=True)
class Seen:
    """What is known of a tensor that depends on the input. `axes`: one a dimension of the tensor."""

    axes: tuple[Axis, ...]
    whole: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class Eye:
    """Goes through the program. `first`: what each tensor sees when it is made; later, an operator in place may add to it."""

    def __init__(self) -> None:
        self.first: dict[str, Seen] = {}
        self.now: dict[str, Seen] = {}
        self.parts: dict[str, list[Seen]] = {}

    def note(self, node: Node, seen: Seen) -> None:
        self.first[node.name] = self.now[node.name] = seen
        if in_place(node) and node.args and isinstance(node.args[0], Node):
            self.now[node.args[0].name] = seen

    def look(self, node: Node) -> None:
        operands = [source for source in node.all_input_nodes if source.name in self.now]
        if not operands or op_of(node) in _FREE:
            return
        if op_of(node) == "getitem":
            source, place = node.args
            assert isinstance(source, Node)
            seen = self.parts[source.name][place] if source.name in self.parts else self.now[source.name]  # type: ignore[index]
            self.note(node, seen)
            return
        rule = RULES.get(op_of(node))
        if rule is None:
            self.note(node, self.lost(node, operands, unknown=True))
        else:
            rule(self, node, arguments_of(node), operands)

    def at(self, node: Node) -> Seen:
        return self.now[node.name]

    def beside(self, source: Node, node: Node) -> Seen:
        """What `source` sees, and why through the other operands of `node` (weights that are computed) more is seen."""
        seen = self.at(source)
        others = [self.at(other) for other in node.all_input_nodes if other is not source and other.name in self.now]
        whole, unknown = _reasons([seen, *others])
        here = (_said(node),) if any(axis for other in others for axis in other.axes) else ()
        return replace(seen, whole=_union(whole, here), unknown=unknown)

    def lost(self, node: Node, operands: Iterable[Node], unknown: bool = False) -> Seen:
        """It sees everything from here on (or nobody knows what): no axis moves with the picture."""
        whole, unknowns = _reasons(self.at(operand) for operand in operands)
        moved = any(axis for operand in operands for axis in self.at(operand).axes)
        here = (_said(node),) if moved else ()
        value = node.meta.get("val")
        rank = len(shape_of(node)) if is_data(node) else len(value[0].shape) if isinstance(value, list | tuple) and value else 0
        if unknown:
            return Seen((None,) * rank, whole, _union(unknowns, here))
        return Seen((None,) * rank, _union(whole, here), unknowns)


Rule = Callable[[Eye, Node, Arguments, Sequence[Node]], None]
RULES: dict[str, Rule] = {}
_FREE = {
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_full",
    "new_empty", "sym_size", "_assert_tensor_metadata",
}  # fmt: skip  # of the input they take the shape only


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


# -- a number at a time ----------------------------------------------------------------------------------------------------


@_rule(*POINTWISE, *SAME, "to", "_to_copy", "type_as", "prelu", "channel_shuffle", "copy", "fill", "isnan", "isinf", "bernoulli")
def _pointwise(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    if not is_data(node):  # max and min along an axis
        _reduction(eye, node, arguments, operands)
        return
    rank = len(shape_of(node))
    if op_of(node) in ("max", "min") and arguments.get("other") is None:
        eye.note(node, eye.lost(node, operands))
        return
    axes: list[Axis] = []
    whole, unknown = _reasons(map(eye.at, operands))
    for axis in range(-rank, 0):
        sides = [eye.at(operand).axes[axis] for operand in operands if len(shape_of(operand)) >= -axis]
        found, agreed = _joined([side for side in sides if side])
        axes.append(found)
        unknown = unknown if agreed else _union(unknown, (f"{_said(node)}: strides differ",))
    eye.note(node, Seen(tuple(axes), whole, unknown))


@_rule("batch_norm", "instance_norm", "group_norm", "native_group_norm", "_native_batch_norm_legit_no_training")
def _norm(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    if arguments["input"].name not in eye.now:
        eye.note(node, eye.lost(node, operands))
        return
    seen = eye.beside(arguments["input"], node)
    own = "group" in op_of(node) or bool(arguments.get("training", arguments.get("use_input_stats")))
    eye.note(node, _with(seen, node) if own and any(seen.axes) else seen)


@_rule("layer_norm", "native_layer_norm", "rms_norm")
def _layer_norm(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    if arguments["input"].name not in eye.now:
        eye.note(node, eye.lost(node, operands))
        return
    seen = eye.beside(arguments["input"], node)
    eye.note(node, _with(seen, node) if any(seen.axes[-len(arguments["normalized_shape"]) :]) else seen)


@_rule("softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "glu")
def _along(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    seen = eye.at(operands[0])
    eye.note(node, _with(seen, node) if seen.axes[arguments["dim"]] else seen)


@_rule("mean", "var", "std", "sum", "amax", "amin", "argmax", "argmin", "prod", "logsumexp", "linalg_vector_norm", "any", "all")
def _reduction(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    seen = eye.at(operands[0])
    rank, wanted = len(seen.axes), arguments.get("dim")
    over = {axis % rank for axis in ([wanted] if isinstance(wanted, int) else wanted or range(rank))}
    keeps = bool(arguments.get("keepdim"))
    axes = tuple(None if n in over else axis for n, axis in enumerate(seen.axes) if keeps or n not in over)
    mixed = any(seen.axes[n] for n in over)
    eye.note(node, replace(_with(seen, node) if mixed else seen, axes=axes))


# -- windows ---------------------------------------------------------------------------------------------------------------


def _windows(eye: Eye, node: Node, source: Node, taps: Sequence[Taps | None], mixes: bool = False) -> None:
    """`taps`: of the last axes; None: that axis is seen whole. `mixes`: the axis before them is summed over."""
    seen, count = eye.beside(source, node), len(taps)
    whole, unknown = seen.whole, seen.unknown
    axes = list(seen.axes[: len(seen.axes) - count])
    if mixes and axes[-1]:
        axes[-1], whole = None, _union(whole, (_said(node),))
    for axis, tap in zip(seen.axes[len(axes) :], taps, strict=True):
        found = reach.through(axis[1], tap) if axis and tap else None
        axes.append((axis[0], found) if axis and found else None)
        if axis and not tap:
            whole = _union(whole, (_said(node),))
        elif axis and not found:
            unknown = _union(unknown, (f"{_said(node)}: an odd resize",))
    eye.note(node, Seen(tuple(axes), whole, unknown))


@_rule("conv1d", "conv2d", "conv3d")
def _convolution(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    source, kernel = arguments["input"], shape_of(arguments["weight"])[2:]
    if source.name not in eye.now:  # only its weights are computed from the input
        eye.note(node, eye.lost(node, operands))
        return
    stride, dilation = (_spread(arguments[name], len(kernel)) for name in ("stride", "dilation"))
    same = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    padding = arguments["padding"]
    before = _spread(padding, len(kernel)) if not isinstance(padding, str) else same if padding == "same" else (0,) * len(kernel)
    _windows(eye, node, source, list(map(reach.window, kernel, stride, dilation, before)), mixes=True)


@_rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    source, kernel = arguments["input"], shape_of(arguments["weight"])[2:]
    if source.name not in eye.now:
        eye.note(node, eye.lost(node, operands))
        return
    stride, dilation, before = (_spread(arguments[name], len(kernel)) for name in ("stride", "dilation", "padding"))
    _windows(eye, node, source, list(map(reach.transposed, kernel, stride, dilation, before)), mixes=True)


@_rule(*(f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)), "max_pool2d_with_indices", "lp_pool2d")
def _pool(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    count = int(next(letter for letter in op_of(node) if letter.isdigit()))
    kernel = _spread(arguments["kernel_size"], count)
    stride = _spread(arguments.get("stride") or kernel, count)
    dilation, before = (_spread(arguments.get(name, default), count) for name, default in (("dilation", 1), ("padding", 0)))
    _windows(eye, node, operands[0], list(map(reach.window, kernel, stride, dilation, before)))


@_rule(*(f"adaptive_{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)))
def _adaptive(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    count = int(op_of(node)[-2])
    value = node.meta["val"]
    after = (value if is_data(node) else value[0]).shape[-count:]
    sizes = zip(shape_of(operands[0])[-count:], after, strict=True)
    taps = [None if new == 1 and old > 1 else reach.blocks(Fraction(int(old), int(new))) for old, new in sizes]
    _windows(eye, node, operands[0], taps)


@_rule(
    *(f"upsample_{kind}d" for kind in ("nearest1", "nearest2", "nearest3", "linear1", "bilinear2", "trilinear3", "bicubic2")),
    *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)), "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip
def _resize(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    source, op = operands[0], op_of(node)
    count = int(next(letter for letter in op if letter.isdigit()))
    scales = arguments.get("scale_factors") or [None] * count
    sides = zip(shape_of(source)[-count:], shape_of(node)[-count:], scales, strict=True)
    ratios = [1 / Fraction(s).limit_denominator(256) if s else Fraction(old, new) for old, new, s in sides]
    reads = 2 if "cubic" in op else 1
    if "nearest" in op:
        taps = [reach.nearest(ratio, centred="exact" in op) for ratio in ratios]
    elif arguments.get("align_corners"):
        taps = [reach.corner_aligned(ratio, reads) for ratio in ratios]
    else:
        taps = [reach.linear(ratio, reads, smooth=op.endswith("_aa")) for ratio in ratios]
    _windows(eye, node, source, taps)


@_rule("pad", "constant_pad_nd", *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)))
def _pad(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    amounts = arguments.get("pad", arguments.get("padding"))
    assert amounts is not None
    _windows(eye, node, operands[0], [reach.moved(-amounts[n]) for n in range(len(amounts) - 2, -1, -2)])


@_rule("pixel_shuffle")
def _shuffle(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    _windows(eye, node, operands[0], [reach.nearest(Fraction(1, int(arguments["upscale_factor"])))] * 2)


@_rule("pixel_unshuffle")
def _unshuffle(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    factor = int(arguments["downscale_factor"])
    _windows(eye, node, operands[0], [reach.window(factor, factor, 1, 0)] * 2)


# -- what mixes all --------------------------------------------------------------------------------------------------------


@_rule("linear")
def _linear(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    seen = eye.at(operands[0])
    if arguments["input"] is not operands[0] or len(operands) > 1:
        eye.note(node, eye.lost(node, operands))
        return
    eye.note(node, replace(_with(seen, node) if seen.axes[-1] else seen, axes=(*seen.axes[:-1], None)))


@_rule("matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention", "grid_sampler", "einsum")
def _everything(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    eye.note(node, eye.lost(node, operands))


# -- the same pixels, elsewhere --------------------------------------------------------------------------------------------


@_rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "_reshape_alias")
def _view(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    """An axis that stays one by itself goes on; one that is merged with others, or cut, is lost."""
    source = arguments.get("self", arguments.get("input"))
    if source not in operands:
        return
    seen, before, after = eye.at(source), shape_of(source), shape_of(node)
    axes: list[Axis] = [None] * len(after)
    mixed = False
    for ins, outs in _runs(before, after):
        moving = [a for a in ins if seen.axes[a]]
        wide_in, wide_out = [a for a in ins if before[a] > 1], [a for a in outs if after[a] > 1]
        if len(moving) == 1 and moving == wide_in and len(wide_out) == 1:
            axes[wide_out[0]] = seen.axes[moving[0]]
        elif len(moving) == 1 and len(ins) == len(outs) == 1:
            axes[outs[0]] = seen.axes[moving[0]]
        else:
            mixed |= any(before[a] > 1 for a in moving)
    eye.note(node, replace(_with(seen, node) if mixed else seen, axes=tuple(axes)))


@_rule("permute", "transpose", "t", "numpy_T", "mT", "swapaxes", "movedim")
def _permute(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    seen = eye.at(operands[0])
    order, op = list(range(len(seen.axes))), op_of(node)
    if op == "permute":
        order[:] = arguments["dims"]
    elif op in ("transpose", "swapaxes"):
        a, b = (arguments.get(name, arguments.get(other)) for name, other in (("dim0", "axis0"), ("dim1", "axis1")))
        order[a], order[b] = order[b], order[a]
    elif op in ("t", "numpy_T"):
        order.reverse()
    elif op == "mT":
        order[-1], order[-2] = order[-2], order[-1]
    else:
        eye.note(node, eye.lost(node, operands, unknown=True))
        return
    eye.note(node, replace(seen, axes=tuple(seen.axes[axis] for axis in order)))


@_rule("expand", "expand_as", "repeat")
def _expand(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    source, after = operands[0], shape_of(node)
    seen = eye.at(source)
    before = (1,) * (len(after) - len(seen.axes)) + shape_of(source)
    axes = (None,) * (len(after) - len(seen.axes)) + seen.axes
    copied = any(axis and old != new for axis, old, new in zip(axes, before, after, strict=True))
    eye.note(node, eye.lost(node, operands, unknown=True) if copied else replace(seen, axes=axes))


@_rule("cat", "concat", "concatenate")
def _cat(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    """Side by side along space: the longest piece counts, if it is most of it; the others are a border around it."""
    rank, sources = len(shape_of(node)), arguments["tensors"]
    axis = arguments["dim"] % rank
    pieces = [source for source in sources if source in operands]
    if not any(eye.at(piece).axes[axis] for piece in pieces):
        _pointwise(eye, node, arguments, pieces)
        return
    longest = max(pieces, key=lambda piece: shape_of(piece)[axis])
    start = sum(shape_of(source)[axis] for source in sources[: sources.index(longest)])
    if 2 * shape_of(longest)[axis] <= shape_of(node)[axis] or not eye.at(longest).axes[axis]:
        eye.note(node, eye.lost(node, operands, unknown=True))
        return
    _windows(eye, node, longest, [reach.moved(-start if a == axis else 0) for a in range(axis, rank)])


@_rule("stack")
def _stack(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    rank = len(shape_of(node))
    place = arguments["dim"] % rank
    whole, unknown = _reasons(map(eye.at, operands))
    axes: list[Axis] = []
    for axis in range(rank - 1):
        found, agreed = _joined([side for operand in operands if (side := eye.at(operand).axes[axis])])
        axes.append(found)
        unknown = unknown if agreed else _union(unknown, (f"{_said(node)}: strides differ",))
    eye.note(node, Seen((*axes[:place], None, *axes[place:]), whole, unknown))


@_rule("slice", "narrow")
def _slice(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    source = operands[0]
    axis, start, step = arguments["dim"] % len(shape_of(source)), arguments.get("start") or 0, arguments.get("step") or 1
    start = max(start + shape_of(source)[axis] if start < 0 else start, 0)
    taps = [reach.moved(start if a == axis else 0, step if a == axis else 1) for a in range(axis, len(shape_of(source)))]
    _windows(eye, node, source, taps)


@_rule("select")
def _select(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    seen = eye.at(operands[0])
    axis = arguments["dim"] % len(seen.axes)
    eye.note(node, replace(_with(seen, node) if seen.axes[axis] else seen, axes=(*seen.axes[:axis], *seen.axes[axis + 1 :])))


@_rule("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "tensor_split", "unbind")
def _chunk(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    seen, value = eye.at(operands[0]), node.meta["val"]
    axis = arguments["dim"] % len(seen.axes)
    gone = op_of(node) == "unbind"
    start, parts = 0, []
    for part in value:
        here = seen.axes[axis]
        moved = (here[0], reach.through(here[1], reach.moved(start)) or here[1]) if here else None
        parts.append(replace(seen, axes=(*seen.axes[:axis], *(() if gone else (moved,)), *seen.axes[axis + 1 :])))
        start += 1 if gone else int(part.shape[axis])
    eye.parts[node.name] = parts
    eye.now[node.name] = seen


@_rule("flip", "roll")
def _turned(eye: Eye, node: Node, arguments: Arguments, operands: Sequence[Node]) -> None:
    seen = eye.at(operands[0])
    along = arguments["dims"] or range(len(seen.axes))
    eye.note(node, eye.lost(node, operands, unknown=True) if any(seen.axes[axis] for axis in along) else seen)


# -- helpers ---------------------------------------------------------------------------------------------------------------


def _joined(sides: Sequence[tuple[int, Reach]]) -> tuple[Axis, bool]:
    """The axis that all of these make together, and whether they agree on one."""
    if not sides:
        return None, True
    found = reach.joined([side[1] for side in sides]) if len({side[0] for side in sides}) == 1 else None
    return ((sides[0][0], found), True) if found else (None, False)


def _with(seen: Seen, node: Node) -> Seen:
    """`seen`, and the whole picture through `node`."""
    return replace(seen, whole=_union(seen.whole, (_said(node),)))


def _said(node: Node) -> str:
    line = line_of(node)
    return f"{op_of(node)} in {module_of(node)}" if module_of(node) else f"{op_of(node)} ({line})" if line else op_of(node)


def _reasons(seen: Iterable[Seen]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = list(seen)
    return _union(*(side.whole for side in found)), _union(*(side.unknown for side in found))


def _union(*sides: tuple[str, ...]) -> tuple[str, ...]:
    longest = max(sides, key=len, default=())
    others = [side for side in sides if side is not longest and side != longest[: len(side)]]
    return tuple(dict.fromkeys((*longest, *(name for side in others for name in side)))) if others else longest


def _runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of both shapes with equal products, as short as they get."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        ins, outs, left, right = [i], [j], before[i], after[j]
        i, j = i + 1, j + 1
        while left != right and (i < len(before) if left < right else j < len(after)):
            if left < right:
                left, ins, i = left * before[i], [*ins, i], i + 1
            else:
                right, outs, j = right * after[j], [*outs, j], j + 1
        runs.append((ins, outs))
    return runs


def _spread(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values
