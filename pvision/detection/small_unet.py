"""A U-Net of our own that is small enough for a CPU.

[0] Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
    https://arxiv.org/abs/1505.04597
"""

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from pvision.checks import positive_int
from pvision.errors import ConfigError

__all__ = ["PRESETS", "SmallUNet"]

#: Width and depth by name.
PRESETS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"tiny": (8, 3), "small": (12, 3), "medium": (16, 3), "large": (32, 4)}
)
_GROUPS = 4


class SmallUNet(nn.Module):
    """Encoder and decoder with skip connections; halves the resolution ``depth - 1`` times, doubling the channels.

    Group normalisation in place of batch normalisation: an image gets the same output in any batch, in training and
    evaluation, on one process or many.

    Args:
        in_channels: of the images.
        out_channels: of the output, which is not bounded.
        width: channels at full resolution; a multiple of 4.
        depth: how many resolutions.

    Raises:
        ConfigError: if a number is below 1 or ``width`` no multiple of 4.

    Attributes:
        stride: both sides of the images must divide by it.
        head: the last layer.
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int = 12, depth: int = 3) -> None:
        super().__init__()
        if positive_int("width", width) % _GROUPS:
            raise ConfigError(f"width must be a multiple of {_GROUPS}, but {width} came.")
        widths = [width * 2**level for level in range(positive_int("depth", depth))]
        self.stride = 2 ** (depth - 1)
        self.stem = _layer(positive_int("in_channels", in_channels), width)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _layer(near, far), _layer(far, far)) for near, far in pairwise(widths)
        )
        pairs = list(zip(widths[-2::-1], widths[:0:-1], strict=True))
        # Narrowed before they are enlarged: at full resolution each channel costs most.
        self.narrow = nn.ModuleList(nn.Conv2d(far, near, 1) for near, far in pairs)
        self.up = nn.ModuleList(_layer(2 * near, near) for near, _ in pairs)
        self.head = nn.Conv2d(width, positive_int("out_channels", out_channels), 1)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, out_channels, H, W)`` for ``(B, in_channels, H, W)``, both sides multiples of `stride`."""
        features = self.stem(images)
        skipped = []
        for level in self.down:
            skipped.append(features)
            features = level(features)
        for narrow, level in zip(self.narrow, self.up, strict=True):
            larger = F.interpolate(narrow(features), scale_factor=2.0, mode="nearest")
            features = level(torch.cat([skipped.pop(), larger], dim=1))
        output: Tensor = self.head(features)
        return output


def _layer(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, out_channels),
        nn.ReLU(inplace=True),
    )
