"""`compress finetune` and the distillation loss: who teaches, what is compared, what stays zero."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn

from compress import checkpoint
from compress.cli import main
from compress.errors import NetworkError, UsageError
from compress.image_format import PRESETS
from compress.losses.distillation import Distillation, DistillationConfig, FeatureMap, blocks, feature_maps
from compress.networks.johnson import Johnson
from compress.networks.load import open_network, snapshot
from compress.pruning.weights import prunable_weights
from compress.spec import ModelSpec
from tests.test_features import vgg_tensors

FORM = PRESETS["0..1"]
FAST = ("--size", 16, "--batch", 2, "--precision", "fp32", "--preview-every", 0, "--learning-rate", 0.003)


def write(path: Path, seed: int, **arguments: object) -> Path:
    torch.manual_seed(seed)
    spec = ModelSpec("johnson", arguments, ((1, 3, 24, 32),), (FORM,), (FORM,))
    checkpoint.write(path, snapshot(Johnson(**arguments), spec))  # type: ignore[arg-type]
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write(tmp_path / "teacher.safetensors", 1, widths=[9, 14, 22], blocks=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (40, 52, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    return tmp_path / "photos"


def run(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(main, [command, *map(str, arguments)])


def gap(one: Path, two: Path) -> float:
    torch.manual_seed(3)
    x = torch.rand(2, 3, 24, 32)
    with torch.no_grad():
        return float((open_network(one).module(x) - open_network(two).module(x)).square().mean())


def test_any_teacher_brings_the_student_nearer(teacher: Path, photos: Path, tmp_path: Path) -> None:
    student = write(tmp_path / "student.safetensors", 2, widths=[5, 7, 11], blocks=2)
    out = tmp_path / "out.safetensors"
    result = run("finetune", student, "--teacher", teacher, "--images", photos, "--steps", 30, *FAST, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert "outputs alone are compared" in result.stderr
    assert set(json.loads(result.stdout)["losses"]) == {"output"}
    assert gap(out, teacher) < 0.7 * gap(student, teacher)
    entry = checkpoint.read(out).history[-1]
    assert (entry["command"], entry["input"]["file"], entry["teacher"]["file"]) == (
        "finetune", "student.safetensors", "teacher.safetensors"
    )  # fmt: skip
    assert entry["loss"] == {"kind": "distillation", "weights": {"output": 1.0, "features": 0.0}, "maps": []}


def test_a_pruned_student_is_known_by_its_history(teacher: Path, photos: Path, tmp_path: Path) -> None:
    small, out = tmp_path / "small.safetensors", tmp_path / "out.safetensors"
    assert run("prune", teacher, "--ratio", 0.5, "--multiple", 1, "-o", small).exit_code == 0
    result = run("finetune", small, "--teacher", teacher, "--images", photos, "--steps", 2, *FAST, "-o", out)
    assert result.exit_code == 0, result.output
    assert checkpoint.read(out).history[-1]["loss"]["maps"] == ["down1", "down2", "down3", "residual.0", "up1", "up2"]
    other = write(tmp_path / "other.safetensors", 5, widths=[9, 14, 22], blocks=1)
    result = run("finetune", small, "--teacher", other, "--images", photos, "--steps", 2, *FAST, "-o", out, "--force")
    assert "outputs alone are compared" in result.stderr
    assert checkpoint.read(out).history[-1]["loss"]["maps"] == []


def test_zeros_stay_zero_and_are_said(teacher: Path, photos: Path, tmp_path: Path) -> None:
    sparse, out = tmp_path / "sparse.safetensors", tmp_path / "out.safetensors"
    assert run("prune", teacher, "--sparsity", 0.4, "-o", sparse).exit_code == 0
    result = run("finetune", sparse, "--teacher", teacher, "--images", photos, "--steps", 5, *FAST, "-o", out)
    assert result.exit_code == 0, result.output
    before, after = (prunable_weights(open_network(path).module) for path in (sparse, out))
    assert f"{before.zeros:,} of {before.total:,} weights are zero and stay zero" in result.stderr
    for name, weight in before.tensors.items():
        assert torch.equal(weight == 0, after.tensors[name] == 0)
    assert not torch.equal(before.tensors["out.weight"], after.tensors["out.weight"])
    assert checkpoint.read(out).history[-1]["loss"]["maps"]  # pruned from that teacher: all channels are known


def test_a_teacher_may_be_anybodys(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "negative.py").write_text(
        "import torch\n"
        "class Negative(torch.nn.Module):\n"
        "    def __init__(self, level=1.0):\n"
        "        super().__init__()\n"
        "        self.level = torch.nn.Parameter(torch.tensor(level))\n"
        "    def forward(self, x):\n"
        "        return self.level - x\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save({"level": torch.tensor(1.0)}, "negative.pth")
    student = write(tmp_path / "student.safetensors", 2, widths=[5, 7, 11], blocks=1)
    layers = ("negative.pth", "--network", "negative:Negative", "--args", '{"level": 2.0}', "--image-format", "0..1")
    result = run("finetune", *layers, "--teacher", student, "--images", photos, "--steps", 2, *FAST, "-o", "none.safetensors")
    assert result.exit_code == 0, result.output  # a network without a single convolution can learn too
    factory = ("--teacher-network", "negative:Negative", "--teacher-args", '{"level": 2.0}', "--teacher-format", "0..1")
    lesson = ("--teacher", "negative.pth", *factory, "--images", photos, "--steps", 2, *FAST)
    assert run("finetune", student, *lesson, "-o", "out.safetensors").exit_code == 0
    result = run("finetune", student, *lesson[:-2], "--teacher-format", "odd", "-o", "no.safetensors")
    assert result.exit_code == 2
    assert "unknown image format 'odd'" in result.stderr


def test_a_painting_teaches(teacher: Path, photos: Path, tmp_path: Path) -> None:
    torch.save(vgg_tensors(["conv1_1", "conv1_2"]), tmp_path / "vgg.pth")
    layers = ("--content-layers", "relu1_2", "--style-layers", "relu1_1,relu1_2", "--style-size", 32)
    style = ("--style", photos / "a.png", "--weights", tmp_path / "vgg.pth", *layers)
    result = run("finetune", teacher, *style, "--images", photos, "--steps", 2, *FAST, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 0, result.output
    assert checkpoint.read(tmp_path / "out.safetensors").history[-1]["style"] == "a.png"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "who teaches?"),
        (("--teacher", "T", "--style", "P"), 2, "a teacher and a painting: one at a time"),
        (("--teacher", "nothing.safetensors"), 1, "no such file"),
        (("--style", "nothing.png", "--weights", "nothing.pth"), 1, "nothing"),
        (("--teacher", "T", "--output-weight", "0", "--feature-weight", "0"), 2, "both weights 0 learns nothing"),
        (("--teacher", "T", "--output-weight", "0"), 2, "nothing to compare"),
        (("--teacher", "T", "--output-weight", "nan"), 2, "must be a number >= 0"),
        (("--teacher", "T", "--resume"), 1, "nothing to resume"),
    ],
)
def test_what_is_wrong_is_one_line(
    teacher: Path, photos: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    names = {"T": str(teacher), "P": str(photos / "a.png")}
    student = write(tmp_path / "student.safetensors", 2, width=4, blocks=1)
    said = [names.get(word, word) for word in arguments]
    result = run("finetune", student, *said, "--images", photos, *FAST, "-o", tmp_path / "out.safetensors")
    assert message in result.stderr
    assert result.exit_code == code
    assert not (tmp_path / "out.safetensors").exists()


def test_images_are_required(teacher: Path, tmp_path: Path) -> None:
    result = run("finetune", teacher, "--teacher", teacher, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 2
    assert "--images" in result.stderr


class Halves(nn.Module):
    """Two 1x1 convolutions, 3 -> width -> 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 1)
        self.second = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


def test_the_terms_are_what_they_say() -> None:
    torch.manual_seed(4)
    teacher, student = Halves(5), Halves(2)
    with torch.no_grad():
        student.first.weight.copy_(teacher.first.weight[[1, 4]])
        student.first.bias.copy_(teacher.first.bias[[1, 4]])
    photos = torch.rand(2, 3, 4, 6) * 255
    loss = Distillation(teacher, (FORM, FORM), DistillationConfig(2.0, 3.0), student, [FeatureMap("first", (1, 4))])
    outputs = student(photos / 255) * 255
    terms = loss(photos, outputs)
    wanted = teacher(photos / 255)
    torch.testing.assert_close(terms["output"], 2 * (outputs / 255 - wanted).square().mean())
    assert terms["features"].item() < 1e-10  # these channels are the teacher's own
    with torch.no_grad():
        student.first.bias += 1
    student(photos / 255)
    seen = teacher.first(photos / 255)[:, [1, 4]]
    torch.testing.assert_close(loss(photos, outputs)["features"], 3 / seen.var(unbiased=False))
    loss.close()
    assert not student.first._forward_hooks


def test_the_teacher_learns_nothing() -> None:
    teacher, student = Halves(5), Halves(2)
    loss = Distillation(teacher, (FORM, FORM))
    photos = torch.rand(1, 3, 4, 4) * 255
    sum(loss(photos, student(photos / 255) * 255).values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.first.weight.grad is not None
    assert not [p for p in loss.parameters() if p.requires_grad]


def test_outputs_of_another_size_are_refused() -> None:
    loss = Distillation(nn.Conv2d(3, 3, 3), (FORM, FORM))
    with pytest.raises(NetworkError, match=r"the teacher makes \(1, 3, 6, 6\) where the network makes \(1, 3, 8, 8\)"):
        loss(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))


def test_maps_are_those_whose_channels_are_known() -> None:
    student, teacher, example = Halves(2), Halves(5), torch.rand(1, 3, 4, 4)
    assert feature_maps(student, teacher, example, {}) == ()
    assert feature_maps(student, teacher, example, {"first": (0, 3)}) == (FeatureMap("first", (0, 3)),)
    assert feature_maps(student, teacher, example, {"first": (0, 3, 4)}) == ()
    assert feature_maps(Halves(5), teacher, example, {}) == (FeatureMap("first", None),)
    assert list(blocks(Johnson(width=2, blocks=2))) == [
        "down1", "down2", "down3", "residual.0", "residual.1", "up1", "up2", "out"
    ]  # fmt: skip


def test_weights_of_the_loss_refuse_nonsense() -> None:
    with pytest.raises(UsageError, match="feature weight must be a number >= 0"):
        DistillationConfig(1.0, -0.1)
    with pytest.raises(UsageError, match="learns nothing"):
        DistillationConfig(0.0, 0.0)
