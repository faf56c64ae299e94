"""The directions in which a residual adapter is trained."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from pvision.continual.features import Features
from pvision.continual.subspace import SubspaceMemory

__all__ = ["coming_bases", "last_bases"]


def last_bases(memory: SubspaceMemory) -> dict[str, Tensor]:
    """Return by layer what the last update of a memory added, orthonormal columns ``(dim, any number)``.

    Their signs are those that make the largest entry of each positive. A decomposition leaves them to rounding, and an
    adapter's coordinates would go with them.
    """
    return {name: _signed(memory[name].residual_basis()) for name in memory}


def coming_bases(memory: SubspaceMemory, features: Mapping[str, Features], *, energy: float) -> dict[str, Tensor]:
    """Return by layer what an update with these features would add; see `last_bases`. A collective."""
    grown = copy.deepcopy(memory)
    grown.update(features, energy=energy)
    return last_bases(grown)


def _signed(basis: Tensor) -> Tensor:
    if not basis.numel():
        return basis
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return basis * torch.where(largest < 0, -1.0, 1.0).to(basis)
