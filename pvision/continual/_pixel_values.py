"""Finds every tensor, array and run of bytes in a nested value."""

from array import array as Buffer
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["leaves"]

_DENSE = 1 << 28  # a sparse tensor of more elements is searched by its values alone


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Tensor | bytes]]:
    """Yield what can hold pixels, with the path to it.

    It looks into mappings, lists, tuples, sets, deques and the attributes of objects. Arrays, pictures and (nested)
    lists of numbers come as tensors. A tensor that shows a part of its storage comes as the whole storage, because a
    file keeps that. Tensors without data are left out.
    """
    yield from _leaves(value, where, set())


def _leaves(value: Any, where: str, seen: set[int]) -> Iterator[tuple[str, Tensor | bytes]]:
    if value is None or isinstance(value, str | int | float | type) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield from ((where, tensor) for tensor in _dense(value))
    elif isinstance(value, bytes | bytearray | memoryview):
        yield where, bytes(value)
    elif isinstance(value, np.ndarray | Buffer) or hasattr(value, "__array_interface__"):
        yield from _array(value, where, seen)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}" if where else str(key), seen)
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from _sequence(value, where, seen)
    else:
        for name, item in _attributes(value):
            yield from _leaves(item, f"{where}.{name}", seen)


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """Return what an object holds in its dictionary, and in the slots that its classes name."""
    slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    names = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    held = [(name, getattr(value, name)) for name in names if not name.startswith("__") and hasattr(value, name)]
    return held + list(getattr(value, "__dict__", {}).items())


def _dense(tensor: Tensor) -> Iterator[Tensor]:
    tensor = tensor.detach()
    if tensor.is_nested:
        for part in tensor.unbind():
            yield from _dense(part)
        return
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense() if tensor.numel() <= _DENSE else tensor.values()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.device.type == "meta" or tensor.dtype == torch.bool or tensor.is_complex():
        return
    storage = tensor.untyped_storage()
    if storage.nbytes() > tensor.numel() * tensor.element_size():
        tensor = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)
    yield tensor


def _array(value: Any, where: str, seen: set[int]) -> Iterator[tuple[str, Tensor | bytes]]:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        yield from _sequence(array.ravel().tolist(), where, seen)
    elif array.dtype.kind in "buif" and array.dtype.itemsize <= 8:
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        yield where, torch.from_numpy(native if native.flags.writeable else native.copy())
    else:
        yield where, array.tobytes()


def _sequence(value: Collection[Any], where: str, seen: set[int]) -> Iterator[tuple[str, Tensor | bytes]]:
    first = next(iter(value), None)
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if isinstance(first, int | float) and not isinstance(value, set | frozenset):
        try:
            yield where, torch.as_tensor(np.asarray(value, dtype=np.float64))
        except (ValueError, TypeError):  # no regular array of numbers
            pass
        else:
            return
    for index, item in enumerate(value):
        yield from _leaves(item, f"{where}[{index}]", seen)
