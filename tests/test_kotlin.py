"""The Kotlin beside exported files: right names and numbers in the text, and, where there is a compiler, in what it computes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from compress.errors import ArtifactError
from compress.image_format import PRESETS, ImageFormat
from export import kotlin, runtime
from export.artifact import Card, Port, Quantisation

APP = Path(__file__).parent / "android_app"
HOSTILE = 'ev"il$x ${y}\\u0041\n* é𝄞.tflite'
FINE = ImageFormat("BGR", (0.1, 1 / 3, 250.123456), (1e-5, 70.7, 999999.0))
SHAPE = (1, 5, 7, 3)


def card(variant: str, inputs: tuple[Port, ...], outputs: tuple[Port, ...], file: str = "") -> Card:
    file = file or f"net_5x7_{variant}.tflite"
    return Card(file, "", 0, 0, "tflite", "NHWC", variant, (5, 7), inputs, outputs, "serving_default", min_runtime="2.3.0")


def picture(name: str, dtype: str, form: ImageFormat, quantisation: Quantisation | None = None) -> Port:
    return Port(name, dtype, SHAPE, form, quantisation)


TINY = (
    card("fp32", (picture("x", "float32", PRESETS["imagenet"]),), (picture("styled", "float32", PRESETS["0..1"]),)),
    card("fp16", (picture("x", "float32", PRESETS["caffe"]),), (picture("styled", "float32", FINE),), HOSTILE),
    card("dynamic", (picture("x", "uint8", PRESETS["0..255"]),), (picture("styled", "uint8", PRESETS["0..255"]),)),
    card(
        "int8",
        (picture("x", "int8", PRESETS["imagenet"], Quantisation(0.018658448, -14)),),
        (picture("styled", "uint8", PRESETS["caffe"], Quantisation(0.9, 129)),),
    ),
)
BOTH = card(
    "fp32",
    (picture("run", "float32", PRESETS["0..1"]), Port("put", "float32", (1, 3, 4, 3), PRESETS["-1..1"])),
    (Port("logits", "float32", (1, 7)), picture("styled", "float32", PRESETS["-1..1"])),
    "both_5x7_fp32.tflite",
)
RAW = card(
    "fp32",
    (picture("image", "float32", PRESETS["0..1"]), Port("many", "int64", (3,))),
    (Port("flags", "bool", (2,)),),
    "raw_5x7_fp32.tflite",
)


# The text


def test_the_text_has_the_names_and_numbers_of_the_cards() -> None:
    text = kotlin.source("tiny", TINY)
    assert "class Tiny private constructor" in text
    assert 'private val FORMAT_1 = Format("RGB", listOf(123.675f, 116.28f, 103.53f), listOf(58.395f, 57.12f, 57.375f))' in text
    assert '"net_5x7_fp32.tflite", "fp32", 5, 7, "serving_default"' in text
    assert 'Port("x", Type.FLOAT32, listOf(1, 5, 7, 3), FORMAT_1)' in text
    assert 'Port("x", Type.INT8, listOf(1, 5, 7, 3), FORMAT_1, scale = 0.018658448f, zero = -14)' in text
    assert "fun run(x: Bitmap): Bitmap {" in text
    assert 'Tiny.open(assets, Tiny.model(5, 7, "fp32")).use { it.run(x) }' in text
    assert "was TensorFlow Lite 2.3.0." in text
    assert not re.search("__[A-Z]+__", text)


def test_the_same_cards_give_the_same_text() -> None:
    assert kotlin.source("tiny", TINY) == kotlin.source("tiny", TINY)


def test_numbers_are_the_same_float32_when_they_are_read_again() -> None:
    text = kotlin.source("tiny", TINY)
    found = re.search(r'Format\("BGR", listOf\((0\.1.*?)\), listOf\((.*?)\)\)', text)
    assert found
    for said, values in zip(found.groups(), (FINE.mean, FINE.std), strict=True):
        assert [np.float32(number.removesuffix("f")) for number in said.split(", ")] == [np.float32(value) for value in values]


def test_a_hostile_name_stays_one_string() -> None:
    text = kotlin.source("tiny", TINY)
    quoted = r'"ev\u0022il\u0024x \u0024{y}\u005cu0041\u000a* \u00e9\ud834\udd1e.tflite"'
    assert quoted in text
    assert text.isascii()
    odd = replace(TINY[0], variant='"; } //\n__NAME__', signature="__MODELS__", min_runtime="2.3\n*/")
    text = kotlin.source("odd", [odd])
    assert r'"\u0022; } //\u000a__NAME__", 5, 7, "__MODELS__"' in text
    assert "is not known" in text


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("tiny", "Tiny"),
        ("my-net_v2.final", "MyNetV2Final"),
        ("étoile filante", "EtoileFilante"),
        ("mosaicHD", "MosaicHD"),
        ("3d", "Net3d"),
        ("星月夜", "Net"),
        ("", "Net"),
        ("bitmap", "BitmapNet"),
        ("port", "PortNet"),
        ("String", "StringNet"),
        ("*/ class Evil {", "ClassEvil"),
    ],
)
def test_the_class_has_a_name_that_kotlin_allows(name: str, wanted: str) -> None:
    assert kotlin.class_name(name) == wanted


def test_several_pictures_go_in_by_their_names_or_by_number() -> None:
    assert "fun run(run: Bitmap, put: Bitmap): Bitmap {" in kotlin.source("both", [BOTH])
    for name in ("in", "9x", "a b", "class"):
        odd = replace(BOTH, inputs=(replace(BOTH.inputs[0], name=name), BOTH.inputs[1]))
        text = kotlin.source("both", [odd])
        assert "fun run(picture1: Bitmap, picture2: Bitmap): Bitmap {" in text
        assert f'put("{name}", picture1)' in text


def test_what_is_no_picture_has_its_buffers_only() -> None:
    text = kotlin.source("raw", [RAW])
    assert re.findall(r"fun run\(.*", text) == ["fun run() {"]
    assert 'Port("many", Type.INT64, listOf(3))' in text
    assert "it.inputs; it.run(); it.outputs" in text


def test_a_picture_of_a_strange_type_has_its_buffer_only() -> None:
    wide = replace(TINY[0], inputs=(replace(TINY[0].inputs[0], dtype="int16", quantisation=Quantisation(0.5, 0)),))
    assert 'Port("x", Type.INT16, listOf(1, 5, 7, 3), scale = 0.5f, zero = 0)' in kotlin.source("tiny", [wide])


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (replace(TINY[0], signature=None), "net_5x7_fp32.tflite has no signature"),
        (replace(TINY[0], size=None), "net_5x7_fp32.tflite has no fixed size"),
        (replace(TINY[0], kind="onnx"), "is no TFLite file with channels last"),
        (replace(TINY[0], layout="NCHW"), "is no TFLite file with channels last"),
        (replace(TINY[0], inputs=(Port("x", "float32", (1, None, 7, 3)),)), "x has no fixed size"),
        (replace(TINY[0], inputs=(Port("x", "complex64", (1, 2)),)), "net_5x7_fp32.tflite: x is complex64"),
    ],
)
def test_files_that_an_app_cannot_use_so_are_refused(odd: Card, said: str) -> None:
    with pytest.raises(ArtifactError, match=re.escape(said)) as error:
        kotlin.source("tiny", [odd])
    assert error.value.exit_code == 1


def test_the_template_is_part_of_the_package() -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")
    assert "template.kt" in config["options.package_data"]["export"].split()


# The program: an app whose interpreter writes down what it is given


@dataclass(frozen=True)
class App:
    """The app's folder after it ran, and what it said."""

    folder: Path
    said: str

    def given(self, net: str, port: Port) -> np.ndarray:
        return np.frombuffer((self.folder / net / f"{port.name}.in").read_bytes(), port.dtype).reshape(port.shape)

    def made(self, name: str) -> np.ndarray:
        """RGB pixels; every one opaque."""
        pixels = np.frombuffer((self.folder / f"{name}.picture").read_bytes(), np.uint8).reshape(5, 7, 4)
        assert (pixels[..., 3] == 255).all()
        return pixels[..., 2::-1]


def _bitmap(path: Path, height: int, width: int) -> np.ndarray:
    """Random RGB pixels, written as Android has them (blue, green, red, and an alpha that is none of our business)."""
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 4), np.uint8)
    path.write_bytes(pixels.tobytes())
    return pixels[..., 2::-1]


def _answer(port: Port) -> np.ndarray:
    """What a file gives: all that its type can hold; of floats, what lies around the pixels' range, and halves."""
    random = np.random.default_rng(3)
    if port.dtype == "float32":
        form = port.format or PRESETS["0..255"]
        pixels = np.round(random.uniform(-60, 310, port.shape) * 2) / 2
        return ((pixels - np.array(form.mean)) / np.array(form.std) if port.format else pixels).astype(np.float32)
    return random.integers(0, 2 if port.dtype == "bool" else 256, port.shape).astype(port.dtype)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    """The classes compiled against stubs of Android and LiteRT, and run."""
    tools = {name: shutil.which(name) for name in ("kotlinc", "javac", "java")}
    if not all(tools.values()):
        pytest.skip("no kotlinc, javac and java here")
    home = tmp_path_factory.mktemp("app")
    sources = [home / f"{name}.kt" for name in ("Tiny", "Both", "Raw")]
    for path, cards in zip(sources, (TINY, [BOTH], [RAW]), strict=True):
        path.write_text(kotlin.source(path.stem.lower(), cards))
    (home / "assets" / "nets").mkdir(parents=True)
    for one in (*TINY, BOTH, RAW):
        net = home / (one.variant if one in TINY else one.file)
        net.mkdir()
        place = home / "assets" / "nets" if one in TINY else home / "assets"
        (place / one.file).write_bytes(b"of other assets " + str(net).encode())
        for port in one.outputs:
            (net / f"{port.name}.out").write_bytes(_answer(port).tobytes())
    _bitmap(home / "picture", 5, 7)
    _bitmap(home / "style", 3, 4)

    environment = os.environ | {"LC_ALL": "C.UTF-8"}  # of the names of files

    def call(*command: object) -> str:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, cwd=home, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not re.search(r"\.kt:\d+:\d+: ", done.stderr), done.stderr  # not a warning
        return done.stdout

    call(tools["javac"], "-d", home / "stubs", *sorted(APP.rglob("*.java")))
    call(tools["kotlinc"], "-cp", home / "stubs", "-include-runtime", "-d", home / "app.jar", *sources, APP / "Main.kt")
    return App(home, call(tools["java"], "-Dfile.encoding=UTF-8", "-cp", f"{home / 'app.jar'}:{home / 'stubs'}", "MainKt", home))


@pytest.mark.parametrize("one", TINY, ids=lambda one: one.variant)
def test_the_app_gives_and_reads_what_the_card_says(app: App, one: Card, tmp_path: Path) -> None:
    """Bit for bit what Python gives to the same file."""
    pixels = _bitmap(tmp_path / "picture", 5, 7)
    taken, given = one.inputs[0], one.outputs[0]
    assert np.array_equal(app.given(one.variant, taken), runtime.to_tensor(pixels[None], taken, "NHWC"))
    wanted = np.rint(runtime.to_pixels(_answer(given), given, "NHWC"))[0]
    assert np.array_equal(app.made(one.variant), wanted)
    assert wanted.min() == 0
    assert wanted.max() > 99
    assert (app.folder / one.variant / "signature").read_text() == "serving_default"
    assert (app.folder / one.variant / "options").read_text() == "threads 4, xnnpack true"


def test_two_pictures_go_in_and_the_first_picture_comes_out(app: App, tmp_path: Path) -> None:
    for port, name in zip(BOTH.inputs, ("picture", "style"), strict=True):
        pixels = _bitmap(tmp_path / name, *port.shape[1:3])  # type: ignore[arg-type]
        assert np.array_equal(app.given(BOTH.file, port), runtime.to_tensor(pixels[None], port, "NHWC"))
    styled = BOTH.outputs[1]
    assert np.array_equal(app.made("both"), np.rint(runtime.to_pixels(_answer(styled), styled, "NHWC"))[0])
    assert f"logits: {_answer(BOTH.outputs[0])[0, 6]}\n" in app.said
    assert (app.folder / BOTH.file / "options").read_text() == "threads 3, xnnpack false, delegate 77"


def test_numbers_go_in_and_out_as_buffers(app: App) -> None:
    assert app.given(RAW.file, RAW.inputs[1]).tolist() == [1, -2, 3_000_000_000]
    assert f"flags: {int(_answer(RAW.outputs[0])[1])}\n" in app.said


@pytest.mark.parametrize(
    "said",
    [
        "another size: IllegalArgumentException net_5x7_fp32.tflite takes pictures of width 7 and height 5, got 4 and 3: ",
        "closed: IllegalStateException ",
        "no picture in: IllegalArgumentException many is no picture",
        "no picture out: IllegalArgumentException flags is no picture",
        "no such file: FileNotFoundException net_5x7_fp32.tflite",
        "no such size: IllegalArgumentException no fp32 file of height 6 and width 7; there are [net_5x7_fp32.tflite, ev",
    ],
)
def test_the_app_is_told_what_it_did_wrong(app: App, said: str) -> None:
    assert said in app.said
