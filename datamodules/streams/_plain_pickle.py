"""Reading of pickles that hold plain data and numpy arrays, without running anything that they ask for.

A pickle is a program. This reader knows three names of numpy, replaces them by stand-ins that only note what came, and
refuses every other name before it is looked up.
"""

import io
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from pvision.errors import DataError

__all__ = ["plain_array", "read_plain_pickle"]

_MAX_BYTES = 2**29  # the largest file of CIFAR has a third of it
_KINDS = {"u1": "bytes", "i8": "64-bit whole numbers"}


class _NotedType:
    """Stands for ``numpy.dtype``."""

    def __init__(self, *arguments: object) -> None:
        self._kind = arguments[0] if arguments else None
        self._order: object = None

    def __setstate__(self, state: object) -> None:
        """Note the byte order, which is all of the state that plain numbers have."""
        self._order = state[1] if isinstance(state, tuple) and len(state) > 1 else None

    def is_a(self, kind: str) -> bool:
        """Return whether it is this kind of number, in little-endian order where it has more than a byte."""
        ordered = kind == "u1" or self._order in ("<", b"<")
        return ordered and self._kind in (kind, kind.encode())


class _NotedArray:
    """Stands for ``numpy.ndarray``."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self, kind: Literal["u1", "i8"] = "u1") -> npt.NDArray[Any]:
        """Return the array that was pickled; read-only.

        Raises:
            DataError: if it is not one of this kind, in C order, with as many numbers as its shape says.
        """
        if isinstance(self.state, tuple) and len(self.state) == 5:
            _, shape, noted, fortran, content = self.state
            right_kind = isinstance(noted, _NotedType) and noted.is_a(kind)
            if right_kind and not fortran and isinstance(content, bytes) and isinstance(shape, tuple):
                dtype = np.dtype(f"<{kind}")
                sides = all(isinstance(side, int) and side > 0 for side in shape)
                if sides and math.prod(shape) * dtype.itemsize == len(content):
                    return np.frombuffer(content, dtype=dtype).reshape(shape)
        raise DataError(f"an array in it is not one of {_KINDS[kind]} in C order.")


def _reconstruct(*_: object) -> _NotedArray:
    return _NotedArray()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Stand for ``_codecs.encode``, by which Python 3 writes bytes into pickles that Python 2 can read."""
    if isinstance(text, str) and encoding == "latin1":
        return text.encode("latin1")
    raise DataError("it encodes text in another way than latin1.")


class _PlainUnpickler(pickle.Unpickler):
    _known: dict[tuple[str, str], Any] = {  # noqa: RUF012  # read only, and private
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _NotedArray,
        ("numpy", "dtype"): _NotedType,
        ("_codecs", "encode"): _encode,
    }

    @override
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known = self._known.get((module_name, global_name))
        if known is None:
            raise DataError(f"it asks for {module_name}.{global_name}, which plain data does not need.")
        return known


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Return the dictionary in a pickle file; arrays of bytes become numpy arrays, texts are ``str``.

    Args:
        path: a file of Python 2 or 3.

    Raises:
        DataError: if it cannot be read, is damaged, asks for code, or holds no dictionary.
    """
    with _refused(path):
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"it is larger than {_MAX_BYTES} bytes.")
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="bytes").load()
        if not isinstance(content, dict):
            raise DataError(f"it holds a {type(content).__name__} where a dictionary is expected.")
        return {
            _text(key): value.array() if isinstance(value, _NotedArray) else value for key, value in content.items()
        }


def plain_array(content: bytes, *, kind: Literal["u1", "i8"], path: Path) -> npt.NDArray[Any]:
    """Return the array that a pickle consists of; read-only.

    Args:
        content: the pickle, uncompressed.
        kind: what numbers it must have: ``"u1"``, bytes, or ``"i8"``, little-endian 64-bit whole numbers.
        path: where it was read, for errors.

    Raises:
        DataError: if it is damaged, asks for code, or holds no array of this kind.
    """
    with _refused(path):
        noted = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(noted, _NotedArray):
            raise DataError(f"it holds a {type(noted).__name__} where an array is expected.")
        return noted.array(kind)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn whatever a pickle raises into a `DataError` that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except DataError as error:
        raise DataError(f"{path} is refused: {error} Take the file from the official archive.") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"{path} is no intact pickle ({type(error).__name__}: {error}). Take the file from the official archive."
        ) from error


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
