"""What ways of adapting that learn no new colours share: a modality's channels become three."""

import torch
from torch import Tensor
from typing_extensions import override

from pvision.checks import positive_int
from pvision.detection.adaptations.adaptation import Adaptation
from pvision.errors import DataError

__all__ = ["InThreeChannels"]


class InThreeChannels(Adaptation):
    """Show the detector the modality itself: one channel three times, three as they are, others as their mean.

    Args:
        in_channels: of the modality.

    Attributes:
        in_channels: as given.

    Raises:
        ConfigError: if ``in_channels`` is no whole number above 0.
    """

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels = positive_int("in_channels", in_channels)

    @override
    def translate(self, images: Tensor) -> Tensor:
        """Return the images in three channels.

        Raises:
            DataError: if they have another number of channels than was announced.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise DataError(
                f"images must be (B, {self.in_channels}, H, W), but {tuple(images.shape)} came. Set `in_channels` to "
                "the channels of the modality."
            )
        if self.in_channels == 3:
            return images
        grey = images if self.in_channels == 1 else images.mean(dim=1, keepdim=True)
        return torch.cat([grey, grey, grey], dim=1)
