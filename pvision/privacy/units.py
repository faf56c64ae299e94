"""Units: which records are protected together, and from which of them noisy steps draw."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pvision.errors import PrivacyError

__all__ = ["Units"]


class Units:
    """The units of a data set, numbered from 0.

    Args:
        num_records: records in the data set.
        names: for each record the name of its unit; None if every record is one.
        population: positions of the records from which noisy steps draw, with all records of their units; None for all.

    Raises:
        PrivacyError: if there are not as many names as records, or nobody is left.

    Attributes:
        count: how many units there are.

    Example:
        >>> units = Units(5, names=["ann", "bob", "ann", "cem", "bob"])
        >>> units.count, units.positions(torch.tensor([0, 1]))
        (3, [0, 2, 1, 4])
    """

    def __init__(
        self, num_records: int, *, names: Sequence[str] | None = None, population: Sequence[int] | Tensor | None = None
    ) -> None:
        if names is not None and len(names) != num_records:
            raise PrivacyError(f"There must be one unit name for each of {num_records} records, but {len(names)} came.")
        numbers = torch.arange(num_records) if names is None else _numbered(names)
        if population is not None:
            numbers = _restricted(numbers, torch.as_tensor(population, dtype=torch.int64))
        self.of_record = numbers
        """The unit of each record, int64, ``(N,)``; -1 outside the population."""
        self.count = int(numbers.max()) + 1 if num_records else 0
        if not self.count:
            raise PrivacyError("Noisy steps have nothing to draw from: no record has a masked pixel.")
        order = numbers.argsort(stable=True)
        self._order = order[(numbers < 0).sum() :]
        sizes = torch.bincount(numbers[numbers >= 0], minlength=self.count)
        self._ends = sizes.cumsum(0)
        self._starts = self._ends - sizes
        self.one_each = bool((sizes == 1).all())
        """Whether every unit has one record only."""

    def positions(self, units: Tensor) -> list[int]:
        """Return the positions of all records of ``units``, unit by unit."""
        if self.one_each:
            return list(map(int, self._order[units]))
        spans = zip(self._starts[units].tolist(), self._ends[units].tolist(), strict=True)
        return [position for start, end in spans for position in self._order[start:end].tolist()]


def _numbered(names: Sequence[str]) -> Tensor:
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names], dtype=torch.int64)


def _restricted(numbers: Tensor, population: Tensor) -> Tensor:
    """Return the unit of each record, numbered anew, -1 for those of whose unit nobody is in the population."""
    kept = torch.unique(numbers[population])
    anew = torch.full((int(numbers.max()) + 1 if len(numbers) else 0,), -1, dtype=torch.int64)
    anew[kept] = torch.arange(len(kept))
    return anew[numbers]
