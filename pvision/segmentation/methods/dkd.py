"""DKD: the reasons for and against an old class are distilled apart.

[0] Baek et al., "Decomposed Knowledge Distillation for Class-Incremental Semantic Segmentation", NeurIPS 2022,
arXiv 2210.05941.
[1] https://github.com/cvlab-yonsei/DKD
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from pvision.checks import at_least
from pvision.continual.experience import Experience
from pvision.continual.masks import VOID, SegmentationBatch
from pvision.segmentation.methods._sigmoid_terms import group_distillation
from pvision.segmentation.methods.method import SegmentationMethod, resized
from pvision.segmentation.methods.sigmoid_method import SigmoidMethod
from pvision.segmentation.reductions import mean_of_all, mean_where

__all__ = ["DKD"]


class DKD(SigmoidMethod):
    """Binary cross-entropy of the new classes alone; distillation of logits and of their positive and negative parts.

    The background has no output: it is where no class is as probable as 0.5. An auxiliary output learns to say no
    everywhere, on features that it does not train, and new classes begin as copies of it. It is the output that the
    head otherwise has for the background. From the second experience on dropout is off.

    Void pixels are left out of the binary cross-entropy; [1] trains them as background. The positive and negative parts
    are a decomposition of evidence only for features that are nowhere negative, as after a ReLU.

    Args:
        network: as `SegmentationMethod` says.
        class_weight: of the new classes' binary cross-entropy.
        positive_weight: of the pixels of a class within that.
        distillation_weight: of the logits' distillation.
        positive_distillation_weight: of that of the positive parts.
        negative_distillation_weight: of that of the negative parts.
        auxiliary_weight: of the auxiliary output's term.

    Raises:
        ConfigError: if a weight is below 0.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        class_weight: float = 1.0,
        positive_weight: float = 1.0,
        distillation_weight: float = 5.0,
        positive_distillation_weight: float = 5.0,
        negative_distillation_weight: float = 5.0,
        auxiliary_weight: float = 1.0,
    ) -> None:
        super().__init__(network)
        self.class_weight = at_least("class_weight", class_weight, 0)
        self.positive_weight = at_least("positive_weight", positive_weight, 0)
        self.distillation_weight = at_least("distillation_weight", distillation_weight, 0)
        self.positive_distillation_weight = at_least("positive_distillation_weight", positive_distillation_weight, 0)
        self.negative_distillation_weight = at_least("negative_distillation_weight", negative_distillation_weight, 0)
        self.auxiliary_weight = at_least("auxiliary_weight", auxiliary_weight, 0)

    @override
    def before_experience(self, experience: Experience, *, upcoming: int = 0) -> None:
        """Keep the teacher, make room, and begin new classes as copies of the auxiliary output."""
        super().before_experience(experience, upcoming=upcoming)
        if self.teacher is not None:
            with torch.no_grad():
                for name, parameter in self.head.layers[-1].named_parameters():
                    parameter.copy_(self.head.layers[0].get_parameter(name)[:1])

    @override
    def logits(self, features: Tensor) -> Tensor:
        """Return logits ``(B, 1 + classes, h, w)``; the background's is 0, a probability of 0.5."""
        classes: Tensor = self.head(features)[:, 1:]
        return torch.cat([torch.zeros_like(classes[:, :1]), classes], dim=1)

    @override
    def freeze(self) -> None:
        super().freeze()
        for layer in self.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``bce``, ``auxiliary`` and, from the second experience on, the three distillations."""
        features = self.network(batch.image)
        logits = resized(self.logits(features), batch.image)
        bce = self._classification(logits, self.targets(batch.mask))
        found = {
            "bce": self.class_weight * bce,
            "auxiliary": self.auxiliary_weight * self._auxiliary(features, batch.image),
        }
        if self.teacher is not None:
            found |= self._distillations(features, logits, batch.image, self.teacher)
        return found

    def _classification(self, logits: Tensor, targets: Tensor) -> Tensor:
        first = logits.shape[1] - len(self.head.groups[-1])
        columns = torch.arange(first, logits.shape[1], device=logits.device)
        wanted = (targets.unsqueeze(1) == columns[:, None, None]).to(logits)
        weight = torch.tensor(self.positive_weight, device=logits.device)
        each = F.binary_cross_entropy_with_logits(logits[:, first:], wanted, pos_weight=weight, reduction="none")
        return mean_where(each.sum(dim=1), targets != VOID)

    def _auxiliary(self, features: Tensor, image: Tensor) -> Tensor:
        first = self.head.layers[0]
        output = F.conv2d(features.detach(), first.get_parameter("weight")[:1], first.get_parameter("bias")[:1])
        return mean_of_all(F.softplus(resized(output, image)))  # -log(1 - sigmoid)

    def _distillations(
        self, features: Tensor, logits: Tensor, image: Tensor, teacher: SegmentationMethod
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            old_features = teacher.network(image)
            old = resized(teacher.logits(old_features), image)
            old_for, old_against = _reasons(old_features, _weights(teacher))
        now_for, now_against = _reasons(features, _weights(self)[: old.shape[1] - 1])
        pairs = {
            "distillation": (self.distillation_weight, logits[:, 1 : old.shape[1]], old[:, 1:]),
            "positive_distillation": (self.positive_distillation_weight, now_for, old_for),
            "negative_distillation": (self.negative_distillation_weight, now_against, old_against),
        }
        return {name: weight * group_distillation([now], [then]) for name, (weight, now, then) in pairs.items()}


def _weights(method: SegmentationMethod) -> Tensor:
    """Return the weights of all classes, ``(classes, feature_dim, 1, 1)``, without the auxiliary output's."""
    return torch.cat([layer.get_parameter("weight") for layer in method.head.layers])[1:]


def _reasons(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the features say for and against each class: section 3.2 of [0], without the bias."""
    return F.conv2d(features, weights.clamp(min=0)), F.conv2d(features, weights.clamp(max=0))
