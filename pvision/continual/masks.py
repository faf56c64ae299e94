"""What a batch of images with label masks is, the same for whoever makes, draws or learns them."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["BACKGROUND", "VOID", "SegmentationBatch"]

BACKGROUND = 0
"""The label of what belongs to no class; classes count from 1. Where a data set has no background it still stands for
the classes that an experience does not show."""

VOID = 255
"""The label of pixels that are neither trained nor evaluated."""


class SegmentationBatch(NamedTuple):
    """A batch of images whose pixels have labels.

    Attributes:
        image: float ``(B, C, H, W)``, normalised as the stream says.
        mask: int64 ``(B, H, W)``: `BACKGROUND`, classes from 1, `VOID`. In training only the labels that the current
            experience shows; in evaluation all of them.
        position: int64 ``(B,)``, of each image in its data set.
    """

    image: Tensor
    mask: Tensor
    position: Tensor
