"""How much of what was learned is lost. One run has many values of "forgetting": the definition says which."""

import numpy as np
import numpy.typing as npt

from pvision.continual.metrics._arrays import Floats, ratio
from pvision.continual.metrics._measurements import Measurements, masked_mean, read
from pvision.continual.metrics.registry import define, definition_of

__all__ = ["forgetting", "forgetting_curve", "forgetting_matrix", "relative_forgetting"]


def forgetting(matrix: npt.ArrayLike, *, definition: str = "chaudhry") -> float:
    """Return the mean forgetting of the old experiences after the last; NaN for a single experience.

    Args:
        matrix: R, ``(T, T)`` or with columns to come, fractions.
        definition: one of ``definitions("forgetting")``. The default may be negative: its best row excludes the last.

    Raises:
        ConfigError: if the definition is unknown or the matrix is not one.
    """
    return definition_of("forgetting", definition).compute(read(matrix))


def forgetting_curve(matrix: npt.ArrayLike) -> Floats:
    """Return F_t for every row, ``(T,)``: the forgetting (Chaudhry) over the experiences before t; NaN at t = 0."""
    measured = read(matrix)
    return masked_mean(_drops(measured), measured.past, axis=1)


def forgetting_matrix(matrix: npt.ArrayLike) -> Floats:
    """Return f[t, u] = max over u ≤ l < t of R[l, u], minus R[t, u], ``(T, T)``; NaN where u ≥ t.

    These are FACIL's `forg_taw` and `forg_tag`.
    """
    measured = read(matrix)
    return np.where(measured.past, _drops(measured), np.nan)


def relative_forgetting(matrix: npt.ArrayLike) -> float:
    """Return the mean forgetting (Chaudhry) as a share of each experience's best accuracy; NaN if a best is 0."""
    return definition_of("relative_forgetting").compute(read(matrix))


def _best_so_far(measured: Measurements) -> Floats:
    """Return the maximum over j <= l <= t of R[l, j], ``(T, T)``.

    The upper triangle must not take part: it may hold zeros, as PyCIL's tables do, or accuracies of the untrained.
    """
    lower = np.tril(np.ones(measured.accuracy.shape, dtype=bool))
    return np.asarray(np.maximum.accumulate(np.where(lower, measured.accuracy, -np.inf), axis=0))


def _best_before(measured: Measurements) -> Floats:
    """Return the maximum over j <= l < t of R[l, j], ``(T, T)``; meaningful below the diagonal only."""
    best = _best_so_far(measured)
    return np.concatenate([np.full_like(best[:1], np.nan), best[:-1]])


def _drops(measured: Measurements) -> Floats:
    return _best_before(measured) - measured.accuracy


@define(
    "forgetting",
    "chaudhry",
    formula="mean over j < T−1 of (max over j ≤ l < T−1 of R[l, j], minus R[T−1, j])",
    source="Chaudhry et al. 2018 (RWalk); Continuum master 43ba009",
)
def _chaudhry(measured: Measurements) -> float:
    return float(masked_mean(_drops(measured)[-1], measured.past[-1]))


define(
    "forgetting",
    "facil",
    formula="the same as chaudhry; FACIL prints each pair, which is forgetting_matrix",
    source="FACIL e09d2c8 `forg_taw`, `forg_tag`",
)(_chaudhry)


@define(
    "forgetting",
    "mammoth",
    formula="mean over j < T−1 of (max over j ≤ l ≤ T−1 of R[l, j], minus R[T−1, j]): never negative",
    source="Mammoth e75a491 `forgetting`",
)
def _never_negative(measured: Measurements) -> float:
    return float(masked_mean((_best_so_far(measured) - measured.accuracy)[-1], measured.past[-1]))


define(
    "forgetting",
    "pycil",
    formula="the same as mammoth",
    source='PyCIL and PILOT "Forgetting (CNN)"',
)(_never_negative)


@define(
    "forgetting",
    "avalanche",
    formula="mean over j < T−1 of (R[j, j] − R[T−1, j]): −BWT of lopez-paz",
    source="Avalanche `StreamForgetting`",
)
def _avalanche(measured: Measurements) -> float:
    return float(masked_mean(measured.diagonal - measured.accuracy[-1], measured.past[-1]))


@define(
    "forgetting",
    "continuum-1.2.7",
    formula="Σ over j < T−2 of (max over j ≤ l < T−2 of R[l, j], minus R[T−1, j]), / (T−1)",
    source="Continuum 1.2.7, the release",
)
def _continuum(measured: Measurements) -> float:
    last = measured.experiences - 1
    if last == 0:
        return np.nan
    best = _best_so_far(measured)[last - 2, : last - 1]  # of one old experience nothing is left to sum
    return float((best - measured.accuracy[last, : last - 1]).sum() / last)


@define(
    "forgetting",
    "libcontinual",
    formula="Σ over j < T−2 of (R[j, j] − R[T−1, j]), / (T−1)",
    source="LibContinual a399ed4 `compute_frgt`",
)
def _libcontinual(measured: Measurements) -> float:
    last = measured.experiences - 1
    if last == 0:
        return np.nan
    return float((measured.diagonal - measured.accuracy[last])[: last - 1].sum() / last)


@define(
    "forgetting",
    "coda-prompt",
    formula="mean over t ≥ 1 of the mean over j < t of (R[t−1, j] − R[t, j])",
    source="CODA-Prompt 6417d4f `calc_forgetting`",
)
def _one_step_drops(measured: Measurements) -> float:
    steps = measured.accuracy[:-1] - measured.accuracy[1:]
    per_row = masked_mean(steps, measured.past[1:], axis=1)
    return float(masked_mean(per_row, np.ones(per_row.shape, dtype=bool)))


@define(
    "relative_forgetting",
    "relative",
    formula="mean over j < T−1 of f_j / max over j ≤ l < T−1 of R[l, j]",
    source="ours",
)
def _relative(measured: Measurements) -> float:
    best, old = _best_before(measured)[-1], measured.past[-1]
    best = np.where(old, best, np.nan)  # -inf elsewhere
    return float(masked_mean(ratio(best - measured.accuracy[-1], best), old))
