"""LwF: the new model's old outputs imitate the old model's.

[0] Li & Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282.
[1] https://github.com/fcdl94/MiB, whose weight and form of it the field compares with.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import at_least
from pvision.continual.masks import SegmentationBatch
from pvision.segmentation.methods import _softmax_terms as terms
from pvision.segmentation.methods.method import SegmentationMethod, resized

__all__ = ["LwF"]


class LwF(SegmentationMethod):
    """Learning without forgetting, for pixels: cross-entropy, and distillation of the old outputs' softmax.

    The softmax is over the old outputs alone and at temperature 1, as in [1]; [0] has temperature 2.

    Args:
        network: as `SegmentationMethod` says.
        distillation_weight: of the distillation, which is averaged over old outputs as in [1].

    Raises:
        ConfigError: if the weight is below 0.
    """

    def __init__(self, network: nn.Module, *, distillation_weight: float = 100.0) -> None:
        super().__init__(network)
        self.distillation_weight = at_least("distillation_weight", distillation_weight, 0)

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``cross_entropy`` and, from the second experience on, ``distillation``."""
        logits = resized(self.logits(self.network(batch.image)), batch.image)
        found = {"cross_entropy": terms.cross_entropy(logits, self.targets(batch.mask))}
        if self.teacher is not None:
            with torch.no_grad():
                old = self.teacher.scores(batch.image)
            found["distillation"] = self.distillation_weight * terms.distillation(logits, old)
        return found
