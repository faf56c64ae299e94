"""Orthonormal columns: how many are needed, what they leave free, and how far they are from orthonormal."""

import torch
from torch import Tensor

__all__ = ["defect", "needed", "orthonormal", "rest"]


def needed(strengths: Tensor, *, total: float, share: float) -> int:
    """Return the least number of directions without which no more than 1 - ``share`` of the energy is left out."""
    left_out = strengths.square().flip(0).cumsum(0).flip(0)  # smallest first: exact for what is nearly nothing
    return int((left_out > (1 - share) * total).sum())


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
    """Return how far columns are from orthonormal, as the largest entry of |BᵀB − I|."""
    unit = torch.eye(basis.shape[-1], dtype=basis.dtype)
    return float((basis.T @ basis - unit).abs().max()) if basis.numel() else 0.0
