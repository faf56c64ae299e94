"""From a stored image and its mask to what a network sees: scale, window, mirror, normalisation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.checks import at_least, positive, positive_int
from pvision.continual.masks import VOID
from pvision.errors import ConfigError

__all__ = ["CROP_513", "SegmentationPreprocessing"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class SegmentationPreprocessing:
    """What happens to an image and its mask before a network sees them.

    In training: scaling by a random factor, a random window of ``crop`` pixels, mirroring. Images are resized
    bilinearly with antialiasing, masks to the nearest pixel. What lies outside of an image is the mean in the image,
    and 255 in the mask, which no loss counts. Randomness comes from torch's global generator alone, so that whoever
    seeds it for each image gets the same pixels in every process and after every interruption.

    In evaluation nothing is scaled, unless the stream evaluates a crop: then the short side becomes ``eval_crop``
    pixels long and the square in the middle is kept, of image and mask.

    Args:
        scale: least and greatest factor of both sides, in training.
        crop: side in pixels of the window that training sees; None for whole images.
        flip: whether half of the training images are mirrored.
        mean: of each channel, subtracted from values in [0, 1].
        std: of each channel; what is left is divided by it.
        eval_crop: side in pixels of the square that crop evaluation sees; None where evaluation is of full images.

    Raises:
        ConfigError: if a setting is out of its range, or ``scale`` changes sizes that no ``crop`` makes equal.

    Example:
        >>> made = SegmentationPreprocessing(crop=4, flip=False)
        >>> image, mask = made.train(torch.zeros(3, 2, 4, dtype=torch.uint8), torch.ones(2, 4, dtype=torch.uint8))
        >>> image.shape, mask.unique().tolist()
        (torch.Size([3, 4, 4]), [1, 255])
    """

    scale: tuple[float, float] = (1.0, 1.0)
    crop: int | None = None
    flip: bool = True
    mean: Sequence[float] = _IMAGENET_MEAN
    std: Sequence[float] = _IMAGENET_STD
    eval_crop: int | None = None

    def __post_init__(self) -> None:
        if len(self.scale) != 2 or positive("preprocessing.scale", self.scale[0]) > positive(
            "preprocessing.scale", self.scale[1]
        ):
            raise ConfigError(
                f"preprocessing.scale must be two factors, the smaller first, but {tuple(self.scale)} came."
            )
        for name in ("crop", "eval_crop"):
            if getattr(self, name) is not None:
                positive_int(f"preprocessing.{name}", getattr(self, name))
        if self.crop is None and tuple(self.scale) != (1, 1):
            raise ConfigError(
                f"preprocessing.scale {tuple(self.scale)} gives images of many sizes, which no batch can hold. Set "
                "preprocessing.crop."
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ConfigError(
                f"preprocessing.mean and preprocessing.std must hold one number for each of 3 channels, but "
                f"{len(self.mean)} and {len(self.std)} came."
            )
        for mean, std in zip(self.mean, self.std, strict=True):
            at_least("preprocessing.mean", mean, 0)
            positive("preprocessing.std", std)

    def train(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return an image and its mask for training, augmented by torch's global generator.

        Args:
            image: uint8 ``(3, H, W)``.
            mask: uint8 ``(H, W)``.

        Returns:
            float32 ``(3, H', W')``, normalised, and uint8 ``(H', W')``.
        """
        low, high = self.scale
        if low < high or low != 1:
            factor = low + (high - low) * float(torch.rand(()))
            height, width = (max(1, round(side * factor)) for side in mask.shape)
            image, mask = _resized(image, mask, (height, width))
        padding = [0, 0, 0, 0]
        if self.crop is not None:
            rows, above, below = _window(mask.shape[0], self.crop)
            columns, left, right = _window(mask.shape[1], self.crop)
            image, mask = image[:, rows, columns], mask[rows, columns]
            padding = [left, right, above, below]
        if self.flip and torch.rand(()) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
            padding = [padding[1], padding[0], *padding[2:]]
        # The mean is 0 once the image is normalised.
        return F.pad(self.eval(image), padding), F.pad(mask, padding, value=VOID)

    def eval(self, image: Tensor) -> Tensor:
        """Return an image normalised, at its own size; no randomness.

        Args:
            image: uint8 ``(3, H, W)``.

        Raises:
            ConfigError: if the image is no such tensor.
        """
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ConfigError(
                f"Images must be uint8 (3, H, W) before preprocessing, but {image.dtype} of {tuple(image.shape)} came. "
                "Give three channels of stored pixels."
            )
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (image.to(torch.float32) / 255 - mean) / std

    def centre(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the square in the middle, of ``eval_crop`` pixels, after resizing the short side to it.

        Args:
            image: uint8 ``(3, H, W)``.
            mask: uint8 ``(H, W)``.

        Raises:
            ConfigError: if ``eval_crop`` is not set.
        """
        if self.eval_crop is None:
            raise ConfigError(
                "Crop evaluation needs preprocessing.eval_crop, the side of the square in pixels. Set it."
            )
        side = self.eval_crop
        height, width = (max(side, round(size * side / min(mask.shape))) for size in mask.shape)
        image, mask = _resized(image, mask, (height, width))
        top, left = (height - side) // 2, (width - side) // 2
        return image[:, top : top + side, left : left + side], mask[top : top + side, left : left + side]


def _window(size: int, crop: int) -> tuple[slice, int, int]:
    """Draw a window of ``crop`` pixels of a side: which pixels it has, and how many lie before and after the image.

    An image that is smaller lies somewhere in the window, whole.
    """
    offset = int(torch.randint(0, abs(size - crop) + 1, ()))
    return (slice(offset, offset + crop), 0, 0) if size >= crop else (slice(None), offset, crop - size - offset)


def _resized(image: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    if tuple(mask.shape) == size:
        return image, mask
    pixels = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)
    # "nearest-exact" takes the pixel under the centre, as bilinear interpolation does; "nearest" shifts by up to one.
    labels = F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]
    return pixels, labels


CROP_513 = SegmentationPreprocessing(scale=(0.5, 2.0), crop=513, eval_crop=513)
"""The field's for PASCAL VOC and ADE20K: windows of 513 pixels out of images scaled by 0.5 to 2, mirrored."""
