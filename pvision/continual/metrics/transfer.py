"""What learning one experience does to others: to earlier ones (backward) and to those to come (forward)."""

import numpy as np
import numpy.typing as npt

from pvision.continual.metrics._measurements import Measurements, masked_mean, read
from pvision.continual.metrics.registry import define, definition_of
from pvision.errors import ConfigError

__all__ = ["backward_transfer", "forward_transfer", "positive_backward_transfer", "remembering"]


def backward_transfer(matrix: npt.ArrayLike, *, definition: str = "lopez-paz") -> float:
    """Return BWT, how much the accuracy on old experiences rose since they were learned; NaN for a single experience.

    Args:
        matrix: R, ``(T, T)`` or with columns to come, fractions.
        definition: one of ``definitions("backward_transfer")``.

    Raises:
        ConfigError: if the definition is unknown or the matrix is not one.
    """
    return definition_of("backward_transfer", definition).compute(read(matrix))


def forward_transfer(
    matrix: npt.ArrayLike, baseline: npt.ArrayLike | None = None, *, definition: str = "lopez-paz"
) -> float:
    """Return FWT, how accurate the model is on experiences that it has not learned yet; NaN for a single experience.

    Args:
        matrix: R, ``(T, T)`` or with columns to come, fractions; measured above the diagonal too.
        baseline: b_j, the accuracy on each experience before any training, ``(T,)``.
        definition: one of ``definitions("forward_transfer")``; the default needs ``baseline``.

    Raises:
        ConfigError: if the definition is unknown, needs a baseline and gets none, or the matrix is not one.
    """
    chosen = definition_of("forward_transfer", definition)
    if chosen.needs == "baseline" and baseline is None:
        raise ConfigError(
            f"forward_transfer by {definition!r} needs baseline, the accuracy on each experience before any training."
            " Measure it, or choose definition='without-baseline'."
        )
    return chosen.compute(read(matrix, baseline=baseline))


def remembering(matrix: npt.ArrayLike) -> float:
    """Return REM = 1 - |min(BWT, 0)|, with the BWT of Díaz-Rodríguez et al."""
    return definition_of("remembering").compute(read(matrix))


def positive_backward_transfer(matrix: npt.ArrayLike) -> float:
    """Return BWT⁺ = max(BWT, 0), with the BWT of Díaz-Rodríguez et al."""
    return definition_of("positive_backward_transfer").compute(read(matrix))


@define(
    "backward_transfer",
    "lopez-paz",
    formula="mean over j < T−1 of (R[T−1, j] − R[j, j])",
    source="Lopez-Paz & Ranzato 2017 (GEM); Mammoth e75a491",
)
def _lopez_paz(measured: Measurements) -> float:
    return float(masked_mean(measured.accuracy[-1] - measured.diagonal, measured.past[-1]))


@define(
    "backward_transfer",
    "diaz-rodriguez",
    formula="Σ over j < t of (R[t, j] − R[j, j]), / (T (T−1) / 2)",
    source="Díaz-Rodríguez et al. 2018; Continuum master 43ba009",
)
def _diaz_rodriguez(measured: Measurements) -> float:
    return float(masked_mean(measured.accuracy - measured.diagonal, measured.past))


@define(
    "backward_transfer",
    "continuum-1.2.7",
    formula="Σ over j < t−1 of (R[t, j] − R[j, j]), / (T (T−1) / 2): without the most recent old experience",
    source="Continuum 1.2.7, the release",
)
def _continuum_backward(measured: Measurements) -> float:
    pairs = measured.past.sum()
    changes = np.where(np.tril(measured.past, -2), measured.accuracy - measured.diagonal, 0.0)
    return float(changes.sum() / pairs) if pairs else np.nan


define(
    "backward_transfer",
    "libcontinual",
    formula="the same as continuum-1.2.7",
    source="LibContinual a399ed4 `compute_bwt`",
)(_continuum_backward)


@define(
    "remembering",
    "diaz-rodriguez",
    formula="1 − abs(min(BWT, 0)), BWT of diaz-rodriguez",
    source="Díaz-Rodríguez et al. 2018",
)
def _remembering(measured: Measurements) -> float:
    return float(1 + np.minimum(_diaz_rodriguez(measured), 0))  # np.minimum keeps NaN, min() may not


@define(
    "positive_backward_transfer",
    "diaz-rodriguez",
    formula="max(BWT, 0), BWT of diaz-rodriguez",
    source="Díaz-Rodríguez et al. 2018",
)
def _positive(measured: Measurements) -> float:
    return float(np.maximum(_diaz_rodriguez(measured), 0))


@define(
    "forward_transfer",
    "lopez-paz",
    formula="mean over j ≥ 1 of (R[j−1, j] − b_j)",
    source="Lopez-Paz & Ranzato 2017 (GEM); Mammoth e75a491",
    needs="baseline",
)
def _above_baseline(measured: Measurements) -> float:
    return float(masked_mean(measured.accuracy.diagonal(1) - measured.extra("baseline")[1:], measured.kept[1:]))


@define(
    "forward_transfer",
    "without-baseline",
    formula="mean over j ≥ 1 of R[j−1, j]",
    source="Continuum master 43ba009",
)
def _without_baseline(measured: Measurements) -> float:
    return float(masked_mean(measured.accuracy.diagonal(1), measured.kept[1:]))


@define(
    "forward_transfer",
    "diaz-rodriguez",
    formula="Σ over t < j of R[t, j], / (T (T−1) / 2)",
    source="Díaz-Rodríguez et al. 2018",
)
def _future(measured: Measurements) -> float:
    return float(masked_mean(measured.accuracy, measured.future))


@define(
    "forward_transfer",
    "continuum-1.2.7",
    formula="Σ over j < t of R[t, j], / (T (T−1) / 2): past experiences, not future ones",
    source="Continuum 1.2.7, the release",
)
def _continuum_forward(measured: Measurements) -> float:
    return float(masked_mean(measured.accuracy, measured.past))
