"""LoRA whose ranks have gates that training can shut, so that each layer finds its own rank.

[0] Lu et al., "Adaptive Rank, Reduced Forgetting: Knowledge Retention in Continual Learning Vision-Language Models with
    Dynamic Rank-Selective LoRA" (CoDyRA), https://arxiv.org/abs/2412.01004
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.adapters.adapter import new_parameter
from pvision.adapters.lora import LoRA, LowRank, check_rank
from pvision.adapters.places import Place
from pvision.checks import at_least

__all__ = ["GatedLoRA", "GatedLowRank", "shrink_gates"]


@dataclass(frozen=True)
class GatedLoRA(LoRA):
    """Add ``scaling · B diag(w) A x`` to ``W₀ x``, with one trainable gate w for each rank.

    Gates start at 1. After an optimizer step `shrink_gates` takes the proximal step of an L1 penalty on them, which
    makes some exactly zero; `AdaptedModel.prune` then removes their ranks.

    Args:
        rank: how many ranks to begin with.
        alpha: the scaling is ``alpha / rank``, with the rank at the beginning; None for a scaling of 1.

    Raises:
        ConfigError: if ``rank`` is no whole number above 0 or ``alpha`` no finite number above 0.
    """

    default_targets: ClassVar[tuple[str, ...]] = ("q", "k", "v", "o", "fc1", "fc2")

    def build(self, place: Place, weight: Tensor) -> "GatedLowRank":
        """Return a new adapter with open gates."""
        check_rank(self.rank, place)
        return GatedLowRank(place, rank=self.rank, scaling=self.scaling, like=weight)


class GatedLowRank(LowRank, kind="gated_low_rank"):
    """The map ``scaling · B diag(gates) A``.

    Attributes:
        gates: w, ``(rank,)``.

    Guarantee:
        A rank whose gate is 0 contributes exactly 0, for finite A and B.
    """

    def __init__(self, place: Place, *, rank: int, scaling: float = 1.0, like: Tensor | None = None) -> None:
        super().__init__(place, rank=rank, scaling=scaling, like=like)
        self.gates = new_parameter(rank, like=self.up)
        nn.init.ones_(self.gates)

    def hidden(self, inner: Tensor) -> Tensor:
        """Return ``A x`` with each rank times its gate."""
        return inner * self.gates

    def up_matrix(self) -> Tensor:
        """Return ``B diag(gates)``."""
        return self.up * self.gates

    def alive(self) -> Tensor:
        """Return which gates are open."""
        return self.gates.ne(0)

    def keep_ranks(self, alive: Tensor) -> int:
        """Keep the ranks where ``alive`` is true, with their gates."""
        gone = super().keep_ranks(alive)
        self.gates = nn.Parameter(self.gates.detach()[alive], requires_grad=self.gates.requires_grad)
        return gone


def shrink_gates(module: nn.Module, *, threshold: float) -> int:
    """Move all trainable gates in ``module`` towards 0 by ``threshold``, those within it to exactly 0.

    This is the proximal operator of ``threshold · |w|₁``. Call it after each optimizer step.

    Args:
        module: an `AdaptedModel` or anything that holds one.
        threshold: how far, at least 0.

    Returns:
        How many gates are 0 now.

    Raises:
        ConfigError: if ``threshold`` is no finite number of at least 0.
    """
    threshold = at_least("threshold", threshold, 0)
    shut = 0
    for part in module.modules():
        if isinstance(part, GatedLowRank) and part.gates.requires_grad:
            with torch.no_grad():
                part.gates.copy_(F.softshrink(part.gates, threshold))
            shut += int(part.gates.eq(0).sum())
    return shut
