"""What methods have in common whose outputs are probabilities of their own."""

from torch import Tensor
from typing_extensions import override

from pvision.segmentation.methods.method import SegmentationMethod, resized

__all__ = ["SigmoidMethod"]


class SigmoidMethod(SegmentationMethod):
    """A method that trains each output as a yes or no of its own, and chooses the most probable.

    Args:
        network: as `SegmentationMethod` says.
    """

    @override
    def scores(self, image: Tensor) -> Tensor:
        """Return probabilities ``(B, 1 + classes, H, W)``: sigmoids at the feature map's size, resized."""
        return resized(self.logits(self.network(image)).sigmoid(), image)
