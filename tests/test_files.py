"""Files appear whole or not at all; an input is never lost."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from compress.checkpoint import Checkpoint, write
from compress.errors import OutputError
from compress.files import check_folder, check_output, write_text, write_whole
from compress.spec import ModelSpec

ROOT = Path(__file__).parent.parent
NET = Checkpoint(ModelSpec("johnson"), {"w": torch.arange(100_000.0)})


def test_a_new_output_and_its_folders(tmp_path: Path) -> None:
    path = check_output(tmp_path / "a" / "b" / "net")
    assert list(tmp_path.iterdir()) == []  # proved, and nothing left when nothing is written
    write_text(path, "grüße\n")
    assert path.read_bytes() == "grüße\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_text("old")
    with pytest.raises(OutputError, match="net exists") as caught:
        check_output(path)
    assert caught.value.hint == "--force replaces it"
    assert caught.value.exit_code == 1
    write_text(check_output(path, force=True), "new")
    assert path.read_text() == "new"


def test_an_output_that_is_the_input_is_refused_even_with_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net"
    path.write_text("old")
    (tmp_path / "symbolic").symlink_to(path)
    os.link(path, tmp_path / "hard")
    monkeypatch.chdir(tmp_path)
    for other in (path, Path("net"), Path("../") / tmp_path.name / "net", tmp_path / "symbolic", tmp_path / "hard"):
        with pytest.raises(OutputError, match="is the input"):
            check_output(other, force=True, inputs=[tmp_path / "none", path])
    assert path.read_text() == "old"


def test_outputs_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, force=True)
    with pytest.raises(OutputError, match="is no regular file"):
        check_output(Path("/dev/null"), force=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file, not a folder"):
        check_output(tmp_path / "file" / "net")
    with pytest.raises(OutputError, match="cannot write"):
        check_output(tmp_path / "file" / "deeper" / "net")


def test_long_names(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 250), "x")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / ("n" * 300), "x")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="root writes everywhere")
def test_a_folder_that_cannot_be_written() -> None:
    folder = Path("/proc/self") if os.geteuid() == 0 else Path("/")
    with pytest.raises(OutputError, match="cannot write"):
        check_folder(folder)


def test_new_folders_go_again_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    check_folder(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    with pytest.raises(OutputError, match="cannot write"):
        check_folder(tmp_path / "a" / "b" / ("n" * 300))
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_text("old")

    def fail(error: type[BaseException]) -> None:
        with write_whole(path) as partial:
            partial.write_text("half")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_by_its_error(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:1000])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"no space left on the disk for .*net") as caught:
        write(tmp_path / "net", NET)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_allowed(tmp_path: Path) -> None:
    """A real refusal by the system, in a process of its own."""
    code = """
        import resource, signal, sys, torch
        from pathlib import Path
        from compress.checkpoint import write
        from compress.errors import OutputError
        from tests.test_files import NET
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            write(Path(sys.argv[1]), NET)
        except OutputError as error:
            print(error.message)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "net"], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    )
    assert "cannot write" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from compress.cli.common import errors_as_lines
        from compress.files import write_whole
        with errors_as_lines(False), write_whole(Path(sys.argv[1])) as partial:
            partial.write_text("half")
            print("writing", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "net"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.1)
    process.send_signal(number)
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 130
    assert talk == b"stopped\n"
    assert list(tmp_path.iterdir()) == []
