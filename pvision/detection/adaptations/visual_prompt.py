"""Visual prompts: one learned picture that is the same for every image.

[0] Bahng et al., "Exploring Visual Prompts for Adapting Large-Scale Models", 2022, https://arxiv.org/abs/2203.17274
[1] Medeiros et al., "Visual Modality Prompt for Adapting Vision-Language Object Detectors", ICCV 2025,
https://arxiv.org/abs/2412.00622, where static prompts are what ModPrompt competes with
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from pvision.checks import one_of, positive_int
from pvision.detection.adaptations.three_channels import InThreeChannels
from pvision.errors import ConfigError

__all__ = ["VisualPrompt"]

_KINDS = ("padding", "full", "weight_map")
_BORDER = 30 / 224  # of the shorter side, as in [0]


class VisualPrompt(InThreeChannels):
    """Add a learned picture to each image, or multiply it by one, and hand it to the frozen detector.

    It starts as `ZeroShot`, and what comes out is cut to 0 to 1.

    Args:
        kind: ``padding`` adds it along the border only, ``full`` everywhere, ``weight_map`` multiplies instead.
        image_size: height and width that it is learned for, in pixels; for images of other sizes it is resized.
        width: of the border in pixels, with ``padding`` only; None for 30 in 224 of the shorter side, as in [0].
        in_channels: of the modality; made three as by `ZeroShot`.

    Attributes:
        prompt: what is learned: ``(3, pixels)``, of the border's pixels or of all, row by row.

    Raises:
        ConfigError: if the border leaves nothing free, or belongs to another kind, or a number is out of range.
    """

    places: Tensor

    def __init__(
        self,
        kind: Literal["padding", "full", "weight_map"] = "padding",
        *,
        image_size: Sequence[int],
        width: int | None = None,
        in_channels: int = 1,
    ) -> None:
        super().__init__(in_channels)
        self.kind = one_of("kind", kind, _KINDS)
        if len(image_size) != 2:
            raise ConfigError(f"image_size must be height and width in pixels, but {list(image_size)} came.")
        height, across = (positive_int("image_size", side) for side in image_size)
        self.image_size = (height, across)
        self.width = self._checked_width(width)
        prompted = torch.ones(height, across, dtype=torch.bool)
        if self.width is not None:
            prompted[self.width : height - self.width, self.width : across - self.width] = False
        # It follows from the settings, so it is not saved.
        self.register_buffer("places", prompted.flatten().nonzero()[:, 0], persistent=False)
        self.prompt = nn.Parameter(torch.zeros(3, len(self.places)))

    def _checked_width(self, width: int | None) -> int | None:
        if self.kind != "padding":
            if width is not None:
                raise ConfigError(f"width belongs to the kind 'padding', but the kind is {self.kind!r}. Leave it out.")
            return None
        shorter = min(self.image_size)
        border = max(1, round(_BORDER * shorter)) if width is None else positive_int("width", width)
        if 2 * border >= shorter:
            raise ConfigError(
                f"width must leave some of the {self.image_size[0]} x {self.image_size[1]} pixels free, but {border} "
                "came. Make it less than half of the shorter side, or choose the kind 'full'."
            )
        return border

    @override
    def translate(self, images: Tensor) -> Tensor:
        images = super().translate(images)
        height, width = self.image_size
        picture = torch.zeros(3, height * width, dtype=self.prompt.dtype, device=self.prompt.device)
        picture = picture.index_copy(1, self.places, self.prompt).reshape(1, 3, height, width)
        if images.shape[-2:] != self.image_size:
            picture = F.interpolate(picture, size=images.shape[-2:], mode="bilinear", align_corners=False)
        changed = images * (1 + picture) if self.kind == "weight_map" else images + picture
        return changed.clamp(0, 1)

    def describe(self) -> dict[str, Any]:
        """Return the settings, as JSON can hold them."""
        return {
            "kind": self.kind,
            "image_size": list(self.image_size),
            "width": self.width,
            "in_channels": self.in_channels,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        """Return what `describe` told of, with a prompt that has learned nothing."""
        return cls(**description)
