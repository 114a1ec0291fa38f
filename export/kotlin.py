"""Kotlin for an Android app: one class that opens the exported files, fills their inputs and reads their outputs.

In: cards. Out: text, the same for the same cards. The code stands in template.kt; here are the numbers and names that go into
it, and names come from files of strangers: they are quoted, or made harmless. Never here: writing the file, running Kotlin.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from compress.errors import ArtifactError
from compress.image_format import ImageFormat
from export.artifact import Card, Port

_TEMPLATE = Path(__file__).with_name("template.kt")
_PICTURES = ("float32", "uint8", "int8")  # dtypes that the template turns pictures into
_TYPES = {name: np.dtype(name).itemsize
          for name in ("float32", "uint8", "int8", "float16", "int16", "int32", "int64", "float64", "bool")}  # fmt: skip
_KEYWORDS = frozenset({
    "as", "break", "class", "continue", "do", "else", "false", "for", "fun", "if", "in", "interface", "is", "null",
    "object", "package", "return", "super", "this", "throw", "true", "try", "typealias", "typeof", "val", "var", "when",
    "while",
})  # fmt: skip


def class_name(name: str) -> str:
    """A Kotlin class's name after a network's: `my-net 2` -> `MyNet2`. `Net` is added to what is no name, or means something."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.findall("[A-Za-z0-9]+", plain)
    joined = "".join(word[0].upper() + word[1:] for word in words)
    if not joined or not joined[0].isalpha():
        return f"Net{joined}"
    taken = re.findall(r"\b[A-Z]\w*", _TEMPLATE.read_text(encoding="utf-8"))
    return f"{joined}Net" if joined in taken else joined


def source(name: str, cards: Sequence[Card]) -> str:
    """The text of `<class_name(name)>.kt` for TFLite files of one network, at least one.

    Raises ArtifactError for a file that an app could not use so: without a signature, of a free size, of strange types.
    """
    for card in cards:
        _check(card)
    formats = list(dict.fromkeys(port.format for card in cards for port in _ports(card) if _is_picture(port)))
    known = {form: f"FORMAT_{number}" for number, form in enumerate(formats, 1) if form}
    first, called = cards[0], class_name(name)
    run = _run(first)
    parts = {
        "NAME": called,
        "RUNTIME": _runtime(cards),
        "EXAMPLE": f"{called}.open(assets, {called}.model({_size(first)}, {_quoted(first.variant)})).use {{ {_example(first)} }}",
        "RUN": f"\n{run}" if run else "",
        "TYPES": ", ".join(f"{dtype.upper()}({size})" for dtype, size in _TYPES.items()),
        "FORMATS": "\n".join(f"        private val {label} = {_format(form)}" for form, label in known.items()),
        "MODELS": ",\n".join(_model(card, lambda port: _port(port, known)) for card in cards),
    }
    return re.sub("__([A-Z]+)__", lambda found: parts[found[1]], _TEMPLATE.read_text(encoding="utf-8"))


def _check(card: Card) -> None:
    if card.kind != "tflite" or card.layout != "NHWC":
        raise ArtifactError(f"{card.file} is no TFLite file with channels last")
    if not card.signature or not card.size:
        raise ArtifactError(f"{card.file} has no {'fixed size' if card.signature else 'signature'}")
    for port in _ports(card):
        if None in port.shape:
            raise ArtifactError(f"{card.file}: {port.name} has no fixed size")
        if port.dtype not in _TYPES:
            raise ArtifactError(f"{card.file}: {port.name} is {port.dtype}")


def _ports(card: Card) -> tuple[Port, ...]:
    return (*card.inputs, *card.outputs)


def _is_picture(port: Port) -> bool:
    return port.format is not None and len(port.shape) == 4 and port.shape[::3] == (1, 3) and port.dtype in _PICTURES


def _model(card: Card, plain: Callable[[Port], str]) -> str:
    head = _list([_quoted(card.file), _quoted(card.variant), _size(card), _quoted(card.signature)])
    sides = [f"listOf({_list(map(plain, ports))})" for ports in (card.inputs, card.outputs)]
    lines = ",\n".join(f"{' ' * 16}{words}" for words in (head, *sides))
    return f"{' ' * 12}Model(\n{lines}\n{' ' * 12})"


def _port(port: Port, formats: dict[ImageFormat, str]) -> str:
    """`Port(name, type, shape[, format][, scale, zero])`."""
    words = [_quoted(port.name), f"Type.{port.dtype.upper()}", f"listOf({_list(map(str, port.shape))})"]
    if port.format and _is_picture(port):
        words.append(formats[port.format])
    if port.quantisation and np.issubdtype(np.dtype(port.dtype), np.integer):
        words += [f"scale = {_float(port.quantisation.scale)}", f"zero = {port.quantisation.zero_point}"]
    return f"Port({_list(words)})"


def _format(form: ImageFormat) -> str:
    mean, std = (_list(map(_float, values)) for values in (form.mean, form.std))
    return f'Format("{form.order}", listOf({mean}), listOf({std}))'


def _run(card: Card) -> str:
    """The short way through a file: pictures in, the first picture out. Empty where something else goes in, or comes out."""
    made = next((port for port in card.outputs if _is_picture(port)), None)
    if made is None or not card.inputs or not all(map(_is_picture, card.inputs)):
        return ""
    names = _parameters(card.inputs)
    lines = [
        "    /** Pictures in, the first picture that comes out: a new one. */",
        f"    fun run({_list(f'{name}: Bitmap' for name in names)}): Bitmap {{",
        *(f"        put({_quoted(port.name)}, {name})" for name, port in zip(names, card.inputs, strict=True)),
        "        run()",
        f"        return picture({_quoted(made.name)})",
        "    }",
    ]
    return "\n".join(lines) + "\n"


def _example(card: Card) -> str:
    return f"it.run({_list(_parameters(card.inputs))})" if _run(card) else "it.inputs; it.run(); it.outputs"


def _parameters(ports: Sequence[Port]) -> list[str]:
    """The ports' own names where all of them can be names in Kotlin, else numbered ones."""
    names = [port.name for port in ports]
    fit = all(re.fullmatch("[a-zA-Z][a-zA-Z0-9_]*", name) and name not in _KEYWORDS for name in names)
    return names if fit else [f"picture{number}" for number in range(1, len(names) + 1)]


def _runtime(cards: Sequence[Card]) -> str:
    versions = {card.min_runtime for card in cards if card.min_runtime and re.fullmatch(r"\d+(\.\d+)*", card.min_runtime)}
    if not versions:
        return "Which runtimes have all of the files' operators is not known."
    oldest = max(versions, key=lambda version: tuple(map(int, version.split("."))))
    return f"The first runtime with all of the files' operators was TensorFlow Lite {oldest}."


def _size(card: Card) -> str:
    assert card.size is not None
    return _list(map(str, card.size))


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)


def _float(value: float) -> str:
    """The shortest number that is the same float32."""
    return f"{np.float32(value)!s}f"


def _quoted(text: str | None) -> str:
    """A Kotlin string of plain ASCII, whatever is in it: nothing in it ends it, and no template is filled in."""
    units = (text or "").encode("utf-16-be", "surrogatepass")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return '"' + "".join(chr(code) if 32 <= code < 127 and chr(code) not in '"\\$' else f"\\u{code:04x}" for code in codes) + '"'
