"""The demo, whole but tiny: every step runs for real, on a small network and few steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from compress import checkpoint, demo_photos, models
from compress.cli import main
from compress.errors import CheckpointError, UsageError
from compress.networks.load import NetOptions, fresh_network, open_network
from compress.photos import decode
from compress.pipeline import Outcome, Settings, demo


class Heard:
    """A talk that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.stderr = Console(quiet=True)

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Heard]:
    folder = tmp_path_factory.mktemp("demo")
    dense = folder / "tiny.safetensors"
    fresh = fresh_network(NetOptions("johnson", {"widths": [8, 16, 24], "blocks": 1}), seed=0)
    checkpoint.write(dense, fresh.checkpoint.astype(torch.float16))
    talk = Heard()
    return demo(dense, None, folder / "out", Settings({"*": 8}, steps=2, size=32, rounds=1), talk), talk


@pytest.mark.slow
def test_every_step_leaves_what_it_promises(made: tuple[Outcome, Heard]) -> None:
    outcome, talk = made
    assert [line[:3] for line in talk.said if line[1:3] == "/6"] == ["1/6", "2/6", *["3/6"] * 4, "4/6", "5/6", "6/6"]
    there = {str(path.relative_to(outcome.folder)) for path in outcome.folder.rglob("*") if path.is_file()}
    assert {"pictures.png", "table.json", "compress-budget.toml", "files/records.jsonl", "networks/small.safetensors"} <= there
    assert {"files/small_32x32_dynamic.tflite", "files/small_32x32_dynamic.tflite.json", "files/tiny_32x32_fp32.tflite"} <= there
    assert json.loads((outcome.folder / "table.json").read_text()) == outcome.to_json()
    assert decode(outcome.folder / "pictures.png").shape[0] > 3 * 32
    small = open_network(outcome.folder / "networks" / "small.safetensors")
    assert small.module.down1.conv.out_channels == 8
    assert [entry["command"] for entry in small.checkpoint.history] == ["prune", "finetune"]


@pytest.mark.slow
def test_the_table_says_what_the_files_are(made: tuple[Outcome, Heard]) -> None:
    outcome, _ = made
    dense, fp32, dynamic, small = outcome.rows
    assert dense.psnr_db is None
    assert dense.times_smaller == 1
    assert fp32.psnr_db is None or fp32.psnr_db > 80
    assert small.bytes == (outcome.folder / "files" / "small_32x32_dynamic.tflite").stat().st_size
    assert small.times_smaller == pytest.approx(dense.bytes / small.bytes)
    assert dynamic.bytes > small.bytes
    assert small.style is None
    assert "--style" in (outcome.missing or "")
    assert "https://download.pytorch.org/models/vgg19" in (outcome.missing or "")


@pytest.mark.slow
def test_timing_on_one_round_is_doubted_aloud(made: tuple[Outcome, Heard]) -> None:
    _, talk = made
    assert [line for line in talk.warned if not line.startswith("timing of")] == []
    assert any("few samples" in line for line in talk.warned)


def test_the_photos_that_are_trained_on_are_not_those_held_aside(tmp_path: Path) -> None:
    assert not set(demo_photos.TRAINED_ON) & set(demo_photos.HELD_ASIDE)
    folder = demo_photos.copy_photos(demo_photos.HELD_ASIDE, tmp_path / "photos")
    assert sorted(path.name for path in folder.iterdir()) == ["astronaut.png", "chelsea.png", "coffee.png"]
    assert all(decode(path).shape[2] == 3 and decode(path).std() > 10 for path in folder.iterdir())


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("do not touch")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["kind"] == "output"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("bad", [{"steps": 0}, {"rounds": 0}, {"size": 30}, {"size": 16}])
def test_nonsense_is_refused_when_built(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Settings({"*": 8}, **bad)


@pytest.mark.parametrize("name", models.names())
def test_bundled_networks_are_small_named_and_trained(name: str) -> None:
    path = models.path(name)
    assert path.stat().st_size <= 3.5e6
    loaded = open_network(path)
    assert loaded.checkpoint.history[0]["command"] == "train"
    assert {tensor.dtype for tensor in loaded.checkpoint.tensors.values()} == {torch.float16}
    grey = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert np.isfinite(loaded.module(grey).numpy()).all()


def test_an_unknown_bundled_network_lists_what_there_is() -> None:
    assert "wave" in models.names()
    with pytest.raises(CheckpointError, match="there are"):
        models.path("monet")
