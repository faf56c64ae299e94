"""MiB: the background of one experience holds the classes of others, and the losses know it.

[0] Cermelli et al., "Modeling the Background for Incremental Learning in Semantic Segmentation", CVPR 2020,
arXiv 2002.00718.
[1] https://github.com/fcdl94/MiB
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import at_least
from pvision.continual.experience import Experience
from pvision.continual.masks import SegmentationBatch
from pvision.segmentation.methods import _softmax_terms as terms
from pvision.segmentation.methods._background_start import split_background
from pvision.segmentation.methods.method import SegmentationMethod, resized

__all__ = ["MiB"]


class MiB(SegmentationMethod):
    """Modelling the background: unbiased cross-entropy, unbiased distillation, new outputs split off the background.

    Void pixels are left out of the cross-entropy; [1] trains them as background on VOC.

    Args:
        network: as `SegmentationMethod` says.
        distillation_weight: of the distillation, which is averaged over old outputs as in [1]. There it is 10, and 100
            where one class comes at a time (VOC 15-1).

    Raises:
        ConfigError: if the weight is below 0.
    """

    def __init__(self, network: nn.Module, *, distillation_weight: float = 10.0) -> None:
        super().__init__(network)
        self.distillation_weight = at_least("distillation_weight", distillation_weight, 0)

    @override
    def before_experience(self, experience: Experience, *, upcoming: int = 0) -> None:
        """Keep the teacher, make room, and begin new outputs as shares of the background."""
        super().before_experience(experience, upcoming=upcoming)
        if self.teacher is not None:
            split_background(self.head)

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``cross_entropy`` and, from the second experience on, ``distillation``."""
        logits = resized(self.logits(self.network(batch.image)), batch.image)
        targets = self.targets(batch.mask)
        if self.teacher is None:
            return {"cross_entropy": terms.cross_entropy(logits, targets)}
        with torch.no_grad():
            old = self.teacher.scores(batch.image)
        return {
            "cross_entropy": terms.unbiased_cross_entropy(logits, targets, old=old.shape[1]),
            "distillation": self.distillation_weight * terms.unbiased_distillation(logits, old),
        }
