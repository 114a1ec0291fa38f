"""What all commands promise: help, exit codes, one JSON document, errors as one line, and nothing run that a file names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import compress
from compress.checkpoint import write
from compress.cli import COMMANDS, main
from compress.cli.common import Talk, errors_as_lines
from compress.errors import ArtifactError, BudgetError, CompressError, MissingToolError, UsageError, require
from compress.image_format import PRESETS
from compress.networks.johnson import Johnson
from compress.networks.load import snapshot
from tests.test_checkpoint import EVIL, evil_file, foreign_files, with_header
from tests.test_load import ARGUMENTS, SPEC

ROOT = Path(__file__).parent.parent
# Every command that takes a NET, with all else that it needs: NET, OUT, PHOTOS and GOOD are filled in.
WITH_NET = {
    "prune": "NET -o OUT --sparsity 0.5",
    "prune --plan-only": "NET -o OUT --sparsity 0.5",
    "finetune": "NET -o OUT --teacher GOOD --images PHOTOS --steps 1",
    "finetune --teacher": "NET GOOD -o OUT --images PHOTOS --steps 1",
    "strip": "NET -o OUT",
    "inspect": "NET",
    "export": "NET -o OUT --variants fp32",
    "bench": "NET --rounds 1 --samples 1",
    "stylize": "NET PHOTOS -o OUT",
    "train --like": "NET --style PHOTOS/a.png --images PHOTOS --steps 1 -o OUT",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with photos and a good network."""
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(random.integers(0, 256, (40, 48, 3)).astype(np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    write(tmp_path / "good.safetensors", snapshot(Johnson(**ARGUMENTS), SPEC))
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run_on(command: str, net: Path, folder: Path, *more: str) -> Result:
    places = {"NET": net, "OUT": folder / "out", "GOOD": folder / "good.safetensors", "PHOTOS": folder / "photos"}
    rest = WITH_NET[command]
    for name, place in places.items():
        rest = rest.replace(name, str(place))
    return run(*command.split(), *rest.split(), *more)


def is_one_error(result: Result) -> None:
    assert result.exit_code == 1, result.output
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.output


# Files that are not what they should be, on every command


@pytest.mark.parametrize("command", WITH_NET)
@pytest.mark.parametrize("name", EVIL)
def test_a_pickle_is_named_and_not_run(command: str, name: str, folder: Path) -> None:
    for form in ("zip",) if command == "bench" else ("4", "zip"):  # bench opens files in a process of their own
        path = evil_file(folder / "evil.pth", name, form)
        result = run_on(command, path, folder)
        is_one_error(result)
        assert "evil.pth is a pickle that wants to run" in result.stderr
        assert name in result.stderr
        assert not path.with_suffix(".ran").exists()
        assert not (folder / "out").is_file()


@pytest.mark.parametrize("command", WITH_NET)
@pytest.mark.parametrize("factory", ["subprocess:check_output", "os:system"])
def test_a_factory_in_a_file_is_not_called(command: str, factory: str, folder: Path) -> None:
    write(folder / "evil.safetensors", snapshot(Johnson(**ARGUMENTS), SPEC))
    ran = folder / "ran"
    arguments = {"args": ["touch", str(ran)]} if "check_output" in factory else {"command": f"touch {ran}"}
    spec = {**SPEC.to_json(), "network": factory, "arguments": arguments}
    result = run_on(command, with_header(folder / "evil.safetensors", lambda h: {**h, "spec": spec}), folder)
    is_one_error(result)
    assert "needs code that it may not call by itself" in result.stderr
    assert not ran.exists()
    assert not (folder / "out").is_file()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", WITH_NET)
def test_files_that_are_no_networks(command: str, folder: Path) -> None:
    (folder / "foreign").mkdir()
    foreign_files(folder / "foreign")
    paths = [
        folder / "foreign" / name for name in (["notes.txt"] if command == "bench" else ["notes.txt", "noise.pth", "photo.jpg"])
    ]
    (folder / "empty.pth").touch()
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    for path in (*paths, folder / "empty.pth", folder / "short.safetensors", folder / "none.pth"):
        result = run_on(command, path, folder)
        is_one_error(result)
        assert path.name in result.stderr
        assert not (folder / "out").is_file()


@pytest.mark.parametrize("command", WITH_NET)
def test_weights_that_are_not_finite(command: str, folder: Path) -> None:
    tensors = Johnson(**ARGUMENTS).state_dict()
    tensors["up1.conv.bias"][2] = float("nan")
    torch.save(tensors, folder / "nan.pth")
    result = run_on(command, folder / "nan.pth", folder)
    is_one_error(result)
    assert "NaN or inf in up1.conv.bias" in result.stderr


@pytest.mark.parametrize("command", WITH_NET)
def test_errors_are_one_json_document(command: str, folder: Path) -> None:
    result = run_on(command, folder / "none.pth", folder, "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert set(error) == {"kind", "message", "hint"}
    assert "none.pth" in error["message"]


@pytest.mark.parametrize("command", sorted({c.split()[0] for c in WITH_NET} - {"bench", "inspect"}))
def test_a_hostile_network_is_never_the_output(command: str, folder: Path) -> None:
    """The output is the input: refused, and the input stays as it was."""
    good = folder / "good.safetensors"
    before = good.read_bytes()
    places = WITH_NET[command if command in WITH_NET else "train --like"].replace("-o OUT", f"-o {good}")
    for name, place in {"NET": good, "GOOD": good, "PHOTOS": folder / "photos"}.items():
        places = places.replace(name, str(place))
    more = ["--like"] if command == "train" else []
    is_one_error(run(command, *more, *places.split(), "--force"))
    assert good.read_bytes() == before


# Words that cannot be


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["strip"], "Missing argument 'NET'"),
        (["strip", "x.pth"], "Missing option '-o'"),
        (["strip", "x.pth", "-o", "y", "--nothing"], "No such option"),
        (["strip", "x.pth", "-o", "y", "--args", "{"], "--args is not JSON"),
        (["strip", "x.pth", "-o", "y", "--args", "[" * 100_000], "--args is not JSON"),
        (["strip", "x.pth", "-o", "y", "--args", "[1]"], "--args must be a JSON object"),
        (["strip", "x.pth", "-o", "y", "--example", "1x"], "not a shape: '1x'"),
        (["strip", "x.pth", "-o", "y", "--image-format", "hsv"], "unknown image format 'hsv'"),
        (["export", "x.pth", "-o", "y", "--size", "0"], "not a size: '0'"),
        (["stylize", "x.pth", "a.jpg", "-o", "y", "--seed", "-1"], "--seed"),
    ],
)
def test_usage_is_exit_code_2(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("error: ") == 1
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["error"]["kind"] == "usage"


def test_help_is_not_an_error() -> None:
    assert run("--help").exit_code == 0
    bare = run()
    assert bare.exit_code == 2
    assert "error" not in bare.output
    assert "Usage: " in bare.stderr
    assert run("--version").stdout == f"compress {compress.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"compress {name}" in result.stdout.partition("Examples:")[2]
    for option in ("--json", "--seed", "--quiet", "--force", "-h"):
        assert option in result.stdout
    command = main.get_command(click.Context(main), name)
    assert command
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, f"{parameter.name} has no help"


def test_python_dash_m_and_the_script_are_the_same() -> None:
    script = Path(sys.executable).with_name("compress")
    for command in ([sys.executable, "-m", "compress"], [str(script)]):
        if command[0] == str(script) and not script.exists():
            continue
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"compress {compress.__version__}\n"


# How errors become lines


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2, 0.4])
def test_ctrl_c_while_the_program_loads_is_no_traceback(delay: float) -> None:
    """Before a line of ours runs, Python itself may still answer; a traceback through our files is a defect."""
    process = subprocess.Popen([sys.executable, "-m", "compress", "strip", "no-such-file", "-o", "x"], stderr=subprocess.PIPE)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert b"Traceback" not in said or b"compress/" not in said, said
    assert process.returncode in (130, -signal.SIGINT, 1)  # 1: it was through already


def test_ctrl_c_has_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, errors_as_lines(True):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "stopped"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CompressError("what", "do this"), 1, "error: what\n  do this\n"),
        (UsageError("what"), 2, "error: what\n"),
        (BudgetError("over"), 3, "error: over\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (MemoryError(), 1, "error: out of memory\n  a smaller --size or --batch needs less\n"),
        (RuntimeError("can't allocate memory: 9"), 1, "error: out of memory\n  a smaller --size or --batch needs less\n"),
        (PermissionError(13, "Permission denied", "/some/file"), 1, "error: /some/file: Permission denied\n"),
    ],
)
def test_errors_as_lines(error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, errors_as_lines(False):
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err == words


@pytest.mark.parametrize("error", [ValueError("ours"), RuntimeError("ours"), OSError("no file")])
def test_programming_errors_stay_tracebacks(error: Exception) -> None:
    with pytest.raises(type(error)), errors_as_lines(False):
        raise error


def test_a_reader_that_leaves_is_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m compress --help"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command.split(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    assert b"Traceback" not in process.stderr.read()
    process.wait(timeout=30)


def test_what_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require("click", "train")
    with pytest.raises(MissingToolError, match="not_installed_at_all is not installed") as caught:
        require("not_installed_at_all", "export")
    assert caught.value.hint == "pip install 'mobile-compress[export]'"


@pytest.mark.parametrize("arguments", [["strip", "net.pth", "-o", "out"], ["export", "net.pth", "-o", "out"]])
def test_without_any_extra_a_command_names_the_one_it_needs(arguments: list[str], tmp_path: Path) -> None:
    """In a process where torch cannot be imported, as after a plain `pip install mobile-compress`."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from compress.cli import main; main({arguments!r})"
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 1
    assert said.stderr == "error: torch is not installed\n  pip install 'mobile-compress[train]'\n"


def test_talk_keeps_results_and_words_apart(capsys: pytest.CaptureFixture[str]) -> None:
    def speak(talk: Talk) -> tuple[str, str]:
        talk.say("word")
        talk.warn("care")
        talk.show("result")
        talk.table(["name", "bytes"], [["a", 7]])
        found = capsys.readouterr()
        return found.out, found.err

    out, err = speak(Talk())
    assert err == "word\nwarning: care\n"
    assert out.startswith("result\n")
    assert "bytes" in out
    assert speak(Talk(as_json=True)) == ("", "word\nwarning: care\n")
    assert speak(Talk(quiet=True))[1] == "warning: care\n"


def test_errors_as_json_have_one_shape() -> None:
    found: Any = UsageError("what", "do").to_json()
    assert found == {"error": {"kind": "usage", "message": "what", "hint": "do"}}
    assert str(UsageError("what", "do")) == "what (do)"


def test_messages_are_one_line_without_commands_to_the_terminal() -> None:
    error = CompressError("a\nb\x1b[31m \u202e grüße", "c\r\n")
    assert error.message == "a b [31m   grüße"
    assert error.hint == "c"


def test_tables_show_names_as_they_are_and_titles_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    title = "a title that is wider than the table below it, [bold] and :smile: included"
    Talk().table(("file", "ms"), [("[red]net:smile:.tflite", 7)], title=title)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == title
    assert "[red]net:smile:.tflite    7" in lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_becomes_of_ctrl_c_it_ends_as_ctrl_c(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    """An import that is interrupted raises ImportError: numpy's does. Handlers are as before afterwards."""
    before = signal.getsignal(number)

    def interrupted_import() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt as error:
            raise ImportError("numpy could not be imported") from error

    with pytest.raises(SystemExit) as caught, errors_as_lines(False):
        interrupted_import()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(number) is before
    with pytest.raises(ImportError, match="nobody asked"), errors_as_lines(False):
        raise ImportError("nobody asked to stop")


def test_the_onnx_of_an_export_brings_its_format_along(tmp_path: Path) -> None:
    from compress.cli.export import _format_by_card
    from export import runtime
    from export.artifact import write_card
    from tests.test_runtime import onnx_file

    path = onnx_file(tmp_path)
    assert _format_by_card(path) is None
    write_card(runtime.describe(path, PRESETS["imagenet"]))
    assert _format_by_card(path) == PRESETS["imagenet"]
    onnx_file(tmp_path, 6, 8)
    with pytest.raises(ArtifactError, match=r"swap\.onnx\.json does not match swap\.onnx"):
        _format_by_card(path)
