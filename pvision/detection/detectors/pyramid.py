"""A small backbone with a feature pyramid, normalised by BatchNorm."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["FeaturePyramid"]


class FeaturePyramid(nn.Module):
    """Give maps of strides 4, 8 and 16, each ``width`` channels, of images; stride 32 gives them context.

    Args:
        width: channels of the finest map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = width
        channels = (width, 2 * width, 2 * width, 2 * width)
        self.stem = _conv(3, width // 2, stride=2)
        self.stages = nn.ModuleList()
        for before, after in zip((width // 2, *channels), channels, strict=False):
            self.stages.append(nn.Sequential(_conv(before, after, stride=2), _Residual(after)))
        self.across = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.smooth = nn.ModuleList(_conv(width, width) for _ in range(3))

    @override
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of images ``(B, 3, H, W)``, from the finest."""
        maps = []
        value = self.stem(images)
        for stage, across in zip(self.stages, self.across, strict=True):
            value = stage(value)
            maps.append(across(value))
        above = maps.pop()
        levels = []
        for own, smooth in zip(reversed(maps), self.smooth, strict=True):
            above = own + F.interpolate(above, size=own.shape[-2:])
            levels.append(smooth(above))
        return OrderedDict((str(place), level) for place, level in enumerate(reversed(levels)))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    @override
    def forward(self, value: Tensor) -> Tensor:
        return F.relu(value + self.second(self.first(value)))


def _conv(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )
