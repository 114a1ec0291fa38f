"""How an `Inspection` is told to people: calm tables of at most 100 columns, long ones folded.

Never here: finding anything out (channels/inspect.py).
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from compress.cli.common import Talk

if TYPE_CHECKING:
    from compress.channels.advice import Remark
    from compress.channels.inspect import Inspection, Space
    from compress.channels.labels import Array
    from compress.channels.layers import Layer
    from compress.channels.receptive import Field
    from compress.channels.report import Totals

WIDE = 98
MOST_LAYERS, MOST_SPACES = 32, 24


def show(talk: Talk, network: str, found: Inspection, spaces: Sequence[Space], everything: bool) -> None:
    """Print it all on stdout, but for what is not understood, which is a warning."""
    _head(talk, network, found)
    _layers(talk, found, everything)
    _spaces(talk, found, spaces, everything)
    _savings(talk, found)
    _remarks(talk, found.remarks)
    for unknown in found.not_understood:
        talk.warn(f"not understood, so its channels stay: {unknown}")
    for name in found.uncounted:
        talk.warn(f"the MACs do not include {name}")
    if found.unused:
        talk.warn(f"parameters that nothing reads: {_few(found.unused, 4)}")


def _head(talk: Talk, network: str, found: Inspection) -> None:
    taken, made = (" + ".join("x".join(map(str, s)) for s in shapes) for shapes in (found.inputs, found.outputs))
    totals = found.totals
    talk.show(f"{network}: {taken} -> {made}")
    talk.show(f"{totals.parameters:,} parameters, {_amount(totals.macs)} MACs, {_amount(totals.bytes)}B")
    output = "first output" if len(found.outputs) > 1 else "output"
    for number, field in enumerate(found.fields, 1):
        if field is not None and (field.size or field.whole):
            _paragraph(talk, _sees(field, output, number if len(found.fields) > 1 else None))
    if found.accepted is not None:
        _paragraph(talk, _sizes(found))


def _sees(field: Field, output: str, number: int | None) -> str:
    """What an output sees of its input, in a sentence; `number`: of the input, where there are several."""
    whole, of = ("the whole picture", "") if number is None else (f"all of input {number}", f" on input {number}")
    if None in field.size and not field.whole:
        return f"what the {output} sees{of} is not known beyond {_through(field.unknown)}"
    if None in field.size:
        return f"the {output} sees {whole}, through {_through(field.whole)}"
    size, margin = _by(field.size), max(n or 0 for n in field.margin)
    bound = "" if field.exact else "at most "
    text = f"receptive field of the {output}{of}: {bound}{size}, stride {_once(field.stride)}, {margin} beyond its place"
    text += f"; and {whole}, through {_through(field.whole)}" if field.whole else ""
    return text + (f"; what comes through {_through(field.unknown)} is not known" if field.unknown else "")


def _sizes(found: Inspection) -> str:
    taken = found.accepted
    assert taken is not None
    if taken.step is None:
        return f"takes pictures of {'x'.join(map(str, found.inputs[0][2:]))} only, as far as was tried"
    text = "takes any size" if taken.step == 1 else f"takes sizes of {_multiples(taken.step, taken.offset or 0)}"
    text += f", from {taken.smallest}x{taken.smallest} on" if taken.smallest else ""
    if taken.scale is not None:
        part = f"1/{round(1 / taken.scale)} of the size" if taken.scale < 1 else f"{taken.scale:g} times the size"
        same = "the same size" if taken.scale == 1 else part
        text += f"; gives {same}" + (f" at multiples of {taken.scaled_at}" if (taken.scaled_at or 1) > 1 else "")
    return text


def _layers(talk: Talk, found: Inspection, everything: bool) -> None:
    rows = [layer for layer in found.layers if everything or layer.window or layer.macs]
    small = [layer for layer in found.layers if layer not in rows]
    if not everything and len(rows) > MOST_LAYERS:
        kept = set(map(id, sorted(rows, key=lambda layer: -layer.share)[:MOST_LAYERS]))
        folded = [layer for layer in rows if id(layer) not in kept]
        rows = [layer for layer in rows if id(layer) in kept]
    else:
        folded = []
    sparse = any((layer.zeros or 0) > 0.001 for layer in rows)
    headers = ["layer", "kind", "in->out", "parameters", "MACs", "%", "output", "sees"]
    table = [_layer(layer) for layer in rows]
    if sparse:
        headers.insert(7, "zeros")
        for row, layer in zip(table, rows, strict=True):
            row.insert(7, "" if layer.zeros is None else f"{layer.zeros:.0%}")
    talk.show("")
    talk.table(headers, table)
    if folded:
        share, numbers = sum(layer.share for layer in folded), sum(layer.parameters for layer in folded)
        talk.show(f"and {len(folded)} more: {numbers:,} parameters, {share:.1%} of the MACs (--all shows them)")
    if small:
        kinds = {kind: sum(layer.kind == kind for layer in small) for kind in dict.fromkeys(layer.kind for layer in small)}
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        talk.show(f"and {said}: {sum(layer.parameters for layer in small):,} parameters")


def _layer(layer: Layer) -> list[str]:
    kind = layer.kind
    if layer.window:
        kind = f"{'transposed' if 'transpose' in layer.kind else 'conv'} {_by(layer.window.kernel)}"
        kind += f" /{_once(layer.window.stride)}" if max(layer.window.stride) > 1 else ""
        kind += f" d{_once(layer.window.dilation)}" if max(layer.window.dilation) > 1 else ""
    if layer.groups > 1:
        kind += " dw" if layer.groups == layer.into else f" g{layer.groups}"
    widths = f"{layer.into}->{layer.out}" if layer.into else str(layer.out or "")
    field = layer.field
    sees = "" if field is None else "all" if None in field.size else _once(field.size)
    return [
        _middle(layer.name, 26), kind, widths, "again" if layer.again else f"{layer.parameters:,}",
        _amount(layer.macs) if layer.macs is not None else "", f"{100 * layer.share:.1f}" if layer.macs else "",
        "x".join(map(str, layer.size)), sees,
    ]  # fmt: skip


def _spaces(talk: Talk, found: Inspection, spaces: Sequence[Space], everything: bool) -> None:
    from compress.channels.report import staying

    rows = (
        list(spaces) if everything or len(spaces) <= MOST_SPACES else [space for space in spaces if _tells(space)][:MOST_SPACES]
    )
    inputs = max((space.seen.count for space in spaces if space.seen), default=0)
    columns: dict[str, list[str]] = {
        "channels of": [_middle(space.name, 30) for space in rows],
        "width": [str(space.width) for space in rows],
        "idle, proved": [_proved(space) for space in rows],
        "up to a size": [str(len(space.up_to) or "") for space in rows],
    }
    if inputs:
        columns[f"dead on {inputs} photos"] = [_count(space.seen.dead if space.seen else None) for space in rows]
        columns["constant"] = [_count(space.seen.still & ~space.seen.dead if space.seen else None) for space in rows]
        columns["largest"] = [f"{space.seen.largest.max():.3g}" if space.seen else "" for space in rows]
    columns["why they stay"] = [staying(space.reason, space.idle - space.goes) for space in rows]
    filled = {name: column for name, column in columns.items() if any(column)}
    talk.show("")
    talk.table(list(filled), list(zip(*filled.values(), strict=True)), left=["why they stay"])
    if len(rows) < len(spaces):
        rest = [space for space in spaces if space not in rows]
        idle = sum(_tells(space) for space in rest)
        talk.show(f"and {len(rest)} more spaces, {idle or 'none'} of them with idle channels (--all shows them)")


def _count(channels: Array | None) -> str:
    return str(int(channels.sum()) or "") if channels is not None else ""


def _tells(space: Space) -> bool:
    moved = space.seen is not None and bool(space.seen.still.any())
    return bool(space.idle or space.up_to or moved)


def _proved(space: Space) -> str:
    counts = ((space.zero, "zero"), (space.constant, "constant"), (space.unread, "unread"))
    return ", ".join(f"{len(channels)} {what}" for channels, what in counts if channels)


def _savings(talk: Talk, found: Inspection) -> None:
    talk.show("")
    goes = sum(space.goes for space in found.spaces)
    if goes:
        what = f"{goes} channels" if goes > 1 else "1 channel"
        _paragraph(talk, f"`compress strip` would take {what}, exactly, and leave {_change(found.totals, found.after)}")
    else:
        talk.show("`compress strip` has nothing to take: no channel that could go is idle for every input")
    if found.seen_after and found.seen_after != found.after:
        change = _change(found.totals, found.seen_after)
        _paragraph(talk, f"`compress strip --observed` would leave, if these photos are all there is, {change}")


def _change(before: Totals, after: Totals) -> str:
    return (
        f"{after.parameters:,} parameters ({_percent(before.parameters, after.parameters)}),"
        f" {_amount(after.macs)} MACs ({_percent(before.macs, after.macs)})"
    )


def _percent(before: int, after: int) -> str:
    return f"{100 * (after / before - 1) if before else 0:+.1f} %"


def _remarks(talk: Talk, remarks: Sequence[Remark]) -> None:
    for care, title in ((True, "On a phone, to think about:"), (False, "On a phone, good to know:")):
        found = [remark for remark in remarks if remark.care == care]
        if found:
            talk.show(f"\n{title}")
        for remark in found:
            where = f" [{_few(remark.where, 3)}]" if remark.where else ""
            _paragraph(talk, f"{remark.text}{where}", "- ", "  ")


def _paragraph(talk: Talk, text: str, first: str = "", then: str = "") -> None:
    talk.show(
        textwrap.fill(text, WIDE, initial_indent=first, subsequent_indent=then, break_long_words=False, break_on_hyphens=False)
    )


def _few(names: Sequence[str], most: int) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _multiples(step: int, offset: int) -> str:
    return f"multiples of {step}" if not offset else f"a multiple of {step} plus {offset}"


def _by(values: Iterable[object]) -> str:
    return "x".join(map(str, values))


def _once(values: Sequence[object]) -> str:
    """One number where all are the same."""
    return _by(values if len(set(values)) > 1 else values[:1])


def _through(reasons: Sequence[str]) -> str:
    """`instance_norm in a, ...` -> `15 instance_norm`; one or two are named."""
    if len(reasons) <= 2:
        return " and ".join(reasons)
    kinds = Counter(reason.partition(" ")[0] for reason in reasons)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _middle(name: str, most: int) -> str:
    """The start and the end of a name that is too long."""
    return name if len(name) <= most else f"{name[: most // 3]}…{name[-(most - most // 3 - 1) :]}"


def _amount(number: int) -> str:
    """`10.1 G`, `604 M`: three digits."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} "
