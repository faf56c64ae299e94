"""Which pixels measured nothing, and what is put in their place."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LARGEST_MEASUREMENT", "fill_dead", "measured"]

#: No sensor measures more. Cameras and file formats mark missing values with the largest float instead.
LARGEST_MEASUREMENT = 1e30


def measured(values: Tensor, dead_values: Sequence[float] = ()) -> Tensor:
    """Return which pixels hold a measurement: finite, within ±`LARGEST_MEASUREMENT`, and none of ``dead_values``.

    Args:
        values: of any shape, floating.
        dead_values: what the sensor writes where it measured nothing, for example 0 for many depth cameras.

    Returns:
        True where a pixel was measured, of the shape of ``values``.
    """
    valid = values.abs() <= LARGEST_MEASUREMENT  # false for NaN as well
    for dead in dead_values:
        valid = valid & (values != dead)
    return valid


def fill_dead(image: Tensor, valid: Tensor) -> Tensor:
    """Return the image with each dead pixel replaced by the mean of the measured ones around it.

    The window grows until it holds a measurement: 3 × 3 pixels, then 3 × 3 blocks of 2 × 2, of 4 × 4, and so on up to
    the whole image. Measured pixels keep their bits, channels do not see each other. An exported graph holds all
    windows, whatever was dead in the example it was made from.

    Args:
        image: ``(B, C, H, W)``, finite everywhere; what stands at dead pixels is ignored.
        valid: which pixels were measured, of the same shape.

    Returns:
        Of the shape of ``image``; 0 in a channel without any measurement.
    """
    graph_is_made = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore  # torch types it not
    if not graph_is_made and bool(valid.all()):
        return image  # the same, for a tenth of the time
    sums = torch.where(valid, image, torch.zeros_like(image))
    return torch.where(valid, image, _mean_around(sums, valid.to(image.dtype)))


def _mean_around(sums: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the 3 × 3 neighbourhood or, where that weighs nothing, of a coarser one."""
    near_sums, near_weights = _blur(sums), _blur(weights)
    near = near_sums / near_weights.clamp_min(torch.finfo(sums.dtype).tiny)
    height, width = sums.shape[-2:]
    if height == 1 and width == 1:
        return near
    coarse = F.interpolate(_mean_around(_halve(sums), _halve(weights)), scale_factor=2.0, mode="nearest")
    return torch.where(near_weights > 0, near, coarse[..., :height, :width])


def _blur(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 3, stride=1, padding=1)


def _halve(values: Tensor) -> Tensor:
    height, width = values.shape[-2:]
    return F.avg_pool2d(F.pad(values, (0, width % 2, 0, height % 2)), 2)
