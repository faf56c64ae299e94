"""LiNeS as a setting of methods: how much of what an experience changed is kept, by depth."""

from dataclasses import dataclass

from pvision.adapters.lines import lines_factors
from pvision.checks import at_least

__all__ = ["Lines"]


@dataclass(frozen=True)
class Lines:
    """Multiply what training changed by λ = alpha + beta · ℓ / (L - 1) in block ℓ of L, once it is over.

    Args:
        alpha: λ at the input, and of all that is outside the blocks.
        beta: what is added to it up to the output. Of a single task, [0] of `pvision.adapters.lines` takes 1 - alpha.

    Raises:
        ConfigError: if one is below 0 or not finite.
    """

    alpha: float = 0.1
    beta: float = 0.9

    def __post_init__(self) -> None:
        at_least("lines.alpha", self.alpha, 0)
        at_least("lines.beta", self.beta, 0)

    def factor(self, block: int | None, depth: int) -> float:
        """Return λ of a block of a network so many blocks deep, or outside the blocks (None)."""
        return self.alpha if block is None else lines_factors(depth, alpha=self.alpha, beta=self.beta)[block]
