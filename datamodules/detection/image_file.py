"""Reading of sensor images as they are: 8 or 16 bits, integers or floating point, any number of channels.

Pillow's ``convert("L")`` saturates 16-bit images at 255, and its 16-bit colours have 8 bits. Neither comes in here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pvision.datamodules.detection._deep_tiff import DeepTiff, deep_tiff
from pvision.datamodules.detection._netpbm import deep_netpbm
from pvision.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "image_shape", "read_image"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".npy"})
"""Files that are taken for images when a folder is listed."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM")
_PIXELS, _VALUES = 80_000_000, 320_000_000  # Pillow itself warns from 89 million pixels on
_CHANNELS = {"1": 1, "L": 1, "I": 1, "F": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "LA": 1, "RGB": 3, "RGBA": 3, "P": 3}
_CHANNELS |= {"PA": 3}
_ORIENTATION, _UPRIGHT = 0x0112, (None, 0, 1)
_GREY_SPREAD = 4.0  # grey levels: what rounding of a grey JPEG's colours leaves on average, and more
_Array = np.ndarray[Any, np.dtype[Any]]


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return channels, height and width of an image from its header; transparency is no channel.

    Args:
        path: the file.

    Raises:
        DataError: naming the file, if it is missing, no image, too large, turned by its EXIF tag, or of a colour space
            that is not read.
    """
    with _naming(path), _stored(path) as stored:
        return _shape(path, stored)


def read_image(path: Path, *, channels: int | None = None) -> Tensor:
    """Return an image's values as they are stored.

    Pages of a TIFF are channels. A palette is replaced by its colours, black and white are 0 and 255. Transparency is
    dropped where nothing is transparent, and refused elsewhere, unless four channels are asked for. Whole numbers
    beyond 2**24 are rounded to float32; NaN and infinity stay.

    Args:
        path: PNG, JPEG, TIFF of either byte order, BMP, PGM, PPM, or ``.npy`` of ``(H, W)`` or ``(C, H, W)``.
        channels: how many must come out. 1 makes three equal channels one, 3 makes one channel three equal ones, 4
            takes transparency for a channel; None leaves them as they are.

    Returns:
        float32, ``(C, H, W)``.

    Raises:
        DataError: as `image_shape`; also if the file is damaged or has other channels.
        MissingExtraError: if Pillow is not installed; ``.npy`` files need none.
    """
    with _naming(path), _stored(path) as stored:
        _shape(path, stored)
        values = _values(path, stored, keep_alpha=channels == 4)
        image = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    return image if channels is None else _with_channels(image, channels, path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into an error that names the file."""
    try:
        yield
    except (DataError, MissingExtraError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"There is no image {path}. Check the data's folder against its list.") from error
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error on damaged files
        reason = str(error) or type(error).__name__
        raise DataError(
            f"The image {path} cannot be read ({reason}). Take it anew from its source, or leave it out."
        ) from error


@contextmanager
def _stored(path: Path) -> Iterator["Image | DeepTiff | _Array"]:
    """Open an image, so that its header is read and its values are not."""
    if path.suffix.lower() == ".npy":
        yield np.load(path, mmap_mode="r", allow_pickle=False)
        return
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("PIL", "detection", f"Reading {path.name}") from error
    with path.open("rb") as file:
        head = file.read(4)
    if head in (b"II*\0", b"MM\0*", b"II+\0") and (deep := deep_tiff(path)) is not None:
        yield deep
        return
    with Image.open(path, formats=_FORMATS) as image:
        yield image


def _shape(path: Path, stored: "Image | DeepTiff | _Array") -> tuple[int, int, int]:
    if isinstance(stored, np.ndarray):
        shape = _array_shape(path, stored)
    elif isinstance(stored, DeepTiff):
        shape = stored.shape
    elif stored.mode in _CHANNELS:
        pages = getattr(stored, "n_frames", 1) if stored.format == "TIFF" else 1
        shape = (_CHANNELS[stored.mode] * pages, stored.height, stored.width)
    else:
        raise DataError(f"The image {path} has the colour space {stored.mode}. Save it as grey or RGB.")
    channels, height, width = shape
    if min(shape) < 1 or height * width > _PIXELS or channels * height * width > _VALUES:
        raise DataError(
            f"The image {path} has {width} x {height} pixels of {channels} channels; from 1 to {_PIXELS:,} pixels and "
            f"{_VALUES:,} values are read. Cut it into parts."
        )
    if (turned := _orientation(stored)) not in _UPRIGHT:
        raise DataError(
            f"The image {path} is to be turned when shown (EXIF orientation {turned}), and nothing says whether its "
            "boxes were drawn before or after. Save it turned and without the tag."
        )
    return shape


def _orientation(stored: "Image | DeepTiff | _Array") -> object:
    if isinstance(stored, np.ndarray):
        return None
    if isinstance(stored, DeepTiff):
        return stored.tags.get(_ORIENTATION)
    if stored.format == "PNG" and "exif" not in stored.info:
        return None  # Pillow would decode the whole image to look for it
    return stored.getexif().get(_ORIENTATION)


def _array_shape(path: Path, array: _Array) -> tuple[int, int, int]:
    if array.ndim not in (2, 3) or array.dtype.kind not in "buif":
        raise DataError(
            f"The array {path} must be (H, W) or (C, H, W) of numbers, but {array.shape} of {array.dtype} came."
        )
    if array.ndim == 3 and array.shape[0] > 4 * array.shape[2]:
        raise DataError(f"The array {path} of {array.shape} looks like (H, W, C). Save it as (C, H, W).")
    return (1, *array.shape)[-3:]


def _values(path: Path, stored: "Image | DeepTiff | _Array", *, keep_alpha: bool) -> _Array:
    if isinstance(stored, np.ndarray):
        return stored if stored.ndim == 3 else stored[None]
    if isinstance(stored, DeepTiff):
        return stored.read()
    if stored.format == "PNG" and stored.mode in ("RGB", "LA", "RGBA") and (kind := _deep_png_kind(path)):
        return _without_alpha(_deep_png(path, kind), 65535, path, keep=keep_alpha)
    if stored.format == "PPM" and (deep := deep_netpbm(path)) is not None:
        return deep
    if stored.format == "TIFF" and getattr(stored, "n_frames", 1) > 1:
        return _pages(stored, path)
    return _page(stored, path, keep_alpha=keep_alpha)


def _pages(image: Any, path: Path) -> _Array:
    pages = []
    for number in range(image.n_frames):
        image.seek(number)
        pages.append(_page(image, path, keep_alpha=False))
    shapes = [page.shape for page in pages]
    if len(set(shapes)) > 1:
        raise DataError(f"The pages of {path} are channels, but differ in their shapes: {shapes}. Save them alike.")
    return np.concatenate(pages)


def _page(image: Any, path: Path, *, keep_alpha: bool) -> _Array:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    values = np.asarray(image)
    if values.dtype == np.bool_:
        values = values * np.uint8(255)
    planes = np.moveaxis(values, -1, 0) if values.ndim == 3 else values[None]
    return _without_alpha(planes, 255, path, keep=keep_alpha)


def _without_alpha(planes: _Array, opaque: int, path: Path, *, keep: bool) -> _Array:
    if len(planes) not in (2, 4) or (keep and len(planes) == 4):
        return planes
    if (planes[-1] != opaque).any():
        raise DataError(
            f"The image {path} is transparent in places, and what is meant there is unclear. Save it without "
            "transparency; if its fourth channel is data, ask for 4 channels."
        )
    return planes[:-1]


def _deep_png_kind(path: Path) -> str | None:
    with path.open("rb") as file:
        bits, colour = file.read(26)[24:]
    return {2: "RGB", 4: "LA", 6: "RGBA"}.get(colour) if bits == 16 else None


def _deep_png(path: Path, kind: str) -> _Array:
    """Return all 16 bits of a PNG's colours, of which Pillow gives the upper eight."""
    from PIL import Image

    if kind == "LA":
        raise DataError(f"The image {path} is 16-bit grey with transparency. Save it without transparency.")
    with Image.open(path, formats=_FORMATS) as upper, Image.open(path, formats=_FORMATS) as lower:
        decoded: Any = lower
        # Taken for little-endian, the lower byte of each value is the upper one.
        decoded.tile = [(*decoded.tile[0][:3], f"{kind};16L")]
        values = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    return np.moveaxis(values, -1, 0)


def _with_channels(image: Tensor, channels: int, path: Path) -> Tensor:
    if len(image) == channels:
        return image
    if channels == 3 and len(image) == 1:
        return image.expand(3, -1, -1).contiguous()
    if channels == 1 and len(image) == 3:
        if torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]):
            return image[:1]
        if float((image.amax(0) - image.amin(0)).mean()) > _GREY_SPREAD:
            raise DataError(f"The image {path} is coloured, but one channel is expected. Is it the RGB image?")
        return image.mean(0, keepdim=True)
    raise DataError(f"The image {path} has {len(image)} channels, but {channels} are expected.")
