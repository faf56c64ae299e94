"""Masked updates: train chosen entries of a frozen matrix, and no others.

[0] Yadav and Bansal, "Exclusive Supermask Subnetwork Training for Continual Learning" (ExSSNeT), Findings of ACL 2023,
    https://arxiv.org/abs/2210.10209 (each experience trains the weights that no earlier one uses)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.adapters.adapter import Adapter, Setting, new_parameter
from pvision.adapters.places import Place
from pvision.checks import unit_rate
from pvision.errors import ConfigError

__all__ = ["Masked", "MaskedUpdate"]


@dataclass(frozen=True, eq=False)
class Masked:
    """Add a trainable number to each chosen entry of ``W₀``.

    Args:
        density: the share of entries to choose, those of greatest magnitude in ``W₀``; None where ``masks`` is given.
        masks: by the name of a place, which entries to choose: bool, ``(out_features, in_features)``.

    Raises:
        ConfigError: if not exactly one of the two is given, or ``density`` is not above 0 and at most 1.

    Guarantee:
        Weights outside the mask keep their bits, whatever optimizer and weight decay: no parameter stands for them.
    """

    density: float | None = None
    masks: Mapping[str, Tensor] | None = None

    place_kind: ClassVar[str] = "linear"
    default_targets: ClassVar[tuple[str, ...]] = ("q", "v")

    def __post_init__(self) -> None:
        if (self.density is None) == (self.masks is None):
            raise ConfigError("Masked takes either density or masks. Give exactly one of them.")
        if self.density is not None:
            unit_rate("density", self.density)

    def build(self, place: Place, weight: Tensor) -> "MaskedUpdate":
        """Return a new adapter with this mask."""
        mask = self._given(place, weight) if self.density is None else _largest(weight, self.density)
        adapter = MaskedUpdate(place, entries=int(mask.sum()), like=weight)
        adapter.index.copy_(mask.flatten().nonzero().squeeze(1))
        return adapter

    def _given(self, place: Place, weight: Tensor) -> Tensor:
        mask = (self.masks or {}).get(place.name)
        if mask is None:
            raise ConfigError(f"masks has none for {place.name}. Give one, or leave this layer out of targets.")
        if mask.dtype != torch.bool or mask.shape != weight.shape:
            shape, came = tuple(weight.shape), f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise ConfigError(f"masks: the one of {place.name} must be torch.bool of shape {shape}, but {came} came.")
        return mask


def _largest(weight: Tensor, density: float) -> Tensor:
    count = max(1, round(density * weight.numel()))
    chosen = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    chosen[weight.abs().flatten().argsort(descending=True, stable=True)[:count]] = True
    return chosen.view_as(weight)


class MaskedUpdate(Adapter, kind="masked_update"):
    """A matrix that is zero but for its trained entries.

    Args:
        place: where it sits.
        entries: how many entries there are.
        like: a tensor whose device and dtype the new ones take; None for float32 on the CPU.

    Attributes:
        values: what is added, ``(entries,)``.
        index: where, counted along the rows of the matrix, ``(entries,)``.
    """

    index: Tensor

    def __init__(self, place: Place, *, entries: int, like: Tensor | None = None) -> None:
        super().__init__(place)
        like = torch.empty(0) if like is None else like
        self.values = new_parameter(entries, like=like)
        self.register_buffer("index", torch.zeros(entries, dtype=torch.int64, device=like.device))

    @property
    def mergeable(self) -> bool:
        """Whether it is a change of weights: always."""
        return True

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the product of the sparse matrix and tokens, ``(…, in_features)``."""
        return F.linear(tokens, self.delta_weight())

    def delta_weight(self) -> Tensor:
        """Return the matrix, ``(out_features, in_features)``."""
        empty = self.values.new_zeros(self.out_features * self.in_features)
        return empty.index_put((self.index,), self.values).view(self.out_features, self.in_features)

    def prune(self) -> int:
        """Remove the entries that are 0; as no rank goes, the count is 0."""
        alive = self.values.detach().ne(0)
        if not bool(alive.all()):
            kept = self.values.detach()[alive]
            self.values = torch.nn.Parameter(kept, requires_grad=self.values.requires_grad)
            self.index = self.index[alive]
        return 0

    @property
    def is_empty(self) -> bool:
        """Whether no entry is left."""
        return not len(self.values)

    def settings(self) -> Mapping[str, Setting]:
        """Return the number of entries."""
        return {"entries": len(self.values)}

    @classmethod
    def rebuild(cls, place: Place, settings: Mapping[str, Setting]) -> Self:
        """Return an adapter with so many entries."""
        return cls(place, entries=cast(int, settings["entries"]))
