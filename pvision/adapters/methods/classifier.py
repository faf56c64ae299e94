"""How a method classifies features: the kind of head, and what it is trained on."""

from dataclasses import dataclass
from typing import Literal

from pvision.checks import one_of, positive
from pvision.continual.head import IncrementalHead

__all__ = ["Classifier"]


@dataclass(frozen=True)
class Classifier:
    """Settings of the growing classifier on top of a network.

    Args:
        loss_over: ``seen`` trains by cross entropy over all classes seen so far (a joint head). ``current`` takes those
            of the current experience only, and freezes the weights of the others (a head per experience): without
            old images in the batches, the joint loss does little but push their logits down.
        lr_factor: the classifier's learning rate, as a multiple of that of the rest.

    Raises:
        ConfigError: if a value is outside its range.
    """

    loss_over: Literal["seen", "current"] = "seen"
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        one_of("classifier.loss_over", self.loss_over, ("seen", "current"))
        positive("classifier.lr_factor", self.lr_factor)

    def head(self, feature_dim: int) -> IncrementalHead:
        """Return a new head without classes for features of this size."""
        return IncrementalHead(feature_dim)
