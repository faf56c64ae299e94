"""SSUL: a frozen network, and an output for the unknown from which new classes begin.

[0] Cha et al., "SSUL: Semantic Segmentation with Unknown Label for Exemplar-based Class-Incremental Learning",
NeurIPS 2021, arXiv 2106.11562.
[1] https://github.com/clovaai/SSUL
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import at_least, unit_rate
from pvision.continual.masks import BACKGROUND, SegmentationBatch
from pvision.segmentation.methods import _sigmoid_terms as terms
from pvision.segmentation.methods.method import resized
from pvision.segmentation.methods.sigmoid_method import SigmoidMethod
from pvision.segmentation.saliency import FrequencyTunedSaliency
from pvision.segmentation.unknown_head import UnknownHead

__all__ = ["SSUL"]


class SSUL(SigmoidMethod):
    """Binary cross-entropy with pseudo-labels; salient background is the unknown, and the network stays as it is.

    From the second experience on the network and old classes' outputs are frozen. The new classes begin as copies of
    the unknown and are trained, with the unknown and, very slowly, the background. Where it comes to a choice, the
    unknown is background: their probabilities are added, as in [1].

    [0] takes salient pixels from a network that was trained for that. None is shipped: unless you pass one, contrast
    with the image's mean colour stands in, which is much weaker. So this is SSUL's procedure, not its result. Without
    exemplars; [0] also has a variant with.

    Args:
        network: as `SegmentationMethod` says.
        saliency: maps normalised images ``(B, C, H, W)`` to what is salient, bool ``(B, H, W)``; it is not trained.
            None for `FrequencyTunedSaliency`.
        threshold: probability from which the old model is believed.
        background_lr_factor: the background's learning rate as a share of the others', from the second experience on.

    Raises:
        ConfigError: if the threshold is not above 0 and at most 1, or the factor is below 0.
    """

    head: UnknownHead

    def __init__(
        self,
        network: nn.Module,
        *,
        saliency: nn.Module | None = None,
        threshold: float = 0.7,
        background_lr_factor: float = 1e-4,
    ) -> None:
        super().__init__(network)
        self.saliency = (FrequencyTunedSaliency() if saliency is None else saliency).requires_grad_(False)
        self.threshold = unit_rate("threshold", threshold)
        self.background_lr_factor = at_least("background_lr_factor", background_lr_factor, 0)

    @override
    def new_head(self, feature_dim: int) -> UnknownHead:
        return UnknownHead(feature_dim)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.saliency.eval()
        return self

    @override
    def freeze(self) -> None:
        super().freeze()
        self.network.requires_grad_(False)
        self.head.layers[:-1].requires_grad_(False)

    @override
    def scores(self, image: Tensor) -> Tensor:
        """Return probabilities ``(B, 1 + classes, H, W)``; the background's is the sum of its own and the unknown's."""
        known, unknown = self._probabilities(image)
        return torch.cat([known[:, :1] + unknown, known[:, 1:]], dim=1)

    def _probabilities(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of background and classes, ``(B, 1 + classes, H, W)``, and of the unknown, ``(B, 1, H, W)``."""
        features = self.network(image)
        known, unknown = self.logits(features), self.head.unknown(features)
        return resized(known.sigmoid(), image), resized(unknown.sigmoid(), image)

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``bce``."""
        features = self.network(batch.image)
        logits = resized(torch.cat([self.logits(features), self.head.unknown(features)], dim=1), batch.image)
        with torch.no_grad():
            targets = self._with_pseudo_labels(self.targets(batch.mask), batch.image)
            salient = self.saliency(batch.image)
        unknown = logits.shape[1] - 1
        return {"bce": terms.bce(logits, torch.where((targets == BACKGROUND) & salient, unknown, targets))}

    def _with_pseudo_labels(self, targets: Tensor, image: Tensor) -> Tensor:
        if not isinstance(self.teacher, SSUL):
            return targets
        known, unknown = self.teacher._probabilities(image)
        nothing = torch.maximum(known[:, :1], unknown)  # neither background nor unknown is a pseudo-label
        return terms.pseudo_labels(targets, torch.cat([nothing, known[:, 1:]], dim=1), threshold=self.threshold)

    @override
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained, from the second experience on with the background at its own factor."""
        background = list(self.head.background.parameters()) if self.current > 0 else []
        apart = {id(one) for one in background}
        rest = [one for one in self.parameters() if id(one) not in apart]
        groups = [(rest, 1.0), (background, self.background_lr_factor)]
        trained = [([one for one in params if one.requires_grad], factor) for params, factor in groups]
        return [{"params": params, "lr_factor": factor} for params, factor in trained if params]
