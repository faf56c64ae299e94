"""Any number of channels as three."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

__all__ = ["MixChannels"]


class MixChannels(nn.Module):
    """Three means of the channels with learned weights: a 1 × 1 convolution whose output stays from 0 to 1.

    The weights are a softmax, so they are positive and sum to 1; all are equal to begin with.

    Args:
        in_channels: of the images.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3, in_channels))

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, 3, H, W)`` for ``(B, in_channels, H, W)``."""
        return F.conv2d(images, self.logits.softmax(dim=1)[:, :, None, None]).clamp(0.0, 1.0)
