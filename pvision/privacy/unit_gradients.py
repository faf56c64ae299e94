"""One gradient per unit: the mean over its records, before anything is clipped."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pvision.privacy.gradients import DenseGradients, RecordGradients, wide

__all__ = ["unit_means"]

Rows = dict[str, Tensor]


def unit_means(gradients: Iterable[RecordGradients], units: Tensor) -> Iterator[DenseGradients]:
    """Yield the mean gradient of each unit, in the order of the records.

    Averaging before clipping is what makes a guarantee for a video or a person out of one for clips; see Luo et al.
    2023, arXiv:2306.15742. Memory stays that of one piece, however many records a unit has.

    Args:
        gradients: the per-record gradients of a batch, in any number of pieces.
        units: the unit of each record of the batch, int64, ``(B,)``; those of one unit follow one another.
    """
    unfinished: _Sums | None = None
    start = 0
    for piece in gradients:
        rows = {name: value.to(wide(value)) for name, value in piece.rows().items()}
        sums = _Sums.of(rows, units[start : start + len(piece)])
        start += len(piece)
        if not len(sums.units):
            continue
        if unfinished is not None:
            sums = unfinished.followed_by(sums)
        finished, unfinished = sums.without_last()
        if len(finished.units):
            yield finished.means()
    if unfinished is not None:
        yield unfinished.means()


class _Sums:
    """Sums of the gradients of some units, and how many records went into each."""

    def __init__(self, units: Tensor, counts: Tensor, rows: Rows) -> None:
        self.units, self._counts, self._rows = units, counts, rows

    @classmethod
    def of(cls, rows: Rows, units: Tensor) -> "_Sums":
        numbers, group, counts = torch.unique_consecutive(units, return_inverse=True, return_counts=True)
        sums = {
            name: value.new_zeros(len(numbers), *value.shape[1:]).index_add(0, group.to(value.device), value)
            for name, value in rows.items()
        }
        return cls(numbers, counts, sums)

    def followed_by(self, other: "_Sums") -> "_Sums":
        units = torch.cat([self.units, other.units])
        numbers, group = torch.unique_consecutive(units, return_inverse=True)
        counts = torch.cat([self._counts, other._counts])
        rows = {name: torch.cat([value, other._rows[name]]) for name, value in self._rows.items()}
        sums = _Sums.of(rows, units)
        return _Sums(numbers, torch.zeros_like(numbers).index_add(0, group, counts), sums._rows)

    def without_last(self) -> tuple["_Sums", "_Sums"]:
        return self._part(slice(None, -1)), self._part(slice(-1, None))

    def means(self) -> DenseGradients:
        return DenseGradients(
            {
                name: value / self._counts.to(value).reshape(-1, *[1] * (value.dim() - 1))
                for name, value in self._rows.items()
            }
        )

    def _part(self, which: slice) -> "_Sums":
        return _Sums(self.units[which], self._counts[which], {name: value[which] for name, value in self._rows.items()})
