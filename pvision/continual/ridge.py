"""Ridge regression of classes on features, from sums that grow with the data and can shrink again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.continual._collectives import sum_of_all
from pvision.errors import ConfigError

__all__ = ["RIDGES", "RidgeSums", "choose_ridge", "ridge_weights"]

RIDGES = tuple(10.0**power for power in range(-8, 9))
"""What λ is chosen from."""


@dataclass(frozen=True, eq=False)
class RidgeSums:
    """What ridge regression needs of its data, and all that is kept of it.

    It is no privacy guarantee: the second moments of a few vectors determine these up to a rotation.

    Attributes:
        gram: Σ h hᵀ, float64 ``(M, M)``.
        target: Σ h yᵀ, float64 ``(M, C)``, with y one-hot.
        count: records of each class, float64 ``(C,)``.
    """

    gram: Tensor
    target: Tensor
    count: Tensor

    @classmethod
    def zeros(cls, size: int, classes: int, *, device: torch.device) -> Self:
        """Return the sums of no records."""
        shapes = ((size, size), (size, classes), (classes,))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, rows: Tensor, columns: Tensor) -> None:
        """Add records: features ``(B, M)``, and the column of each one's class ``(B,)``."""
        wide = rows.to(self.gram)
        self.gram.addmm_(wide.T, wide)
        one_hot = F.one_hot(columns.to(wide.device), len(self.count)).to(wide)
        self.target.addmm_(wide.T, one_hot)
        self.count.add_(one_hot.sum(0))

    def plus(self, other: "RidgeSums", *, sign: int = 1) -> "RidgeSums":
        """Return the sums of both, or with ``sign`` -1 those without the other's; that one may know more classes."""
        own, new = self.to(other.gram.device), len(other.count) - len(self.count)
        target, count = F.pad(own.target, (0, new)), F.pad(own.count, (0, new))
        return RidgeSums(own.gram + sign * other.gram, target + sign * other.target, count + sign * other.count)

    def together(self) -> "RidgeSums":
        """Return those of all processes, the same bits on each; a collective."""
        return RidgeSums(sum_of_all(self.gram), sum_of_all(self.target), sum_of_all(self.count))

    def to(self, device: torch.device | str) -> "RidgeSums":
        """Return them on a device."""
        return RidgeSums(self.gram.to(device), self.target.to(device), self.count.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return self.gram.nbytes + self.target.nbytes + self.count.nbytes

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything as tensors on the CPU."""
        return dict(vars(self.to("cpu")))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Return what `state_dict` was taken of."""
        return cls(state["gram"], state["target"], state["count"])


def ridge_weights(sums: RidgeSums, ridge: float) -> Tensor | None:
    """Return (G + λI)⁻¹ Q, ``(M, C)``, or None if λ is below what rounding leaves of a singular G."""
    shifted = sums.gram.clone()
    shifted.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    return None if failed else torch.cholesky_solve(sums.target, factor)


def choose_ridge(fitted: RidgeSums, held: RidgeSums) -> float:
    """Return which of `RIDGES` gives weights of the least squared error on held-out records.

    Their sums suffice: the error of weights W is tr(Wᵀ G W) - 2 tr(Wᵀ Q) and a constant.

    Args:
        fitted: the sums that the weights are made of.
        held: those of the held-out records.

    Raises:
        ConfigError: if nothing is held out.
    """
    if not bool(held.count.gt(0.5).any()):
        raise ConfigError("No record is held out to choose λ by. Set method.ridge, or raise method.held_out.")
    errors = {}
    for ridge in RIDGES:
        weights = ridge_weights(fitted, ridge)
        if weights is not None:
            errors[ridge] = float((weights * (held.gram @ weights)).sum() - 2 * (weights * held.target).sum())
    return min(errors, key=errors.__getitem__)
