"""The scripts in benchmarks/: the tables in README and docs are those of the records, and the measuring runs."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from android_bench.record import Round, write_records
from compress import checkpoint
from compress.features import vgg
from compress.networks.load import NetOptions, fresh_network
from tests.test_features import vgg_tensors
from tests.test_record import record

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    """Import a script as `python benchmarks/NAME.py` would."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def records(tmp_path, script):
    """A made-up folder of records whose tables can be worked out by hand."""

    def one(name, size, *medians):
        rounds = tuple(Round(i, 0, (m, m, m), (), 1.0, 2.0) for i, m in enumerate(medians))
        return replace(record(), artifact=name, bytes=size, rounds=rounds, host={"cpu": "Abacus"})

    write_records(
        tmp_path / "latency.jsonl",
        [
            one("dense.safetensors", 6_800_000, 80.0, 80.0),
            one("dense_256x256_stock.tflite", 6_700_000, 110.0, 100.0),
            one("dense_256x256_fp32.tflite", 7_000_000, 55.0, 50.0),
            one("distilled_256x256_dynamic.tflite", 400_000, 8.0, 8.0),
        ],
    )
    write = script("lines").write
    context = {"schema": 1, "host": {"cpu": "Abacus"}, "threads": 2, "size": 256, "batch": 4}
    write(tmp_path / "help.jsonl", [{**context, "name": "compress --help", "samples_ms": [90.0, 100.0, 230.0]}])
    steps = {"compress train": [1000.0, 2000.0, 1000.0], "bare loop": [950.0, 1900.0, 500.0]}
    write(tmp_path / "training.jsonl", [{**context, "name": name, "samples_ms": own} for name, own in steps.items()])
    losses = {("dense", "a.safetensors"): (2.0, 10.0, None), ("distilled", "b.tflite"): (2.1, 12.0, 30.0)}
    quality = [
        {**context, "role": role, "network": network, "photo": photo, "style": style * k, "content": content * k,
         "photo_style": 20.0 * k, "psnr_db": psnr, "ssim": 0.9}
        for (role, network), (style, content, psnr) in losses.items()
        for photo, k in (("1.jpg", 1.0), ("2.jpg", 3.0))
    ]  # fmt: skip
    write(tmp_path / "quality.jsonl", quality)
    return tmp_path


def test_documents_show_what_the_records_say(script):
    tables = script("tables")
    for path in tables.documents():
        text = path.read_text("utf-8")
        assert tables.filled(text) == text, f"{path.name} is out of date: python benchmarks/tables.py"


def test_committed_records_can_be_read(script):
    tables, lines = script("tables"), script("lines")
    for path in tables.RECORDS.glob("*.jsonl"):
        assert tables.read_records(path) if path.name.startswith("latency") else lines.read(path)


def test_tables_by_hand(script, records):
    tables = script("tables")
    latency = tables.latency(records)
    assert "| dense, TFLite fp32, onnx2tf alone | 6.70 | 105.0 | 100.0..110.0 | 1.312 (1.250..1.375) |" in latency
    targets = tables.targets(records)
    assert "| <= 0.65 | 0.500 (0.500..0.500) |" in targets
    assert "| >= 8 | 10.0 (10.0..10.0) |" in targets
    assert "| >= 15 | 17.0 |" in targets
    assert "| style loss of distilled, x dense | <= 1.10 | 1.050 |" in targets
    assert "| content loss of distilled, x dense | <= 1.10 | 1.200 |" in targets
    assert "| >= 0.90 | 0.950 |" in targets
    assert "| < 300 ms | 100 ms |" in targets
    assert "| distilled (`b.tflite`) | 1.050 | 1.200 | 0.1050 | 30.00 | 0.900 |" in tables.quality(records)
    assert "| compress train | 4.00 |\n| bare loop | 4.21 |" in tables.training(records)


def test_blocks_are_filled_and_nothing_else_is_touched(script, records):
    tables = script("tables")
    text = "before\n<!-- table: training -->\nold\n<!-- end -->\nafter <!-- a comment -->\n"
    new = tables.filled(text, records)
    assert new == text.replace("old\n", tables.training(records))
    assert tables.filled(new, records) == new
    with pytest.raises(KeyError, match="nothing"):
        tables.filled("<!-- table: nothing -->\n<!-- end -->", records)
    with pytest.raises(ValueError, match="has no <!-- end -->"):
        tables.filled("<!-- table: training -->\n", records)


def test_help_is_timed(script):
    samples = script("help_time").measure(1)
    assert [len(own) for own in samples.values()] == [1, 1]
    assert all(1 < own[0] < 60_000 for own in samples.values())


@pytest.fixture
def material(tmp_path):
    """Photos, a painting, VGG weights with small random values, and a tiny network."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(random.integers(0, 256, (40 + index, 52, 3), np.uint8)).save(folder / f"{index}.png")
    torch.save(vgg_tensors(vgg.conv_names("vgg19")[:9]), tmp_path / "vgg.pth")
    checkpoint.write(tmp_path / "net.safetensors", fresh_network(NetOptions("johnson", {"width": 4, "blocks": 1}), 0).checkpoint)
    return tmp_path


def test_both_training_loops_run_in_turns(script, material):
    options = argparse.Namespace(
        photos=material / "photos", style=material / "photos" / "0.png", weights=material / "vgg.pth", steps=2, size=32, batch=1
    )
    samples = script("training_speed").measure(options)
    assert {name: len(own) for name, own in samples.items()} == {"compress train": 2, "bare loop": 2}


def test_the_bare_loop_does_the_same_work(script, material):
    """Its loss is that of the product, term by term, on the same tensors."""
    from compress.losses.perceptual import PerceptualConfig, PerceptualLoss

    training_speed = script("training_speed")
    painting = np.random.default_rng(1).integers(0, 256, (64, 48, 3), np.uint8)
    objective = PerceptualLoss(
        PerceptualConfig(weights=material / "vgg.pth", content_weight=1, style_weight=5, tv_weight=10), painting
    )
    vgg = training_speed.Vgg(torch.load(material / "vgg.pth", weights_only=True))
    photos, outputs = torch.rand(2, 2, 3, 40, 36).mul(255)
    found = vgg(outputs)
    assert objective.style_layers == tuple(name.replace("conv", "relu") for name in training_speed.STYLE)
    for name in training_speed.STYLE:
        layer = name.replace("conv", "relu")
        torch.testing.assert_close(found[name], objective.features(outputs)[layer], rtol=1e-3, atol=1e-4)
        gram = getattr(objective, f"gram_{layer}")
        ours = training_speed._gram(vgg(training_speed._painting(painting))[name])
        torch.testing.assert_close(ours, gram, rtol=1e-3, atol=1e-6)
    content = torch.nn.functional.mse_loss(found["conv3_3"], vgg(photos)["conv3_3"])
    torch.testing.assert_close(objective(photos, outputs)["content"], content, rtol=1e-3, atol=1e-6)


def test_quality_is_judged_photo_by_photo(script, material, monkeypatch, capsys):
    quality, lines = script("quality"), script("lines")
    monkeypatch.setattr(quality, "SIZE", 32)
    photos, net = material / "photos", material / "net.safetensors"
    files = {
        "--network": net,
        "--distilled": net,
        "--style": photos / "0.png",
        "--photos": photos,
        "--weights": material / "vgg.pth",
    }
    arguments = [str(text) for option in (*files.items(), ("--count", 2), ("-o", material)) for text in option]
    monkeypatch.setattr("sys.argv", ["quality.py", *arguments])
    quality.main()
    found = lines.read(material / "quality.jsonl")
    assert [(line["role"], line["photo"]) for line in found] == [
        ("dense", "0.png"), ("dense", "1.png"), ("distilled", "0.png"), ("distilled", "1.png")]  # fmt: skip
    assert all(line["psnr_db"] is None and line["ssim"] == pytest.approx(1) for line in found)
    assert "style x 1.000, content x 1.000 of dense" in capsys.readouterr().out
    assert json.dumps(found[0]["loss"])
