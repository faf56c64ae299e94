"""Bottleneck adapters beside the MLP of a block.

[0] Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022,
    https://arxiv.org/abs/2205.13535
[1] He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022,
    https://arxiv.org/abs/2110.04366 (the parallel adapter)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.adapters.adapter import Adapter, Setting, new_parameter
from pvision.adapters.places import Place
from pvision.checks import positive, positive_int

__all__ = ["Bottleneck", "BottleneckAdapter"]


@dataclass(frozen=True)
class Bottleneck:
    """Add ``scaling · (U relu(D x + a) + b)`` to the output of an MLP, where x is what the MLP is given.

    U and both biases start at zero. As in [1] x is normalised; [0] takes it before the normalisation.

    Args:
        width: hidden features.
        scaling: what the adapter's output is multiplied with; 0.1 in [0].

    Raises:
        ConfigError: if ``width`` is no whole number above 0 or ``scaling`` no finite number above 0.
    """

    width: int = 64
    scaling: float = 0.1

    place_kind: ClassVar[str] = "mlp"
    default_targets: ClassVar[tuple[str, ...]] = ("mlp",)

    def __post_init__(self) -> None:
        positive_int("width", self.width)
        positive("scaling", self.scaling)

    def build(self, place: Place, weight: Tensor) -> "BottleneckAdapter":
        """Return a new adapter of this width."""
        return BottleneckAdapter(place, width=self.width, scaling=self.scaling, like=weight)


class BottleneckAdapter(Adapter, kind="bottleneck"):
    """A narrow MLP.

    Args:
        place: where it sits.
        width: hidden features.
        scaling: what its output is multiplied with.
        like: a tensor whose device and dtype the new ones take; None for float32 on the CPU.
    """

    def __init__(self, place: Place, *, width: int, scaling: float, like: Tensor | None = None) -> None:
        super().__init__(place)
        like = torch.empty(0) if like is None else like
        self.scaling = float(scaling)
        self.down = new_parameter(width, place.in_features, like=like)
        self.down_bias = new_parameter(width, like=like)
        self.up = new_parameter(place.out_features, width, like=like)
        self.up_bias = new_parameter(place.out_features, like=like)
        nn.init.kaiming_uniform_(self.down, a=sqrt(5))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the narrow MLP's output for tokens, ``(…, in_features)``."""
        hidden = F.relu(F.linear(tokens, self.down, self.down_bias))
        return F.linear(hidden, self.up, self.up_bias) * self.scaling

    def settings(self) -> Mapping[str, Setting]:
        """Return width and scaling."""
        return {"width": len(self.down), "scaling": self.scaling}

    @classmethod
    def rebuild(cls, place: Place, settings: Mapping[str, Setting]) -> Self:
        """Return an adapter with these settings."""
        return cls(place, width=cast(int, settings["width"]), scaling=cast(float, settings["scaling"]))
