"""How well new experiences are learned, how well old ones are kept, and the balance of the two."""

import numpy.typing as npt

from pvision.continual.metrics._arrays import Floats
from pvision.continual.metrics._measurements import Measurements, masked_mean, read
from pvision.continual.metrics.registry import define, definition_of

__all__ = [
    "harmonic_accuracy",
    "harmonic_mean",
    "intransigence",
    "intransigence_curve",
    "learning_accuracy",
    "learning_accuracy_gap",
    "stability",
]


def learning_accuracy(matrix: npt.ArrayLike) -> float:
    """Return the mean accuracy on each experience just after it was learned, the diagonal of R (plasticity)."""
    return definition_of("learning_accuracy").compute(read(matrix))


def learning_accuracy_gap(matrix: npt.ArrayLike, independent: npt.ArrayLike) -> float:
    """Return how far the learning accuracy stays below models that are trained on each experience alone.

    Args:
        matrix: R, ``(T, T)`` or with columns to come, fractions.
        independent: ind_j, the accuracy of the model trained on experience j alone, ``(T,)``.
    """
    return definition_of("learning_accuracy_gap").compute(read(matrix, independent=independent))


def intransigence(matrix: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the mean of `intransigence_curve`: how much a joint training would learn better."""
    return definition_of("intransigence").compute(read(matrix, reference=reference))


def intransigence_curve(matrix: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """Return I_k = a*_k - R[k, k], ``(T,)``, in [-1, 1]; negative where learning in a stream is better.

    Args:
        matrix: R, ``(T, T)`` or with columns to come, fractions.
        reference: a*_k, the accuracy on experience k of a model trained jointly on experiences up to k, ``(T,)``.
    """
    measured = read(matrix, reference=reference)
    return measured.extra("reference") - measured.diagonal


def stability(matrix: npt.ArrayLike) -> float:
    """Return the mean accuracy on the old experiences after the last; NaN for a single experience."""
    return definition_of("stability").compute(read(matrix))


def harmonic_accuracy(matrix: npt.ArrayLike) -> float:
    """Return the harmonic mean of `stability` and `learning_accuracy`."""
    return definition_of("harmonic_accuracy").compute(read(matrix))


def harmonic_mean(first: float, second: float) -> float:
    """Return 2ab / (a + b), 0 if both are 0, NaN if either is."""
    return 0.0 if first == second == 0 else 2 * first * second / (first + second)


@define(
    "learning_accuracy",
    "diagonal",
    formula="mean over j of R[j, j]",
    source="also called plasticity",
)
def _learning(measured: Measurements) -> float:
    return float(masked_mean(measured.diagonal, measured.kept))


@define(
    "learning_accuracy_gap",
    "independent",
    formula="mean over j of (ind_j − R[j, j])",
    source="ind_j: a model trained on experience j alone",
    needs="independent",
)
def _gap(measured: Measurements) -> float:
    return float(masked_mean(measured.extra("independent") - measured.diagonal, measured.kept))


@define(
    "intransigence",
    "chaudhry",
    formula="mean over k of (a*_k − R[k, k])",
    source="Chaudhry et al. 2018 (RWalk); a*_k: a model trained jointly on experiences ≤ k",
    needs="reference",
)
def _intransigence(measured: Measurements) -> float:
    return float(masked_mean(measured.extra("reference") - measured.diagonal, measured.kept))


@define("stability", "old", formula="mean over j < T−1 of R[T−1, j]", source="the old part of the average accuracy")
def _stability(measured: Measurements) -> float:
    return float(masked_mean(measured.accuracy[-1], measured.past[-1]))


@define(
    "harmonic_accuracy",
    "harmonic",
    formula="2 S L / (S + L), S stability, L learning accuracy",
    source="harmonic mean of the two",
)
def _harmonic(measured: Measurements) -> float:
    return harmonic_mean(_stability(measured), _learning(measured))
