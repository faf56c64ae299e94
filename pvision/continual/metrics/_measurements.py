"""The accuracy matrix as the definitions see it: checked, square, and with the masks that say which entries count."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pvision.checks import positive_int
from pvision.continual.metrics._arrays import Floats, Mask, as_floats, as_fractions, ratio
from pvision.errors import ConfigError

__all__ = ["Measurements", "masked_mean", "read"]


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of T learned experiences.

    Attributes:
        accuracy: R, ``(T, T)``: row t is measured after experience t, column j on the test set of experience j.
        kept: ``(T,)``, false for experiences that have been forgotten on request and count nowhere.
        counts: test records per experience, ``(T,)``.
        baseline: accuracy before any training, ``(T,)``.
        reference: accuracy on experience k of a model trained jointly on experiences up to k, ``(T,)``.
        independent: accuracy of a model trained on that experience alone, ``(T,)``.
    """

    accuracy: Floats
    kept: Mask
    counts: Floats | None = None
    baseline: Floats | None = None
    reference: Floats | None = None
    independent: Floats | None = None

    @property
    def experiences(self) -> int:
        """T."""
        return len(self.kept)

    @property
    def diagonal(self) -> Floats:
        """R[j, j], ``(T,)``: each experience just learned."""
        return self.accuracy.diagonal()

    @property
    def learned(self) -> Mask:
        """Where j <= t, ``(T, T)``."""
        return np.tril(np.broadcast_to(self.kept, self.accuracy.shape))

    @property
    def past(self) -> Mask:
        """Where j < t, ``(T, T)``."""
        return np.tril(self.learned, -1)

    @property
    def future(self) -> Mask:
        """Where j > t, ``(T, T)``."""
        return np.triu(np.broadcast_to(self.kept, self.accuracy.shape), 1)

    def extra(self, name: str) -> Floats:
        """Return what was given beside R under that name.

        Raises:
            ConfigError: if it was not given.
        """
        value: Floats | None = getattr(self, name)
        if value is None:
            raise ConfigError(f"This definition needs {name}, one number per experience, but none came.")
        return value


def masked_mean(values: Floats, mask: Mask, axis: int | None = None, *, weights: Floats | float = 1.0) -> Floats:
    """Return the weighted mean over the masked entries, NaN if there are none.

    NaN under the mask makes the result NaN, whatever its weight; what lies outside the mask does not matter.
    """
    weight = np.asarray((mask * weights).sum(axis))
    total = (np.where(mask, values, 0.0) * weights).sum(axis)
    return ratio(np.asarray(total), weight)


def read(
    matrix: npt.ArrayLike,
    *,
    counts: npt.ArrayLike | None = None,
    baseline: npt.ArrayLike | None = None,
    reference: npt.ArrayLike | None = None,
    independent: npt.ArrayLike | None = None,
    forgotten: Collection[int] = (),
) -> Measurements:
    """Check R and what belongs to it; nothing that was given is changed.

    Fewer rows than columns means a stream under way: the experiences learned so far count, those to come do not.

    Raises:
        ConfigError: if R is ragged, empty, holds percentages or has more rows than columns, or if a vector beside it
            does not fit.
    """
    accuracy = as_fractions("the accuracy matrix", matrix, 2)
    rows, columns = accuracy.shape
    if not 1 <= rows <= columns:
        raise ConfigError(
            f"The accuracy matrix has {rows} row(s) and {columns} column(s). It needs at least one row, and a column"
            " for every row: row t is measured after experience t, column j on the test set of experience j."
        )

    def fractions(name: str, value: npt.ArrayLike | None) -> Floats | None:
        return None if value is None else _fitting(name, as_fractions(name, value, 1), rows, columns)

    kept = np.ones(columns, dtype=bool)
    for column in forgotten:
        if positive_int("forgotten", column, low=0) >= columns:
            raise ConfigError(f"forgotten names column {column}, but the accuracy matrix has {columns} column(s).")
        kept[column] = False
    return Measurements(
        accuracy=accuracy[:, :rows],
        kept=kept[:rows],
        counts=None if counts is None else _fitting("counts", _whole(counts), rows, columns),
        baseline=fractions("baseline", baseline),
        reference=fractions("reference", reference),
        independent=fractions("independent", independent),
    )


def _fitting(name: str, values: Floats, rows: int, columns: int) -> Floats:
    if len(values) not in (rows, columns):
        raise ConfigError(f"{name} must hold one number per experience, {columns}, but {len(values)} came.")
    return values[:rows]


def _whole(counts: npt.ArrayLike) -> Floats:
    values = as_floats("counts", counts, 1)
    if not (values >= 0).all() or (values % 1).any():
        raise ConfigError("counts must hold whole numbers of test records, none negative.")
    return values
