"""The loop: resumes exactly, stops cleanly, skips broken photos, says when a loss explodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from compress import checkpoint
from compress.cli import main
from compress.errors import ImageError, MissingToolError, TrainingError, UsageError
from compress.image_format import PRESETS
from compress.networks.johnson import Johnson
from compress.networks.load import open_network
from compress.training import state
from compress.training.images import CropConfig, Crops, Prefetched
from compress.training.loop import Saving, TrainingConfig, train
from tests.test_features import vgg_tensors

FORMATS = (PRESETS["imagenet"], PRESETS["imagenet"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 52)), ("b.png", (64, 36)), ("c.jpg", (48, 48))):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(vgg_tensors(["conv1_1", "conv1_2"]), tmp_path / "vgg.pth")
    return tmp_path / "vgg.pth"


def crops(folder: Path, **config: object) -> Crops:
    return Crops.of_folder(folder, CropConfig(**{"size": 32, "batch": 2, "seed": 3, **config}), lambda _: None)  # type: ignore[arg-type]


def darker(photos: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    return {"pixels": ((outputs - photos * 0.5) / 255).square().mean()}


def small_network() -> Johnson:
    torch.manual_seed(5)
    return Johnson(widths=(3, 5, 7), blocks=1)


def test_a_batch_depends_on_seed_and_step_alone(photos: Path) -> None:
    one, two = crops(photos), crops(photos)
    assert np.array_equal(one.batch(7), [two.batch(step) for step in (3, 7)][1])
    assert one.batch(7).shape == (2, 32, 32, 3)
    assert not np.array_equal(one.batch(7), crops(photos, seed=4).batch(7))
    assert not np.array_equal(one.batch(7), one.batch(8))
    ahead = Prefetched(two)
    assert all(np.array_equal(ahead.batch(step), one.batch(step)) for step in (0, 1, 2, 7))
    ahead.close()


def test_every_photo_comes_once_an_epoch(tmp_path: Path) -> None:
    for value in (10, 20, 30, 40, 50):
        Image.new("RGB", (20, 20), (value, value, value)).save(tmp_path / f"{value}.png")
    seen = [int(crops(tmp_path, size=16, batch=1).batch(step)[0, 0, 0, 0]) for step in range(10)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [10, 20, 30, 40, 50]
    assert seen[:5] != seen[5:]


def test_a_small_cache_changes_nothing(photos: Path) -> None:
    assert np.array_equal(crops(photos, cache_bytes=1).batch(4), crops(photos).batch(4))


def test_broken_photos_are_skipped_with_one_warning_each(photos: Path) -> None:
    (photos / "text.jpg").write_text("no picture")
    whole = (photos / "a.jpg").read_bytes()
    (photos / "half.jpg").write_bytes(whole[: len(whole) // 2])
    warnings: list[str] = []
    source = Crops.of_folder(photos, CropConfig(32, 2), warnings.append)
    for step in range(6):
        source.batch(step)
    assert len(warnings) == 2
    assert any("text.jpg" in w for w in warnings)
    assert any("half.jpg" in w for w in warnings)


def test_no_photo_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no photos"):
        crops(tmp_path)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match="none of the photos"):
        crops(tmp_path).batch(0)


def test_a_broken_photo_is_named_once_also_when_previews_meet_it_first(photos: Path) -> None:
    (photos / "text.jpg").write_text("no picture")
    warnings: list[str] = []
    source = Crops.of_folder(photos, CropConfig(32, 2), warnings.append)
    for one in (source.cropped(CropConfig(32, 4)), source):
        for step in range(6):
            one.batch(step)
    assert len(warnings) == 1
    assert "text.jpg is not a picture" in warnings[0]


def test_learning_brings_the_loss_down(photos: Path) -> None:
    network = small_network()
    terms: list[float] = []
    train(
        network,
        darker,
        crops(photos),
        TrainingConfig(40, 1e-2, precision="fp32"),
        FORMATS,
        watchers=(lambda p, _: terms.append(p.terms["pixels"]),),
    )
    assert terms[-1] < 0.5 * terms[0]
    assert not network.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_gives_what_an_unbroken_run_gives(photos: Path, tmp_path: Path, precision: str) -> None:
    config = TrainingConfig(20, precision=precision, save_every=4)
    whole = small_network()
    losses = train(whole, darker, crops(photos), config, FORMATS)

    def saving(resume: bool) -> Saving:
        return Saving(tmp_path / "x.state.safetensors", {"what": "test"}, lambda *_: None, resume)

    def stop(progress: object, _: nn.Module) -> None:
        if progress.step == 19:  # type: ignore[attr-defined]  # within the last tenth, whose losses are the record
            os.kill(os.getpid(), signal.SIGINT)

    first = small_network()
    with pytest.raises(KeyboardInterrupt):
        train(first, darker, crops(photos), config, FORMATS, saving(False), watchers=(stop,))
    assert (tmp_path / "x.state.safetensors").is_file()
    second = Johnson(widths=(3, 5, 7), blocks=1)
    assert train(second, darker, crops(photos), config, FORMATS, saving(True)) == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True))
    assert not (tmp_path / "x.state.safetensors").exists()


def test_what_an_objective_learns_is_resumed_too(tmp_path: Path) -> None:
    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.frozen = nn.Parameter(torch.rand(1000), requires_grad=False)

    network, objective = small_network(), Adapter()
    learned = state.learned(network, objective)
    assert "objective.scale" in learned
    assert "objective.frozen" not in learned
    optimizer = torch.optim.Adam([t for t in learned.values() if t.requires_grad])
    state.save(tmp_path / "s", state.Moment(3), {}, learned, optimizer)
    objective.scale.data.fill_(7)
    assert state.load(tmp_path / "s", {}, learned, optimizer).step == 3
    assert objective.scale.item() == 2


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    learned = state.learned(small_network(), None)
    optimizer = torch.optim.Adam(list(learned.values()))
    path = tmp_path / "s.state.safetensors"
    with pytest.raises(TrainingError, match="nothing to resume"):
        state.load(path, {}, learned, optimizer)
    state.save(path, state.Moment(3), {"steps": 5, "style": "a"}, learned, optimizer)
    with pytest.raises(TrainingError, match="other steps"):
        state.load(path, {"steps": 6, "style": "a"}, learned, optimizer)
    other = state.learned(Johnson(widths=(3, 5, 9), blocks=1), None)
    with pytest.raises(TrainingError, match="does not fit"):
        state.load(path, {"steps": 5, "style": "a"}, other, torch.optim.Adam(list(other.values())))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="damaged"):
        state.load(path, {"steps": 5, "style": "a"}, learned, optimizer)


def test_an_exploding_loss_stops_the_training(photos: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        train(small_network(), lambda p, o: {"bad": o.sum() * float("nan")}, crops(photos), TrainingConfig(2), FORMATS)


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"steps": 1, "learning_rate": 0.0}, {"steps": 1, "schedule": "zigzag"}, {"steps": 1, "precision": "fp8"}],
)
def test_nonsense_is_refused_when_built(bad: dict) -> None:
    with pytest.raises(UsageError):
        TrainingConfig(**bad)


def test_no_cuda_is_one_line(photos: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(MissingToolError, match="no CUDA device"):
        train(small_network(), darker, crops(photos), TrainingConfig(1, device="cuda"), FORMATS)


def command(photos: Path, weights: Path, output: Path, *more: str) -> list[str]:
    return [
        "train", "--network", "johnson", "--args", '{"widths": [3, 5, 7], "blocks": 1}', "--style", str(photos / "b.png"),
        "--images", str(photos), "--weights", str(weights), "--style-layers", "relu1_1", "--content-layers", "relu1_2",
        "--size", "32", "--batch", "1", "-o", str(output), *more,
    ]  # fmt: skip


def test_the_command_writes_a_network_with_its_history(photos: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "net.safetensors"
    result = CliRunner().invoke(main, command(photos, weights, output, "--steps", "3", "--json", "--dtype", "float16"))
    assert result.exit_code == 0, result.output
    found = checkpoint.read(output)
    assert found.history[-1]["command"] == "train"
    assert found.history[-1]["loss"]["weights_kind"] == "caffe"
    assert found.tensors["out.weight"].dtype == torch.float16
    assert found.spec.inputs == (PRESETS["imagenet"],)
    assert (tmp_path / "out" / "net.preview.jpg").is_file()
    assert sorted(p.name for p in output.parent.iterdir()) == ["net.preview.jpg", "net.safetensors"]
    again = CliRunner().invoke(main, command(photos, weights, output, "--steps", "3"))
    assert again.exit_code == 1
    assert "exists" in again.output


def test_like_takes_the_widths_with_fresh_weights(photos: Path, weights: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert CliRunner().invoke(main, command(photos, weights, first, "--steps", "1")).exit_code == 0
    arguments = command(photos, weights, second, "--steps", "1", "--like", str(first), "--seed", "9")
    del arguments[1:5]  # --network, --args
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    one, two = open_network(first).module, open_network(second).module
    assert {n: p.shape for n, p in one.named_parameters()} == {n: p.shape for n, p in two.named_parameters()}
    assert not torch.equal(one.out.weight, two.out.weight)


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bytes(photos: Path, weights: Path, tmp_path: Path) -> None:
    def start(output: Path, *more: str) -> subprocess.Popen:
        arguments = command(photos, weights, output, "--steps", "60", "--save-every", "5", "--preview-every", "0", *more)
        return subprocess.Popen([sys.executable, "-m", "compress", *arguments], stderr=subprocess.PIPE, text=True)

    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert start(whole).wait() == 0
    process = start(broken)
    deadline = time.monotonic() + 60
    while not state.state_path(broken).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]
    assert checkpoint.read(broken).history[-1]["done_steps"] < 60, "a stopped training leaves a network that can be used"
    assert start(broken, "--resume").wait() == 0
    assert checkpoint.read(broken).history[-1]["done_steps"] == 60
    assert all(torch.equal(t, checkpoint.read(whole).tensors[n]) for n, t in checkpoint.read(broken).tensors.items())


def test_resume_without_a_state_is_one_line(photos: Path, weights: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, command(photos, weights, tmp_path / "net.safetensors", "--resume"))
    assert result.exit_code == 1
    assert "nothing to resume" in result.output
