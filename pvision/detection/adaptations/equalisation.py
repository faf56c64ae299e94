"""Histogram equalisation: each grey value becomes the share of the image's pixels that are darker."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pvision.checks import positive_int
from pvision.detection.adaptations.zero_shot import ZeroShot

__all__ = ["HistogramEqualisation", "InvertedEqualisation", "equalise"]


class HistogramEqualisation(ZeroShot):
    """Spread the grey values of each image evenly from 0 to 1, and hand it to the frozen detector.

    Args:
        in_channels: of the modality; made three as by `ZeroShot`.
        bins: how many grey values are told apart.

    Attributes:
        bins: as given.

    Raises:
        ConfigError: if ``in_channels`` or ``bins`` are no whole numbers of at least 1 and 2.
    """

    def __init__(self, in_channels: int = 1, *, bins: int = 256) -> None:
        super().__init__(in_channels)
        self.bins = positive_int("bins", bins, low=2)

    @override
    def translate(self, images: Tensor) -> Tensor:
        return equalise(super().translate(images), bins=self.bins)

    @override
    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "bins": self.bins}


class InvertedEqualisation(HistogramEqualisation):
    """Invert each image, then equalise its histogram, and hand it to the frozen detector.

    Args:
        in_channels: of the modality; made three as by `ZeroShot`.
        bins: how many grey values are told apart.

    Raises:
        ConfigError: if ``in_channels`` or ``bins`` are no whole numbers of at least 1 and 2.
    """

    @override
    def translate(self, images: Tensor) -> Tensor:
        return equalise(1 - ZeroShot.translate(self, images), bins=self.bins)


def equalise(images: Tensor, *, bins: int) -> Tensor:
    """Return images whose grey values are spread evenly, each image and each channel by itself.

    Args:
        images: from 0 to 1, ``(B, C, H, W)``.
        bins: how many grey values are told apart.

    Returns:
        From 0 to 1, in the same shape; darker stays darker. What has one grey value alone stays as it is.
    """
    places = (images * bins).long().clamp(0, bins - 1).flatten(2).flatten(0, 1)
    # One row of counts after another in a flat tensor: so it is deterministic on a GPU too.
    first = torch.arange(len(places), device=images.device)[:, None] * bins
    counts = torch.zeros(len(places) * bins, dtype=torch.int64, device=images.device)
    counts = counts.scatter_add(0, (places + first).flatten(), torch.ones_like(places).flatten())
    not_brighter = counts.reshape(-1, bins).cumsum(dim=1).gather(1, places)
    darkest = not_brighter.amin(dim=1, keepdim=True)
    spread = places.shape[1] - darkest
    shares = (not_brighter - darkest).to(images.dtype) / spread.clamp(min=1).to(images.dtype)
    return torch.where(spread > 0, shares, images.flatten(2).flatten(0, 1)).reshape(images.shape)
