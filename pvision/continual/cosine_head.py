"""A growing classifier that compares directions only: the length of features and weights has no say.

[0] Hou et al., "Learning a Unified Classifier Incrementally via Rebalancing", CVPR 2019 (LUCIR)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.checks import positive
from pvision.continual.head import IncrementalHead

__all__ = ["CosineHead"]


class CosineHead(IncrementalHead):
    """Logits are ``scale · cos(features, weights of the class)``.

    New classes cannot get longer weights than old ones, which is what biases a linear head towards them [0].

    Args:
        feature_dim: the size of a feature vector.
        scale: what the cosine is multiplied with; the smaller, the less sure the softmax can become.
        train_scale: whether it is trained, by all experiences alike. The logits of classes whose weights are frozen
            then change with it.

    Attributes:
        scale: a parameter of no dimensions.

    Raises:
        ConfigError: if ``scale`` is no finite number above 0.

    Guarantee:
        No logit is larger than the scale, but for rounding; a feature vector of zeros has logits of 0.
    """

    def __init__(self, feature_dim: int, *, scale: float = 20.0, train_scale: bool = False) -> None:
        super().__init__(feature_dim)
        self._first_scale = positive("scale", scale)
        self.scale = nn.Parameter(torch.tensor(self._first_scale), requires_grad=train_scale)

    def reset_parameters(self) -> None:
        """Draw everything anew; the scale is again what it was at first."""
        super().reset_parameters()
        nn.init.constant_(self.scale, self._first_scale)

    def new_layer(self, classes: int) -> nn.Module:
        """Return the weights of so many new classes, without biases."""
        return _Directions(self.feature_dim, classes, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``(B, len(classes))`` of features ``(B, feature_dim)``."""
        directions = F.normalize(features, dim=1)
        return super().forward(directions) * self.scale


class _Directions(nn.Linear):
    """A linear layer whose weights have length 1, whatever is stored of them."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the products ``(B, out_features)``."""
        return F.linear(features, F.normalize(self.weight, dim=1))
