"""No adaptation at all: how well the detector does as it is."""

from typing import Any, Self

from pvision.detection.adaptations.three_channels import InThreeChannels

__all__ = ["ZeroShot"]


class ZeroShot(InThreeChannels):
    """Hand the modality to the frozen detector as if it were RGB.

    Args:
        in_channels: of the modality. One is repeated, three stay as they are, the mean of others is repeated.

    Raises:
        ConfigError: if ``in_channels`` is no whole number above 0.
    """

    def describe(self) -> dict[str, Any]:
        """Return the settings, as JSON can hold them."""
        return {"in_channels": self.in_channels}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        """Return what `describe` told of."""
        return cls(**description)
