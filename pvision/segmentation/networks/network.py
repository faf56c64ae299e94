"""What a segmentation method asks of the network before its classifier."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

__all__ = ["SegmentationNetwork"]


class SegmentationNetwork(nn.Module, ABC):
    """A network that turns images into one map of features, in two parts: a backbone and a neck.

    The backbone may have been pretrained, the neck begins at random, and methods give them learning rates of their own.

    Attributes:
        feature_dim: channels of the map.
    """

    feature_dim: int

    @abstractmethod
    def levels(self, image: Tensor) -> list[Tensor]:
        """Return the maps after each stage of the backbone, finest first, and after the neck, for distillation.

        Args:
            image: normalised, float ``(B, C, H, W)``.

        Returns:
            Maps ``(B, channels, h, w)`` of any sizes; the last one is what `forward` returns.
        """

    @abstractmethod
    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbone."""

    def neck_parameters(self) -> list[nn.Parameter]:
        """Return all other parameters."""
        backbone = {id(one) for one in self.backbone_parameters()}
        return [one for one in self.parameters() if id(one) not in backbone]

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``(B, feature_dim, h, w)`` of normalised images, float ``(B, C, H, W)``."""
        return self.levels(image)[-1]
