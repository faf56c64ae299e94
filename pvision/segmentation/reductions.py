"""Means and sums over pixels that do not depend on how a batch is shared out among processes."""

import torch
from torch import Tensor

from pvision.continual._collectives import process_count, sum_of_all

__all__ = ["mean_of_all", "mean_where", "share_of_all", "sum_over_all"]


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values where a mask holds, over all processes' pixels; 0 where it holds nowhere.

    Scaled such that the mean of the processes' gradients, which DistributedDataParallel takes, is that of the whole
    batch, however the mask's pixels are shared out. A collective.

    Args:
        values: float, any shape.
        mask: bool, the same shape.
    """
    return torch.where(mask, values, 0.0).sum() * share_of_all(mask.sum())


def mean_of_all(values: Tensor) -> Tensor:
    """Return `mean_where` of all values. A collective."""
    return values.sum() * share_of_all(torch.tensor(values.numel(), device=values.device))


def sum_over_all(values: Tensor) -> Tensor:
    """Return the sum of all processes' values, for what is no mean, as a ratio of sums. A collective.

    The gradient is scaled as that of `mean_where`.

    Args:
        values: of this process, any shape, the same on all.
    """
    total = sum_of_all(values.detach())
    return total + process_count() * (values - values.detach())


def share_of_all(count: Tensor) -> Tensor:
    """Return the number of processes divided by the sum of their counts; 0 if that is 0. A collective.

    Args:
        count: of this process, a scalar.
    """
    total = sum_of_all(count.detach().to(torch.float64)).to(count.device)
    return torch.where(total > 0, process_count() / total.clamp(min=1), 0.0).to(torch.float32)
