"""The directions that the inputs of one layer use; `subspace.py` says what they are for.

[0] Saha, Garg & Roy 2021, arXiv:2103.09762 (GPM: the energy rule and how the memory grows).
[1] Liang & Li 2023, arXiv:2302.11865 (DualGPM: keep the memory or its complement, whichever is smaller).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvision.checks import positive_int, unit_rate
from pvision.continual._bases import defect, needed, orthonormal, rest
from pvision.continual._collectives import from_first
from pvision.continual.features import FeatureFactor, Features
from pvision.errors import ConfigError, DataError

__all__ = ["LayerSubspace"]

_ORTHONORMAL = 1e-10  # of a saved basis; a fresh one is orthonormal to 1e-14


class LayerSubspace:
    """The directions that the inputs of one layer have used, in float64 on the CPU.

    Each update adds the residual basis Φ_t: orthonormal directions that the features of experience t use and none
    before did. The memory is M = [Φ_1, …, Φ_t], its complement N; both are orthonormal and orthogonal to each other to
    1e-12.

    Args:
        dim: entries of an input of the layer.
        compact: keep M or N, whichever is smaller, and no residual bases.

    Attributes:
        dim: as given.
        ranks: directions that each update added.

    Example:
        >>> subspace = LayerSubspace(3)
        >>> subspace.update(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.1, 0.0]]), energy=0.95)
        1
        >>> subspace.outside(torch.tensor([5.0, 1.0, 2.0], dtype=torch.float64)).tolist()
        [0.0, 1.0, 2.0]
    """

    def __init__(self, dim: int, *, compact: bool = False) -> None:
        self.dim, self.compact = positive_int("dim", dim), compact
        self.ranks: list[int] = []
        self._resolution = 0.0  # of the coarsest features so far: the directions are known no better
        self._inside: Tensor | None = torch.zeros(dim, 0, dtype=torch.float64)
        self._outside: Tensor | None = None  # held instead, where the memory is compact and this is smaller

    @property
    def rank(self) -> int:
        """Directions in the memory."""
        return sum(self.ranks)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(one.nbytes for one in (self._inside, self._outside) if one is not None)

    def basis(self) -> Tensor:
        """Return M, orthonormal columns ``(dim, rank)``."""
        return self._inside if self._inside is not None else rest(_held(self._outside))

    def complement(self) -> Tensor:
        """Return N, an orthonormal basis of all that is not in the memory, ``(dim, dim - rank)``.

        It is a function of what is kept. A method that trains coordinates in it keeps its own copy.
        """
        return self._outside if self._outside is not None else rest(_held(self._inside))

    def residual_basis(self, update: int = -1) -> Tensor:
        """Return Φ of one update, counted from 0 or from the end, ``(dim, ranks[update])``.

        Raises:
            ConfigError: if the memory is compact, or there was no such update.
        """
        if self.compact:
            raise ConfigError("A compact memory keeps no residual bases. Make it with compact=False.")
        if not -len(self.ranks) <= update < len(self.ranks):
            raise ConfigError(f"update must name one of the {len(self.ranks)} updates so far, but {update} came.")
        place = update % len(self.ranks)
        start = sum(self.ranks[:place])
        return self.basis()[:, start : start + self.ranks[place]]

    def outside(self, features: Tensor) -> Tensor:
        """Return (I − MMᵀ)x of features ``(…, dim)``, in their dtype and on their device."""
        if self._outside is not None:
            free = self._outside.to(features)
            return features @ free @ free.T
        used = self.basis().to(features)
        return features - features @ used @ used.T

    def shares(self, features: Tensor) -> Tensor:
        """Return ‖Φ_tᵀx‖² / ‖x‖² for each update t, ``(…, updates)``; they add up to at most 1. 0 for x = 0."""
        within = torch.stack(
            [(features @ self.residual_basis(one).to(features)).square().sum(-1) for one in range(len(self.ranks))], -1
        )
        return within / features.square().sum(-1, keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)

    def update(self, features: Features | Tensor, *, energy: float) -> int:
        """Add the directions that hold ``energy`` of the features' energy together with those already there.

        The energy of a direction is the sum of squares of the features along it. Rank 0 decides for all processes: a
        collective. The features must be those of all processes; see `Features.together`.

        Args:
            features: second moments, or the vectors themselves, ``(n, dim)``.
            energy: share to hold, above 0 and at most 1. With 1 all is held that is more than rounding.

        Returns:
            The number of directions that were added.

        Raises:
            ConfigError: if ``energy`` is outside its range.
            DataError: if the features are of another size, or there are none.
        """
        share = unit_rate("energy", energy)
        features = self._moments(features)
        root, free = _scaled(features.root().cpu()), self.complement()
        # In coordinates of the complement the strengths are those of the residual, and what is new is orthogonal to M.
        _, strengths, directions = torch.linalg.svd(root @ free, full_matrices=True)
        self._resolution = max(self._resolution, features.resolution)
        rank = needed(strengths, total=float(root.square().sum()), share=share, rounding=self._resolution)
        rank = int(from_first(torch.tensor(rank)))
        self._grow(free @ from_first(directions).T, rank)
        return rank

    def strongest_outside(self, features: Features | Tensor, count: int) -> Tensor:
        """Return the directions outside the memory along which the features are strongest, as InfLoRA designs with.

        These are the left singular vectors of (I − MMᵀ) X Xᵀ (Liang & Li 2024, arXiv:2404.00228), X holding the
        features as columns. They lie in the complement to the last bits. The memory stays as it is.

        Args:
            features: as for `update`.
            count: how many.

        Returns:
            Orthonormal columns ``(dim, count)``, the strongest first, the same bits on every process; fewer if the
            complement has fewer.
        """
        root, free = _scaled(self._moments(features).root().cpu()), self.complement()
        turned = torch.linalg.svd(free.T @ root.T @ root, full_matrices=True)[0]
        return from_first(free @ turned)[:, : positive_int("count", count)]

    def _moments(self, features: Features | Tensor) -> Features:
        if isinstance(features, Tensor):
            vectors, features = features, FeatureFactor(self.dim)
            features.add(vectors)
        if features.dim != self.dim or not features.count:
            raise DataError(
                f"The memory is of inputs with {self.dim} entries, but {features.count} with {features.dim} came."
            )
        return features

    def _grow(self, turned: Tensor, rank: int) -> None:
        """Add the first ``rank`` columns of a basis of the complement; the others stay free."""
        self.ranks.append(rank)
        if self.compact and self._outside is not None:
            self._outside = orthonormal(turned[:, rank:])
        else:
            inside = self.basis()
            grown = torch.cat([inside, orthonormal(turned[:, :rank], against=inside)], dim=1)
            small = not self.compact or 2 * self.rank <= self.dim
            self._inside, self._outside = (grown, None) if small else (None, rest(grown))

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and one float64 tensor."""
        name = "basis" if self._inside is not None else "complement"
        held = _held(self._inside if self._inside is not None else self._outside)
        plain = {"dim": self.dim, "compact": self.compact, "ranks": list(self.ranks), "resolution": self._resolution}
        return {**plain, name: held.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state.

        Raises:
            DataError: if it is damaged, or of another layer.
        """
        ranks, names = state.get("ranks"), [name for name in ("basis", "complement") if name in state]
        if not isinstance(ranks, list) or not all(isinstance(rank, int) and rank >= 0 for rank in ranks):
            raise DataError(f"The saved subspace is damaged: its ranks must be whole numbers, but {ranks} came.")
        if state.get("dim") != self.dim or bool(state.get("compact")) != self.compact or len(names) != 1:
            raise DataError(
                f"A saved subspace of dim={state.get('dim')}, compact={state.get('compact')} came for one of "
                f"dim={self.dim}, compact={self.compact}. Load it into a memory made like the one that was saved."
            )
        held, columns = state[names[0]], sum(ranks) if names == ["basis"] else self.dim - sum(ranks)
        fits = isinstance(held, Tensor) and held.dtype == torch.float64 and tuple(held.shape) == (self.dim, columns)
        if not fits or defect(held) > _ORTHONORMAL:
            came = f"{held.dtype} {tuple(held.shape)}" if isinstance(held, Tensor) else type(held).__name__
            raise DataError(
                f"The saved subspace is damaged: its {names[0]} must be orthonormal to {_ORTHONORMAL:.0e}, float64 "
                f"({self.dim}, {columns}), but {came} came{f', {defect(held):.1e} away from it' if fits else ''}."
            )
        self.ranks, self._resolution = list(ranks), float(state.get("resolution", 0.0))
        self._inside, self._outside = (held.clone(), None) if names == ["basis"] else (None, held.clone())


def _scaled(root: Tensor) -> Tensor:
    """Return features of size 1, whose squares neither overflow nor vanish; only ratios of energies matter."""
    return root / root.abs().amax().clamp(min=torch.finfo(root.dtype).tiny) if root.numel() else root


def _held(basis: Tensor | None) -> Tensor:
    if basis is None:  # one of the two always is
        raise DataError("The subspace holds neither its basis nor its complement.")
    return basis
