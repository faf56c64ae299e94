"""LwF-MC: each old output imitates the old model's as a yes or no of its own.

[0] Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017, arXiv 1611.07725: its
baseline without exemplars.
[1] https://github.com/fcdl94/MiB, whose weight and form of it the field compares with.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import at_least
from pvision.continual.masks import SegmentationBatch
from pvision.segmentation.methods import _sigmoid_terms as terms
from pvision.segmentation.methods.method import resized
from pvision.segmentation.methods.sigmoid_method import SigmoidMethod

__all__ = ["LwFMC"]


class LwFMC(SigmoidMethod):
    """Binary cross-entropy on the labels, and of old outputs, background included, with the old model's probabilities.

    [0] replaces the old outputs' labels by the old model's probabilities; [1] adds them, with a weight, and so does
    this.

    Args:
        network: as `SegmentationMethod` says.
        distillation_weight: of the distillation, which is summed over old outputs.

    Raises:
        ConfigError: if the weight is below 0.
    """

    def __init__(self, network: nn.Module, *, distillation_weight: float = 10.0) -> None:
        super().__init__(network)
        self.distillation_weight = at_least("distillation_weight", distillation_weight, 0)

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``bce`` and, from the second experience on, ``distillation``."""
        logits = resized(self.logits(self.network(batch.image)), batch.image)
        found = {"bce": terms.bce(logits, self.targets(batch.mask))}
        if self.teacher is not None:
            with torch.no_grad():
                old = resized(self.teacher.logits(self.teacher.network(batch.image)), batch.image)
            distilled = terms.group_distillation([logits[:, : old.shape[1]]], [old])
            found["distillation"] = self.distillation_weight * distilled
        return found
