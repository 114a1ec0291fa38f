"""Files appear whole or not at all: written beside their name, then renamed. An input is never lost.

Never here: any file format.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compress.errors import OutputError


def check_output(path: Path, *, force: bool = False, inputs: Iterable[Path] = ()) -> Path:
    """Refuse early, before any work: an output that is an input, that exists (without `force`), or whose folder cannot be made.

    Leaves nothing behind. Returns `path`. Raises OutputError.
    """
    path = Path(path)
    for source in inputs:
        if path == Path(source) or (path.exists() and Path(source).exists() and path.samefile(source)):
            raise OutputError(f"{path} is the input", "give another output")
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "give a file name")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no regular file", "give a file name")  # renaming onto /dev/null would replace it
    if path.exists() and not force:
        raise OutputError(f"{path} exists", "--force replaces it")
    check_folder(path.parent)
    return path


def check_folder(folder: Path) -> Path:
    """Prove that `folder` can be made and a file written in it; leave no new folder. Raises OutputError."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder", "give another output")
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with said_as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".compress-"):
                pass
    finally:
        for place in new:
            with suppress(OSError):  # not made, or in use by someone else by now
                place.rmdir()
    return folder


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends well, delete it when it does not.

    Makes the folder. Durable: the data is on the disk before the name is. Raises OutputError for what the disk refuses.
    """
    path = Path(path)
    with said_as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
        partial = Path(name)
        try:
            os.close(handle)
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            partial.chmod(0o666 & ~_umask())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` whole, UTF-8, or not at all."""
    with write_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def identity(path: Path) -> dict[str, str]:
    """A file's name and sha256, for a history: says later which one it was, wherever it lay."""
    with open(path, "rb") as file:
        return {"file": Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextmanager
def said_as_output_error(path: Path) -> Iterator[None]:
    """Turn an OSError (full disk, no permission, a file where a folder should be) into one line that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"no space left on the disk for {path}", "free some, or write elsewhere") from error
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
