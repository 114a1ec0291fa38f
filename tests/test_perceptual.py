"""Johnson's loss against its formulas, written out again here with plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.errors import ImageError, UsageError
from compress.losses.perceptual import PerceptualConfig, PerceptualLoss, gram, parse_layers, total_variation
from tests.test_features import vgg_tensors

LAYERS = {"content_layers": ("relu2_1",), "style_layers": ("relu1_1", "relu1_2")}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(vgg_tensors(["conv1_1", "conv1_2", "conv2_1"]), tmp_path / "vgg.pth")
    return tmp_path / "vgg.pth"


@pytest.fixture
def painting() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (40, 56, 3), np.uint8)


def test_gram_is_inner_products_over_c_h_w() -> None:
    x = torch.randn(2, 3, 4, 5)
    for n in range(2):
        for i in range(3):
            for j in range(3):
                assert float(gram(x)[n, i, j]) == pytest.approx(float((x[n, i] * x[n, j]).sum()) / (3 * 4 * 5), abs=1e-5)


def test_gram_stays_exact_under_autocast() -> None:
    x = torch.randn(1, 7, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gram(x), gram(x.float()))
        assert gram(x).dtype == torch.float32


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 4, 6) * 3
    assert float(total_variation(ramp)) == pytest.approx(9)


def test_terms_are_weighted_and_zero_weights_are_not_computed(weights: Path, painting: np.ndarray) -> None:
    photos, outputs = torch.rand(2, 3, 24, 24) * 255, torch.rand(2, 3, 24, 24) * 255
    one = PerceptualLoss(PerceptualConfig(weights=weights, content_weight=1, style_weight=1, tv_weight=1, **LAYERS), painting)
    three = PerceptualLoss(PerceptualConfig(weights=weights, content_weight=3, style_weight=0, tv_weight=0, **LAYERS), painting)
    terms = one(photos, outputs)
    assert set(terms) == {"content", "style", "tv"}
    assert float(three(photos, outputs)["content"]) == pytest.approx(3 * float(terms["content"]), rel=1e-6)
    assert set(three(photos, outputs)) == {"content"}
    found, wanted = one.features(outputs), one.features(photos)
    assert float(terms["content"]) == pytest.approx(float((found["relu2_1"] - wanted["relu2_1"]).square().mean()), rel=1e-5)
    target = {layer: getattr(one, f"gram_{layer}") for layer in LAYERS["style_layers"]}
    by_hand = sum((gram(found[layer]) - target[layer]).square().mean(dim=(1, 2)) for layer in target)
    assert torch.allclose(one.style(found), by_hand, rtol=1e-5)


def test_a_painting_of_a_few_pixels_is_refused(weights: Path) -> None:
    with pytest.raises(ImageError, match=r"^a painting of 40x1 is too small \(both sides need 16 pixels or more\)$"):
        PerceptualLoss(PerceptualConfig(weights=weights, **LAYERS), np.zeros((1, 40, 3), np.uint8))


def test_the_painting_itself_has_no_style_loss(weights: Path, painting: np.ndarray) -> None:
    loss = PerceptualLoss(PerceptualConfig(weights=weights, style_size=56, **LAYERS), painting)
    itself = torch.from_numpy(painting).permute(2, 0, 1)[None].float()
    other = torch.rand_like(itself) * 255
    assert float(loss.style(loss.features(itself))) < 1e-6 * float(loss.style(loss.features(other)))


def test_gradient_reaches_the_outputs_only(weights: Path, painting: np.ndarray) -> None:
    loss = PerceptualLoss(PerceptualConfig(weights=weights, **LAYERS), painting)
    photos = (torch.rand(1, 3, 24, 24) * 255).requires_grad_()
    outputs = (torch.rand(1, 3, 24, 24) * 255).requires_grad_()
    sum(loss(photos, outputs).values()).backward()
    assert photos.grad is None
    assert outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all())


@pytest.mark.parametrize(
    "bad", [{"loss_network": "resnet"}, {"style_weight": -1.0}, {"content_weight": float("inf")}, {"style_size": 3}]
)
def test_nonsense_is_refused_when_built(bad: dict) -> None:
    with pytest.raises(UsageError):
        PerceptualConfig(**bad)


def test_layers_are_parsed() -> None:
    assert parse_layers("relu1_2, relu2_2") == ("relu1_2", "relu2_2")
    assert parse_layers(None) is None
