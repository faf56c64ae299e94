"""Subspace memory: which directions of a layer's inputs earlier experiences use, and which are free.

[0] Saha, Garg & Roy 2021, arXiv:2103.09762 (GPM: the energy rule and how the memory grows).
[1] Liang & Li 2023, arXiv:2302.11865 (DualGPM: keep the memory or its complement, whichever is smaller).

An update ΔW whose rows lie in the complement of the memory M moves the output for an input x by at most
‖ΔW‖₂ ‖(I − MMᵀ)x‖. Parametrise the update (ΔW = B C Nᵀ with N from `LayerSubspace.complement`) rather than projecting
gradients: an optimizer with momentum, adaptive steps or weight decay leaves a subspace that only its gradients lie in.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pvision.checks import positive_int, unit_rate
from pvision.continual._bases import defect, needed, orthonormal, rest
from pvision.continual._collectives import from_first
from pvision.continual.features import FeatureFactor, Features
from pvision.errors import ConfigError, DataError

__all__ = ["LayerSubspace", "SubspaceMemory"]

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
            energy: share to hold, above 0 and at most 1. With 1 every direction is held that is more than rounding.

        Returns:
            The number of directions that were added.

        Raises:
            ConfigError: if ``energy`` is outside its range.
            DataError: if the features are of another size, or there are none.
        """
        share = unit_rate("energy", energy)
        if isinstance(features, Tensor):
            vectors, features = features, FeatureFactor(self.dim)
            features.add(vectors)
        if features.dim != self.dim or not features.count:
            raise DataError(
                f"The memory is of inputs with {self.dim} entries, but {features.count} with {features.dim} came."
            )
        root, free = features.root().cpu(), self.complement()
        # In coordinates of the complement the strengths are those of the residual, and what is new is orthogonal to M.
        _, strengths, directions = torch.linalg.svd(root @ free, full_matrices=True)
        self._resolution = max(self._resolution, features.resolution)
        floor = self._resolution * torch.linalg.matrix_norm(root)
        rank = needed(strengths.where(strengths > floor, 0), total=float(root.square().sum()), share=share)
        rank = int(from_first(torch.tensor(rank)))
        self._grow(free @ from_first(directions).T, rank)
        return rank

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
        ranks, names = (
            [int(rank) for rank in state.get("ranks", [])],
            [n for n in ("basis", "complement") if n in state],
        )
        if state.get("dim") != self.dim or bool(state.get("compact")) != self.compact or len(names) != 1:
            raise DataError(
                f"A saved subspace of dim={state.get('dim')}, compact={state.get('compact')} came for one of "
                f"dim={self.dim}, compact={self.compact}. Load it into a memory made like the one that was saved."
            )
        held, columns = state[names[0]], sum(ranks) if names == ["basis"] else self.dim - sum(ranks)
        if held.dtype != torch.float64 or tuple(held.shape) != (self.dim, columns) or defect(held) > _ORTHONORMAL:
            raise DataError(
                f"The saved subspace is damaged: its {names[0]} must be orthonormal, float64 ({self.dim}, {columns}), "
                f"but {held.dtype} {tuple(held.shape)} came, {defect(held):.1e} away from orthonormal."
            )
        self.ranks, self._resolution = ranks, float(state["resolution"])
        self._inside, self._outside = (held.clone(), None) if names == ["basis"] else (None, held.clone())


class SubspaceMemory:
    """The subspaces of several layers, by name.

    Args:
        dims: the entries of an input of each layer.
        compact: keep for each layer its memory or its complement, whichever is smaller, and no residual bases.

    Example:
        >>> memory = SubspaceMemory({"fc": 3})
        >>> memory.update({"fc": torch.eye(3)[:2]}, energy=1.0)
        {'fc': 2}
        >>> memory["fc"].complement().abs().round().flatten().tolist()
        [0.0, 0.0, 1.0]
    """

    def __init__(self, dims: Mapping[str, int], *, compact: bool = False) -> None:
        self.compact = compact
        self._layers = {name: LayerSubspace(dim, compact=compact) for name, dim in dims.items()}

    def __getitem__(self, name: str) -> LayerSubspace:
        if name not in self._layers:
            raise ConfigError(f"The memory has no layer {name!r}. It has: {', '.join(self._layers) or 'none'}.")
        return self._layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(layer.nbytes for layer in self._layers.values())

    def add(self, name: str, dim: int) -> None:
        """Begin an empty subspace for a further layer."""
        if name in self._layers:
            raise ConfigError(f"The memory has the layer {name!r} already.")
        self._layers[name] = LayerSubspace(dim, compact=self.compact)

    def drop(self, name: str) -> None:
        """Forget a layer, if it is there."""
        self._layers.pop(name, None)

    def update(self, features: Mapping[str, Features | Tensor], *, energy: float) -> dict[str, int]:
        """Add what the features of an experience use; see `LayerSubspace.update`. A collective.

        Returns:
            For each layer the number of directions that were added.

        Raises:
            ConfigError: if features are of a layer that the memory does not have.
        """
        layers = {name: self[name] for name in features}
        return {name: layer.update(features[name], energy=energy) for name, layer in layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values and float64 tensors, for ``torch.load(weights_only=True)``."""
        return {"compact": self.compact, "layers": {name: one.state_dict() for name, one in self._layers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, all or nothing; layers are made as they were saved.

        Raises:
            DataError: if it is damaged, or of another kind of memory.
        """
        if not isinstance(state.get("layers"), Mapping) or bool(state.get("compact")) != self.compact:
            raise DataError(
                f"A saved subspace memory with compact={state.get('compact')} and its layers was expected to have "
                f"compact={self.compact}. Load what `SubspaceMemory.state_dict` returned."
            )
        loaded = {}
        for name, saved in state["layers"].items():
            if name in self._layers and self._layers[name].dim != saved.get("dim"):
                raise DataError(f"The layer {name!r} has {self._layers[name].dim} inputs, but {saved.get('dim')} came.")
            loaded[name] = LayerSubspace(int(saved["dim"]), compact=self.compact)
            loaded[name].load_state_dict(saved)
        self._layers = loaded


def _held(basis: Tensor | None) -> Tensor:
    if basis is None:  # one of the two always is
        raise DataError("The subspace holds neither its basis nor its complement.")
    return basis
