"""From what a sensor wrote to an image from 0 to 1."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import positive_int
from pvision.detection.dead_pixels import fill_dead, measured
from pvision.detection.scaling import Scaling, scaling_from_description
from pvision.errors import ConfigError, DataError

__all__ = ["ImageInput"]


class ImageInput(nn.Module):
    """What the raw values of one modality mean: how many channels, which range, which values are no measurement.

    It has no parameters, so it is never trained; it can be exported with the network behind it. Dead pixels (NaN,
    infinite, the largest float, ``dead_values``) influence no range and are filled from their neighbours
    (`pvision.detection.dead_pixels.fill_dead`).

    Args:
        channels: of the images.
        scaling: which sensor values become 0 and 1.
        dead_values: what the sensor writes where it measured nothing, compared in float32; 0 for many depth cameras.

    Raises:
        ConfigError: if ``channels`` is no whole number above 0, ``scaling`` is made for another number of channels, or
            ``dead_values`` are no numbers.

    Example:
        >>> from pvision.detection.scaling import FixedRange
        >>> depth = ImageInput(1, scaling=FixedRange(0, 4000), dead_values=[0])  # millimetres
        >>> depth(torch.tensor([[[1000, 1000], [0, 1000]]], dtype=torch.int32))
        tensor([[[0.2500, 0.2500],
                 [0.2500, 0.2500]]])
    """

    def __init__(self, channels: int = 1, *, scaling: Scaling, dead_values: Sequence[float] = ()) -> None:
        super().__init__()
        self.channels = positive_int("channels", channels)
        if not isinstance(scaling, Scaling):
            raise ConfigError(f"scaling must be a Scaling, for example FixedRange(0, 255), but {scaling!r} came.")
        if scaling.channels not in (None, channels):
            raise ConfigError(
                f"scaling has ranges for {scaling.channels} channels, but channels: {channels} came. Give one range "
                "for all channels, or one for each."
            )
        self.scaling = scaling
        self.dead_values = tuple(_dead_value(value) for value in dead_values)

    @override
    def forward(self, raw: Tensor) -> Tensor:
        """Return the image as brightness.

        Args:
            raw: sensor values of any whole or floating type, ``(C, H, W)`` or ``(B, C, H, W)``; ``(H, W)`` is taken as
                one channel. Each image of a batch is treated by itself.

        Returns:
            From 0 to 1, float32, of the same shape; ``(1, H, W)`` for ``(H, W)``.

        Raises:
            DataError: if the shape is another, the number of channels is not ``channels``, or the type is bool or
                complex.
        """
        images = self._as_batch(raw).to(torch.float32)
        valid = measured(images, self.dead_values)
        values = torch.where(valid, images, torch.zeros_like(images))
        scaled = fill_dead(self.scaling.scale(values, valid), valid)
        return scaled if raw.ndim == 4 else scaled.squeeze(0)

    def describe(self) -> dict[str, Any]:
        """Return all settings in JSON's types, to be stored beside results and weights."""
        return {
            "channels": self.channels,
            "scaling": self.scaling.describe(),
            "dead_values": list(self.dead_values),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Return the input that `describe` described.

        Raises:
            ConfigError: if a setting is missing, unknown or wrong, or the scaling is not one of this library's.
        """
        if set(description) != {"channels", "scaling", "dead_values"}:
            raise ConfigError(
                f"An input is described by channels, scaling and dead_values, but {', '.join(description)} came."
            )
        return cls(
            description["channels"],
            scaling=scaling_from_description(description["scaling"]),
            dead_values=description["dead_values"],
        )

    @override
    def extra_repr(self) -> str:
        return f"{self.channels}, scaling={self.scaling}, dead_values={list(self.dead_values)}"

    def _as_batch(self, raw: Tensor) -> Tensor:
        """Return ``raw`` as ``(B, C, H, W)``."""
        if raw.dtype == torch.bool or raw.is_complex():
            raise DataError(f"An image must hold whole or floating numbers, but {raw.dtype} came.")
        if raw.ndim not in (2, 3, 4) or raw.numel() == 0:
            raise DataError(
                f"An image must be (channels, height, width), with a batch dimension in front or without, but an "
                f"array of shape {tuple(raw.shape)} came."
            )
        batch = raw.reshape((1,) * (4 - raw.ndim) + tuple(raw.shape))
        if batch.shape[1] != self.channels:
            last = " Its last axis fits: move it to the front." if raw.shape[-1] == self.channels else ""
            raise DataError(
                f"The input is set to channels: {self.channels}, but an image of shape {tuple(raw.shape)} has "
                f"{batch.shape[1]}.{last} Set channels to what the sensor gives."
            )
        return batch


def _dead_value(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"dead_values must be numbers, but {value!r} came.")
    return float(value)
