"""Finds uint8 pixels in a run of bytes, whatever stands around them and at whatever offset they begin."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["CARRY", "ByteIndex", "ByteMatch"]

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

_WORD = 8
_RUN = 512  # bytes that must agree, or the whole image if it is smaller
_STARTS = 32  # places of an image that are tried for the run with most content
_LEAST_VALUES = 3  # different bytes in a word; zeros and stripes stand in every file
_BITS = 22
_MIX = np.uint64(0x9E3779B97F4A7C15)

CARRY = 2 * (_RUN + _WORD)
"""How many bytes of a chunk must be put before the next one so that nothing on the border is missed."""


class ByteMatch(NamedTuple):
    """Where pixels begin among the bytes searched, and which image they belong to."""

    offset: int
    entry: int


class ByteIndex:
    """Words of 8 bytes, eight for each image, by which runs of pixels are found at one look per 8 bytes.

    The eight words of an image begin one byte apart, so one of them stands on a multiple of 8 wherever the image lies:
    only those places have to be looked at. What is found is compared over up to 512 bytes.

    Args:
        pixels_of: gives an image's bytes ``(D,)`` again, by its entry.
    """

    def __init__(self, pixels_of: Callable[[int], Bytes]) -> None:
        self._pixels_of = pixels_of
        nothing = np.empty(0, dtype=np.uint64), np.empty((0, 2), dtype=np.int64)
        self._parts: list[tuple[Words, npt.NDArray[np.int64]]] = [nothing]  # the first one is sorted by words
        self._table = np.zeros(1 << _BITS, dtype=np.bool_)

    def add(self, entries: Sequence[int], pixels: Bytes) -> None:
        """Take in the bytes of images, ``(n, D)``.

        Only images with 15 bytes in a row that are not nearly all the same can be found.
        """
        last = pixels.shape[1] - 2 * _WORD + 1
        if last < 0:
            return
        starts = np.unique(np.linspace(0, last, min(last + 1, _STARTS)).astype(np.int64))
        places = starts[:, None] + np.arange(_WORD)
        runs = np.lib.stride_tricks.sliding_window_view(pixels, _WORD, axis=1)[:, places]
        ordered = np.sort(runs, axis=3)
        values = 1 + (ordered[..., 1:] != ordered[..., :-1]).sum(axis=3, dtype=np.int8)
        best = values.min(axis=2).argmax(axis=1)
        rows = np.arange(len(pixels))
        words = np.ascontiguousarray(runs[rows, best]).view(np.uint64)[..., 0]
        kept = values[rows, best] >= _LEAST_VALUES
        owners = np.repeat(np.asarray(entries, dtype=np.int64)[:, None], _WORD, axis=1)
        self._parts.append((words[kept], np.stack([owners[kept], places[best][kept]], axis=1)))

    def matches(self, data: Bytes) -> Iterator[ByteMatch]:
        """Yield the images whose pixels stand in ``data``."""
        self._pack()
        known, where = self._parts[0]
        words = data[: len(data) // _WORD * _WORD].view(np.uint64)
        places = np.flatnonzero(self._table[_hash(words)])
        found = words[places]
        first, last = np.searchsorted(known, found, "left"), np.searchsorted(known, found, "right")
        for hit in np.flatnonzero(last > first):
            for row in range(first[hit], last[hit]):
                entry, offset = (int(value) for value in where[row])
                begin = int(places[hit]) * _WORD - offset
                if self._agrees(data, begin, entry, offset):
                    yield ByteMatch(begin, entry)

    def _agrees(self, data: Bytes, begin: int, entry: int, offset: int) -> bool:
        pixels = self._pixels_of(entry)
        length = min(len(pixels), _RUN)
        first = min(max(offset - length // 2, 0), len(pixels) - length)
        if begin + first < 0 or begin + first + length > len(data):
            return False
        return np.array_equal(data[begin + first : begin + first + length], pixels[first : first + length])

    def _pack(self) -> None:
        if len(self._parts) < 2:
            return
        words = np.concatenate([words for words, _ in self._parts])
        where = np.concatenate([where for _, where in self._parts])
        order = np.argsort(words, kind="stable")
        self._parts = [(words[order], where[order])]
        self._table[_hash(words)] = True


def _hash(words: Words) -> Words:
    return (words * _MIX) >> np.uint64(64 - _BITS)
