"""Arrays of bytes in IDX files, the format of MNIST and its successors, plain or compressed by gzip or xz."""

import gzip
import lzma
import math
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from pvision.errors import DataError

__all__ = ["encode_idx", "read_idx"]

_UBYTE = 8
_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_MOST = 2**31  # bytes of an array; a header that declares more is refused


def read_idx(path: Path, *, dims: int) -> npt.NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes.

    Args:
        path: the file; its ending ``.gz`` or ``.xz`` tells how it is compressed.
        dims: how many dimensions it must have.

    Raises:
        DataError: if the file cannot be read, or is not such an array.
    """
    opener = _OPENERS.get(path.suffix)
    try:
        with path.open("rb") if opener is None else opener(path, "rb") as file:  # type: ignore[operator]  # opens bytes
            return _read(file, path, dims)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Look at the data's root.") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read ({error}). Fetch the file again.") from error


def encode_idx(array: npt.NDArray[np.uint8]) -> bytes:
    """Return the bytes of an IDX file.

    Args:
        array: uint8.
    """
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, _UBYTE, array.ndim]) + sizes + np.ascontiguousarray(array).tobytes()


def _read(file: IO[bytes], path: Path, dims: int) -> npt.NDArray[np.uint8]:
    head = file.read(4 + 4 * dims)
    if len(head) < 4 + 4 * dims or head[:4] != bytes([0, 0, _UBYTE, dims]):
        raise DataError(f"{path} is no IDX file of unsigned bytes in {dims} dimensions. Fetch the file again.")
    shape = tuple(int.from_bytes(head[start : start + 4], "big") for start in range(4, len(head), 4))
    size = math.prod(shape)
    if size > _MOST:
        raise DataError(f"{path} declares {shape}, more than {_MOST} bytes. Fetch the file again.")
    content = file.read(size + 1)
    if len(content) != size:
        more = "more" if len(content) > size else f"{len(content)}"
        raise DataError(f"{path} declares {shape}, {size} bytes, but holds {more}. Fetch the file again.")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()
