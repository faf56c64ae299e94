"""Mean and covariance of each class' features: what is kept of a class instead of its records.

SLCA (arXiv:2303.05118), MOS (arXiv:2412.09441) and others draw features from them to align a classifier with classes
whose records are gone. They are no privacy guarantee: `pvision.training.private_statistics` makes those that are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvision.checks import at_least, positive_int
from pvision.continual._collectives import sum_of_all, union_of_all
from pvision.errors import ConfigError, DataError

__all__ = ["ClassStatistics"]


@dataclass
class _Moments:
    """Moments of some vectors: how many, their mean, and the sum of the squares around it."""

    count: float
    mean: Tensor
    scatter: Tensor

    def joined(self, other: "_Moments") -> "_Moments":
        """Return the moments of all vectors, without the cancellation of sums of squares (Chan et al. 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        spread = torch.outer(apart, apart) * (self.count * other.count / count)
        return _Moments(count, self.mean + apart * (other.count / count), self.scatter + other.scatter + spread)


class ClassStatistics:
    """Count, mean and covariance of the features of each class, in float64, as features come.

    Args:
        dim: entries of a feature vector.

    Example:
        >>> statistics = ClassStatistics(2)
        >>> statistics.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([7, 7]))
        >>> statistics.classes, statistics.mean(7).tolist(), statistics.covariance(7).tolist()
        ([7], [2.0, 0.0], [[2.0, 0.0], [0.0, 0.0]])
    """

    def __init__(self, dim: int) -> None:
        self.dim = positive_int("dim", dim)
        self._moments: dict[int, _Moments] = {}

    @property
    def classes(self) -> list[int]:
        """The labels of which something is known, in order."""
        return sorted(self._moments)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(8 + one.mean.nbytes + one.scatter.nbytes for one in self._moments.values())

    def __contains__(self, label: object) -> bool:
        return label in self._moments

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add features ``(B, dim)`` of classes ``(B,)``; in any batches and order they give the same, to rounding.

        Raises:
            DataError: if shapes do not fit, or a feature is not finite; nothing is added then.
        """
        if features.ndim != 2 or features.shape[1] != self.dim or tuple(labels.shape) != (len(features),):
            raise DataError(
                f"features must be (B, {self.dim}) and labels (B,), but {tuple(features.shape)} and "
                f"{tuple(labels.shape)} came."
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise DataError(f"labels must be whole numbers, but {labels.dtype} came.")
        rows = features.detach().cpu().to(torch.float64)
        if not bool(rows.isfinite().all()):
            raise DataError("features must be finite, but NaN or infinity came. Find where the network diverged.")
        for label in sorted(set(labels.tolist())):
            self._join(label, _moments_of(rows[(labels == label).cpu()]))

    def put(self, label: int, *, count: float, mean: Tensor, covariance: Tensor) -> None:
        """Set a class to given statistics, as private releases do.

        Args:
            label: the class.
            count: of records, above 0; a noisy one need not be whole.
            mean: ``(dim,)``.
            covariance: symmetric ``(dim, dim)``; what is negative in it is cut off.

        Raises:
            DataError: if a shape does not fit or a value is not finite.
        """
        if tuple(mean.shape) != (self.dim,) or tuple(covariance.shape) != (self.dim, self.dim) or not count > 0:
            raise DataError(
                f"A class needs a count above 0, a mean ({self.dim},) and a covariance ({self.dim}, {self.dim}), but "
                f"{count}, {tuple(mean.shape)} and {tuple(covariance.shape)} came."
            )
        wide = covariance.detach().cpu().to(torch.float64)
        center = mean.detach().cpu().to(torch.float64).clone()
        if not bool(wide.isfinite().all() and center.isfinite().all()):
            raise DataError("mean and covariance must be finite, but NaN or infinity came.")
        values, vectors = torch.linalg.eigh((wide + wide.T) / 2)
        scatter = vectors * values.clamp(min=0) @ vectors.T * max(count - 1, 0.0)
        self._moments[int(label)] = _Moments(float(count), center, scatter)

    def count(self, label: int) -> float:
        """Return how many records of a class were added."""
        return self._of(label).count

    def mean(self, label: int) -> Tensor:
        """Return the mean of a class, ``(dim,)``."""
        return self._of(label).mean.clone()

    def covariance(self, label: int, *, shrinkage: float = 0.0, ridge: float = 0.0) -> Tensor:
        """Return the covariance of a class, ``(dim, dim)``, with n - 1 below the sum; 0 for a single record.

        Args:
            label: the class.
            shrinkage: share of the isotropic covariance of the same trace, from 0 to 1.
            ridge: what is added to each variance; MOS takes 1e-4.

        Raises:
            ConfigError: if the class is unknown or a number outside its range.
        """
        if at_least("shrinkage", shrinkage, 0) > 1:
            raise ConfigError(f"shrinkage must be at most 1, but {shrinkage} came.")
        at_least("ridge", ridge, 0)
        moments = self._of(label)
        sample = moments.scatter / max(moments.count - 1, 1.0)
        even = torch.eye(self.dim, dtype=torch.float64)
        isotropic = sample.diagonal().mean() * even
        return (1 - shrinkage) * sample + shrinkage * isotropic + ridge * even

    def sample(
        self,
        number: int,
        *,
        classes: Sequence[int] | None = None,
        shrinkage: float = 0.0,
        ridge: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw pseudo-features from N(mean, covariance) of each class.

        Args:
            number: of features for each class.
            classes: whose; None for all.
            shrinkage: as for `covariance`.
            ridge: as for `covariance`.
            generator: on the CPU; None for torch's global one.

        Returns:
            Features ``(number * classes, dim)``, float64, class after class, and their labels.

        Raises:
            ConfigError: if a class is unknown or a number outside its range.
        """
        positive_int("number", number)
        chosen = self.classes if classes is None else list(classes)
        drawn = [torch.empty(0, self.dim, dtype=torch.float64)]
        for label in chosen:
            values, vectors = torch.linalg.eigh(self.covariance(label, shrinkage=shrinkage, ridge=ridge))
            normal = torch.randn(number, self.dim, dtype=torch.float64, generator=generator)
            # The symmetric root is a function of the covariance. Its eigenvectors are not: of a few images, most
            # directions are alike, and rounding would decide what is drawn.
            root = vectors * values.clamp(min=0).sqrt() @ vectors.T
            drawn.append(self._of(label).mean + normal @ root)
        return torch.cat(drawn), torch.tensor(chosen, dtype=torch.int64).repeat_interleave(number)

    def forget(self, classes: Iterable[int]) -> None:
        """Drop all that is known of some classes; what is unknown is forgotten already."""
        for label in classes:
            self._moments.pop(int(label), None)

    def include(self, other: "ClassStatistics") -> None:
        """Count the features of other statistics as if they had come here."""
        for label, moments in other._moments.items():
            self._join(label, moments)

    def together(self) -> "ClassStatistics":
        """Return what the processes have seen together, the same bits on each; a collective."""
        joined = ClassStatistics(self.dim)
        zero = torch.zeros(self.dim, dtype=torch.float64)
        for label in union_of_all(self.classes):
            own = self._moments.get(label, _Moments(0, zero, torch.zeros(self.dim, self.dim, dtype=torch.float64)))
            sums = sum_of_all(torch.cat([torch.tensor([float(own.count)], dtype=torch.float64), own.count * own.mean]))
            mean = sums[1:] / sums[0]
            apart = own.mean - mean
            scatter = sum_of_all(own.scatter + own.count * torch.outer(apart, apart))
            joined._moments[label] = _Moments(float(sums[0]), mean, scatter)
        return joined

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and float64 tensors, for ``torch.load(weights_only=True)``."""
        classes = {
            label: {"count": one.count, "mean": one.mean.clone(), "scatter": one.scatter.clone()}
            for label, one in sorted(self._moments.items())
        }
        return {"dim": self.dim, "classes": classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, all or nothing.

        Raises:
            DataError: if it is damaged, or of features of another size.
        """
        if state.get("dim") != self.dim or not isinstance(state.get("classes"), Mapping):
            raise DataError(f"Class statistics of {self.dim} features were expected, but {state.get('dim')} came.")
        loaded = {}
        for label, one in state["classes"].items():
            mean, scatter = one.get("mean"), one.get("scatter")
            shapes = _is_wide(mean, (self.dim,)) and _is_wide(scatter, (self.dim, self.dim))
            if not (shapes and one.get("count", 0) > 0):
                raise DataError(f"The saved statistics of class {label} are damaged. Load an older checkpoint.")
            loaded[int(label)] = _Moments(float(one["count"]), mean.clone(), scatter.clone())
        self._moments = loaded

    def _of(self, label: int) -> _Moments:
        if label not in self._moments:
            raise ConfigError(f"Nothing is known of class {label}. Known are: {self.classes}.")
        return self._moments[label]

    def _join(self, label: int, new: _Moments) -> None:
        known = self._moments.get(label)
        self._moments[label] = new if known is None else known.joined(new)


def _moments_of(rows: Tensor) -> _Moments:
    mean = rows.mean(0)
    return _Moments(float(len(rows)), mean, (rows - mean).T @ (rows - mean))


def _is_wide(values: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(values, Tensor) and values.dtype == torch.float64 and tuple(values.shape) == shape
