"""Photos in, pictures out: (H, W, 3) uint8 RGB, upright. Grey, palette, CMYK, alpha and 16 bit all end there.

numpy and Pillow only. Never here: value ranges of tensors (image_format.py), resizing for a network.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from compress.errors import ImageError
from compress.files import write_whole

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB
# What Pillow raises on damaged bytes, found by damaging files of every format.
_DAMAGE = (SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError, struct.error)
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def list_photos(folder: Path) -> list[Path]:
    """Every image file below `folder`, sorted. Raises ImageError when there is no folder or no photo in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder} is no folder", "give a folder of photos")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
    if not found:
        raise ImageError(f"no photos in {folder}", f"looked for {', '.join(sorted(SUFFIXES))}")
    return found


def decode(path: Path) -> Pixels:
    """Read one photo: EXIF rotation applied, transparency laid over white, 16 bit scaled to 8. Raises ImageError."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd metadata and the like: the picture counts
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _upright_rgb(image)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not a picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} is too large: {error}") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise ImageError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error


def encode(path: Path, pixels: NDArray[np.generic]) -> None:
    """Write (H, W, 3) RGB pixels, 0..255, rounded and clamped, in the format of the suffix (.png, .jpg ...); whole or not."""
    path = Path(path)
    format_name = Image.registered_extensions().get(path.suffix.lower(), "")
    if format_name not in Image.SAVE:
        raise ImageError(f"{path}: no picture format has the suffix {path.suffix!r}", "use .png or .jpg")
    rounded = np.clip(np.rint(np.asarray(pixels, np.float32)), 0, 255).astype(np.uint8)
    with write_whole(path) as partial:
        Image.fromarray(rounded).save(partial, format=format_name, quality=95)  # quality: for JPEG and WebP; PNG ignores it


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """High-quality (Lanczos) resize to exactly height x width; the aspect is the caller's business."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def fit(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale so that the photo just covers height x width, then crop the middle: nothing is distorted."""
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    tall, wide = (max(side, round(n * scale)) for side, n in zip((height, width), pixels.shape[:2], strict=True))
    scaled = resize(pixels, tall, wide) if (tall, wide) != pixels.shape[:2] else pixels
    top, left = (tall - height) // 2, (wide - width) // 2
    return scaled[top : top + height, left : left + width]


def _upright_rgb(image: Image.Image) -> Pixels:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bit, whether Pillow holds it in 16 or in 32
        grey = np.clip(np.rint(np.asarray(image, np.float64) / 257), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers, whose range is not known")
    if image.mode in ("P", "PA", "LA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))
