"""How accurate the model is over all it has learned: after each experience, and over the stream."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from pvision.continual.metrics._arrays import Floats
from pvision.continual.metrics._measurements import Measurements, masked_mean, read
from pvision.continual.metrics.registry import define, definition_of

__all__ = ["accuracy_curve", "accuracy_diaz_rodriguez", "average_accuracy", "average_incremental_accuracy"]


def accuracy_curve(
    matrix: npt.ArrayLike, *, counts: npt.ArrayLike | None = None, forgotten: Collection[int] = ()
) -> Floats:
    """Return AA_t for every row, ``(T,)``: the mean accuracy over the experiences learned so far.

    Args:
        matrix: R, ``(T, T)`` or with columns to come, fractions.
        counts: test records per experience, ``(T,)``; with them every record weighs the same (micro), without them
            every experience does (macro).
        forgotten: columns that count nowhere, because those experiences were forgotten on request.
    """
    return _curve(read(matrix, counts=counts, forgotten=forgotten), micro=counts is not None)


def average_accuracy(matrix: npt.ArrayLike, *, counts: npt.ArrayLike | None = None) -> float:
    """Return ACC, the mean accuracy over all experiences after the last; micro with ``counts``, else macro."""
    chosen = definition_of("average_accuracy", None if counts is None else "micro")
    return chosen.compute(read(matrix, counts=counts))


def average_incremental_accuracy(matrix: npt.ArrayLike, *, counts: npt.ArrayLike | None = None) -> float:
    """Return AIA, the mean of `accuracy_curve` over the stream; micro with ``counts``, else macro."""
    chosen = definition_of("average_incremental_accuracy", None if counts is None else "micro")
    return chosen.compute(read(matrix, counts=counts))


def accuracy_diaz_rodriguez(matrix: npt.ArrayLike) -> float:
    """Return A of Díaz-Rodríguez et al.: the mean of everything on and below the diagonal of R."""
    return definition_of("accuracy_diaz_rodriguez").compute(read(matrix))


def _curve(measured: Measurements, *, micro: bool) -> Floats:
    weights = measured.extra("counts") if micro else 1.0
    return masked_mean(measured.accuracy, measured.learned, axis=1, weights=weights)


def _mean_of_curve(measured: Measurements, *, micro: bool) -> float:
    # A row in which every experience learned so far was forgotten on request has no average accuracy.
    return float(masked_mean(_curve(measured, micro=micro), np.asarray(measured.learned.any(axis=1))))


@define("average_accuracy", "macro", formula="mean over j of R[T−1, j]", source="Lopez-Paz & Ranzato 2017")
def _average_macro(measured: Measurements) -> float:
    return float(_curve(measured, micro=False)[-1])


@define(
    "average_accuracy",
    "micro",
    formula="Σ n_j R[T−1, j] / Σ n_j over j",
    source="the logs of PyCIL and PILOT",
    needs="counts",
)
def _average_micro(measured: Measurements) -> float:
    return float(_curve(measured, micro=True)[-1])


@define(
    "average_incremental_accuracy",
    "macro",
    formula="mean over t of AA_t, AA_t = mean over j ≤ t of R[t, j]",
    source="also called AAA and Ā",
)
def _incremental_macro(measured: Measurements) -> float:
    return _mean_of_curve(measured, micro=False)


@define(
    "average_incremental_accuracy",
    "micro",
    formula="mean over t of Σ n_j R[t, j] / Σ n_j over j ≤ t",
    source="the logs of PyCIL and PILOT",
    needs="counts",
)
def _incremental_micro(measured: Measurements) -> float:
    return _mean_of_curve(measured, micro=True)


@define(
    "accuracy_diaz_rodriguez",
    "diaz-rodriguez",
    formula="Σ R[t, j] over j ≤ t, / (T (T + 1) / 2)",
    source="Díaz-Rodríguez et al. 2018; Continuum `accuracy_A`",
)
def _triangle(measured: Measurements) -> float:
    return float(masked_mean(measured.accuracy, measured.learned))
