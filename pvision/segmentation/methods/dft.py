"""DFT*: fine-tune nothing but the new outputs, which were there as negatives from the start.

[0] Zhang et al., "Revisiting Continual Semantic Segmentation with Pre-trained Vision Models", 2025, arXiv 2508.04267.
[1] https://github.com/BladeDancer957/RevisitingCSS
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from pvision.continual.experience import Experience
from pvision.continual.masks import SegmentationBatch
from pvision.segmentation.methods._softmax_terms import cross_entropy
from pvision.segmentation.methods.method import SegmentationMethod, resized
from pvision.segmentation.reserved_head import ReservedHead

__all__ = ["DFT"]


class DFT(SegmentationMethod):
    """Cross-entropy over all outputs, those of classes to come included, of which only present and later are trained.

    From the second experience on, network, background and old outputs are frozen, the network in evaluation mode. How
    many classes will come has to be known: that is a hint which no other method here gets. Outputs in reserve never win
    in `scores`; [1] has them there, trained down.

    Args:
        network: as `SegmentationMethod` says; [0] means one that was pretrained.
    """

    head: ReservedHead

    @override
    def new_head(self, feature_dim: int) -> ReservedHead:
        return ReservedHead(feature_dim)

    @override
    def before_experience(self, experience: Experience, *, upcoming: int = 0) -> None:
        """Make room for new and later classes; no teacher is kept."""
        super().before_experience(experience, upcoming=upcoming)
        self.teacher = None
        self.head.make_room(upcoming)

    @override
    def freeze(self) -> None:
        super().freeze()
        self.network.requires_grad_(False).eval()
        self.head.layers[:-1].requires_grad_(False)

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``cross_entropy``."""
        logits = resized(self.head.with_reserve(self.network(batch.image)), batch.image)
        return {"cross_entropy": cross_entropy(logits, self.targets(batch.mask))}

    @override
    def get_extra_state(self) -> dict[str, Any]:
        """Return, beside what all methods keep, how many outputs are in reserve."""
        return {**super().get_extra_state(), "reserved": self.head.reserved}

    @override
    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        super().set_extra_state(state)
        self.head.make_room(state["reserved"])
