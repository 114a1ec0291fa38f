"""Pixels to tensors and back, in numpy and in torch alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import UsageError
from compress.image_format import PRESETS, ImageFormat
from compress.networks import pixels as torch_pixels

RED = np.array([[[255, 0, 0]]], np.uint8)
ODD = ImageFormat("BGR", (1.5, -2.0, 30.25), (3.0, 0.125, 58.395))


def test_presets_by_hand() -> None:
    assert PRESETS["0..1"].encode(RED).tolist() == [[[1, 0, 0]]]
    assert PRESETS["0..255"].encode(RED).tolist() == [[[255, 0, 0]]]
    assert PRESETS["-1..1"].encode(RED).tolist() == [[[1, -1, -1]]]
    assert PRESETS["caffe"].encode(RED)[0, 0] == pytest.approx([-103.939, -116.779, 255 - 123.68])
    assert PRESETS["imagenet"].encode(RED)[0, 0] == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rel=1e-5)


@pytest.mark.parametrize("image_format", [*PRESETS.values(), ODD])
def test_there_and_back(image_format: ImageFormat) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    tensor = image_format.encode(picture)
    assert tensor.dtype == np.float32
    assert np.abs(image_format.decode(tensor) - picture).max() < 1e-3


@pytest.mark.parametrize("image_format", [*PRESETS.values(), ODD])
def test_torch_says_the_same(image_format: ImageFormat) -> None:
    picture = np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3)).astype(np.float32)
    nchw = torch.from_numpy(picture).permute(0, 3, 1, 2)
    encoded = torch_pixels.encode(nchw, image_format)
    assert np.allclose(encoded.permute(0, 2, 3, 1).numpy(), image_format.encode(picture), atol=1e-4)
    assert torch.allclose(torch_pixels.decode(encoded, image_format), nchw, atol=1e-3)


def test_decoding_clamps_and_does_not_round() -> None:
    assert PRESETS["0..1"].decode(np.array([-0.5, 0.001, 2.0])) == pytest.approx([0, 0.255, 255])


@pytest.mark.parametrize("image_format", [*PRESETS.values(), ODD])
def test_names_and_json_and_back(image_format: ImageFormat) -> None:
    assert ImageFormat.parse(image_format.name) == image_format
    assert ImageFormat.from_json(json.loads(json.dumps(image_format.to_json()))) == image_format


def test_spelled_out() -> None:
    assert ImageFormat.parse("bgr; mean=1,2,3; std=4,5,6") == ImageFormat("BGR", (1, 2, 3), (4, 5, 6))
    assert ImageFormat.parse("RGB") == PRESETS["0..255"]
    assert PRESETS["caffe"].name == "caffe"


@pytest.mark.parametrize(
    "text",
    ["", "0..2", "RGBA", "RGB;mean=1,2", "RGB;mean", "RGB;mean=a,b,c", "RGB;median=1,2,3", "RGB;mean=1=2", "RGB;std=1,2,3,4"],
)
def test_unknown_text_lists_what_there_is(text: str) -> None:
    with pytest.raises(UsageError, match="unknown image format") as caught:
        ImageFormat.parse(text)
    assert caught.value.exit_code == 2
    assert "imagenet" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text", ["RGB;std=0,1,1", "RGB;std=-1,1,1", "RGB;std=1e-50,1,1", "RGB;std=nan,1,1", "RGB;mean=inf,0,0", "RGB;mean=1e300,0,0"]
)
def test_numbers_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="of an image format must be"):
        ImageFormat.parse(text)


@pytest.mark.parametrize(
    "value", [None, 3, "RGB", [], {}, {"order": "RGB", "mean": 3, "std": [1, 1, 1]}, {"order": 3, "mean": [1], "std": [1, 1, 1]}]
)
def test_other_json_is_refused(value: Any) -> None:
    with pytest.raises(UsageError):
        ImageFormat.from_json(value)
