"""Class statistics that may be kept and published: released once, with noise, through the mechanism and its ledger."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.checks import positive
from pvision.continual.class_statistics import ClassStatistics
from pvision.errors import ConfigError, DataError, PrivacyError
from pvision.privacy import GaussianMechanism, PrivacyLedger, PrivacyReport, PrivacySpec

__all__ = ["PrivateClassStatistics", "release_class_statistics"]

_PARTS = 3  # of a record's contribution: that it is there, its features, their squares


class PrivateClassStatistics(NamedTuple):
    """Noisy class statistics, and what may be claimed of them.

    Attributes:
        statistics: of each class.
        report: ε and what it means.
    """

    statistics: ClassStatistics
    report: PrivacyReport


def release_class_statistics(
    features: Tensor,
    labels: Tensor,
    *,
    classes: Sequence[int],
    feature_norm: float,
    spec: PrivacySpec,
    ledger: PrivacyLedger | None = None,
    units: Sequence[str] | None = None,
    shared: bool = False,
) -> PrivateClassStatistics:
    """Release count, mean and covariance of each class by one noisy release of the Gaussian mechanism.

    Each record x of class y contributes (1, x / R, x xᵀ / R²) · ``max_grad_norm`` / √3 in the place of y, R being
    ``feature_norm`` to which longer features are shortened first. What is done with the noisy sums is post-processing.

    Args:
        features: of all records, ``(N, d)``; with several processes the same on each.
        labels: their classes, ``(N,)``.
        classes: all classes that there can be; public, so not read off the records.
        feature_norm: a bound on the features' L2 norm that was not computed from them.
        spec: the privacy statement: mechanism ``"dp_sgd"`` over all records, one step.
        ledger: where the release is charged; None counts in memory only, which no crash survives.
        units: for each record the name of its video or subject, for a statement with such a unit.
        shared: release one covariance for all classes, around their means, with the noise of one.

    Returns:
        The statistics, and the report of the release.

    Raises:
        ConfigError: if ``feature_norm`` or ``classes`` is malformed.
        DataError: if shapes do not fit or a label is none of ``classes``.
        PrivacyError: if the statement is another, or the ledger has charged its release already.

    Guarantee:
        ``report`` holds for the statistics if no feature depends on more than its own record: the network that made
        them runs in evaluation mode, and was not trained on these records, or privately, which counts in addition.
        A unit's contribution has at most norm ``max_grad_norm``; see `GaussianMechanism`.

        ==================================  ==========================================
        input                               result
        ==================================  ==========================================
        features longer than the bound      shortened to it
        NaN or inf in a record's features   the record contributes zero
        a class without records             noise; its count is at least 1
        the same ledger again               PrivacyError, nothing released
        ==================================  ==========================================
    """
    _check(features, labels, classes, spec)
    bound = positive("feature_norm", feature_norm)
    mechanism = GaussianMechanism(spec, num_records=len(features), units=units, ledger=ledger)
    columns = _columns(labels, classes)
    size, dim = len(classes), features.shape[1]
    outer = features.new_zeros(1 if shared else size, dim, dim)
    like = {"count": features.new_zeros(size), "sum": features.new_zeros(size, dim), "outer": outer}
    like = {name: value.to(torch.float64) for name, value in like.items()}
    if mechanism.steps >= spec.steps:
        raise PrivacyError("The ledger has charged its release already. Each release needs a statement and a ledger.")
    (index,) = mechanism.batches
    own = torch.as_tensor(index, dtype=torch.int64, device=features.device)
    weight = spec.max_grad_norm / math.sqrt(_PARTS)
    records = _Contributions(features[own] / bound, columns[own], size, weight=weight, shared=shared)
    released = mechanism.release([records], like, index=index)
    # The release is a mean over all units; of what is wanted, only ratios matter but for the floor of the counts.
    sums = {name: value * spec.sample_rate * mechanism.units.count / weight for name, value in released.items()}
    return PrivateClassStatistics(_statistics(sums, classes, bound=bound, shared=shared), mechanism.report())


class _Contributions:
    """What each record adds, as `RecordGradients` of the sums.

    Args:
        features: divided by their bound, ``(B, d)``.
        columns: the place of each record's class, ``(B,)``.
        size: how many classes there are.
        weight: of each of the three parts.
        shared: whether the squares of all classes go to one place.
    """

    def __init__(self, features: Tensor, columns: Tensor, size: int, *, weight: float, shared: bool) -> None:
        wide = features.detach().to(torch.float64)
        lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        self._rows = wide / lengths.clamp(min=1)
        self._member = F.one_hot(columns, size).to(wide)
        self._place = torch.ones_like(self._member[:, :1]) if shared else self._member
        self._weight = weight

    def __len__(self) -> int:
        return len(self._rows)

    def norms(self) -> Tensor:
        """Return the norm of each contribution, at most √3 · weight; NaN for features that are not finite."""
        squared = self._rows.square().sum(1)
        norms: Tensor = self._weight * (1 + squared + squared.square()).sqrt()
        return norms

    def weighted_sum(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the weighted sum of the contributions; weight 0 leaves a record out, NaN or not."""
        weights = weights.to(self._rows)
        rows = self._rows.masked_fill((weights == 0)[:, None], 0)
        scaled = self._weight * weights[:, None]
        outer = [rows.T @ (scaled * place[:, None] * rows) for place in self._place.T]
        return {
            "count": (scaled * self._member).sum(0),
            "sum": (scaled * self._member).T @ rows,
            "outer": torch.stack(outer),
        }

    def rows(self) -> dict[str, Tensor]:
        """Return the contributions themselves, ``(B, …)``; for statements whose unit has several records."""
        squares = self._rows[:, :, None] * self._rows[:, None, :]
        return {
            "count": self._weight * self._member,
            "sum": self._weight * self._member[:, :, None] * self._rows[:, None, :],
            "outer": self._weight * self._place[:, :, None, None] * squares[:, None],
        }


def _statistics(sums: dict[str, Tensor], classes: Sequence[int], *, bound: float, shared: bool) -> ClassStatistics:
    """Return the statistics that noisy sums tell of."""
    counts = sums["count"].clamp(min=1)
    means = sums["sum"] / counts[:, None]
    if shared:
        total = counts.sum()
        around = sums["outer"][0] / total - (means.T * (counts / total)) @ means
        covariances = around.expand(len(classes), -1, -1)
    else:
        covariances = sums["outer"] / counts[:, None, None] - means[:, :, None] * means[:, None, :]
    statistics = ClassStatistics(means.shape[1])
    for place, label in enumerate(classes):
        mean, covariance = means[place] * bound, covariances[place] * bound**2
        statistics.put(label, count=float(counts[place]), mean=mean, covariance=covariance)
    return statistics


def _check(features: Tensor, labels: Tensor, classes: Sequence[int], spec: PrivacySpec) -> None:
    if spec.mechanism != "dp_sgd" or spec.population != "all" or spec.steps != 1:
        raise PrivacyError(
            "Class statistics are one release over all records: the statement must have mechanism 'dp_sgd', population "
            f"'all' and steps 1, but {spec.mechanism!r}, {spec.population!r} and {spec.steps} came."
        )
    if not classes or len(set(classes)) != len(classes):
        raise ConfigError(f"classes must name each class once, but {list(classes)} came.")
    if features.ndim != 2 or tuple(labels.shape) != (len(features),):
        raise DataError(
            f"features must be (N, d) and labels (N,), but {tuple(features.shape)} and {tuple(labels.shape)} came."
        )


def _columns(labels: Tensor, classes: Sequence[int]) -> Tensor:
    table = torch.tensor(list(classes), device=labels.device, dtype=labels.dtype)
    matches = labels[:, None] == table[None, :]
    if not bool(matches.any(1).all()):
        raise DataError(f"A label is none of the classes {list(classes)}. Name all classes that there can be.")
    return matches.int().argmax(1)
