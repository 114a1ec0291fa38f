"""What `compress inspect` says is counted by hand; what it draws shows what was seen; what it cannot do is one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn

from compress.channels.accepted import Accepted, accepted
from compress.channels.inspect import Inspection, inspect
from compress.channels.plot import chosen
from compress.channels.report import staying
from compress.checkpoint import write
from compress.cli import main
from compress.errors import NetworkError, TraceError
from compress.image_format import PRESETS
from compress.networks.batches import photo_batches, spread
from compress.networks.johnson import Johnson
from compress.networks.load import snapshot
from compress.spec import ModelSpec
from tests.strip_cases import make_constant_

SPEC = ModelSpec(
    "johnson", {"widths": [5, 6, 7], "blocks": 1, "hidden": 9}, ((1, 3, 24, 32),), (PRESETS["0..1"],), (PRESETS["0..1"],)
)


class Small(nn.Module):
    """Reflect-padded, grouped and transposed layers, a parameter that nothing reads, a norm that can be bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.grouped = nn.Conv2d(8, 12, (1, 3), stride=2, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(12, 5, 4, stride=2, padding=1)
        self.idle = nn.Parameter(torch.zeros(17))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.up(F.relu(self.grouped(x)))


@pytest.fixture(scope="module")
def found() -> Inspection:
    torch.manual_seed(0)
    network = Small().eval()
    make_constant_(network.first, [2])  # and so does its norm: scale and shift
    with torch.no_grad():
        network.norm.weight[2] = network.norm.bias[2] = 0
        network.norm.weight[5], network.norm.bias[5] = 0.01, -0.01 * 50  # ReLU(0.01 z - 0.5) is dead while |z| < 50
        network.grouped.weight[:6, 1] = 0
        network.grouped.weight[7].fill_(1e-3)
    batch = torch.rand(2, 3, 12, 16)
    return inspect(network, [batch[:1]], formats=[PRESETS["0..1"]], batches=[[batch[:1]], [batch[1:]]])


def test_the_network_as_a_whole(found: Inspection) -> None:
    first, norm, grouped, up = 3 * 8 * 9 + 8, 16, 12 * 4 * 3, 12 * 5 * 16 + 5
    assert found.inputs == ((1, 3, 12, 16),)
    assert found.outputs == ((1, 5, 12, 14),)
    assert found.totals.parameters == first + norm + grouped + up + 17
    assert found.totals.bytes == 4 * found.totals.parameters
    assert found.totals.macs == 3 * 8 * 9 * 12 * 16 + 12 * 4 * 3 * 6 * 7 + 12 * 5 * 16 * 6 * 7
    assert found.unused == ("idle",)
    assert not found.not_understood
    assert not found.uncounted


def test_each_layer(found: Inspection) -> None:
    by_name = {layer.name: layer for layer in found.layers}
    assert list(by_name) == ["first", "norm", "grouped", "up"]
    assert sum(layer.macs or 0 for layer in found.layers) == found.totals.macs
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert sum(layer.parameters for layer in found.layers) == found.totals.parameters - 17
    grouped = by_name["grouped"]
    assert grouped.window is not None
    assert (grouped.window.kernel, grouped.window.stride, grouped.window.dilation) == ((1, 3), (2, 2), (1, 1))
    assert (grouped.kind, grouped.groups, grouped.into, grouped.out, grouped.size) == ("conv2d", 2, 8, 12, (6, 7))
    assert grouped.zeros == pytest.approx(6 * 3 / (12 * 4 * 3))
    assert by_name["first"].pads == "reflect"
    assert grouped.pads is None
    assert by_name["up"].kind == "conv_transpose2d"
    field = by_name["grouped"].field
    assert field is not None
    assert field.size == (3, 5)
    assert field.stride == (2, 2)
    assert field.whole == ("instance_norm in norm",)


def test_idle_channels_by_how_that_is_known(found: Inspection) -> None:
    first, grouped, up = found.spaces
    assert (first.name, first.width, first.group, first.reason) == ("first", 8, 2, None)
    assert first.zero == (2,)
    assert first.constant == ()
    assert first.unread == (1,)  # its group of the grouped convolution has no weight for it
    assert [(one.channel, one.pixels) for one in first.up_to] == [(5, 50**2 + 1)]  # |z| <= sqrt(pixels - 1)
    assert first.writers == ("first", "norm")
    assert first.readers == ("grouped",)
    assert grouped.idle == 0
    assert (up.reason, up.writers, up.readers) == ("an output of the network", ("up",), ())
    assert first.goes == 0  # both are of the first group, and groups stay equal


def test_what_inputs_showed(found: Inspection) -> None:
    first = found.spaces[0]
    assert first.seen is not None
    assert first.seen.count == 2
    assert first.seen.dead.tolist() == [False, False, True, False, False, True, False, False]
    assert first.seen.largest.shape == (8,)
    assert found.responses["first"].shape == (2, 8)
    assert (found.responses["first"][:, [2, 5]] == 0).all()
    assert (found.responses["first"][:, [0, 3]] > 0).all()
    assert found.seen_after is not None
    removed = (3 * 9 + 1 + 2) * 2 + 6 * 3 + 6 * 3  # one channel of each group: rows, bias, norm; columns of the grouped weight
    assert found.seen_after.parameters == found.totals.parameters - removed
    assert found.after == found.totals


def test_what_a_strip_would_leave_is_what_it_leaves() -> None:
    from compress.channels.strip import strip

    network = Johnson(widths=[5, 6, 7], blocks=1, hidden=9).eval()
    for part, channels in ((network.down1, [0, 3]), (network.up1, [1, 2, 4])):
        make_constant_(part.conv, channels)  # type: ignore[arg-type]
        with torch.no_grad():
            part.norm.weight[channels] = part.norm.bias[channels] = 0  # type: ignore[index, operator]
    x = [torch.rand(1, 3, 16, 20)]
    found, report = inspect(network, x), strip(network, x).report
    assert found.after.parameters == report.after.parameters
    assert found.after.macs == report.after.macs
    assert found.after.bytes == report.after.bytes
    assert sum(space.goes for space in found.spaces) == report.removed == 5


def test_remarks_name_what_is_there_and_no_more(found: Inspection) -> None:
    topics = {remark.topic: remark for remark in found.remarks}
    assert set(topics) == {"widths", "InstanceNorm", "pads", "groups", "large kernels"} - {"large kernels"}
    assert topics["widths"].where == ("grouped",)
    assert "(12)" in topics["widths"].text
    assert topics["groups"].where == ("grouped",)
    assert topics["pads"].where == ("first",)
    assert [remark.care for remark in found.remarks] == sorted((remark.care for remark in found.remarks), reverse=True)
    plain = inspect(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 3)), [torch.rand(1, 3, 8, 10)]
    )
    assert [remark.topic for remark in plain.remarks] == ["BatchNorm"]
    assert "folded" in plain.remarks[0].text


def test_remarks_on_zeros_kernels_and_ranges() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 7), nn.InstanceNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.Upsample(scale_factor=2)
    )
    with torch.no_grad():
        network[0].weight[:8] = 0  # type: ignore[index] # whole channels: no mask
        network[3].weight.view(-1)[::3] = 0  # type: ignore[operator]
    found = inspect(network.eval(), [torch.rand(1, 3, 10, 12)], formats=[PRESETS["0..255"]])
    topics = {remark.topic: remark for remark in found.remarks}
    assert set(topics) == {"sparse weights", "large kernels", "half precision", "InstanceNorm", "resizes"}
    assert topics["sparse weights"].where == ("3",)
    assert "2/3 zeros" in topics["sparse weights"].text
    assert "7x7" in topics["large kernels"].text


def test_a_document_for_machines(found: Inspection) -> None:
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["before"]["parameters"] == found.totals.parameters
    assert {"before", "after", "layers", "spaces", "removed", "receptive_field", "sizes", "remarks", "not_understood"} <= set(
        document
    )
    assert document["spaces"][0]["before"] == 8
    assert document["spaces"][0]["seen"]["zero"] == [2, 5]
    assert document["spaces"][2]["prunable"] is False
    assert document["receptive_field"][0]["stride"] == [1.0, 1.0]
    assert document["sizes"]["step"] == 1


@torch.library.custom_op("test_inspect::turn", mutates_args=())
def turn(x: Tensor) -> Tensor:
    return x.flip(1)


@turn.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_what_is_not_understood_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return turn(self.conv(x))

    found = inspect(Odd(), [torch.rand(1, 3, 8, 10)])
    assert found.not_understood[0].startswith("test_inspect.turn.default (test_inspect.py:")
    assert found.fields[0] is not None
    assert found.fields[0].unknown[0].startswith("test_inspect.turn.default")
    assert found.spaces[0].reason == "test_inspect.turn.default is not understood"


def test_shared_modules_are_counted_once_and_run_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    found = inspect(Twice(), [torch.rand(1, 3, 4, 6)])
    assert [layer.again for layer in found.layers] == [False, True]
    assert [layer.parameters for layer in found.layers] == [84, 0]
    assert found.totals.macs == 2 * 81 * 24


def test_layers_under_autocast_have_their_names_and_parameters() -> None:
    class Low(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    found = inspect(Low(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), [torch.rand(1, 3, 8, 9)])
    assert [(layer.name, layer.kind, layer.parameters) for layer in found.layers] == [("0", "conv2d", 112), ("2", "conv2d", 10)]


def test_weights_that_are_not_numbers() -> None:
    network = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        network.weight[1] = float("nan")
    with pytest.raises(NetworkError, match="NaN or inf in weight"):
        inspect(network, [torch.rand(1, 3, 4, 5)])


# Sizes


class Halves(nn.Module):
    """Down by 4 and up again, beside the way across."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, F.interpolate(F.max_pool2d(x, 4), scale_factor=4)), 1)


class Pyramid(nn.Module):
    """Half the size, rounded up, which must be even: sides of 3, 4, 7, 8, 11, 12 ... Tells of a name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.avg_pool2d(x, 2, ceil_mode=True)
        return {"out": x + F.interpolate(F.max_pool2d(x, 2), scale_factor=2)}


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [
        (Halves(), (24, 32), Accepted(4, 0, 4, 1.0, 4)),
        (Pyramid(), (8, 12), Accepted(4, 0, 4, 0.5, 4)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3)), (8, 8), Accepted(None, None, None, None, None)),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2)), (9, 8), Accepted(1, 0, 1, 2.0, 1)),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (9, 8), Accepted(1, 0, 1, 0.5, 2)),
        (nn.Conv2d(3, 8, 5), (9, 8), Accepted(1, 0, 5, None, None)),
        (nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 8, 7)), (9, 8), Accepted(1, 0, 4, 1.0, 1)),
    ],
)
def test_sizes_that_a_network_takes(network: nn.Module, size: tuple[int, int], expected: Accepted) -> None:
    assert accepted(network, [(1, 3, *size)]) == expected


def test_sizes_of_code_that_makes_tensors_of_its_own() -> None:
    class Grid(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.arange(x.shape[3])

    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    assert accepted(Grid(), [(1, 3, 8, 10)]) == Accepted(1, 0, 1, 1.0, 1)
    assert accepted(Decides(), [(1, 3, 8, 10)]) is None
    assert accepted(nn.Linear(7, 2), [(1, 7)]) is None


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and a network of which one channel is dead."""
    place = tmp_path_factory.mktemp("inspect")
    (place / "photos").mkdir()
    (place / "none").mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(random.integers(0, 256, (40, 30, 3)).astype(np.uint8)).save(place / "photos" / f"{name}.png")
    torch.manual_seed(1)
    network = Johnson(**SPEC.arguments)
    with torch.no_grad():
        network.down1.norm.weight[2], network.down1.norm.bias[2] = 0, -1  # type: ignore[index, operator]
    write(place / "net.safetensors", snapshot(network, SPEC))
    return place


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_the_command_tells_it_all(folder: Path) -> None:
    result = run(folder / "net.safetensors")
    assert result.exit_code == 0, result.output
    for words in (
        "johnson: 1x3x24x32 -> 1x3x24x32",
        "receptive field of the output: 47x47",
        "instance_norm",
        "takes any size, from 5x5 on; gives the same size at multiples of 4",
        "residual.0.first.conv",
        "1 zero",
        "`compress strip` would take 1 channel, exactly",
        "an output of the network",
        "pads that reflect",
    ):
        assert words in result.stdout, words
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_the_command_with_photos_and_a_picture(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "responses.png"
    result = run(folder / "net.safetensors", "--observed", folder / "photos", "--plot", picture, "--size", "16x20")
    assert result.exit_code == 0, result.output
    assert "dead on 3 photos" in result.stdout
    assert "1x3x16x20" in result.stdout
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    orange = (abs(pixels - np.array([0xE8, 0x71, 0x0A])).max(-1) < 12).sum()
    assert orange > 2000  # a dead channel is a column of it
    again = run(folder / "net.safetensors", "--observed", folder / "photos", "--plot", picture)
    assert again.exit_code == 1
    assert "exists" in again.stderr
    before = picture.read_bytes()
    forced = run(folder / "net.safetensors", "--observed", folder / "photos", "--plot", picture, "--size", "16x20", "--force")
    assert forced.exit_code == 0
    assert picture.read_bytes() == before


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_other_kinds_of_picture(suffix: str, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / f"one{suffix}"
    arguments = (
        folder / "net.safetensors",
        "--observed",
        folder / "photos",
        "--plot",
        picture,
        "--space",
        "down1.conv",
        "--limit",
        2,
    )
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["network"] == "johnson"
    assert document["plot"] == str(picture)
    assert [space["name"] for space in document["spaces"]] == ["down1.conv"]
    assert document["spaces"][0]["seen"]["inputs"] == 2
    assert document["removed"] == [{"space": "down1.conv", "channels": 1, "why": "1 zero"}]
    head = picture.read_bytes()[:200]
    assert (b"<svg" in picture.read_bytes()) if suffix == ".svg" else head.startswith(b"%PDF")


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--plot", "x.png"], 2, "--observed PHOTOS gives the photos"),
        (["--plot", "x.jpeg", "--observed", "PHOTOS"], 2, "no picture format has the suffix '.jpeg'"),
        (["--plot", "x", "--observed", "PHOTOS"], 2, "no picture format has the suffix ''"),
        (["--space", "down1"], 2, "there is no space 'down1'"),
        (["--observed", "NONE"], 1, "no photos in"),
        (["--observed", "MISSING"], 1, "is no folder"),
        (["--observed", "BROKEN"], 1, "none of the photos can be read"),
        (["--size", "3"], 1, "does not run on 1x3x3x3"),
        (["--limit", "0", "--observed", "PHOTOS"], 2, "--limit"),
    ],
)
def test_what_cannot_be_is_one_line(more: Sequence[str], code: int, words: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.png").write_text("no picture")
    places = {"PHOTOS": folder / "photos", "NONE": folder / "none", "MISSING": folder / "missing", "BROKEN": tmp_path / "broken"}
    result = run(
        folder / "net.safetensors", *(places.get(word, tmp_path / word if word.startswith("x") else word) for word in more)
    )
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("x*"))


def test_photos_need_an_image_format_and_one_input(folder: Path) -> None:
    paths = [folder / "photos" / "a.png"]
    for spec, words in (
        (ModelSpec("a:b", {}, ((1, 3, 8, 8),)), "does not say how a photo goes in"),
        (ModelSpec("a:b", {}, ((1, 3, 8, 8), (1, 4)), (PRESETS["0..1"], None)), "has 2 inputs: a photo cannot feed them all"),
        (ModelSpec("a:b", {}, ((1, 1, 8, 8),), (PRESETS["0..1"],)), "takes 1x1x8x8, which is no colour photo"),
    ):
        with pytest.raises(NetworkError, match=words) as caught:
            photo_batches(spec, paths, (8, 8))
        assert caught.value.exit_code == 1
        assert caught.value.hint


def test_photos_become_tensors_of_the_format(folder: Path) -> None:
    (batch,) = photo_batches(SPEC, [folder / "photos" / "a.png"], (20, 30))
    assert [tuple(tensor.shape) for tensor in batch] == [(1, 3, 20, 30)]
    assert 0 <= float(batch[0].min()) < float(batch[0].max()) <= 1


def test_few_of_many_photos_are_spread() -> None:
    paths = [Path(str(number)) for number in range(10)]
    assert spread(paths, 20) == paths
    assert [str(path) for path in spread(paths, 3)] == ["0", "3", "6"]


def test_panels_are_those_with_most_to_see() -> None:
    responses = {str(n): np.array([[0.0] * n + [1.0] * (9 - n)]) for n in range(9)}
    assert chosen(responses, 20) == list(responses)
    assert chosen(responses, 3) == ["6", "7", "8"]


def test_without_matplotlib_the_extra_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else there(name, *rest))
    result = run(folder / "net.safetensors", "--observed", folder / "photos", "--plot", tmp_path / "x.png")
    assert result.exit_code == 1
    assert "matplotlib is not installed" in result.stderr
    assert "mobile-compress[plot]" in result.stderr


def test_size_is_for_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_inputs.py").write_text(
        "from torch import nn\n"
        "class Two(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1)\n"
        "    def forward(self, x, y):\n"
        "        return self.a(x) + self.b(y)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(
        {
            "a.weight": torch.ones(4, 3, 1, 1),
            "a.bias": torch.ones(4),
            "b.weight": torch.ones(4, 2, 1, 1),
            "b.bias": torch.ones(4),
        },
        "n.pth",
    )
    arguments = ("n.pth", "--network", "two_inputs:Two", "--example", "1x3x6x8", "--example", "1x2x6x8")
    good: Any = json.loads(run(*arguments, "--json").stdout)
    assert [field["size"] for field in good["receptive_field"]] == [[1, 1], [1, 1]]
    refused = run(*arguments, "--size", "16")
    assert refused.exit_code == 2
    assert "--size is for networks with one picture as input" in refused.stderr


def test_a_real_network(data: Path, tmp_path: Path) -> None:
    """The public candy network leaves channels dead on photos that no weight says are dead."""
    picture = tmp_path / "candy.png"
    candy, photos = data / "weights" / "johnson" / "candy.pth", data / "photos" / "val"
    result = run(candy, "--observed", photos, "--limit", 3, "--size", "96x128", "--plot", picture, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["before"]["parameters"] == 1_679_235
    assert sum(len(space["seen"]["zero"]) for space in document["spaces"]) > sum(
        len(space["zero"]) for space in document["spaces"]
    )
    assert picture.stat().st_size > 20_000


def test_a_network_that_cannot_be_traced_says_so() -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TraceError):
        inspect(Decides(), [torch.rand(1, 3, 4, 5)])


@pytest.mark.parametrize(
    ("reason", "held", "said"),
    [
        (None, 0, ""),
        (None, 1, "1 carries a constant, or keeps groups equal"),
        (None, 2, "2 carry a constant, or keep groups equal"),
        ("an output of the network", 2, "an output of the network"),
    ],
)
def test_why_channels_stay_in_words(reason: str | None, held: int, said: str) -> None:
    assert staying(reason, held) == said
