"""Pseudo-labels and nothing else: the old model labels what the new experience hides.

[0] Cha et al., "SSUL: Semantic Segmentation with Unknown Label for Exemplar-based Class-Incremental Learning",
NeurIPS 2021, arXiv 2106.11562, whose threshold this takes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import unit_rate
from pvision.continual.masks import SegmentationBatch
from pvision.segmentation.methods import _sigmoid_terms as terms
from pvision.segmentation.methods.method import resized
from pvision.segmentation.methods.sigmoid_method import SigmoidMethod

__all__ = ["PseudoLabels"]


class PseudoLabels(SigmoidMethod):
    """Binary cross-entropy on labels in which background pixels have the old class that the old model is sure of.

    Everything but BatchNorm is trained. Simple, and hard to beat on short streams; no paper proposes it by itself.

    Args:
        network: as `SegmentationMethod` says.
        threshold: probability from which the old model is believed.

    Raises:
        ConfigError: if the threshold is not above 0 and at most 1.
    """

    def __init__(self, network: nn.Module, *, threshold: float = 0.7) -> None:
        super().__init__(network)
        self.threshold = unit_rate("threshold", threshold)

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``bce``."""
        logits = resized(self.logits(self.network(batch.image)), batch.image)
        targets = self.targets(batch.mask)
        if self.teacher is not None:
            with torch.no_grad():
                probabilities = self.teacher.scores(batch.image)
            targets = terms.pseudo_labels(targets, probabilities, threshold=self.threshold)
        return {"bce": terms.bce(logits, targets)}
