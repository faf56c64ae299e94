"""Class statistics that may be kept and published: released once, with noise, through the mechanism and its ledger."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.checks import positive
from pvision.continual._collectives import movable
from pvision.continual.class_statistics import ClassStatistics
from pvision.errors import ConfigError, DataError, PrivacyError
from pvision.privacy import GaussianMechanism, PrivacyLedger, PrivacyReport, PrivacySpec, Ranks

__all__ = ["PrivateClassStatistics", "release_class_statistics"]

_PARTS = 3  # of a record's contribution: that it is there, its features, their squares
_PIECE = 2**24  # numbers in the contributions that are written out at once


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
    ledger: PrivacyLedger | None,
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
        ledger: where the release is charged, with several processes that of rank 0. None counts in memory only: no
            crash survives it, and no further call knows of this one.
        units: for each record the name of its video or subject, for a statement with such a unit.
        shared: release one covariance for all classes, around their means, with the noise of one.

    Returns:
        The statistics, and the report of the release.

    Raises:
        ConfigError: if ``feature_norm`` or ``classes`` is malformed.
        DataError: if shapes do not fit, a label is none of ``classes``, or the processes came with different records.
        PrivacyError: if the statement is another, or the ledger has charged its release already.

    Guarantee:
        ``report`` holds for the statistics if no feature depends on more than its own record: the network that made
        them runs in evaluation mode, and was not trained on these records, or privately. What such training cost comes
        on top: both epsilons and both deltas add up, each in one relation, and so do those of several calls.
        A unit's contribution has at most norm ``max_grad_norm``; see `GaussianMechanism`. With unit ``"clip"`` each
        row is a unit. What stands in several rows counts in each: a record with several labels or views, or one that
        a distributed sampler repeats to fill up. Leave out repeats, or give all rows of a record one unit's name.

        ===================================  ==========================================
        input                                result
        ===================================  ==========================================
        features longer than the bound       shortened to it
        NaN or inf in a record's features    the record contributes zero
        a class without records              noise; its count is at least 1
        the same ledger again                PrivacyError, nothing released
        other records on another process     DataError, nothing charged or released
        ===================================  ==========================================
    """
    _check_same_everywhere(features, labels, classes, feature_norm, spec, units, shared)
    _check(features, labels, classes, spec)
    bound = positive("feature_norm", feature_norm)
    columns = movable(_columns(labels, classes))
    # Before anything is computed: in the features' own precision, dividing could overflow or round up.
    rows = movable(features.detach()).to(torch.float64) / bound
    mechanism = GaussianMechanism(spec, num_records=len(rows), units=units, ledger=ledger)
    size, dim = len(classes), rows.shape[1]
    outer = rows.new_zeros(1 if shared else size, dim, dim)
    like = {"count": rows.new_zeros(size), "sum": rows.new_zeros(size, dim), "outer": outer}
    if mechanism.steps >= spec.steps:
        raise PrivacyError("The ledger has charged its release already. Each release needs a statement and a ledger.")
    (index,) = mechanism.batches
    own = torch.as_tensor(index, dtype=torch.int64, device=rows.device)
    weight = spec.max_grad_norm / math.sqrt(_PARTS)

    def contributions() -> Iterator[_Contributions]:
        for part in torch.split(own, max(1, _PIECE // (size * (1 + dim) + outer.numel()))):
            yield _Contributions(rows[part], columns[part], size, weight=weight, shared=shared)

    released = mechanism.release(contributions(), like, index=index)
    # The release is a mean over all units, whoever was drawn: times their number it is the sum over all.
    sums = {name: value * mechanism.units.count / weight for name, value in released.items()}
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
    # No true mean is longer than the bound; where a class has few records, noise makes it so.
    means = means / torch.linalg.vector_norm(means, dim=1, keepdim=True).clamp(min=1)
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


def _check_same_everywhere(features: Tensor, labels: Tensor, *rest: object) -> None:
    """Refuse records that are not the same, in the same order, on each process; a collective.

    Each process takes its part of one batch by position. With another order there, one record could be in two parts,
    and count twice.

    Raises:
        DataError: on every process.
    """
    ranks = Ranks()
    if ranks.world_size == 1:
        return
    digest = hashlib.blake2b(repr((tuple(features.shape), tuple(labels.shape), rest)).encode(), digest_size=16)
    for values in (features.detach().cpu().to(torch.float64), labels.cpu().to(torch.float64)):
        digest.update(values.contiguous().numpy().tobytes())
    everyones = ranks.gathered(movable(torch.tensor([list(digest.digest())], dtype=torch.uint8)))
    if not bool((everyones == everyones[:1]).all()):
        raise DataError(
            "The processes came with different features, labels or settings. Gather those of all processes first, each "
            "record once, and pass the same tensors in the same order on each."
        )


def _check(features: Tensor, labels: Tensor, classes: Sequence[int], spec: PrivacySpec) -> None:
    if spec.mechanism != "dp_sgd" or spec.population != "all" or spec.steps != 1:
        raise PrivacyError(
            "Class statistics are one release over all records: the statement must have mechanism 'dp_sgd', population "
            f"'all' and steps 1, but {spec.mechanism!r}, {spec.population!r} and {spec.steps} came."
        )
    whole = all(isinstance(label, Integral) and not isinstance(label, bool) for label in classes)
    if not len(classes) or len(set(classes)) != len(classes) or not whole:
        raise ConfigError(f"classes must name each class once, by its whole number, but {list(classes)} came.")
    if features.ndim != 2 or tuple(labels.shape) != (len(features),):
        raise DataError(
            f"features must be (N, d) and labels (N,), but {tuple(features.shape)} and {tuple(labels.shape)} came."
        )
    if features.is_complex() or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            f"features must be real and labels whole numbers, but {features.dtype} and {labels.dtype} came."
        )


def _columns(labels: Tensor, classes: Sequence[int]) -> Tensor:
    table = torch.tensor(list(classes), device=labels.device, dtype=torch.int64)
    matches = labels.to(torch.int64)[:, None] == table[None, :]
    if not bool(matches.any(1).all()):
        raise DataError(f"A label is none of the classes {list(classes)}. Name all classes that there can be.")
    return matches.int().argmax(1)
