"""The images in a batch of anybody's data."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["images_in"]

_IMAGE_NAMES = ("image", "images", "pixel_values", "video", "input", "inputs", "x")


def images_in(batch: Any) -> Tensor | None:
    """Return the first tensor of a batch that can hold images, ``(B, …)``."""
    if isinstance(batch, Tensor):
        return batch if batch.ndim >= 2 else None
    if isinstance(batch, Mapping):
        items = [batch[name] for name in _IMAGE_NAMES if name in batch] + list(batch.values())
    elif hasattr(batch, "_fields") or isinstance(batch, list | tuple):
        items = [getattr(batch, name) for name in _IMAGE_NAMES if hasattr(batch, name)] + list(batch)
    else:
        items = [getattr(batch, name) for name in _IMAGE_NAMES if hasattr(batch, name)]
    return next((found for item in items if (found := images_in(item)) is not None), None)
