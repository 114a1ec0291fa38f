"""The page about exports says what there is: every rewrite, variant and option, and the class that comes out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from compress.cli import main
from compress.image_format import PRESETS
from export import kotlin
from export.artifact import Card, Port
from export.rewrites import REWRITES, Rewrite
from export.variants import VARIANTS

PAGE = (Path(__file__).parent.parent / "docs" / "export.md").read_text(encoding="utf-8")
ROWS = {
    row[0].strip(" `"): [cell.strip() for cell in row] for line in PAGE.splitlines() if (row := line.strip("|").split("|"))[1:]
}


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda row: row.name)
def test_a_rewrite_has_its_row(rewrite: Rewrite) -> None:
    targets, limit = ROWS[rewrite.name][2:4]
    assert float(limit) == rewrite.tolerance
    assert targets == ("all" if len(rewrite.targets) == 3 else ", ".join(sorted(rewrite.targets)))


def test_a_rewrite_that_is_gone_has_no_row() -> None:
    table = re.search(r"\| rewrite \|.*?\n\n", PAGE, re.DOTALL)
    assert table
    assert re.findall(r"^\| `(.*?)`", table[0], re.MULTILINE) == [row.name for row in REWRITES]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_its_row(variant: str) -> None:
    assert len(ROWS[variant]) == 4


def test_its_commands_exist_with_their_options() -> None:
    found = [shlex.split(line)[1:] for line in PAGE.splitlines() if line.startswith("    compress ")]
    assert found
    for name, *arguments in found:
        command = main.get_command(click.Context(main), name)
        assert command
        command.make_context(name, arguments)


def test_options_that_it_names_exist() -> None:
    command = main.get_command(click.Context(main), "export")
    assert command
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= known


def test_the_kotlin_that_it_shows_is_the_kotlin_that_is_made() -> None:
    port = Port("x", "float32", (1, 256, 256, 3), PRESETS["0..1"])
    card = Card("small_256x256_dynamic.tflite", "", 0, 0, "tflite", "NHWC", "dynamic", (256, 256), (port,), (port,), "s")
    text = kotlin.source("small", [card])
    shown = re.search("```kotlin\n(.*?)```", PAGE, re.DOTALL)
    assert shown
    for called in set(re.findall(r"(?:Small|net)\.(\w+)\(", shown[1])):
        assert f"fun {called}(" in text
    for named in set(re.findall(r"(\w+) = (?![A-Z]|net)", shown[1])) - {"net"}:
        assert f"{named}: " in text
