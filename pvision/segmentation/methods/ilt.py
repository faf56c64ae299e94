"""ILT: distillation of the old outputs and of the encoder's features.

[0] Michieli & Zanuttigh, "Incremental Learning Techniques for Semantic Segmentation", ICCV Workshops 2019,
arXiv 1907.13372.
[1] https://github.com/fcdl94/MiB, whose weights and form of it the field compares with.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import at_least
from pvision.continual.masks import SegmentationBatch
from pvision.segmentation.methods import _softmax_terms as terms
from pvision.segmentation.methods._feature_terms import levels_of, mean_squared_change
from pvision.segmentation.methods.method import SegmentationMethod, resized

__all__ = ["ILT"]


class ILT(SegmentationMethod):
    """Cross-entropy, distillation of outputs as in `LwF`, and the encoder's features kept near the old ones.

    The encoder's features are the last level before the network's neck. The encoder is trained on; freezing it is an
    option of [0] that [1] does not take.

    Args:
        network: as `SegmentationMethod` says, with ``levels(image)``.
        distillation_weight: of the outputs' distillation, averaged over old outputs.
        feature_weight: of the features' mean squared change.

    Raises:
        ConfigError: if a weight is below 0.
    """

    def __init__(
        self, network: nn.Module, *, distillation_weight: float = 100.0, feature_weight: float = 100.0
    ) -> None:
        super().__init__(network)
        self.distillation_weight = at_least("distillation_weight", distillation_weight, 0)
        self.feature_weight = at_least("feature_weight", feature_weight, 0)

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``cross_entropy`` and, from the second experience on, the two distillations."""
        levels = levels_of(self.network, batch.image)
        logits = resized(self.logits(levels[-1]), batch.image)
        found = {"cross_entropy": terms.cross_entropy(logits, self.targets(batch.mask))}
        if self.teacher is not None:
            with torch.no_grad():
                old_levels = levels_of(self.teacher.network, batch.image)
                old = resized(self.teacher.logits(old_levels[-1]), batch.image)
            found["distillation"] = self.distillation_weight * terms.distillation(logits, old)
            change = mean_squared_change(levels[-2], old_levels[-2])
            found["feature_distillation"] = self.feature_weight * change
        return found
