"""`compress check` as it is used: exit codes, lines, JSON, and no framework needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from compress.cli import main
from tests.test_budget import put

ROOM = '[model.candy_256x192.dynamic]\nmax_size = "1.55 kB"\nmin_psnr_db = 35\n'


def check(*arguments):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


@pytest.fixture
def build(tmp_path):
    folder = tmp_path / "build"
    folder.mkdir()
    put(folder)
    return folder


@pytest.fixture
def budget(tmp_path):
    path = tmp_path / "compress-budget.toml"
    path.write_text(f"version = 1\n{ROOM}")
    return path


def test_kept(build, budget):
    result = check(build, "--budget", budget)
    assert result.exit_code == 0, result.output
    assert "BROKEN" not in result.output


def test_broken(build, budget):
    budget.write_text(budget.read_text().replace("1.55", "1.45").replace("35", "40"))
    result = check(build, "--budget", budget)
    assert result.exit_code == 3
    lines = result.output.splitlines()
    assert "candy_256x192 dynamic: max_size is 1,500 bytes, the limit is 1,450 bytes" in lines
    assert "candy_256x192 dynamic: min_psnr_db is 36.50 dB, the limit is 40.00 dB" in lines
    assert "error: 2 of the budget's limits broken" in lines


def test_broken_as_json(build, budget):
    budget.write_text(budget.read_text().replace("1.55", "1.45"))
    result = check(build, "--budget", budget, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 3
    assert document["error"]["kind"] == "budget"
    assert [(v["limit"], v["kept"], v["measured"]) for v in document["limits"]] == [
        ("max_size", False, 1500),
        ("min_psnr_db", True, 36.5),
    ]
    assert len(document["broken"]) == 1


def test_what_vanished_is_broken(build, budget):
    budget.write_text(budget.read_text() + "[model.candy_256x192.int8]\n")
    result = check(build, "--budget", budget)
    assert result.exit_code == 3
    assert "candy_256x192 int8: is not there any more" in result.output


def test_hints(build, budget):
    budget.write_text(budget.read_text().replace("1.55", "9.9"))
    put(build, b"new", variant="fp16")
    result = check(build, "--budget", budget)
    assert result.exit_code == 0
    assert "it can be tightened" in result.output
    assert "candy_256x192 fp16: no limits in the budget" in result.output


def test_update_then_check(build, budget):
    budget.write_text(budget.read_text().replace("1.55", "1.45") + "[model.other.int8]\nmax_size = 3\n")
    put(build, b"new", variant="fp16")
    result = check(build, "--budget", budget, "--update")
    assert result.exit_code == 0, result.output
    assert "other int8: not there, its limits stay" in result.output
    assert check(build, "--budget", budget).exit_code == 3
    budget.write_text(budget.read_text().replace("[model.other.int8]\nmax_size = 3\n", ""))
    result = check(build, "--budget", budget, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["without_limits"] == []
    assert not any(verdict["loose"] for verdict in document["limits"])
    assert "min_psnr_db = 36.0" in budget.read_text()


def test_update_makes_the_budget(build, tmp_path):
    made = tmp_path / "new.toml"
    result = check(build, "--budget", made, "--update", "--json")
    assert result.exit_code == 0
    assert {c["limit"] for c in json.loads(result.stdout)["changes"]} >= {"max_size", "min_psnr_db", "max_abs_err"}
    assert check(build, "--budget", made).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("build",), 2, "Missing option '--budget'"),
        (("build", "--budget", "no.toml"), 1, "no.toml: no such file"),
        (("nowhere", "--budget", "compress-budget.toml"), 1, "nowhere: no such file or folder"),
        (("build", "--budget", "empty.toml"), 1, "empty.toml limits nothing"),
        (("build", "--budget", "typo.toml"), 1, "unknown 'max_syze' in model.a.b"),
    ],
)
def test_errors(build, budget, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.toml").write_text("version = 1\n")
    (tmp_path / "typo.toml").write_text("version = 1\n[model.a.b]\nmax_syze = 3\n")
    result = check(*arguments)
    assert (result.exit_code, said in result.output) == (code, True), result.output


def test_a_replaced_file_is_an_error_not_a_verdict(build, budget):
    (build / "candy_256x192_dynamic.tflite").write_bytes(b"z" * 10)
    result = check(build, "--budget", budget)
    assert result.exit_code == 1
    assert "does not match" in result.output


def test_it_runs_where_no_framework_is_installed(build, budget):
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'tensorflow', 'onnx', 'onnxruntime', 'ai_edge_litert', 'safetensors'):\n"
        "            raise ImportError('blocked ' + name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from compress.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    argv = [sys.executable, "-c", code, "check", str(build), "--budget", str(budget)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "max_size" in done.stdout
