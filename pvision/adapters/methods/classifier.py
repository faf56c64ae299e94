"""How a method classifies features: the kind of head, and what it is trained on."""

from dataclasses import dataclass
from typing import Literal

from pvision.checks import one_of, positive
from pvision.continual.cosine_head import CosineHead
from pvision.continual.head import IncrementalHead

__all__ = ["Classifier"]


@dataclass(frozen=True)
class Classifier:
    """Settings of the growing classifier on top of a network.

    Args:
        loss_over: ``seen`` trains by cross entropy over all classes seen so far (a joint head). ``current`` takes those
            of the current experience only (a head per experience): without old images in the batches, the joint loss
            does little but push their logits down. Weights are frozen with those of the classes that were new beside
            them, unless one of these comes again.
        lr_factor: the classifier's learning rate, as a multiple of that of the rest.
        head: ``linear``, or ``cosine``: see `CosineHead`.
        cosine_scale: what the cosine is multiplied with.
        train_scale: whether that is trained.

    Raises:
        ConfigError: if a value is outside its range.
    """

    loss_over: Literal["seen", "current"] = "seen"
    lr_factor: float = 1.0
    head: Literal["linear", "cosine"] = "linear"
    cosine_scale: float = 20.0
    train_scale: bool = False

    def __post_init__(self) -> None:
        one_of("classifier.loss_over", self.loss_over, ("seen", "current"))
        positive("classifier.lr_factor", self.lr_factor)
        one_of("classifier.head", self.head, ("linear", "cosine"))
        positive("classifier.cosine_scale", self.cosine_scale)

    def new_head(self, feature_dim: int) -> IncrementalHead:
        """Return a new head without classes for features of this size."""
        if self.head == "cosine":
            return CosineHead(feature_dim, scale=self.cosine_scale, train_scale=self.train_scale)
        return IncrementalHead(feature_dim)
