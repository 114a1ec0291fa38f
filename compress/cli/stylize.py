"""`compress stylize`: photos of any size through a network or a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, Talk, command, net_options, open_net, output_option
from compress.errors import CompressError, ImageError

if TYPE_CHECKING:
    from compress.image_format import Run
    from compress.networks.load import NetOptions
    from compress.stylize.feedforward import Sizes


@command(
    example="""
    compress stylize candy.pth holiday.jpg -o styled
    compress stylize wave_256x256_int8.tflite photos/ -o styled
    """
)
@click.argument("file", metavar="NET|FILE.onnx|FILE.tflite", type=PATH)
@click.argument("photos", metavar="PHOTO...", type=PATH, nargs=-1, required=True)
@output_option("Folder for the pictures: each becomes NAME.png.")
@net_options
def stylize(
    talk: Talk, file: Path, photos: tuple[Path, ...], output: Path, net: NetOptions, seed: int, force: bool
) -> dict[str, Any]:
    """Run a network on photos of any size that fits memory.

    A PHOTO can be a folder. Each picture that comes out has exactly the size of its photo. A file that takes one size only
    gets every photo scaled to that size, and its result is scaled back: sharper pictures need a network or an .onnx file.
    Photos are done one by one; the first that cannot be read ends the command, and those before it stay.
    """
    from compress.files import check_output
    from compress.memory import within_machine

    found = _listed(photos)
    outputs = name_outputs(found, output)
    for path in outputs:
        check_output(path, force=force, inputs=[file, *found])
    run, sizes = _open(file, net, talk)
    pictures = []
    with within_machine():
        for number, (photo, path) in enumerate(zip(found, outputs, strict=True), 1):
            picture = _stylize_one(run, sizes, photo, path, talk)
            height, width = picture["size"]
            talk.say(f"[{number}/{len(found)}] {path}: {width} wide, {height} high, {picture['seconds']:.2f} s")
            pictures.append(picture)
    if scaled := sum(picture["scaled"] for picture in pictures):
        talk.warn(f"{file.name} takes {_spelled(sizes.fixed or ())} only: {scaled} scaled to it and back, which costs detail")
    talk.show(f"{len(pictures)} pictures in {output}" if len(pictures) > 1 else str(outputs[0]))
    return {"pictures": pictures}


def name_outputs(photos: Sequence[Path], folder: Path) -> list[Path]:
    """`<stem>.png` in `folder` for each photo, `<stem>-2.png` and so on where the name is taken; no two are the same."""
    taken: set[str] = set()
    outputs = []
    for photo in photos:
        name, number = photo.stem, 1
        while name.lower() in taken:  # lower: some disks do not tell A from a
            number += 1
            name = f"{photo.stem}-{number}"
        taken.add(name.lower())
        outputs.append(folder / f"{name}.png")
    return outputs


def _listed(photos: Iterable[Path]) -> list[Path]:
    """Folders become the photos in them. A photo that is not there is told before any work."""
    from compress.photos import list_photos

    found = [path for photo in photos for path in (list_photos(photo) if photo.is_dir() else [photo])]
    for path in found:
        if not path.exists():
            raise ImageError(f"{path}: no such file")
    return found


def _open(file: Path, net: NetOptions, talk: Talk) -> tuple[Run, Sizes]:
    from compress.stylize.feedforward import Sizes, sizes_of

    if file.suffix.lower() not in (".onnx", ".tflite"):
        from compress.networks.run import run_of_network

        loaded = open_net(file, net, talk)
        run = run_of_network(loaded.module, loaded.spec)
        return run, sizes_of(run)

    from export.runtime import as_run, opened

    artifact = opened(file, net.image_format)
    run = as_run(artifact)
    return run, Sizes(fixed=artifact.card.size) if artifact.card.size else sizes_of(run)


def _stylize_one(run: Run, sizes: Sizes, photo: Path, path: Path, talk: Talk) -> dict[str, Any]:
    from compress.memory import is_exhausted
    from compress.photos import decode, encode
    from compress.stylize import feedforward

    started = time.perf_counter()
    try:
        pixels = decode(photo)
        result = feedforward.stylize(run, pixels, sizes)
    except (CompressError, MemoryError, RuntimeError) as error:
        if is_exhausted(error):
            raise ImageError(f"{photo} does not fit into memory", "give a smaller copy of it") from error
        if isinstance(error, CompressError) and str(photo) not in error.message:
            raise type(error)(f"{photo}: {error.message}", error.hint) from error
        raise
    encode(path, result)
    size = pixels.shape[:2]
    return {
        "photo": str(photo),
        "path": str(path),
        "size": list(size),
        "scaled": sizes.fixed not in (None, size),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _spelled(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
