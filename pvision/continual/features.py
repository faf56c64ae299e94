"""What is kept of the inputs of a layer: their second moments, from which subspaces and interference are computed.

Nothing else about earlier experiences is needed, no record is kept, and the size does not grow with the data. It is no
privacy guarantee: the second moments of a few vectors determine these up to a rotation.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from pvision.checks import positive_int
from pvision.continual._collectives import from_first, gathered, sum_of_all
from pvision.errors import DataError

__all__ = ["FeatureFactor", "FeatureGram", "Features"]

_EPS = torch.finfo(torch.float64).eps
_NOISE = 8  # rounding of the features themselves, in units of their precision: what lies below is noise


class Features(Protocol):
    """Second moments of feature vectors, however they are held.

    Attributes:
        dim: entries of a feature vector.
        count: vectors that were added.
    """

    dim: int
    count: int

    @property
    def resolution(self) -> float:
        """The relative singular value below which a direction is rounding."""

    def root(self) -> Tensor:
        """Return rows ``(at most dim, dim)``, float64, with the second moments of all vectors: A with AᵀA = Σ x xᵀ."""


class _Sums:
    """What both ways to hold second moments share."""

    def __init__(self, dim: int) -> None:
        self.dim = positive_int("dim", dim)
        self.count = 0
        self._precision = 0.0  # of the coarsest features that came

    def _rows(self, features: Tensor) -> Tensor:
        """Return feature vectors as float64 rows, and count them."""
        if features.shape[-1:] != (self.dim,) or features.is_complex():
            raise DataError(
                f"features must be real, with {self.dim} entries in their last dimension, but {_shape(features)} came."
            )
        device = "cpu" if features.device.type == "mps" else features.device  # Apple's devices have no float64
        # A copy: what the network goes on to do with its activations in place must not change what is kept.
        rows = features.detach().reshape(-1, self.dim).to(device=device).to(torch.float64, copy=True)
        if not bool(rows.isfinite().all()):
            raise DataError("features must be finite, but NaN or infinity came. Find where the network diverged.")
        self.count += len(rows)
        self._precision = max(
            self._precision, torch.finfo(features.dtype).eps if features.is_floating_point() else _EPS
        )
        return rows

    def _note(self, count: int, precision: float) -> None:
        self.count, self._precision = self.count + count, max(self._precision, precision)

    def _everyones(self, device: torch.device) -> tuple[int, float]:
        own = torch.tensor([float(self.count), self._precision], dtype=torch.float64, device=device)
        all_ranks = torch.stack(gathered(own))
        return int(all_ranks[:, 0].sum()), float(all_ranks[:, 1].max())


class FeatureFactor(_Sums):
    """Second moments as the triangular factor R of X = QR, kept up to date by QR decompositions.

    RᵀR is the Gram matrix, but its singular values are those of the features themselves. Squaring them, as a Gram
    matrix does, loses every direction below 1.5e-8 of the strongest; here the limit is the rounding of the features.

    Args:
        dim: entries of a feature vector.

    Example:
        >>> features = FeatureFactor(2)
        >>> features.add(torch.tensor([[3.0, 0.0], [0.0, 1.0], [4.0, 0.0]]))
        >>> (features.root().T @ features.root()).diag().tolist(), features.count
        ([25.0, 1.0], 3)
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self._factor = torch.zeros(0, dim, dtype=torch.float64)
        self._waiting: list[Tensor] = []

    @property
    def resolution(self) -> float:
        """The relative singular value below which a direction is rounding."""
        return max(_NOISE * self._precision, self.dim * _EPS)

    def add(self, features: Tensor) -> None:
        """Add feature vectors ``(…, dim)`` of any floating type.

        Raises:
            DataError: if they are of another size, or not finite.
        """
        self._waiting.append(self._rows(features))
        if sum(map(len, self._waiting)) >= 4 * self.dim:  # few decompositions, little memory
            self.root()

    def merge(self, other: "FeatureFactor") -> None:
        """Add all that another one has seen."""
        _check_same(self, other)
        self._waiting.append(other.root())
        self._note(other.count, other._precision)
        self.root()

    def root(self) -> Tensor:
        """Return R, upper triangular, ``(min(count, dim), dim)``."""
        if self._waiting:
            device = self._waiting[0].device
            rows = torch.cat([self._factor.to(device), *(one.to(device) for one in self._waiting)])
            self._factor, self._waiting = _triangular(rows), []
        return self._factor

    def together(self) -> Self:
        """Return what the processes have seen together, the same bits on each; a collective."""
        own = self.root()
        count, precision = self._everyones(own.device)
        parts = torch.cat(gathered(_padded(own, self.dim)))
        joined = type(self)(self.dim)
        joined._note(count, precision)
        joined._factor = from_first(_padded(_triangular(parts), self.dim))[: min(count, self.dim)]
        return joined

    def leading(self, dim: int) -> "FeatureFactor":
        """Return the second moments of the first ``dim`` entries of each vector."""
        part = FeatureFactor(dim)
        part._note(self.count, self._precision)
        part._factor = _triangular(self.root()[:, :dim])
        return part

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and one float64 tensor."""
        return {"count": self.count, "precision": self._precision, "factor": self.root().cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state.

        Raises:
            DataError: if it is damaged, or of features of another size.
        """
        factor = _tensor(state, "factor", self.dim)
        self.count, self._precision = int(state["count"]), float(state["precision"])
        self._factor, self._waiting = factor, []


class FeatureGram(_Sums):
    """Second moments as the Gram matrix Σ x xᵀ: a matrix product for each batch, which GPUs do fastest.

    Eigenvalues are squared singular values, so directions below 1.5e-8 √dim of the strongest one drown in rounding
    and count as absent. `FeatureFactor` sees them.

    Args:
        dim: entries of a feature vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self._gram = torch.zeros(dim, dim, dtype=torch.float64)

    @property
    def resolution(self) -> float:
        """The relative singular value below which a direction is rounding."""
        return max(_NOISE * self._precision, math.sqrt(self.dim * _EPS))

    def add(self, features: Tensor) -> None:
        """Add feature vectors ``(…, dim)`` of any floating type; raises as `FeatureFactor.add` does."""
        rows = self._rows(features)
        self._gram = self._gram.to(rows.device) + rows.T @ rows

    def merge(self, other: "FeatureGram") -> None:
        """Add all that another one has seen."""
        _check_same(self, other)
        self._gram = self._gram + other._gram.to(self._gram.device)
        self._note(other.count, other._precision)

    def gram(self) -> Tensor:
        """Return Σ x xᵀ, ``(dim, dim)``."""
        return self._gram

    def root(self) -> Tensor:
        """Return √λ vᵀ for each eigenvalue λ above the rounding, ``(at most dim, dim)``."""
        values, vectors = torch.linalg.eigh((self._gram + self._gram.T) / 2)
        kept = values > self.resolution**2 * values[-1].clamp(min=0)
        root: Tensor = values[kept].sqrt()[:, None] * vectors[:, kept].T
        return root

    def together(self) -> Self:
        """Return what the processes have seen together, the same bits on each; a collective."""
        count, precision = self._everyones(self._gram.device)
        joined = type(self)(self.dim)
        joined._note(count, precision)
        joined._gram = sum_of_all(self._gram)
        return joined

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and one float64 tensor."""
        return {"count": self.count, "precision": self._precision, "gram": self._gram.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; raises as `FeatureFactor.load_state_dict` does."""
        gram = _tensor(state, "gram", self.dim)
        self.count, self._precision = int(state["count"]), float(state["precision"])
        self._gram = gram


def _triangular(rows: Tensor) -> Tensor:
    """Return R with a diagonal that is not negative, which makes it unique."""
    factor: Tensor = torch.linalg.qr(rows, mode="r").R
    return factor * torch.where(factor.diagonal() < 0, -1.0, 1.0).to(factor)[:, None]


def _padded(rows: Tensor, dim: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(dim - len(rows), dim)])


def _check_same(one: _Sums, other: _Sums) -> None:
    if one.dim != other.dim:
        raise DataError(f"Features of {other.dim} entries cannot be added to features of {one.dim}.")


def _tensor(state: Mapping[str, Any], name: str, dim: int) -> Tensor:
    found = state.get(name)
    if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] != dim or found.dtype != torch.float64:
        came = _shape(found) if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"The saved features must have a float64 tensor {name!r} with {dim} columns, but {came} came.")
    count, precision = state.get("count"), state.get("precision")
    plain = isinstance(count, int) and count >= 0 and isinstance(precision, float) and precision >= 0
    if not plain or not bool(found.isfinite().all()):
        raise DataError(
            f"The saved features are damaged: {name!r} must be finite, 'count' and 'precision' numbers of at least 0, "
            f"but {count!r} and {precision!r} came. Load an older checkpoint."
        )
    return found.clone()


def _shape(values: Tensor) -> str:
    return f"{values.dtype} {tuple(values.shape)}"
