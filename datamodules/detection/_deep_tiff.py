"""Reading of the TIFF files that Pillow cannot read, or reads with loss: several channels of more than 8 bits.

Pillow turns 16-bit colours into 8-bit ones without a word, drops channels beyond the fourth, and knows no channels of
floating-point numbers; it takes signed bytes for unsigned ones. Only its parser of tags is used here.

[0] TIFF, revision 6.0. Adobe, 1992.
"""

import zlib
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pvision.errors import DataError

__all__ = ["DeepTiff", "deep_tiff"]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 273, 277
_ROWS, _COUNTS, _PLANAR, _PREDICTOR, _FORMAT = 278, 279, 284, 317, 339
_UNCOMPRESSED, _DEFLATE, _OLD_DEFLATE = 1, 8, 32946
_KINDS = {1: "u", 2: "i", 3: "f"}
_BIG = 43  # of BigTIFF, whose header is twice as long


class DeepTiff(NamedTuple):
    """The first page of a TIFF that Pillow cannot read as it is.

    Attributes:
        path: the file.
        shape: channels, height, width.
        dtype: of the values, with their byte order.
        tags: of the page, by number.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    tags: dict[int, Any]

    def read(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the values, ``(C, H, W)``.

        Raises:
            DataError: if they are stored in a way that is not read here, or the file is damaged.
        """
        (channels, height, width), tags = self.shape, self.tags
        if tags.get(_COMPRESSION, 1) not in (_UNCOMPRESSED, _DEFLATE, _OLD_DEFLATE) or _OFFSETS not in tags:
            raise self._unread("is compressed otherwise than by deflate, or is stored in tiles")
        if tags.get(_PREDICTOR, 1) != 1:
            raise self._unread("is stored as differences (predictor)")
        planes = channels if tags.get(_PLANAR, 1) == 2 else 1
        rows = min(height, int(tags.get(_ROWS, height)))
        strips = -(-height // rows)
        if len(tags[_OFFSETS]) != planes * strips or len(tags.get(_COUNTS, ())) != planes * strips:
            raise self._unread("names another number of strips than its size asks for")
        parts = []
        with self.path.open("rb") as file:
            for number, (offset, count) in enumerate(zip(tags[_OFFSETS], tags[_COUNTS], strict=True)):
                held = min(rows, height - number % strips * rows)
                parts.append(self._strip(file, offset, count, (held, width, channels // planes)))
        values = np.concatenate(parts).reshape(planes, height, width, channels // planes)
        return values[..., 0] if planes > 1 else np.moveaxis(values[0], -1, 0)

    def _strip(self, file: Any, offset: int, count: int, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[Any]]:
        wanted = prod(shape) * self.dtype.itemsize
        file.seek(offset)
        content = file.read(min(count, 2 * wanted + 1024))  # deflate makes nothing much longer than it was
        if self.tags.get(_COMPRESSION, 1) != _UNCOMPRESSED:
            content = zlib.decompressobj().decompress(content, wanted)
        if len(content) < wanted:
            raise DataError(f"The image {self.path} is truncated. Take it anew from its source, or leave it out.")
        return np.frombuffer(content[:wanted], self.dtype)

    def _unread(self, reason: str) -> DataError:
        return DataError(
            f"The image {self.path} has {self.shape[0]} channels of type {self.dtype.name} and {reason}. Save it "
            "uncompressed, its channels as pages, or as .npy of (C, H, W)."
        )


def deep_tiff(path: Path) -> DeepTiff | None:
    """Return how the first page of a TIFF is stored, if Pillow cannot read it as it is; else None.

    Args:
        path: a file that begins as a TIFF does.

    Raises:
        DataError: if values have no type that numpy knows, or the file has further pages of such values.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    with path.open("rb") as file:
        head = file.read(8)
        directory = ImageFileDirectory_v2(head + file.read(8) if head[2] == _BIG else head)
        file.seek(directory.next)
        directory.load(file)
        tags = {number: directory[number] for number in directory}
    samples, bits = int(tags.get(_SAMPLES, 1)), set(tags.get(_BITS, (1,)))
    formats = set(tags.get(_FORMAT, (1,)))
    widest = max(bits)
    misread = (widest == 32 and formats == {1}) or (widest == 8 and formats == {2})  # as signed, as unsigned
    if not (misread or samples > 4 or (samples > 1 and widest > 8) or widest > 32):
        return None
    if directory.next:
        raise DataError(f"The image {path} has several pages of {samples} channels of {widest} bits. Save it as .npy.")
    if len(bits) > 1 or len(formats) > 1 or not formats <= set(_KINDS) or not widest % 8 == 0 < widest <= 64:
        raise DataError(f"The image {path} has channels of {sorted(bits)} bits. Save them as uint16, float32 or .npy.")
    order = "<" if directory.prefix == b"II" else ">"
    dtype = np.dtype(f"{order}{_KINDS[formats.pop()]}{widest // 8}")
    return DeepTiff(path, (samples, int(tags[_HEIGHT]), int(tags[_WIDTH])), dtype, tags)
