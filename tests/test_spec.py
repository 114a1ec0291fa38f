"""Specs are plain data: they go through JSON and back, and refuse nonsense when built."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from compress.errors import UsageError
from compress.image_format import PRESETS
from compress.spec import ModelSpec, parse_shape, parse_size

FULL = ModelSpec(
    "my.package:make.inner",
    {"width": 7, "names": ["a", None, True], "nest": {"x": 0.5}},
    ((1, 3, 36, 44), (2, 5)),
    (PRESETS["caffe"], None),
    (PRESETS["-1..1"], None, PRESETS["0..1"]),
)


@pytest.mark.parametrize("spec", [FULL, ModelSpec("johnson"), ModelSpec("net-2.b", {}, ((7,),))])
def test_json_and_back(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_inputs_that_are_not_said_are_no_pictures() -> None:
    assert ModelSpec("net", {}, ((1, 3, 5, 7), (2,), (3,))).inputs == (None, None, None)


def test_only_a_bare_name_is_registered() -> None:
    assert ModelSpec("johnson").is_registered
    assert not FULL.is_registered


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "not a network name"),
        (("a b",), "not a network name"),
        (("a:b:c",), "not a network name"),
        (("a/b",), "not a network name"),
        (("a;import os",), "not a network name"),
        (("a\n",), "not a network name"),
        (("a", [1]), "must be a JSON object"),
        (("a", {}, ()), "example shapes"),
        (("a", {}, ((),)), "example shapes"),
        (("a", {}, ((1, 0),)), "example shapes"),
        (("a", {}, ((1, -2),)), "example shapes"),
        (("a", {}, ((1, 2.5),)), "example shapes"),
        (("a", {}, ((True, 2),)), "example shapes"),
        (("a", {}, ((1, 3, 10**5, 10**5),)), "too large"),
        (("a", {}, ((1, 2),), ()), "1 example shapes, but 0 input"),
        (("a", {}, ((1, 2),), (None, None)), "1 example shapes, but 2 input"),
        (("a", {}, ((1, 2),), (None,), ()), "and 0 output"),
    ],
)
def test_nonsense_is_refused(arguments: Any, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        ModelSpec(*arguments)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "value", [None, 3, [], {}, "johnson", {"network": "a"}, {**FULL.to_json(), "examples": 5}, {**FULL.to_json(), "inputs": [0]}]
)
def test_other_json_is_refused(value: Any) -> None:
    with pytest.raises(UsageError):
        ModelSpec.from_json(value)


def test_shapes_and_sizes() -> None:
    assert parse_shape("1x3x480x640") == (1, 3, 480, 640)
    assert parse_shape("7") == (7,)
    assert parse_size("256") == (256, 256)
    assert parse_size("480x640") == (480, 640)


@pytest.mark.parametrize("text", ["", "x", "1x", "1xx2", "a", "1x-3", "0x3", "1.5", "1 x 2", "9" * 5000, "1x3\n"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="not a shape") as caught:
        parse_shape(text)
    assert "1x3x256x256" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "0", "256x", "256x256x3", "-5", "9999999", "25 6", "0x256"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)
