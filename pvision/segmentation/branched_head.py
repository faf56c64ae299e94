"""A pixel classifier whose experiences have convolutions of their own and correct the background that they found."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.segmentation.head import MaskHead

__all__ = ["BranchedHead"]


class BranchedHead(MaskHead):
    """A branch (3 x 3 convolution, BatchNorm, ReLU) and a 1 x 1 convolution for the classes of each experience.

    The first experience's output begins with the background's logit ``b_0``, that of experience ``i`` with its residual
    ``r_i``. A new branch begins as a copy of the first one, statistics included; new outputs begin with He's normal
    weights and are not balanced against the old ones.

    Args:
        feature_dim: channels of the feature map, and of each branch.
        residual: give each later experience a residual; without, ``b_0`` alone is the background.
        clamp: let a residual only lower the background's logit.

    Attributes:
        branches: one for each experience.
    """

    def __init__(self, feature_dim: int, *, residual: bool = True, clamp: bool = True) -> None:
        super().__init__(feature_dim, first=int(residual))
        self.clamp = clamp
        self.branches = nn.ModuleList()

    @override
    def grow(self, classes: Sequence[int]) -> None:
        super().grow(classes)
        layer = self.layers[-1]
        nn.init.kaiming_normal_(layer.get_parameter("weight"))
        if self.branches:
            self.branches.append(copy.deepcopy(self.branches[0]).requires_grad_(True))
        else:
            self.branches.append(_branch(self.feature_dim).to(self.get_buffer("_like")))

    def branch_features(self, features: Tensor) -> list[Tensor]:
        """Return what each branch makes of features, all ``(B, feature_dim, h, w)``."""
        return [branch(features) for branch in self.branches]

    def outputs(self, branch_features: Sequence[Tensor]) -> list[Tensor]:
        """Return each experience's outputs: background or residual, if it has one, then its classes' logits."""
        return [layer(one) for layer, one in zip(self.layers, branch_features, strict=True)]

    @override
    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``(B, 1 + classes, h, w)`` as they are evaluated, for features ``(B, feature_dim, h, w)``."""
        return self.evaluated(self.outputs(self.branch_features(features)))

    def evaluated(self, outputs: Sequence[Tensor]) -> Tensor:
        """Join outputs to logits, background first: ``b = b_0 + sum of min(r_i, 0)``.

        Clamped residuals cannot raise the background's logit, so that a later experience never takes a pixel away from
        an old class in the background's favour.
        """
        return self._joined(outputs, self._background(outputs))

    def trained(self, outputs: Sequence[Tensor]) -> Tensor:
        """Join outputs to the logits that training sees: the latest residual unclamped, all that is older constant.

        ``b = sg(b_0) + sum over i < t of sg(min(r_i, 0)) + r_t``, where ``sg`` stops the gradient.
        """
        if len(outputs) == 1:
            return outputs[0]
        old = [one.detach() for one in outputs[:-1]]
        background = self._background(old)
        if self.first:
            background = background + outputs[-1][:, :1]
        return self._joined([*old, outputs[-1]], background)

    def _background(self, outputs: Sequence[Tensor]) -> Tensor:
        background = outputs[0][:, :1]
        for one in outputs[1:]:
            if self.first:
                residual = one[:, :1]
                background = background + (residual.clamp(max=0) if self.clamp else residual)
        return background

    def _joined(self, outputs: Sequence[Tensor], background: Tensor) -> Tensor:
        return torch.cat([background, outputs[0][:, 1:], *(one[:, self.first :] for one in outputs[1:])], dim=1)


def _branch(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )
