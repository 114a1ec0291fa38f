"""Channels that photos left silent go on request, and only then; the rest is as exact as ever, and the change is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from compress import checkpoint
from compress.channels.evidence import Threshold
from compress.channels.moved import PIXELS, SHARE, moved
from compress.channels.observe import Observed, observe
from compress.channels.override import Overridden
from compress.channels.report import Seen
from compress.channels.strip import Stripped, strip
from compress.cli import main
from compress.errors import UsageError
from compress.image_format import PRESETS
from compress.networks.load import open_network, snapshot
from compress.spec import ModelSpec
from tests.strip_cases import randomise_

SHAPE = (1, 3, 10, 12)
ROOT = Path(__file__).parent.parent


class Net(nn.Module):
    """Of the channels of `a`, on pixels 0..1: 0 never fires, 1 hardly, 2 now and then; 3 is always at the top; 4 and 5 live."""

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3, padding=padding)
        self.c = nn.Conv2d(5, 3, 1)
        randomise_(self)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([0.3, 0.3, 0.3, 0.3, 1.0, -1.0]).view(6, 1, 1, 1).expand(6, 3, 1, 1))
            self.a.bias.copy_(torch.tensor([-0.85, -0.78, -0.6, 6.0, 0.1, 2.0]))
            self.b.bias.fill_(3.0)
            self.c.weight.mul_(0.05)  # the picture that comes out is mostly grey
            self.c.bias.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(nn.functional.relu6(self.a(x)))))


def inputs(count: int = 4, top: float = 0.9, seed: int = 0) -> list[list[Tensor]]:
    """Dim photos: no pixel is brighter than `top`. In each, one pixel is."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.rand(SHAPE, generator=generator, dtype=torch.float64) * top for _ in range(count)]
    for photo in found:
        photo[..., 3, 4] = top
    return [[photo] for photo in found]


def run_strip(net: nn.Module, seen: Observed | None, threshold: Threshold | float | None = None) -> Stripped:
    return strip(net, [torch.rand(SHAPE, dtype=torch.float64)], observed=seen, threshold=threshold)


def seen_in(done: Stripped, name: str = "a") -> dict[int, Seen]:
    return {found.channel: found for s in done.report.spaces if s.name == name for found in s.observed}


def test_nothing_that_was_only_observed_goes_unasked() -> None:
    assert run_strip(Net(), None).report.removed == 0


def test_what_never_fired_goes() -> None:
    """0.9 * 0.9 - 0.85 < 0: channel 0 is silent, channel 3 never moved from 6."""
    net = Net()
    done = run_strip(net, observe(net, inputs()))
    assert seen_in(done) == {0: Seen(0, 0.0, 0.0), 3: Seen(3, 6.0, 6.0)}
    assert next(space for space in done.report.spaces if space.name == "a").known == "2 observed"
    assert done.report.evidence is not None
    assert (done.report.evidence.photos, done.report.evidence.threshold) == (4, "0")
    assert all(check.gap <= 1e-12 for check in done.report.checks if check.dtype == "float64")
    same = moved(net, done.module, inputs())
    assert same.max <= 1e-6, "on these photos"
    other = moved(net, done.module, inputs(top=1.0))
    assert other.max > 1e-4, "and on others it is not the same: it is no proof"


@pytest.mark.parametrize(
    ("threshold", "silent"),
    [(0.0, {0, 3}), (0.02999, {0, 3}), (0.03001, {0, 1, 3}), (0.21001, {0, 1, 2, 3}), (Threshold(0.0051, share=True), {0, 1, 3})],
)
def test_the_threshold_is_the_largest_activation(threshold: Threshold | float, silent: set[int]) -> None:
    """Channel 1 reaches 0.03, channel 2 reaches 0.21; 0.51 % of the largest activation, 6, is 0.0306."""
    net = Net()
    done = run_strip(net, observe(net, inputs()), threshold)
    found = seen_in(done)
    assert set(found) == silent
    if 1 in found:
        assert found[1].largest == pytest.approx(0.03, rel=1e-4)
        assert found[1].constant == 0


def test_what_hardly_varies_is_the_middle_of_its_values() -> None:
    net = Net()
    with torch.no_grad():
        net.a.weight[2] = 0.001
        net.a.bias[2] = 1.0
    found = seen_in(run_strip(net, observe(net, inputs()), 0.01))
    assert found[2].constant == pytest.approx(1.00135, abs=2e-4)
    assert found[2].largest == pytest.approx(1.0027)


def test_a_constant_that_zero_padding_lets_nobody_carry_stays() -> None:
    """With zero padding the 6 of channel 3 would need another constant to carry it: there is none. The zero goes."""
    net = Net(padding=1)
    done = run_strip(net, observe(net, inputs()))
    assert set(seen_in(done)) == {0}


def test_the_outputs_of_the_network_are_left_as_they_are() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    randomise_(net)
    with torch.no_grad():
        net[0].bias[1] = -9
    assert run_strip(net, observe(net, inputs())).report.removed == 0


def test_what_only_silent_channels_read_goes_with_them() -> None:
    """`b` reads channel 4 of `a` only for its own channel 0, which is silent, though it could reach more than zero."""
    net = Net()
    with torch.no_grad():
        net.b.weight[1:, 4] = 0
        net.b.bias[0] = -8
    done = run_strip(net, observe(net, inputs()))
    assert seen_in(done)[4] == Seen(4, None, None)
    assert set(seen_in(done, "b")) == {0}


def test_the_reference_is_the_network_with_constants_set() -> None:
    """Also for an activation in place, whose input others hold too."""

    class Shared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            z = torch.relu_(y)
            return y * 2 + z

    constant = np.array([[np.nan], [0.5]]).reshape(1, 2, 1, 1)
    x = torch.rand(1, 2, 3, 4)
    (found,) = Overridden(Shared().eval(), {"relu_": constant})(x)
    assert torch.equal(found[:, 0], ((x + 1) * 3)[:, 0])
    assert torch.equal(found[:, 1], torch.full((1, 3, 4), 1.5))


def test_an_observation_of_another_network_is_refused() -> None:
    seen = observe(nn.Sequential(nn.Conv2d(3, 2, 1)).double(), inputs())
    with pytest.raises(UsageError, match="the observation does not fit the network: relu6 was not seen"):
        run_strip(Net(), seen)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "x", "", "-1%", "100%", "1%%"])
def test_thresholds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="threshold") as caught:
        Threshold.parse(text)
    assert caught.value.exit_code == 2


def test_thresholds() -> None:
    assert Threshold.parse("1%") == Threshold(0.01, share=True)
    assert (str(Threshold.parse("0.5 %")), str(Threshold.parse("1e-3"))) == ("0.5%", "0.001")


# -- how far the output moved --------------------------------------------------------------------------------------------------


class Offset(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by * (x[:, :1] > 0.5)


def test_how_far_in_pixels_and_in_shares() -> None:
    photo = torch.zeros(1, 3, 2, 4)
    photo[..., 0] = 0.75
    found = moved(Offset(0.0), Offset(0.1), [[photo], [photo]], [PRESETS["0..1"]])
    assert (found.unit, found.photos) == (PIXELS, 2)
    assert (found.max, found.mean) == pytest.approx((25.5, 25.5 / 4))
    assert found.psnr_db == pytest.approx(20 + 10 * np.log10(4))
    share = moved(Offset(0.0), Offset(0.3), [[photo]], [None])
    assert share.unit == SHARE
    assert (share.max, share.mean) == pytest.approx((0.4, 0.1))
    assert moved(Offset(0.0), Offset(0.0), [[photo]]).psnr_db is None
    clamped = moved(Offset(0.0), Offset(9.0), [[photo]], [PRESETS["0..1"]])
    assert clamped.max == pytest.approx(255 / 4), "beyond white there is nothing"
    with pytest.raises(ValueError, match="no batch"):
        moved(Offset(0.0), Offset(0.0), [])


# -- the command ---------------------------------------------------------------------------------------------------------------


def factory() -> nn.Module:
    return Net().float()


NAMED = ("--network", "tests.test_strip_observed:factory")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Dim photos of several shapes, and one that is none."""
    found, draw = tmp_path / "photos", np.random.default_rng(1)
    found.mkdir()
    for number, (height, width) in enumerate([(10, 12), (30, 24), (11, 40)]):
        pixels = draw.integers(0, 224, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(found / f"{number}.png")
    (found / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return found


@pytest.fixture
def net(tmp_path: Path) -> Path:
    form = PRESETS["0..1"]
    spec = ModelSpec(NAMED[1], {}, (SHAPE,), (form,), (form,))
    checkpoint.write(tmp_path / "net.safetensors", snapshot(factory(), spec))
    return tmp_path / "net.safetensors"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["strip", *map(str, arguments)])


def test_command_as_a_process(net: Path, folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "compress", "strip", net, *NAMED, "-o", tmp_path / "small", "--observed", folder, "--json"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: skipped:") == 1
    assert "broken.jpg" in done.stderr
    document = json.loads(done.stdout)
    assert document["evidence"] == {"photos": 3, "threshold": "0"}
    assert {entry["channel"] for entry in document["spaces"][0]["observed"]} == {0, 1}
    assert document["spaces"][0]["proved"] == {"weights": [], "bounds": [3], "size": []}, "6 at least, for pixels 0..255"
    assert document["observed"] == 2
    assert document["moved"]["unit"] == PIXELS
    assert document["moved"]["max"] <= 1e-2
    assert document["moved"]["photos"] == 3
    (entry,) = open_network(tmp_path / "small", _options()).checkpoint.history
    assert entry["observed"] == {"photos": 3, "threshold": "0", "channels": 2}
    assert entry["measured"]["moved"] == document["moved"]


def test_command_says_what_moved(net: Path, folder: Path, tmp_path: Path) -> None:
    done = run(net, *NAMED, "-o", tmp_path / "small", "--observed", folder, "--threshold", "5%")
    assert done.exit_code == 0, done.output
    assert "observed on 3 photos, threshold 5%: no proof; the largest activation there was 0." in done.stdout
    assert "on these photos the output moved by" in done.stdout
    assert "with what was observed set to constants, the output moves by at most" in done.stdout
    again = run(tmp_path / "small", *NAMED, "-o", tmp_path / "smaller", "--observed", folder)
    assert "no channel beyond what is proved was silent on 3 photos, threshold 0, and could go" in again.stdout
    assert "0 channels" not in again.stdout
    assert "set to constants" not in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--threshold", "0.1"], "--threshold says what is silent on photos", 2),
        (["--observed", "photos", "--threshold", "-1"], "a threshold must be zero or more, got -1.0", 2),
        (["--observed", "photos", "--threshold", "nan"], "a threshold must be zero or more, got nan", 2),
        (["--observed", "photos", "--threshold", "much"], "not a threshold: 'much'", 2),
        (["--observed", "empty"], "no photos in empty", 1),
        (["--observed", "missing"], "missing is no folder", 1),
        (["--observed", "broken"], "none of the photos can be read", 1),
        (["--observed", "photos", "--max-size", "4", "--size", "5"], "5x5 is compared, but the largest size is 4x4", 2),
    ],
)
def test_command_errors_are_one_line(
    net: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    (folder / "broken.jpg").rename("broken/one.jpg")
    done = run(net, *NAMED, "-o", "out", *arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not Path("out").exists()


def test_command_needs_an_image_format(folder: Path, tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "blind", snapshot(factory(), ModelSpec(NAMED[1], {}, (SHAPE,))))
    done = run(tmp_path / "blind", *NAMED, "-o", tmp_path / "out", "--observed", folder)
    assert done.exit_code == 1
    assert "does not say how a photo goes in" in done.stderr


def _options() -> Any:
    from compress.networks.load import NetOptions

    return NetOptions(NAMED[1])


def test_a_trained_network_on_real_photos(data: Path, tmp_path: Path) -> None:
    """The public candy network has channels that no photo wakes, and that no proof can name."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in sorted((data / "photos" / "val").iterdir())[:4]:
        (folder / photo.name).symlink_to(photo)
    words = (data / "weights" / "johnson" / "candy.pth", "--network", "johnson", "--image-format", "0..255")
    done = run(*words, "--example", "1x3x80x96", "--size", "48", "-o", tmp_path / "small", "--observed", folder, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["observed"] >= 3
    assert document["proved"] == {"weights": 0, "bounds": 0, "size": 0}
    assert document["moved"]["max"] < 0.01
    assert document["evidence"]["photos"] == 4
    exact = [check for check in document["checks"] if check["dtype"] == "float64"]
    assert exact
    assert all(check["gap"] <= 1e-12 for check in exact)
