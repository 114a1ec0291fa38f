"""Picture metrics against other people's code, and against cases that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import ImageError
from compress.metrics.psnr import psnr
from compress.metrics.ssim import ssim

skimage = pytest.importorskip("skimage.metrics")
RANDOM = np.random.default_rng(7)
ONE = RANDOM.uniform(0, 255, (37, 53, 3)).astype(np.float32)
PAIRS = {
    "noise": (ONE, np.clip(ONE + RANDOM.normal(0, 20, ONE.shape), 0, 255).astype(np.float32)),
    "unrelated": (ONE, RANDOM.uniform(0, 255, ONE.shape).astype(np.float32)),
    "darker": (ONE, ONE * 0.5),
    "small": (ONE[:11, :12], ONE[20:31, 20:32]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_psnr_as_skimage(name: str) -> None:
    one, other = PAIRS[name]
    assert psnr(one, other) == pytest.approx(skimage.peak_signal_noise_ratio(one, other, data_range=255), rel=1e-5)


def test_psnr_by_hand() -> None:
    black = np.zeros((5, 7, 3), np.uint8)
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(black, black) is None


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_as_skimage(name: str) -> None:
    one, other = PAIRS[name]
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = skimage.structural_similarity(one.astype(np.float64), other.astype(np.float64), channel_axis=2, **options)
    assert ssim(one, other) == pytest.approx(expected, abs=1e-9)
    assert ssim(other, one) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_a_photo_as_skimage() -> None:
    from skimage import data

    one = data.astronaut()[:200, :233]
    other = np.clip(one + RANDOM.normal(0, 12, one.shape), 0, 255).astype(np.uint8)
    expected = skimage.structural_similarity(
        one, other, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ssim(one, other) == pytest.approx(expected, abs=1e-9)


def test_ssim_by_hand() -> None:
    assert ssim(ONE, ONE) == pytest.approx(1)
    flat = np.full((20, 30, 3), 100.0)
    c1 = (0.01 * 255) ** 2
    assert ssim(flat, flat + 50) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_batches_are_means() -> None:
    one, other = np.stack([ONE, ONE]), np.stack([PAIRS["noise"][1], PAIRS["darker"][1]])
    assert ssim(one, other) == pytest.approx((ssim(ONE, other[0]) + ssim(ONE, other[1])) / 2)
    assert psnr(one, other) == pytest.approx(skimage.peak_signal_noise_ratio(one, other, data_range=255), rel=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_pictures_that_cannot_be_compared(metric: Any) -> None:
    with pytest.raises(ImageError, match="cannot be compared") as caught:
        metric(ONE, ONE[:-1])
    assert caught.value.exit_code == 1
    with pytest.raises(ImageError, match="11x11 or more"):
        ssim(ONE[:10], ONE[:10])


def test_style_and_content(data: Path) -> None:
    """The candy network gives photos its painting's style and keeps what is on them; a plain copy does neither and both."""
    from compress.losses.perceptual import PerceptualConfig, PerceptualLoss
    from compress.metrics.style import style_and_content
    from compress.networks.load import open_network
    from compress.networks.run import run_of_network
    from compress.photos import decode, fit, list_photos

    config = PerceptualConfig(weights=data / "weights" / "vgg19" / "vgg19_caffe_bgr_to_conv4_1.pth", style_size=256)
    loss = PerceptualLoss(config, decode(data / "paintings" / "candy.jpg"))
    photos = [fit(decode(path), 96, 128) for path in list_photos(data / "photos" / "val")[:2]]
    loaded = open_network(data / "weights" / "johnson" / "candy.pth")
    styled = style_and_content(run_of_network(loaded.module, loaded.spec), photos, loss)
    copied = style_and_content(lambda pixels: pixels, photos, loss)
    black = style_and_content(np.zeros_like, photos, loss)
    assert len(styled) == 2
    for candy, copy, nothing in zip(styled, copied, black, strict=True):
        assert copy.relative_style == pytest.approx(1)
        assert copy.content == 0
        assert candy.photo_style == copy.style
        assert candy.relative_style < 0.7
        assert 0 < candy.content < 2 * nothing.content
