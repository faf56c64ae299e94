"""The geometric transform of clips and regions: the centre square, resized.

It comes after redaction. Resizing first would blend sensitive pixels into public ones at the region's border.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.privacy import resample_mask

__all__ = ["square_region", "square_video"]


def square_video(video: Tensor, size: int) -> Tensor:
    """Cut the centre square out of a clip and resize it, antialiased.

    Args:
        video: uint8, ``(T, H, W, 3)``.
        size: side of the result in pixels.

    Returns:
        uint8, ``(3, T, size, size)``.
    """
    square = _centre_square(video.permute(0, 3, 1, 2))
    # Frame by frame: a whole clip in float would take four times its memory.
    frames = [_resized(frame, size) for frame in square]
    return torch.stack(frames, 1)


def square_region(region: Tensor, size: int) -> Tensor:
    """Do to a region what `square_video` does to its clip; a new pixel is sensitive if any that it touches is.

    Args:
        region: bool, ``(T, H, W)``.
        size: side of the result in pixels.

    Returns:
        bool, ``(T, size, size)``.
    """
    return resample_mask(_centre_square(region), (size, size))


def _centre_square(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pictures[..., top : top + side, left : left + side]


def _resized(frame: Tensor, size: int) -> Tensor:
    if frame.shape[-1] == size:
        return frame
    pixels = F.interpolate(frame[None].float(), (size, size), mode="bilinear", antialias=True)
    return pixels[0].round().clamp(0, 255).to(torch.uint8)
