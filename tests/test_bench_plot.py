"""The picture of latency against size and quality."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from android_bench.plot import Point, draw, point
from compress.cli import main
from export.artifact import Parity
from tests.test_artifact import written
from tests.test_bench import tflite
from tests.test_record import record

QUICK = ("--rounds", "1", "--samples", "1", "--threads", "1")


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_a_measurement_is_drawn(tmp_path):
    file, picture = tflite(tmp_path / "net.tflite"), tmp_path / "cost.png"
    result = run(file, *QUICK, "--plot", picture, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["plot"] == str(picture)
    before = picture.read_bytes()
    assert before.startswith(b"\x89PNG")
    again = run(file, *QUICK, "--plot", picture)
    assert again.exit_code == 1
    assert "--force" in again.stderr
    assert picture.read_bytes() == before


def test_quality_comes_from_the_card(tmp_path):
    artifact = written(tmp_path)
    made = point(artifact.path, "tflite_cpu", record())
    assert (made.psnr_db, made.megabytes, made.median_ms) == (27.1, 0.001234, 5.0)
    assert made.low_ms <= 5 <= made.high_ms
    (tmp_path / "bare.tflite").write_bytes(b"x")
    assert point(tmp_path / "bare.tflite", "tflite_cpu", record()).psnr_db is None


def test_a_difference_that_is_not_in_pixels_is_no_quality(tmp_path):
    from export.artifact import write_card

    artifact = written(tmp_path)
    logits = Parity("tflite int8", 0.1, 0.01, 40.0, 0.2, unit="logits")
    write_card(replace(artifact, card=replace(artifact.card, parity=(logits,))))
    assert point(artifact.path, "tflite_cpu", record()).psnr_db is None


def test_the_second_panel_is_there_when_a_card_tells(tmp_path):
    slow = Point("dense.onnx", "onnx_cpu", 80.0, 78.0, 83.0, 6.7)
    fast = Point("small_256x256_int8.tflite", "tflite_cpu", 20.0, 19.5, 21.0, 0.4, 33.5)
    texts = {}
    for name, points in (("one", [slow]), ("two", [slow, fast])):
        draw(tmp_path / f"{name}.svg", points, "cost")
        texts[name] = (tmp_path / f"{name}.svg").read_text("utf-8")
    assert texts["one"].count('id="axes_') == 1
    assert texts["two"].count('id="axes_') == 2
    draw(tmp_path / "again.svg", [slow, fast], "cost")
    assert (tmp_path / "again.svg").read_text("utf-8") == texts["two"], "the same picture gives the same bytes"


def test_what_cannot_be_drawn_is_said_before_measuring(tmp_path, monkeypatch):
    file = tflite(tmp_path / "net.tflite")
    result = run(file, "--plot", tmp_path / "x.jpeg")
    assert (result.exit_code, "no picture format has the suffix '.jpeg'" in result.stderr) == (2, True)
    result = run("--compare", "a", "b", "--plot", tmp_path / "x.png")
    assert result.exit_code == 2
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else there(name, *rest))
    result = run(file, "--plot", tmp_path / "x.png")
    assert result.exit_code == 1
    assert "mobile-compress[plot]" in result.stderr


@pytest.mark.parametrize("name", ["n" * 60 + ".tflite", "$x_1$.tflite", "<b>.onnx"])
def test_names_are_drawn_as_they_are(tmp_path, name):
    draw(tmp_path / "x.png", [Point(name, "tflite_cpu", 0.0, 0.0, 0.0, 0.0)], "cost")
    assert (tmp_path / "x.png").stat().st_size > 1000
