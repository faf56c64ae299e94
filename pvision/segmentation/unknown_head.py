"""A pixel classifier with an output for what is something, but no class yet."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.continual.masks import VOID
from pvision.errors import ConfigError
from pvision.segmentation.head import MaskHead

__all__ = ["UnknownHead"]


class UnknownHead(MaskHead):
    """A branch (3 x 3 convolution, BatchNorm, ReLU) and a 1 x 1 convolution for background, unknown, each experience.

    A later experience begins as a copy of what finds the unknown: its branch, statistics included, and its output once
    for each class.

    Args:
        feature_dim: channels of the feature map, and of each branch.

    Attributes:
        background: what finds the background.
        unknown: what finds things that are no class yet.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim)
        self.background = _outputs(feature_dim, 1)
        self.unknown = _outputs(feature_dim, 1)

    @override
    def grow(self, classes: Sequence[int]) -> None:
        if len(self.classes) + len(classes) > VOID - 2:
            raise ConfigError(
                f"An UnknownHead has room for {VOID - 2} classes, but {len(self.classes)} are known and {len(classes)} "
                "more came. Use a method that has no output for the unknown."
            )
        super().grow(classes)

    @override
    def new_layer(self, classes: int) -> nn.Module:
        layer = _outputs(self.feature_dim, classes).to(self.get_buffer("_like"))
        if self.layers:
            branch, output = copy.deepcopy(self.unknown).requires_grad_(True)
            with torch.no_grad():
                for name, parameter in layer[1].named_parameters():
                    parameter.copy_(output.get_parameter(name).expand_as(parameter))
            layer[0] = branch
        return layer

    @override
    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``(B, 1 + classes, h, w)`` without the unknown, for features ``(B, feature_dim, h, w)``."""
        return torch.cat([self.background(features), *(layer(features) for layer in self.layers)], dim=1)


def _outputs(width: int, count: int) -> nn.Sequential:
    branch = nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )
    output = nn.Conv2d(width, count, 1)
    for convolution in (branch[0], output):
        nn.init.kaiming_normal_(convolution.get_parameter("weight"))
    return nn.Sequential(branch, output)
