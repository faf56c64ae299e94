"""Prefixes: trained keys and values that all tokens of an image may attend to.

[0] Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021,
    https://arxiv.org/abs/2101.00190
[1] Wang et al., "DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning", ECCV 2022,
    https://arxiv.org/abs/2204.04799 (prefixes in vision transformers)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from pvision.adapters.adapter import Adapter, Setting, new_parameter
from pvision.adapters.places import Place
from pvision.checks import positive_int

__all__ = ["Prefix", "PrefixAdapter"]


@dataclass(frozen=True)
class Prefix:
    """Put ``length`` trained keys and values before those of the tokens in an attention layer.

    They start small and random: a prefix takes part of the attention from the first step on, so, unlike the other
    adapters, a new one changes the network's output.

    Args:
        length: how many keys and how many values.

    Raises:
        ConfigError: if ``length`` is no whole number above 0.
    """

    length: int = 8

    place_kind: ClassVar[str] = "attention"
    default_targets: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        positive_int("length", self.length)

    def build(self, place: Place, weight: Tensor) -> "PrefixAdapter":
        """Return a new prefix of this length."""
        return PrefixAdapter(place, length=self.length, like=weight)


class PrefixAdapter(Adapter, kind="prefix"):
    """Keys and values of one attention layer.

    A subclass may choose them for each image, from the tokens that `forward` is given or from what a method set before.

    Args:
        place: where it sits.
        length: how many keys and how many values.
        like: a tensor whose device and dtype the new ones take; None for float32 on the CPU.

    Attributes:
        keys: ``(length, out_features)``, all heads of a key side by side.
        values: ``(length, out_features)``.
    """

    additive = False

    def __init__(self, place: Place, *, length: int, like: Tensor | None = None) -> None:
        super().__init__(place)
        like = torch.empty(0) if like is None else like
        self.keys = new_parameter(length, place.out_features, like=like)
        self.values = new_parameter(length, place.out_features, like=like)
        nn.init.uniform_(self.keys, -0.02, 0.02)
        nn.init.uniform_(self.values, -0.02, 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return keys and values, ``(2, 1 or B, length, out_features)``, for tokens, ``(B, N, in_features)``."""
        return torch.stack([self.keys, self.values]).unsqueeze(1)

    def settings(self) -> Mapping[str, Setting]:
        """Return the length."""
        return {"length": len(self.keys)}

    @classmethod
    def rebuild(cls, place: Place, settings: Mapping[str, Setting]) -> Self:
        """Return a prefix of this length."""
        return cls(place, length=cast(int, settings["length"]))
