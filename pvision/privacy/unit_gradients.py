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
        own = units[start : start + len(piece)]
        sums = _Sums.of(own, torch.ones_like(own), rows)
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
    def of(cls, units: Tensor, counts: Tensor, rows: Rows) -> "_Sums":
        """Add up what belongs to one unit; its rows, which stand for so many records each, follow one another."""
        numbers, group = torch.unique_consecutive(units, return_inverse=True)

        def added(values: Tensor) -> Tensor:
            return values.new_zeros(len(numbers), *values.shape[1:]).index_add(0, group.to(values.device), values)

        return cls(numbers, added(counts), {name: added(value) for name, value in rows.items()})

    def followed_by(self, other: "_Sums") -> "_Sums":
        units, counts = torch.cat([self.units, other.units]), torch.cat([self._counts, other._counts])
        return _Sums.of(units, counts, {name: torch.cat([own, other._rows[name]]) for name, own in self._rows.items()})

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
