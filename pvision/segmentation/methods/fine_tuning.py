"""Fine-tuning: go on training on what is shown, and forget."""

from collections.abc import Mapping

from torch import Tensor
from typing_extensions import override

from pvision.continual.experience import Experience
from pvision.continual.masks import SegmentationBatch
from pvision.segmentation.methods._softmax_terms import cross_entropy
from pvision.segmentation.methods.method import SegmentationMethod, resized

__all__ = ["FineTuning"]


class FineTuning(SegmentationMethod):
    """Minimise the cross-entropy of the labels that are shown; whatever is not shown is learned as background.

    The lower bound of the field. On a stream that shows all labels of all classes at once it is the upper one, joint
    training.

    Args:
        network: as `SegmentationMethod` says.
    """

    @override
    def before_experience(self, experience: Experience, *, upcoming: int = 0) -> None:
        """Make room for new classes; no teacher is kept."""
        super().before_experience(experience, upcoming=upcoming)
        self.teacher = None

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``cross_entropy``."""
        logits = resized(self.logits(self.network(batch.image)), batch.image)
        return {"cross_entropy": cross_entropy(logits, self.targets(batch.mask))}
