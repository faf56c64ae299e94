"""Tells whether a picture is an image that lossy compression has changed."""

import io

import numpy as np
import torch
from torch import Tensor

from pvision.continual._canonical_images import apart

__all__ = ["LOSSY_DISTANCE", "same_but_for_loss"]

LOSSY_DISTANCE = 0.35
"""The most that compression may move an image of little contrast."""


def same_but_for_loss(pixels: Tensor, image: Tensor) -> bool:
    """Return whether ``pixels`` lie about as near to an image as what JPEG of quality 75 makes of it.

    Brightness alone is compared: JPEG leaves little of the colours of small images.

    Args:
        pixels: uint8 ``(C, H, W)``.
        image: of that shape; of images that are not uint8 nothing is known, as of those without brightness.
    """
    if image.dtype != torch.uint8 or image.shape[0] not in (1, 3):
        return False
    image = image.cpu()
    allowed = 1.25 * _apart_in_brightness(_recompressed(image), image)
    return _apart_in_brightness(pixels, image) <= min(allowed, LOSSY_DISTANCE)


def _apart_in_brightness(one: Tensor, other: Tensor) -> float:
    return apart(_brightness(one).flatten(), _brightness(other), "C, H, W")


def _brightness(image: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114]) if image.shape[0] == 3 else torch.ones(1)
    return torch.einsum("c,chw->hw", weights, image.float())[None]


def _recompressed(image: Tensor) -> Tensor:
    from PIL import Image  # Pillow made the picture that it is compared with

    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(file, "JPEG", quality=75)
    with Image.open(file) as again:
        return torch.from_numpy(np.array(again)).reshape(*image.shape[1:], -1).permute(2, 0, 1)
