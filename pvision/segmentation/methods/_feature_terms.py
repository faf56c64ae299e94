"""How far feature maps have moved from the old model's.

[0] Douillard et al., "PLOP: Learning without Forgetting for Continual Semantic Segmentation", CVPR 2021,
arXiv 2011.11390.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pvision.errors import ConfigError
from pvision.segmentation.reductions import mean_of_all

__all__ = ["levels_of", "local_pod", "mean_squared_change", "pooled_strips"]

SCALES = (1, 2, 4)


def levels_of(network: nn.Module, image: Tensor) -> list[Tensor]:
    """Return the maps of a network's stages, the feature map last.

    Raises:
        ConfigError: if the network does not give them.
    """
    levels = getattr(network, "levels", None)
    if not callable(levels):
        raise ConfigError(
            f"The method compares maps of stages, but model.network ({type(network).__name__}) has no levels(image). "
            "Use a network of pvision.segmentation.networks, or add the method to yours."
        )
    found: list[Tensor] = levels(image)
    return found


def mean_squared_change(new: Tensor, old: Tensor) -> Tensor:
    """Return the mean over all elements of the squared difference."""
    return mean_of_all((new - old).square())


def pooled_strips(values: Tensor, scales: Sequence[int] = SCALES) -> Tensor:
    """Return the means of rows and columns within the cells of grids, ``(B, ·)``: the Local POD of [0], section 3.2.

    Args:
        values: ``(B, C, h, w)``.
        scales: each s divides the map into s x s cells; what is left of rows and columns then is left out, and a scale
            finer than the map as well.
    """
    strips = []
    for scale in scales:
        rows, columns = values.shape[-2] // scale, values.shape[-1] // scale
        if rows and columns:
            kept = values[..., : rows * scale, : columns * scale]
            cells = kept.reshape(*kept.shape[:2], scale, rows, scale, columns)
            strips += [cells.mean(dim=5).flatten(1), cells.mean(dim=3).flatten(1)]
    return torch.cat(strips, dim=1)


def local_pod(new: Tensor, old: Tensor) -> Tensor:
    """Return the distance between the pooled squares of two maps ``(B, C, h, w)``, averaged over images."""
    change = pooled_strips(_exact(new).square()) - pooled_strips(_exact(old).square())
    return mean_of_all(torch.linalg.vector_norm(change, dim=1))


def _exact(values: Tensor) -> Tensor:
    """Return values in float32 at least: the squares of half-precision features can be infinite."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
