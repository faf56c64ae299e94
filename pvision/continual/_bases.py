"""Orthonormal columns: how many are needed, what they leave free, and how far they are from orthonormal."""

import math

import torch
from torch import Tensor

__all__ = ["defect", "needed", "orthonormal", "rest"]


def needed(strengths: Tensor, *, total: float, share: float, rounding: float) -> int:
    """Return the least number of directions without which no more than 1 - ``share`` of the energy is left out.

    What is left out may also be as much as the rounding of all directions together, ``rounding`` being relative to the
    root of ``total``. Direction by direction it would be too much: of coarse features each can be weaker than that.
    """
    left_out = strengths.square().flip(0).cumsum(0).flip(0)  # smallest first: exact for what is nearly nothing
    return int((left_out > max(1 - share, rounding**2) * total).sum())


def rest(basis: Tensor) -> Tensor:
    """Return an orthonormal basis of what is orthogonal to orthonormal columns."""
    square: Tensor = torch.linalg.qr(basis, mode="complete").Q
    return square[:, basis.shape[1] :].contiguous()


def orthonormal(columns: Tensor, *, against: Tensor | None = None) -> Tensor:
    """Return nearly orthonormal columns orthonormalised to the last bits, and orthogonal to ``against``."""
    for _ in range(2):
        if against is not None:
            columns = columns - against @ (against.T @ columns)
        columns, upper = torch.linalg.qr(columns)
        columns = columns * torch.where(upper.diagonal() < 0, -1.0, 1.0).to(columns)
    return columns


def defect(basis: Tensor) -> float:
    """Return how far columns are from orthonormal, as the largest entry of |BᵀB − I|; infinitely if NaN."""
    unit = torch.eye(basis.shape[-1], dtype=basis.dtype)
    found = float((basis.T @ basis - unit).abs().max()) if basis.numel() else 0.0
    return math.inf if math.isnan(found) else found
