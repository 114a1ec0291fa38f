"""The comparison with Torch-Pruning measures what it says, and the page about stripping shows what there is."""

from __future__ import annotations

import doctest
import importlib
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    """Import a script as `python benchmarks/NAME.py` would."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def stripping(script):
    pytest.importorskip("torch_pruning")
    return script("stripping")


def test_both_tools_get_the_same_dead_channels(stripping):
    """Johnson: 45 channels. Zeroed, both remove them exactly; shifted, only the strip does."""
    found = {(line["dead"], line["tool"]): line for line in stripping.measure("johnson", 2)}
    assert [line["removed"] for line in found.values()] == [45] * 4
    assert all(line["could"] == 45 and len(line["seconds"]) == 2 and not line["faults"] for line in found.values())
    assert all(found["zeroed", tool]["gap"] < 1e-12 for tool in ("compress strip", "Torch-Pruning"))
    assert found["shifted", "compress strip"]["gap"] < 1e-12
    assert found["shifted", "Torch-Pruning"]["gap"] > 1e-3


def test_what_torch_pruning_cannot_do_is_undone_and_named(stripping):
    """EDSR: it does not prune before a pixel shuffle; all else it does, and the network runs."""
    line = next(line for line in stripping.measure("edsr", 1) if line["tool"] == "Torch-Pruning")
    assert set(line["faults"]) == {"tail.0", "tail.2"}
    assert line["removed"] == 47 - 12 - 8
    assert line["gap"] < 1e-12


def test_a_network_that_it_cannot_follow_is_a_fault(stripping):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no way")

    done = stripping.theirs(Fails(), stripping.STRANGERS["johnson"])
    assert done.module is None
    assert done.faults == {"build_dependency": "RuntimeError: no way"}
    assert stripping._outcome(nn.Identity(), done, stripping.STRANGERS["johnson"]) == {"removed": 0, "gap": None}


def test_tables_by_hand(script, tmp_path):
    tables, lines = script("tables"), script("lines")
    context = {"schema": 1, "host": {"cpu": "Abacus"}, "threads": 1, "measured_at": "2030-01-02T03:04:05+00:00",
               "versions": {"torch": "9.9", "torch-pruning": "1.0"}}  # fmt: skip
    cells = {
        ("a", "zeroed", "ours"): (10, 10, 2e-16, {}),
        ("a", "zeroed", "theirs"): (10, 7, 0.25, {"x": "Error: no", "y": "Error: no"}),
        ("b", "zeroed", "ours"): (5, 4, 0.0, {"z": "counts"}),
        ("b", "zeroed", "theirs"): (5, 0, None, {"build_dependency": "Error"}),
    }
    found = [
        {**context, "network": name, "dead": dead, "tool": tool, "could": could, "removed": removed, "gap": gap, "faults": faults,
         "seconds": [1.0, 2.0, 9.0]}
        for (name, dead, tool), (could, removed, gap, faults) in cells.items()
    ]  # fmt: skip
    lines.write(tmp_path / "stripping.jsonl", found)
    assert "| a | 10 | 10 (2e-16) | 7 (0.25) |\n| b | 5 | 4 (0) | 0 (does not run) |" in tables.stripping(tmp_path)
    totals = tables.stripping_totals(tmp_path)
    assert "| ours, zeroed | 14 of 15 | 1 of 2 | 2 of 2 | 2e-16 | 4.0 |" in totals
    assert "| theirs, zeroed | 7 of 15 | 0 of 2 | 0 of 2 | 0.25 | 4.0 |" in totals
    assert "torch-pruning 1.0, torch 9.9; Abacus, 1 thread, 2030-01-02." in totals
    faults = tables.stripping_faults(tmp_path)
    assert "| a | theirs | `x`, `y` | Error: no |\n| b | ours | `z` | counts |" in faults


def test_the_page_runs():
    torch.manual_seed(7)
    assert doctest.testfile(str(ROOT / "docs" / "stripping.md"), module_relative=False).failed == 0


def test_the_figure_is_what_its_script_draws(tmp_path):
    drawn = ROOT / "docs" / "images" / "stripping.svg"
    script = tmp_path / "draw_stripping.py"
    script.write_bytes(drawn.with_name("draw_stripping.py").read_bytes())
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "stripping.svg").read_bytes() == drawn.read_bytes()
