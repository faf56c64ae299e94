"""Frames of an array in an NPZ file, read one by one: a header cannot make us allocate what it declares."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from pvision.errors import CorruptVideoError, DataError

__all__ = ["NpzFrames"]


class NpzFrames:
    """An array ``(T, H, W)`` of bools or whole numbers in an NPZ file, of which nothing is unpickled.

    Args:
        path: the file.
        key: the array's name.

    Attributes:
        shape: of the array, as its header declares it.

    Raises:
        CorruptVideoError: if the file is missing, or no NPZ.
        DataError: if it lacks the array, or the array has another shape, layout or type.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        with self._opened() as file:
            self.shape, self._dtype = self._header(file)
            self._start = file.tell()

    def read(self, positions: Sequence[int]) -> "np.ndarray[Any, Any]":
        """Return the frames at ``positions``, which rise and may repeat.

        Raises:
            CorruptVideoError: if the array is damaged or ends before one of them.
        """
        _, height, width = self.shape
        with self._opened() as file:
            frames = {position: self._frame(file, position) for position in sorted(set(positions))}
        return np.stack([frames[position] for position in positions]).reshape(-1, height, width)

    def _frame(self, file: IO[bytes], position: int) -> "np.ndarray[Any, Any]":
        size = self.shape[1] * self.shape[2] * self._dtype.itemsize
        file.seek(self._start + position * size)
        data = file.read(size)
        if len(data) < size:
            raise CorruptVideoError(self._path, f"the array {self._key!r} ends before frame {position}")
        return np.frombuffer(data, self._dtype)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{self._key}.npy") as file:
                yield file
        except KeyError as error:
            raise DataError(
                f"{self._path} holds no array {self._key!r}. Save it with np.savez({self._key}=…)."
            ) from error
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise CorruptVideoError(self._path, f"it cannot be read as NPZ ({error})") from error

    def _header(self, file: IO[bytes]) -> "tuple[tuple[int, ...], np.dtype[Any]]":
        try:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read_header(file)
        except (ValueError, SyntaxError, TypeError, TokenError) as error:  # numpy evaluates the header as a literal
            raise CorruptVideoError(self._path, f"the array {self._key!r} has no readable header") from error
        if len(shape) != 3 or min(shape) < 1 or fortran or dtype.kind not in "bui":
            order = "Fortran" if fortran else "C"
            raise DataError(
                f"{self._path}: the array {self._key!r} must be (T, H, W), bool or whole numbers in C order, but "
                f"{shape}, {dtype} in {order} order came."
            )
        return shape, dtype
