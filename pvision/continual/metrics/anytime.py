"""Metrics of a model that is evaluated while it learns, as in online streams.

The evaluations are a matrix with one row per evaluation, and ``current`` says which experience was being learned then.
Without ``current`` there is one evaluation at the end of each experience, and the matrix is R.
"""

import numpy as np
import numpy.typing as npt

from pvision.continual.metrics._arrays import Floats, Integers, Mask, as_fractions, as_integers
from pvision.continual.metrics._measurements import Measurements, masked_mean, read
from pvision.continual.metrics.registry import define
from pvision.errors import ConfigError

__all__ = ["anytime_average_accuracy", "min_accuracy", "worst_case_accuracy"]


def anytime_average_accuracy(evaluations: npt.ArrayLike, current: npt.ArrayLike | None = None) -> float:
    """Return AAA: the mean over all evaluations of the mean accuracy on the experiences seen until then.

    Args:
        evaluations: accuracy per evaluation and experience, ``(S, T)``, fractions.
        current: the experience being learned at each evaluation, whole numbers ``(S,)`` that never fall.
    """
    accuracy, now = _evaluated(evaluations, current)
    seen = np.arange(accuracy.shape[1]) <= now[:, None]
    return float(masked_mean(masked_mean(accuracy, seen, axis=1), np.ones(len(now), dtype=bool)))


def min_accuracy(evaluations: npt.ArrayLike, current: npt.ArrayLike | None = None) -> float:
    """Return min-ACC: the mean over old experiences of the lowest accuracy on each since it was learned.

    Args:
        evaluations: as in `anytime_average_accuracy`.
        current: as in `anytime_average_accuracy`.
    """
    accuracy, now = _evaluated(evaluations, current)
    return _lowest(accuracy, now, np.ones(accuracy.shape[1], dtype=bool))


def worst_case_accuracy(evaluations: npt.ArrayLike, current: npt.ArrayLike | None = None) -> float:
    """Return WC-ACC: the accuracy on the current experience and `min_accuracy`, weighted 1/k and 1 - 1/k.

    Args:
        evaluations: as in `anytime_average_accuracy`.
        current: as in `anytime_average_accuracy`.
    """
    accuracy, now = _evaluated(evaluations, current)
    return _worst_case(accuracy, now, np.ones(accuracy.shape[1], dtype=bool))


def _evaluated(evaluations: npt.ArrayLike, current: npt.ArrayLike | None) -> tuple[Floats, Integers]:
    if current is None:
        measured = read(evaluations)
        return measured.accuracy, np.arange(measured.experiences)
    accuracy = as_fractions("evaluations", evaluations, 2)
    if not accuracy.size:
        raise ConfigError(f"evaluations must hold at least one evaluation, but the shape is {accuracy.shape}.")
    now = as_integers("current", current, (len(accuracy),))
    if now.min() < 0 or now.max() >= accuracy.shape[1] or (np.diff(now) < 0).any():
        raise ConfigError(f"current must hold experiences in 0..{accuracy.shape[1] - 1} that never fall.")
    return accuracy, now


def _lowest(accuracy: Floats, current: Integers, kept: Mask) -> float:
    experiences = np.arange(accuracy.shape[1])
    after = experiences < current[:, None]  # evaluations made after the experience was learned
    lowest = np.where(after, accuracy, np.inf).min(axis=0)  # NaN stays NaN
    return float(masked_mean(lowest, kept & (experiences < current[-1])))


def _worst_case(accuracy: Floats, current: Integers, kept: Mask) -> float:
    newest = current[-1]
    learned = int(kept[: newest + 1].sum())
    if not kept[newest]:
        return np.nan
    old = (1 - 1 / learned) * _lowest(accuracy, current, kept) if learned > 1 else 0.0
    return float(accuracy[-1, newest] / learned + old)


@define(
    "min_accuracy",
    "de-lange",
    formula="mean over j < T−1 of min over t > j of R[t, j]",
    source="De Lange et al. 2023",
)
def _min_of_rows(measured: Measurements) -> float:
    return _lowest(measured.accuracy, np.arange(measured.experiences), measured.kept)


@define(
    "worst_case_accuracy",
    "de-lange",
    formula="R[T−1, T−1] / T + (1 − 1/T) min-ACC",
    source="De Lange et al. 2023",
)
def _worst_of_rows(measured: Measurements) -> float:
    return _worst_case(measured.accuracy, np.arange(measured.experiences), measured.kept)
