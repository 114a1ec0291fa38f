"""Stylising: the size that went in comes out, on photos of every kind, and nothing is lost on the way to an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from compress import memory
from compress.checkpoint import write
from compress.cli import main
from compress.cli.stylize import name_outputs
from compress.errors import ImageError, NetworkError
from compress.image_format import PRESETS
from compress.metrics.psnr import psnr
from compress.networks.johnson import Johnson
from compress.networks.load import snapshot
from compress.networks.run import run_of_network
from compress.photos import decode, resize
from compress.spec import ModelSpec
from compress.stylize.feedforward import Sizes, sizes_of, stylize

FORMAT = PRESETS["0..255"]
SPEC = ModelSpec("johnson", {"widths": [5, 7, 11], "blocks": 1}, ((1, 3, 36, 44),), (FORMAT,), (FORMAT,))
Pixels = NDArray[Any]


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    """Something smooth, so that scaling it there and back keeps it."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return resize(rough, height, width)


def invert(pixels: Pixels) -> Pixels:
    return 255 - pixels


def only_multiples_of(multiple: int) -> Any:
    """A network that inverts, and rounds sides up to a multiple as strided layers and upsampling do."""

    def run(pixels: Pixels) -> Pixels:
        tall, wide = (-(-side // multiple) * multiple for side in pixels.shape[1:3])
        return invert(np.pad(pixels, ((0, 0), (0, tall - pixels.shape[1]), (0, wide - pixels.shape[2]), (0, 0)), "edge"))

    return run


# One picture


@pytest.mark.parametrize("multiple", [1, 2, 4, 8, 16, 32, 64])
def test_the_multiple_is_found_and_the_size_is_kept(multiple: int) -> None:
    run = only_multiples_of(multiple)
    assert sizes_of(run) == Sizes(multiple)
    for size in ((2, 3), (17, 64), (65, 130), (33, 31)):
        pixels = photo(*size)
        assert np.array_equal(stylize(run, pixels), invert(pixels))


@torch.no_grad()
@pytest.mark.parametrize("arguments", [{}, {"upsampling": "transposed"}, {"norm": "batch"}])
def test_johnson_takes_any_size(arguments: dict[str, Any]) -> None:
    torch.manual_seed(1)
    network = Johnson(widths=(5, 7, 11), blocks=1, **arguments).eval()
    run = run_of_network(network, SPEC)
    sizes = sizes_of(run)
    assert sizes == Sizes(4)
    for size in ((2, 2), (5, 9), (31, 47), (36, 44), (61, 2)):
        result = stylize(run, photo(*size), sizes)
        assert result.shape == (*size, 3)
        assert result.dtype == np.float32
        assert 0 <= result.min() <= result.max() <= 255
    exact = photo(36, 44)
    tensor = torch.from_numpy(exact.transpose(2, 0, 1)[None].astype(np.float32))
    expected = network(tensor).clamp(0, 255)[0].permute(1, 2, 0).numpy()
    assert np.allclose(stylize(run, exact, sizes), expected, atol=1e-3)


def test_a_network_that_fails_on_small_pictures_is_still_understood() -> None:
    def run(pixels: Pixels) -> Pixels:
        if min(pixels.shape[1:3]) < 64:
            raise NetworkError("too small")
        return only_multiples_of(32)(pixels)

    assert sizes_of(run) == Sizes(64)  # the least multiple whose trial is large enough

    def never(pixels: Pixels) -> Pixels:
        raise NetworkError("never runs")

    with pytest.raises(NetworkError, match="never runs"):
        sizes_of(never)


def test_a_network_that_enlarges_is_an_error() -> None:
    with pytest.raises(NetworkError, match="makes a picture of another size: 64x192 becomes 128x384") as caught:
        sizes_of(lambda pixels: pixels.repeat(2, 1).repeat(2, 2))
    assert caught.value.exit_code == 1


def test_one_size_only_scales_there_and_back_without_distortion() -> None:
    seen = []

    def run(pixels: Pixels) -> Pixels:
        seen.append(pixels)
        return invert(pixels)

    sizes = Sizes(fixed=(64, 64))
    pixels = photo(60, 120)
    result = stylize(run, pixels, sizes)
    assert result.shape == (60, 120, 3)
    assert seen[0].shape == (1, 64, 64, 3)
    ratio = psnr(result, invert(pixels))
    assert ratio is not None
    assert ratio > 30
    assert np.array_equal(seen[0][0, :32], resize(pixels, 32, 64))  # half as high: the aspect stays, the rest continues
    exact = photo(64, 64)
    assert np.array_equal(stylize(run, exact, sizes), invert(exact))
    for size in ((2, 500), (500, 2), (3, 3)):
        assert stylize(run, photo(*size), sizes).shape == (*size, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_one_pixel_is_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"a picture of {size[0]}x{size[1]} is too small"):
        stylize(invert, photo(*size))


def test_sizes_refuse_nonsense() -> None:
    for wrong in ({"multiple": 0}, {"fixed": (0, 5)}):
        with pytest.raises(ValueError, match="must be positive"):
            Sizes(**wrong)  # type: ignore[arg-type]


# Networks as pictures


class Lookup(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return {"body": x}["head"]


def test_networks_without_pictures_are_refused() -> None:
    with pytest.raises(NetworkError, match="does not say how a picture goes in and comes out") as caught:
        run_of_network(nn.Identity(), ModelSpec("classifier"))
    assert "--image-format" in str(caught.value.hint)
    spec = ModelSpec("net", {}, ((1, 3, 8, 8),), (FORMAT,), (FORMAT,))
    for module, words in (
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), r"gives a tensor of shape \(1, 10\), which is no picture"),
        (nn.Conv2d(3, 4, 1), r"shape \(1, 4, 8, 8\), which is no picture"),
        (nn.Conv2d(5, 3, 1), "does not run on a picture of 8x8"),
        (nn.ModuleDict({"head": nn.Identity()}), 'does not run on a picture of 8x8: Module .* missing the required "forward"'),
        (Lookup(), "does not run on a picture of 8x8: KeyError: 'head'$"),
    ):
        with pytest.raises(NetworkError, match=words) as caught:
            run_of_network(module, spec)(photo(8, 8)[None].astype(np.float32))
        assert "\n" not in caught.value.message


def test_the_output_that_is_a_picture_is_taken() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.mean((1, 2, 3)), 1 - x

    spec = ModelSpec("net", {}, ((1, 3, 8, 8),), (PRESETS["0..1"],), (None, PRESETS["0..1"]))
    pixels = photo(8, 9)[None].astype(np.float32)
    assert np.allclose(run_of_network(Two(), spec)(pixels), invert(pixels), atol=1e-3)


# The command


@pytest.fixture
def net(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    write(tmp_path / "net.safetensors", snapshot(Johnson(widths=[5, 7, 11], blocks=1), SPEC))
    return tmp_path / "net.safetensors"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["stylize", *map(str, arguments)])


def kinds_of_photos(folder: Path) -> dict[str, tuple[int, int]]:
    """Files of every kind in `folder`, each of another size: name -> (height, width) as it is seen."""
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 6
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey.png": (Image.fromarray(photo(31, 45)[..., 0]), {}),
        "rgba.png": (Image.fromarray(np.dstack([photo(33, 47), photo(33, 47)[..., 0]])), {}),
        "cmyk.jpg": (Image.fromarray(photo(35, 49)).convert("CMYK"), {}),
        "rotated.jpg": (Image.fromarray(photo(37, 51)), {"exif": exif}),
        "wide.png": (Image.fromarray(photo(39, 53)[..., 0].astype(np.uint16) * 257), {}),
        "plain.webp": (Image.fromarray(photo(41, 55)), {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return {name: image.size if name == "rotated.jpg" else image.size[::-1] for name, (image, _) in images.items()}


def test_photos_of_every_kind_and_size(net: Path, tmp_path: Path) -> None:
    sizes = kinds_of_photos(tmp_path / "photos")
    result = run(net, tmp_path / "photos", "-o", tmp_path / "out" / "deep", "--json")
    assert result.exit_code == 0, result.output
    for name, size in sizes.items():
        assert decode(tmp_path / "out" / "deep" / f"{Path(name).stem}.png").shape == (*size, 3)
    pictures = {Path(p["photo"]).name: p for p in json.loads(result.stdout)["pictures"]}
    assert {name: tuple(p["size"]) for name, p in pictures.items()} == sizes
    assert all(p["seconds"] > 0 and p["scaled"] is False and Path(p["path"]).is_file() for p in pictures.values())
    assert "[6/6]" in result.stderr
    assert len(list((tmp_path / "out" / "deep").iterdir())) == len(sizes)


def test_quiet_says_only_where(net: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(31, 45)).save(tmp_path / "a.png")
    result = run(net, tmp_path / "a.png", "-o", tmp_path / "out", "--quiet")
    assert result.stderr == ""
    assert result.stdout == f"{tmp_path / 'out' / 'a.png'}\n"


def test_names_that_collide(net: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "deep/a.png", "a.jpg", "a-2.png", "B.png", "deep/b.png")]
    expected = ["a.png", "a-2.png", "a-3.png", "a-2-2.png", "B.png", "b-2.png"]
    assert [path.name for path in name_outputs(paths, tmp_path / "out")] == expected
    (tmp_path / "deep").mkdir()
    for number, path in enumerate(paths):
        Image.fromarray(photo(31 + number, 45)).save(path)
    assert run(net, *paths, "-o", tmp_path / "out").exit_code == 0
    assert [decode(tmp_path / "out" / name).shape[0] for name in expected] == [31, 32, 33, 34, 35, 36]


def test_existing_outputs_need_force_and_are_found_before_any_work(net: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(photo(31, 45)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_text("mine")
    result = run(net, tmp_path / "a.jpg", tmp_path / "b.jpg", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "b.png exists" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.png"]
    assert (tmp_path / "out" / "b.png").read_text() == "mine"
    assert run(net, tmp_path / "a.jpg", tmp_path / "b.jpg", "-o", tmp_path / "out", "--force").exit_code == 0
    assert decode(tmp_path / "out" / "b.png").shape == (31, 45, 3)


def test_a_photo_is_never_overwritten(net: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(31, 45)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    result = run(net, tmp_path / "a.png", "-o", tmp_path, "--force")
    assert result.exit_code == 1
    assert "a.png is the input" in result.stderr
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("kind", ["text", "truncated", "tiny", "empty"])
def test_a_bad_photo_is_named_and_those_before_it_stay(kind: str, net: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(31, 45)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    bad = tmp_path / "bad.jpg"
    if kind == "tiny":
        Image.fromarray(photo(1, 1)).save(bad)
    else:
        bad.write_bytes({"text": b"no photo", "truncated": whole[: len(whole) // 2], "empty": b""}[kind])
    result = run(net, tmp_path / "a.jpg", bad, tmp_path / "a.jpg", "-o", tmp_path / "out")
    assert result.exit_code == 1
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert error[0].count(str(bad)) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    assert decode(tmp_path / "out" / "a.png").shape == (31, 45, 3)
    document = json.loads(run(net, bad, "-o", tmp_path / "other", "--json", "--quiet").stdout)
    assert document["error"]["kind"] == "image"


def test_photos_that_are_not_there(net: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "none.jpg", "no such file"), (tmp_path / "empty", "no photos in")):
        result = run(net, path, "-o", tmp_path / "out")
        assert result.exit_code == 1
        assert words in result.stderr
        assert not (tmp_path / "out").exists()
    assert run(net, "-o", tmp_path / "out").exit_code == 2


def test_a_folder_that_cannot_be_written(net: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(31, 45)).save(tmp_path / "a.jpg")
    result = run(net, tmp_path / "a.jpg", "-o", net)
    assert result.exit_code == 1
    assert "is a file, not a folder" in result.stderr


def test_ctrl_c_keeps_what_is_done(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.stylize import feedforward

    for name in ("a", "b"):
        Image.fromarray(photo(31, 45)).save(tmp_path / f"{name}.jpg")
    real, calls = feedforward.stylize, []

    def stopped(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(feedforward, "stylize", stopped)
    result = run(net, tmp_path / "a.jpg", tmp_path / "b.jpg", "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]


@pytest.mark.skipif(memory.free_bytes() is None, reason="this system does not say how much memory is free")
def test_a_photo_that_does_not_fit_into_memory(net: Path, tmp_path: Path) -> None:
    """In a process that may have 300 MB more: the error is told, and nothing is killed."""
    Image.fromarray(photo(3000, 4000)).save(tmp_path / "large.jpg")
    code = """
import sys
from compress import memory
memory.free_bytes = lambda: 300 << 20
from compress.cli import main
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", code, "stylize", str(net), str(tmp_path / "large.jpg"), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "large.jpg does not fit into memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_memory_limits_are_lifted_again() -> None:
    with memory.within_machine():
        pass
    assert memory.is_exhausted(MemoryError())
    assert memory.is_exhausted(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not memory.is_exhausted(RuntimeError("size mismatch"))
    with memory.within_machine():
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 42)
        assert memory.is_exhausted(caught.value)
    torch.ones(1 << 20)


# The user's own networks, and files


OWN = """
from torch import nn
def classifier(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
def picture(): return nn.Conv2d(3, 3, 1)
"""


def test_a_classifier_has_no_picture_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Image.fromarray(photo(8, 8)).save("a.png")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).state_dict(), "classifier.pth")
    torch.save(nn.Conv2d(3, 3, 1).state_dict(), "picture.pth")
    result = run("classifier.pth", "a.png", "-o", "out", "--network", "own_nets:classifier")
    assert result.exit_code == 1
    assert "does not say how a picture goes in and comes out" in result.stderr
    result = run("classifier.pth", "a.png", "-o", "out", "--network", "own_nets:classifier", "--image-format", "0..1")
    assert result.exit_code == 1
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    result = run("picture.pth", "a.png", "-o", "out", "--network", "own_nets:picture", "--image-format", "0..1")
    assert result.exit_code == 0, result.output


def onnx_inverter(path: Path, height: int | str, width: int | str) -> Path:
    """255 - x, in NCHW."""
    shape = [1, 3, height, width]
    graph = helper.make_graph(
        [helper.make_node("Sub", ["peak", "image"], ["styled"])],
        "inverter",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("styled", TensorProto.FLOAT, shape)],
        [helper.make_tensor("peak", TensorProto.FLOAT, [1], [255.0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_an_onnx_file_of_any_size(tmp_path: Path) -> None:
    pixels = photo(31, 45)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    path = onnx_inverter(tmp_path / "net.onnx", "H", "W")
    result = run(path, tmp_path / "a.png", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "has no card beside it" in result.stderr
    assert run(path, tmp_path / "a.png", "-o", tmp_path / "out", "--image-format", "0..255").exit_code == 0
    assert np.array_equal(decode(tmp_path / "out" / "a.png"), invert(pixels))


def test_a_file_of_one_size_gets_scaled_photos_and_says_so(tmp_path: Path) -> None:
    from export.artifact import write_card
    from export.runtime import describe

    Image.fromarray(photo(32, 48)).save(tmp_path / "exact.png")
    Image.fromarray(photo(61, 93)).save(tmp_path / "other.png")
    path = onnx_inverter(tmp_path / "net.onnx", 32, 48)
    write_card(describe(path, FORMAT))
    result = run(path, tmp_path / "exact.png", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr
    assert np.array_equal(decode(tmp_path / "out" / "exact.png"), invert(photo(32, 48)))
    result = run(path, tmp_path / "other.png", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "net.onnx takes 32x48 only: 1 scaled to it and back" in result.stderr
    made = decode(tmp_path / "out" / "other.png")
    assert made.shape == (61, 93, 3)
    ratio = psnr(made, invert(photo(61, 93)))
    assert ratio is not None
    assert ratio > 30


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    Image.fromarray(photo(32, 48)).save(tmp_path / "a.png")
    for name in ("net.onnx", "net.tflite"):
        (tmp_path / name).write_text("no network")
        for options in ([], ["--image-format", "0..1"]):
            result = run(tmp_path / name, tmp_path / "a.png", "-o", tmp_path / "out", *options)
            assert result.exit_code == 1
            assert "Traceback" not in result.stderr
            assert name in result.stderr
        result = run(tmp_path / f"no-{name}", tmp_path / "a.png", "-o", tmp_path / "out")
        assert "no such file" in result.stderr


@pytest.mark.slow
def test_a_tflite_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", exc_type=ImportError)
    code = """
import sys
import tensorflow as tf
f = tf.function(lambda x: {"styled": 255.0 - x}, input_signature=[tf.TensorSpec((1, 32, 48, 3), tf.float32, "image")])
open(sys.argv[1], "wb").write(tf.lite.TFLiteConverter.from_concrete_functions([f.get_concrete_function()]).convert())
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "net.tflite"], check=True, capture_output=True)
    for name, size in (("a", (32, 48)), ("b", (47, 31))):
        Image.fromarray(photo(*size)).save(tmp_path / f"{name}.png")
    arguments = (
        tmp_path / "net.tflite",
        tmp_path / "a.png",
        tmp_path / "b.png",
        "-o",
        tmp_path / "out",
        "--image-format",
        "0..255",
    )
    assert run(*arguments).exit_code == 0
    assert np.array_equal(decode(tmp_path / "out" / "a.png"), invert(photo(32, 48)))
    assert decode(tmp_path / "out" / "b.png").shape == (47, 31, 3)


def test_a_real_network_on_a_real_photo(data: Path, tmp_path: Path) -> None:
    amber = data / "reference" / "amber.jpg"
    pixels = decode(amber)[:401, :303]
    Image.fromarray(pixels).save(tmp_path / "odd.png")
    result = run(data / "weights" / "johnson" / "candy.pth", tmp_path / "odd.png", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    made = decode(tmp_path / "out" / "odd.png")
    assert made.shape == (401, 303, 3)
    assert np.abs(made.astype(int) - pixels).mean() > 20
