"""Find what mixes the records of a batch before the network sees them: by name, and by trying."""

import functools
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from pvision.errors import ConfigError

__all__ = ["mixes_records", "mixing_transforms"]

# The families of torchvision, timm, kornia, albumentations, pytorchvideo and detection tool kits.
_NAME = re.compile(r"mixup|cutmix|mixvideo|mosaic|copypaste|patchmix|transplantation|resizemix|fmix", re.IGNORECASE)
_LIBRARIES = ("torch.", "numpy.", "lightning.")  # their functions name hundreds of others
_DEPTH, _WIDTH, _OBJECTS = 8, 256, 50_000  # a network of a thousand layers is ten thousand objects
_SEEDS = range(8)  # augmentations that mix with probability ½ escape one in 256


def mixing_transforms(holder: Any) -> list[str]:
    """Return the class names of all transforms reachable from ``holder`` that are known to mix records.

    Args:
        holder: a collate function, data set, module or data module. Attributes, containers, closures, partials and
            the globals that a function uses are searched.
    """
    found: dict[str, None] = {}
    seen: set[int] = set()
    queue = [(holder, 0)]
    while queue and len(seen) < _OBJECTS:
        value, depth = queue.pop()
        if id(value) in seen or _opaque(value):
            continue
        seen.add(id(value))
        kind = value if isinstance(value, type) else type(value)
        mixing = [parent.__name__ for parent in kind.__mro__ if _NAME.search(parent.__name__)]
        if mixing:
            found[kind.__name__] = None
        elif depth < _DEPTH and not isinstance(value, type):
            queue += [(part, depth + 1) for part in _parts(value)]
    return sorted(found)


def _opaque(value: Any) -> bool:
    return value is None or isinstance(
        value, str | bytes | int | float | complex | Tensor | np.ndarray | ModuleType | BuiltinFunctionType | pl.Trainer
    )


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):  # other mappings may read files
        yield from itertools.islice(value.values(), _WIDTH)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from itertools.islice(value, _WIDTH)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, FunctionType):
        if not (value.__module__ or "").startswith(_LIBRARIES):
            used = value.__code__.co_names
            yield from (value.__globals__[name] for name in used if name in value.__globals__)
            yield from (cell.cell_contents for cell in value.__closure__ or () if cell != CellType())
    else:
        yield from getattr(value, "__dict__", {}).values()


def mixes_records(collate: Callable[[list[Any]], Any], items: Sequence[Any]) -> bool:
    """Tell whether a collate function changes a record when another record of its batch does.

    It is run several times, each time from the same state of the global generators, which are given back afterwards.

    Args:
        collate: takes a list of items, gives a batch: tensors with a row for each record, in any nesting.
        items: two items of a data set or more, the first two different from each other.

    Returns:
        Whether a record's rows, their shape included, depend on its neighbour. Values that are no tensors or numbers
        are compared if they can be, those of the whole batch too; a tensor without a row for each record is not judged.

    Raises:
        ConfigError: if there are fewer than two items.

    Example:
        >>> from torch.utils.data import default_collate
        >>> items = [torch.zeros(2), torch.ones(2)]
        >>> mixes_records(default_collate, items)
        False
        >>> mixes_records(lambda batch: default_collate(batch).flip(0), items)
        True
    """
    if len(items) < 2:
        raise ConfigError(f"items must hold two records at least, but {len(items)} came.")
    size = _unusual_size(items[:2])
    mixed = list(items[:2]) * (size // 2)
    with _own_generators():
        return any(
            _differ(_rows(_run(collate, mixed, seed), place, size), _rows(_run(collate, alone, seed), place, size))
            for seed in _SEEDS
            for place, alone in ((0, [mixed[0]] * size), (size - 1, [mixed[-1]] * size))
        )


def _unusual_size(items: Sequence[Any]) -> int:
    """Return an even batch size that is no dimension of the items: what has so many rows has one for each record."""
    taken: set[int] = set()
    queue = list(items)
    while queue:
        value = queue.pop()
        if isinstance(value, Tensor | np.ndarray):
            taken.update(value.shape)
        elif isinstance(value, Mapping):
            queue += value.values()
        elif isinstance(value, list | tuple):
            taken.add(len(value))
            queue += value
    return next(size for size in itertools.count(4, 2) if size not in taken)


def _run(collate: Callable[[list[Any]], Any], batch: list[Any], seed: int) -> Any:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the legacy state is what foreign transforms draw from
    return collate(list(batch))


@contextmanager
def _own_generators() -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  # as above
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002  # as above


def _rows(batch: Any, place: int, size: int) -> list[Any]:
    """Return what belongs to one record of a batch of ``size``, leaf by leaf."""
    if isinstance(batch, Tensor | np.ndarray):
        return [batch[place]] if batch.ndim and len(batch) == size else []
    if isinstance(batch, list | tuple) and len(batch) == size:
        return [batch[place]]
    if isinstance(batch, str | int | float):  # of the whole batch: every record sees it
        return [batch]
    if isinstance(batch, Mapping):
        parts: Iterable[Any] = batch.values()
    else:
        parts = batch if isinstance(batch, list | tuple) else getattr(batch, "__dict__", {}).values()
    return [row for part in parts for row in _rows(part, place, size)]


def _differ(rows: list[Any], others: list[Any]) -> bool:
    return len(rows) != len(others) or any(not _same(one, other) for one, other in zip(rows, others, strict=True))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor | np.ndarray):
        one, other = torch.as_tensor(one), torch.as_tensor(other)
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return not isinstance(one, str | int | float | bool) or bool(one == other)
