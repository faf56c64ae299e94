"""Subspace memory: which directions of a layer's inputs earlier experiences use, and which are free.

An update ΔW whose rows lie in the complement of the memory M moves the output for an input x by at most
‖ΔW‖₂ ‖(I − MMᵀ)x‖. Parametrise the update (ΔW = B C Nᵀ with N from `LayerSubspace.complement`) rather than projecting
gradients: an optimizer with momentum, adaptive steps or weight decay leaves a subspace that only its gradients lie in.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from pvision.continual._layer_subspace import LayerSubspace
from pvision.continual.features import Features
from pvision.errors import ConfigError, DataError

__all__ = ["LayerSubspace", "SubspaceMemory"]


class SubspaceMemory:
    """The subspaces of several layers, by name.

    Args:
        dims: the entries of an input of each layer.
        compact: keep for each layer its memory or its complement, whichever is smaller, and no residual bases.

    Example:
        >>> import torch
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
