"""How unsure a model is of a pixel, and the median of that for each class it predicts.

[0] Douillard et al., "PLOP: Learning without Forgetting for Continual Semantic Segmentation", CVPR 2021,
arXiv 2011.11390.
[1] https://github.com/arthurdouillard/CVPR2021_PLOP
"""

import math

import torch
from torch import Tensor

__all__ = ["UncertaintyCounts", "uncertainty"]


def uncertainty(probabilities: Tensor, *, columns: int) -> Tensor:
    """Return each pixel's entropy in the unit in which [1] compares it with 0.001.

    That is the mean, not the sum, of ``-p log p`` over the K old columns, divided by ``log K`` and by ``log columns``.

    Args:
        probabilities: of the old model, ``(B, K, H, W)``.
        columns: how many the new model has.
    """
    scale = math.log(probabilities.shape[1]) * math.log(columns)
    entropy: Tensor = torch.special.entr(probabilities)
    return entropy.mean(dim=1) / scale


class UncertaintyCounts:
    """A histogram of uncertainties for each class, with bins of equal ratio: medians are right to 3 %.

    Args:
        columns: how many classes there are, the background included.
        device: where counting happens.

    Attributes:
        counts: int64 ``(columns, BINS)``; to be summed over processes.
    """

    BINS = 800
    LOW = 1e-10  # what is less goes into the first bin

    def __init__(self, columns: int, *, device: torch.device) -> None:
        self.counts = torch.zeros(columns, self.BINS, dtype=torch.int64, device=device)

    def add(self, values: Tensor, column: Tensor) -> None:
        """Count pixels: their uncertainties ``(n,)`` and the class that is predicted there, int64 ``(n,)``."""
        place = 1 - values.clamp(min=self.LOW).log() / math.log(self.LOW)
        bins = (place * self.BINS).long().clamp(max=self.BINS - 1)
        counted = torch.bincount(column * self.BINS + bins, minlength=self.counts.numel())
        self.counts += counted.view_as(self.counts)

    def medians(self) -> list[float]:
        """Return the median of each class; 0 for a class that was never predicted."""
        counts = self.counts.cpu()
        total = counts.sum(dim=1)
        middle = (counts.cumsum(dim=1) * 2 >= total[:, None]).int().argmax(dim=1)
        values = self.LOW ** (1 - (middle + 0.5).double() / self.BINS)
        return torch.where(total > 0, values, 0.0).tolist()
