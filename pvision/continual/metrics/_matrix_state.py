"""Write the state of an AccuracyMatrix as plain ints, floats and lists, and read it back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pvision.continual.metrics._arrays import Integers
from pvision.errors import ConfigError, DataError

__all__ = ["Confusions", "Counts", "Values", "pack", "unpack"]

Counts = dict[tuple[int, int], Integers]
Confusions = dict[int, Integers]
Values = dict[tuple[int, int], float]


def pack(num_classes: int, counts: Counts, confusion: Confusions, values: Values) -> dict[str, Any]:
    """Return the state; of arrays only what is not zero, as places and numbers."""
    return {
        "num_classes": num_classes,
        "counts": [[*entry, *_sparse(array)] for entry, array in sorted(counts.items())],
        "confusion": [[row, *_sparse(array)] for row, array in sorted(confusion.items())],
        "values": [[*entry, value] for entry, value in sorted(values.items())],
    }


def unpack(num_classes: int, state: Mapping[str, Any]) -> tuple[Counts, Confusions, Values]:
    """Return what `pack` was given.

    Raises:
        ConfigError: if the state is of another ``num_classes``.
        DataError: if it is damaged.
    """
    saved = state.get("num_classes")
    if saved != num_classes:
        raise ConfigError(
            f"The saved accuracy matrix has {saved} classes, but this one was made for {num_classes}."
            " Resume with the stream that the run began with."
        )
    try:
        counts = {(row, column): _dense(sparse, (2, num_classes)) for row, column, *sparse in state["counts"]}
        confusion = {row: _dense(sparse, (num_classes, num_classes + 1)) for row, *sparse in state["confusion"]}
        values = {(row, column): float(value) for row, column, value in state["values"]}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"The saved accuracy matrix is damaged ({type(error).__name__}: {error}).") from error
    return counts, confusion, values


def _sparse(array: Integers) -> tuple[list[int], list[int]]:
    flat = array.ravel()
    places = np.flatnonzero(flat)
    return places.tolist(), flat[places].tolist()


def _dense(sparse: list[list[int]], shape: tuple[int, int]) -> Integers:
    places, numbers = sparse
    array = np.zeros(shape, dtype=np.int64)
    array.ravel()[places] = numbers
    return array
