"""How images are brought into the form that a detector of Hugging Face was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pvision.checks import positive, positive_int
from pvision.errors import ConfigError

__all__ = ["ImagePreparation", "PreparedImages"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class PreparedImages(NamedTuple):
    """A batch as a network takes it.

    Attributes:
        values: normalised, padded below and to the right with zeros, ``(B, 3, H, W)``.
        mask: 1 where there is image, 0 where there is padding, int64, ``(B, H, W)``.
    """

    values: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class ImagePreparation:
    """Resize, normalise and pad images; gradients pass.

    Args:
        min_size: short side in pixels, if the long side allows it.
        max_size: limit of the long side in pixels.
        fixed_size: height and width of all images in pixels, whatever their shape; None keeps their shape.
        mean: of each channel, taken off.
        std: of each channel, divided by.

    Raises:
        ConfigError: if a size is no positive whole number, or mean or std are not three numbers.
    """

    min_size: int = 800
    max_size: int = 1333
    fixed_size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD

    def __post_init__(self) -> None:
        positive_int("min_size", self.min_size)
        positive_int("max_size", self.max_size)
        for length in self.fixed_size or ():
            positive_int("fixed_size", length)
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ConfigError(f"mean and std must be three numbers, but {self.mean} and {self.std} came.")
        for value in self.std:
            positive("std", value)

    @classmethod
    def from_processor(cls, settings: Mapping[str, Any]) -> Self:
        """Return what the settings in a ``preprocessor_config.json`` say."""
        size = settings.get("size", {})
        if not isinstance(size, Mapping):  # older files give the two numbers
            size = {"shortest_edge": size, "longest_edge": settings.get("max_size", cls.max_size)}
        if not settings.get("do_resize", True) or not {"height", "shortest_edge"} & set(size):
            raise ConfigError(
                f"preprocessor_config.json resizes images by {dict(size)}, but height and width, or shortest_edge and "
                "longest_edge were expected. Give an ImagePreparation of your own."
            )
        normalised = settings.get("do_normalize", True)
        return cls(
            min_size=size.get("shortest_edge", cls.min_size),
            max_size=size.get("longest_edge") or cls.max_size,
            fixed_size=(size["height"], size["width"]) if "height" in size else None,
            mean=tuple(settings.get("image_mean", cls.mean)) if normalised else (0.0, 0.0, 0.0),
            std=tuple(settings.get("image_std", cls.std)) if normalised else (1.0, 1.0, 1.0),
        )

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width in pixels that an image is resized to."""
        if self.fixed_size is not None:
            return self.fixed_size
        scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def __call__(self, images: Sequence[Tensor]) -> PreparedImages:
        """Return a batch of images from 0 to 1, each ``(3, H, W)``."""
        resized = [self._resized(image) for image in images]
        height = max(image.shape[1] for image in resized)
        width = max(image.shape[2] for image in resized)
        values, masks = [], []
        for image in resized:
            margin = (0, width - image.shape[2], 0, height - image.shape[1])
            values.append(F.pad(image, margin))
            masks.append(F.pad(torch.ones_like(image[0], dtype=torch.int64), margin))
        return PreparedImages(torch.stack(values), torch.stack(masks))

    def _resized(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        size = self.size_of(height, width)
        if size != (height, width):
            # Antialiased, as the processors that the weights were trained with.
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        mean, std = (image.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        return (image - mean) / std
