"""A pixel classifier that already has the outputs of classes to come."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import positive_int
from pvision.segmentation.head import MaskHead

__all__ = ["ReservedHead"]


class ReservedHead(MaskHead):
    """A `MaskHead` with outputs in reserve, of which each later experience takes as many as it has classes.

    Args:
        feature_dim: channels of the feature map.

    Attributes:
        reserve: the outputs that no class has taken, in at most a few convolutions.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim)
        self.reserve = nn.ModuleList()

    @property
    def reserved(self) -> int:
        """How many outputs are in reserve."""
        return sum(len(layer.get_parameter("bias")) for layer in self.reserve)

    def make_room(self, classes: int) -> None:
        """Add to the reserve until it has outputs for so many classes."""
        missing = positive_int("classes", classes, low=0) - self.reserved
        if missing > 0:
            self.reserve.append(nn.Conv2d(self.feature_dim, missing, 1).to(self.get_buffer("_like")))

    @override
    def new_layer(self, classes: int) -> nn.Module:
        """Return outputs taken from the reserve, oldest first; fresh ones where it is used up."""
        layer = super().new_layer(classes).to(self.get_buffer("_like"))
        taken = min(classes, self.reserved) if self.layers else 0
        if taken == 0:
            return layer
        left = self.reserved - taken
        kept = nn.Conv2d(self.feature_dim, left, 1).to(self.get_buffer("_like")) if left else None
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                rows = torch.cat([one.get_parameter(name) for one in self.reserve])
                parameter[:taken] = rows[:taken]
                if kept is not None:
                    kept.get_parameter(name).copy_(rows[taken:])
        self.reserve = nn.ModuleList([kept] if kept is not None else [])
        return layer

    def with_reserve(self, features: Tensor) -> Tensor:
        """Return the logits of `forward` and behind them those in reserve."""
        return torch.cat([self(features), *(layer(features) for layer in self.reserve)], dim=1)
