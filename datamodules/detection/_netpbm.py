"""Reading of the PGM and PPM files that Pillow rescales: those whose largest value is not 255.

Pillow stretches 14-bit grey values to 16 bits, and squeezes 16-bit colours into 8.

[0] Netpbm: the formats PGM and PPM, https://netpbm.sourceforge.net/doc/pgm.html
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from pvision.errors import DataError

__all__ = ["deep_netpbm"]

_HEADER = re.compile(rb"P([2356])" + 3 * rb"(?:\s|#[^\n\r]*[\n\r])+(\d+)" + rb"\s")
_BINARY = {b"5": 1, b"6": 3}
_LONGEST_HEADER = 4096


def deep_netpbm(path: Path) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return the values of a PGM or PPM as they are stored, ``(C, H, W)``; None if Pillow gives these.

    Raises:
        DataError: if the file is truncated, or holds such values as text.
    """
    with path.open("rb") as file:
        header = _HEADER.match(file.read(_LONGEST_HEADER))
    if header is None:
        return None
    width, height, largest = (int(number) for number in header.groups()[1:])
    if largest == 255 or (header[1], largest) == (b"2", 65535):
        return None
    if header[1] not in _BINARY:
        raise DataError(f"The image {path} holds values up to {largest} as text. Save it in binary form.")
    shape = (height, width, _BINARY[header[1]])
    values = np.fromfile(path, ">u2" if largest > 255 else "u1", height * width * shape[2], offset=header.end())
    if values.size < height * width * shape[2]:
        raise DataError(f"The image {path} is truncated. Take it anew from its source, or leave it out.")
    return np.moveaxis(values.reshape(shape), -1, 0)
