"""Every kind of picture becomes upright RGB; what is none is one line that names the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.errors import ImageError, OutputError
from compress.photos import decode, encode, fit, list_photos, resize

GRADIENT = np.stack(np.broadcast_arrays(np.arange(70)[:, None] * 3, np.arange(50)[None] * 5, 40), -1).astype(
    np.uint8
)  # (70, 50, 3)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_exact_formats(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(GRADIENT), **({"lossless": True} if suffix == "webp" else {}))
    found = decode(path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, GRADIENT)


def test_jpeg(tmp_path: Path) -> None:
    found = decode(saved(tmp_path / "a.jpg", Image.fromarray(GRADIENT), quality=95))
    assert np.abs(found.astype(int) - GRADIENT).mean() < 3


def test_grey(tmp_path: Path) -> None:
    found = decode(saved(tmp_path / "a.png", Image.fromarray(GRADIENT[..., 0])))
    assert np.array_equal(found, np.repeat(GRADIENT[..., :1], 3, 2))


def test_black_and_white(tmp_path: Path) -> None:
    found = decode(saved(tmp_path / "a.png", Image.fromarray(GRADIENT[..., 0]).convert("1")))
    assert set(np.unique(found)) == {0, 255}
    assert found.shape == (70, 50, 3)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    alpha = np.full((70, 50, 1), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 51
    found = decode(saved(tmp_path / "a.png", Image.fromarray(np.concatenate([GRADIENT, alpha], 2))))
    assert np.array_equal(found[20:], GRADIENT[20:])
    assert (found[:10] == 255).all()
    assert np.abs(found[10:20] - (0.2 * GRADIENT[10:20] + 0.8 * 255)).max() <= 1


def test_grey_with_alpha_and_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    grey = np.stack([GRADIENT[..., 0], np.full((70, 50), 255, np.uint8)], -1)
    grey[:10, :, 1] = 0
    found = decode(saved(tmp_path / "a.png", Image.fromarray(grey, "LA")))
    assert (found[:10] == 255).all()
    assert np.array_equal(found[10:, :, 2], GRADIENT[10:, :, 0])
    palette = Image.fromarray(np.tile(np.arange(2, dtype=np.uint8), (4, 3)), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    found = decode(saved(tmp_path / "b.png", palette, transparency=1))
    assert found[0, :2].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_cmyk(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT).convert("CMYK")
    for name, options, gap in (("a.tiff", {}, 1), ("a.jpg", {"quality": 95}, 5)):
        found = decode(saved(tmp_path / name, image, **options))
        assert np.abs(found.astype(int) - GRADIENT).mean() < gap


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int, tmp_path: Path) -> None:
    flat = Image.fromarray(GRADIENT)
    # What a camera stores so that the picture is upright after the rotation that the tag asks for.
    undo = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }
    stored = flat.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else flat
    exif = Image.Exif()
    exif[274] = orientation
    assert np.array_equal(decode(saved(tmp_path / "a.png", stored, exif=exif)), GRADIENT)


@pytest.mark.parametrize("levels", [np.linspace(0, 65535, 70), np.linspace(0, 200, 70)])
def test_sixteen_bit_grey_is_scaled_by_its_type_not_its_content(levels: np.ndarray, tmp_path: Path) -> None:
    wide = np.repeat(levels[:, None], 50, 1).astype(np.uint16)
    for suffix in ("png", "tiff"):
        found = decode(saved(tmp_path / f"a.{suffix}", Image.fromarray(wide)))
        assert np.array_equal(found, np.repeat(np.rint(wide / 257)[..., None], 3, 2))


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    """Written by hand: Pillow writes no 16-bit colour."""
    import struct
    import zlib

    wide = GRADIENT.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 50, 70, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert np.array_equal(decode(tmp_path / "a.png"), GRADIENT)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tiff", Image.fromarray(np.random.default_rng(0).random((7, 9), np.float32)))
    with pytest.raises(ImageError, match=r"a\.tiff cannot be read: it holds floating-point numbers"):
        decode(path)


def test_a_moving_picture_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (decode(tmp_path / "a.gif") == (255, 0, 0)).all()


# What is no picture


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is no photo")
    (tmp_path / "empty.png").touch()
    for name, words in (
        ("text.jpg", "is not a picture"),
        ("empty.png", "is not a picture"),
        ("none.jpg", "no such file"),
        (".", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            decode(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
        assert caught.value.exit_code == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "webp"])
def test_truncated_and_damaged_pictures(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 50, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    whole, path, random = buffer.getvalue(), tmp_path / f"a.{suffix}", np.random.default_rng(1)
    for length in (1, 10, 100, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=f"a.{suffix}") as caught:
            decode(path)
        assert "\n" not in caught.value.message
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(whole), 600), 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            decode(path)
        except ImageError:
            continue


def test_a_picture_larger_than_any_photo(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("1", (20_000, 10_000)))
    with pytest.raises(ImageError, match="is too large"):
        decode(path)


# Writing, listing, sizes


def test_writing_rounds_and_clamps(tmp_path: Path) -> None:
    encode(tmp_path / "a.png", np.array([[[-5.0, 0.6, 254.4], [300, 0.4, 7]]]))
    assert decode(tmp_path / "a.png").tolist() == [[[0, 1, 254], [255, 0, 7]]]
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


def test_a_suffix_that_is_no_picture(tmp_path: Path) -> None:
    for name in ("a.txt", "a", "a.psd"):
        with pytest.raises(ImageError, match="no picture format has the suffix"):
            encode(tmp_path / name, GRADIENT)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError):
        encode(tmp_path / "file" / "a.png", GRADIENT)


def test_listing(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "a.png", "deep/c.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in list_photos(tmp_path)] == ["a.png", "b.JPG", "deep/c.webp"]


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no photos in"):
        list_photos(tmp_path)
    with pytest.raises(ImageError, match="is no folder"):
        list_photos(tmp_path / "none")


def test_resize_and_fit() -> None:
    assert resize(GRADIENT, 31, 97).shape == (31, 97, 3)
    for size in ((31, 97), (97, 31), (70, 50), (1, 1)):
        assert fit(GRADIENT, *size).shape == (*size, 3)
    assert np.array_equal(fit(GRADIENT, 70, 50), GRADIENT)
    middle = fit(GRADIENT, 50, 50)
    assert np.array_equal(middle, GRADIENT[10:60])
