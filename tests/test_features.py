"""Loss networks: kinds of weight files told apart by their keys, layers named as in the papers, wrong files refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from compress.errors import MissingToolError, NetworkError, UsageError
from compress.features import vgg, weights


def vgg_tensors(convs: list[str], key: str = "{conv}") -> dict[str, Tensor]:
    """Random VGG tensors, for tests only: the product never makes any up."""
    torch.manual_seed(1)
    tensors, inputs = {}, 3
    for conv in convs:
        width = 3 if conv == "conv0" else vgg.WIDTHS[int(conv[4]) - 1]
        side = 1 if conv == "conv0" else 3
        tensors[f"{conv}.weight"] = torch.randn(width, inputs, side, side) / (inputs * side * side) ** 0.5
        tensors[f"{conv}.bias"] = torch.randn(width) * 0.1
        inputs = width
    return tensors


@pytest.fixture
def caffe_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.pth"
    torch.save(vgg_tensors(["conv1_1", "conv1_2", "conv2_1", "conv2_2"]), path)
    return path


def test_layers_have_the_sizes_of_the_paper(caffe_file: Path) -> None:
    features = vgg.load("vgg19", ["relu1_2", "relu2_2"], caffe_file)
    found = features(torch.rand(1, 3, 32, 48) * 255)
    assert {name: tuple(x.shape) for name, x in found.items()} == {"relu1_2": (1, 64, 32, 48), "relu2_2": (1, 128, 16, 24)}
    assert features.kind.name == "caffe"
    assert not list(features.parameters())
    assert not features.state_dict(), "a loss network does not belong into anybody's checkpoint"


def test_torchvision_keys_are_the_same_network_with_other_preprocessing(tmp_path: Path) -> None:
    convs = vgg_tensors(["conv1_1", "conv1_2"])
    renamed = {k.replace("conv1_1", "features.0").replace("conv1_2", "features.2"): v for k, v in convs.items()}
    torch.save({"state_dict": renamed}, tmp_path / "tv.pth")
    features = vgg.load("vgg16", ["relu1_2"], tmp_path / "tv.pth")
    pixels = torch.rand(1, 3, 16, 16) * 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    x = (pixels / 255 - mean) / std
    for conv in ("conv1_1", "conv1_2"):
        x = torch.relu(torch.nn.functional.conv2d(x, convs[f"{conv}.weight"], convs[f"{conv}.bias"], padding=1))
    assert torch.allclose(features(pixels)["relu1_2"], x, atol=1e-4)


def test_caffe_weights_see_bgr_minus_mean(caffe_file: Path) -> None:
    tensors = torch.load(caffe_file, weights_only=True)
    pixels = torch.rand(1, 3, 16, 16) * 255
    x = pixels[:, [2, 1, 0]] - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    x = torch.relu(torch.nn.functional.conv2d(x, tensors["conv1_1.weight"], tensors["conv1_1.bias"], padding=1))
    assert torch.allclose(vgg.load("vgg19", ["relu1_1"], caffe_file)(pixels)["relu1_1"], x, atol=1e-3)


@pytest.mark.parametrize("layer", ["relu1_3", "relu6_1", "conv1_1", "nonsense"])
def test_unknown_layers_are_refused(caffe_file: Path, layer: str) -> None:
    with pytest.raises(UsageError, match="has no layer"):
        vgg.load("vgg16", [layer], caffe_file)


def test_a_file_that_ends_early_is_named(caffe_file: Path) -> None:
    with pytest.raises(NetworkError, match="ends at conv2_2, before relu3_1"):
        vgg.load("vgg19", ["relu3_1"], caffe_file)


def test_vgg16_weights_as_vgg19_are_refused(tmp_path: Path) -> None:
    convs = vgg_tensors(vgg.conv_names("vgg16")[:9])
    numbered = {
        f"features.{i}.{kind}": convs[f"{c}.{kind}"]
        for i, c in enumerate(vgg.conv_names("vgg16")[:9])
        for kind in ("weight", "bias")
    }
    torch.save(numbered, tmp_path / "vgg16.pth")
    with pytest.raises(NetworkError, match="does not fit vgg19"):
        vgg.load("vgg19", ["relu4_1"], tmp_path / "vgg16.pth")


def test_a_file_without_vgg_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.rand(3, 4)}, tmp_path / "other.pth")
    with pytest.raises(NetworkError, match="has no VGG weights"):
        vgg.load("vgg19", ["relu1_1"], tmp_path / "other.pth")


def test_missing_weights_say_where_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    with pytest.raises(MissingToolError) as caught:
        weights.find("vgg19")
    assert "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in str(caught.value)
    with pytest.raises(MissingToolError, match="no weights at"):
        weights.find("vgg19", tmp_path / "nothing.pth")


def test_a_folder_of_weights_is_searched_and_the_published_file_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "vgg19_mine.pth").write_bytes(b"x")
    assert weights.find("vgg19") == tmp_path / "vgg19_mine.pth"
    (tmp_path / "vgg19-dcbb9e9d.pth").write_bytes(b"not the file")
    with pytest.raises(MissingToolError, match="damaged"):
        weights.find("vgg19")


def test_real_weights_of_both_kinds(data: Path) -> None:
    pixels = torch.rand(1, 3, 40, 40) * 255
    for kind in ("caffe_bgr", "normalised"):
        features = vgg.load("vgg19", ["relu3_3", "relu4_1"], data / f"weights/vgg19/vgg19_{kind}_to_conv4_1.pth")
        found = features(pixels)
        assert found["relu4_1"].shape[:2] == (1, 512)
        assert features.kind.name == kind.split("_")[0]
        assert float(found["relu3_3"].max()) > 0
