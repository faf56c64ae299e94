"""From a stored image to what a network sees: crop, augmentation, normalisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.checks import at_least, one_of, positive, positive_int
from pvision.errors import ConfigError, MissingExtraError

__all__ = ["PILOT_224", "Preprocessing"]

_AUGMENTATIONS = ("none", "flip", "random_resized_crop", "pad_crop_flip")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_RATIO = (3 / 4, 4 / 3)  # of the random crop's sides, in every protocol that we know


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to an image before a network sees it, in training and in evaluation.

    Evaluation resizes, takes the centre and normalises. Training replaces or follows the first two with a random
    augmentation. Randomness comes from torch's global generator alone, so that whoever seeds it for each image gets the
    same pixels in every process and after every interruption.

    Resizing needs torchvision (``pip install 'pvision[continual]'``). It works on tensors with antialiasing; Pillow,
    which older code resizes with, differs from it by single grey levels.

    Args:
        resize: the side in pixels to which the short side is resized, or height and width; None to leave the size.
        crop: side in pixels of the square that is cut out; None to keep everything.
        mean: of each channel, or one for all, subtracted from values in [0, 1].
        std: of each channel, or one for all; what is left is divided by it. 0 and 1 leave values in [0, 1].
        rgb: show grey images to a network that expects colours, by three equal channels; coloured images stay as they
            are, and those of 2, 4 or more channels are refused.
        augment: ``"none"`` trains on what evaluation sees; ``"flip"`` mirrors half of that; ``"pad_crop_flip"`` pads
            it with zeros by ``padding``, cuts out a random window of its size, and mirrors half;
            ``"random_resized_crop"`` resizes a random part of the stored image to ``crop`` pixels, and mirrors half.
        scale: least and greatest part of the image's area that a random resized crop takes.
        padding: pixels on each side, for ``"pad_crop_flip"``.
        brightness: in training, brightness is multiplied by a number from ``1 - brightness`` to ``1 + brightness``.
        interpolation: of ``resize``: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.
        crop_interpolation: the same, of the random resized crop.

    Raises:
        ConfigError: if a setting is out of its range, or two contradict each other.

    Example:
        >>> digits = Preprocessing(mean=(0.5,), std=(0.5,))
        >>> digits.eval(torch.zeros(1, 8, 8, dtype=torch.uint8)).unique()
        tensor([-1.])
    """

    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    rgb: bool = False
    augment: Literal["none", "flip", "random_resized_crop", "pad_crop_flip"] = "none"
    scale: tuple[float, float] = (0.08, 1.0)
    padding: int = 4
    brightness: float = 0.0
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    crop_interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        for side in self.resize if isinstance(self.resize, Sequence) else (self.resize,):
            if self.resize is not None:
                positive_int("preprocessing.resize", side)
        if isinstance(self.resize, Sequence) and len(self.resize) != 2:
            raise ConfigError(f"preprocessing.resize must be one number or height and width, but {self.resize!r} came.")
        if self.crop is not None:
            positive_int("preprocessing.crop", self.crop)
        one_of("preprocessing.augment", self.augment, _AUGMENTATIONS)
        one_of("preprocessing.interpolation", self.interpolation, _INTERPOLATIONS)
        one_of("preprocessing.crop_interpolation", self.crop_interpolation, _INTERPOLATIONS)
        positive_int("preprocessing.padding", self.padding)
        if at_least("preprocessing.brightness", self.brightness, 0) > 1:
            raise ConfigError(f"preprocessing.brightness must be at most 1, but {self.brightness} came.")
        self._check_normalisation()
        self._check_random_crop()

    def _check_normalisation(self) -> None:
        for value in self.std:
            positive("preprocessing.std", value)
        for value in self.mean:
            at_least("preprocessing.mean", value, 0)
        if not self.mean or len(self.mean) != len(self.std):
            raise ConfigError(
                f"preprocessing.mean and preprocessing.std must hold one number per channel, or one for all, but "
                f"{len(self.mean)} and {len(self.std)} came."
            )

    def _check_random_crop(self) -> None:
        low, high = (positive("preprocessing.scale", value) for value in self.scale)
        if not low <= high <= 1:
            raise ConfigError(
                f"preprocessing.scale must be two parts of the area, the smaller first and none above 1, but "
                f"{self.scale!r} came."
            )
        if self.augment == "random_resized_crop" and self.crop is None:
            raise ConfigError(
                "preprocessing.augment random_resized_crop needs preprocessing.crop, the size of what comes out."
            )

    def train(self, image: Tensor) -> Tensor:
        """Return an image for training, augmented by torch's global generator.

        Args:
            image: uint8, ``(C, H, W)``.

        Returns:
            float32, ``(C, H', W')``, normalised.

        Raises:
            ConfigError: if the image has another number of channels than ``mean``, or cannot be shown as ``rgb``.
            MissingExtraError: if it has to be resized and torchvision is not installed.
        """
        if self.augment == "random_resized_crop":
            image = _flip(self._random_resized_crop(image))
        else:
            image = self._centre(image)
            if self.augment == "pad_crop_flip":
                image = _random_window(image, self.padding)
            if self.augment != "none":
                image = _flip(image)
        return self._normalise(self._brighten(image))

    def eval(self, image: Tensor) -> Tensor:
        """Return an image for evaluation; no randomness.

        Args:
            image: uint8, ``(C, H, W)``.

        Returns:
            float32, ``(C, H', W')``, normalised.

        Raises:
            ConfigError: if the image has another number of channels than ``mean``, or cannot be shown as ``rgb``.
            MissingExtraError: if it has to be resized and torchvision is not installed.
        """
        return self._normalise(_unit(self._centre(image)))

    def _centre(self, image: Tensor) -> Tensor:
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            image = _transforms().functional.resize(image, size, _mode(self.interpolation), antialias=True)
        if self.crop is not None:
            image = _transforms().functional.center_crop(image, [self.crop, self.crop])
        return image

    def _random_resized_crop(self, image: Tensor) -> Tensor:
        crop = _transforms().RandomResizedCrop(
            self.crop,
            scale=self.scale,
            ratio=_RATIO,
            interpolation=_mode(self.crop_interpolation),
            antialias=True,
        )
        cropped: Tensor = crop(image)
        return cropped

    def _brighten(self, image: Tensor) -> Tensor:
        pixels = _unit(image)
        if not self.brightness:
            return pixels
        factor = 1 + self.brightness * (2 * torch.rand(()) - 1)
        return (pixels * factor).clamp_(0, 1)

    def _normalise(self, pixels: Tensor) -> Tensor:
        if self.rgb:
            pixels = _coloured(pixels)
        if len(self.mean) not in (1, pixels.shape[0]):
            grey = " Set preprocessing.rgb: true to show grey images as RGB." if pixels.shape[0] == 1 else ""
            raise ConfigError(
                f"preprocessing.mean has {len(self.mean)} numbers, but the images have {pixels.shape[0]} channels. "
                f"Give one for each, or one for all.{grey}"
            )
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def _unit(image: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [0, 1]."""
    if image.dtype != torch.uint8:
        raise ConfigError(f"Images must be uint8 before preprocessing, but {image.dtype} came. Keep the stored pixels.")
    return image.to(torch.float32) / 255


def _coloured(pixels: Tensor) -> Tensor:
    """Return an image ``(3, H, W)``; the channels of a grey one share their memory."""
    if pixels.shape[0] not in (1, 3):
        raise ConfigError(
            f"preprocessing.rgb shows images of 1 channel as 3 and leaves those of 3, but the images have "
            f"{pixels.shape[0]} channels. Leave it out."
        )
    return pixels.expand(3, -1, -1)


def _flip(image: Tensor) -> Tensor:
    """Mirror an image, or not, with equal chances."""
    return image.flip(-1) if torch.rand(()) < 0.5 else image


def _random_window(image: Tensor, padding: int) -> Tensor:
    """Return a random window, of the image's own size, of the image with zeros around it."""
    height, width = image.shape[-2:]
    padded = F.pad(image, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2,)).tolist()
    return padded[..., top : top + height, left : left + width]


def _transforms() -> Any:
    """Return torchvision's transforms, loaded when an image is resized for the first time."""
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise MissingExtraError(
            "torchvision", "continual", "Resizing or cropping images (data.preprocessing)"
        ) from error
    return v2


def _mode(interpolation: str) -> Any:
    return _transforms().InterpolationMode(interpolation)


PILOT_224 = Preprocessing(
    resize=256, crop=224, interpolation="bicubic", augment="random_resized_crop", scale=(0.05, 1.0)
)
"""PILOT's for all data sets: what vision transformers of 224 pixels are fine-tuned with; values stay in [0, 1]."""
