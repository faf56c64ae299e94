"""BARM: old classifiers stay as they are, and each experience learns what it takes away from the background.

[0] Zhang & Gao, "Background Adaptation with Residual Modeling for Exemplar-Free Class-Incremental Semantic
Segmentation", ECCV 2024, arXiv 2407.09838.
[1] https://github.com/ANDYZAQ/BARM, which docs/methods/barm.md compares with this.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import at_least, unit_rate
from pvision.continual.masks import SegmentationBatch
from pvision.segmentation.branched_head import BranchedHead
from pvision.segmentation.methods import _sigmoid_terms as terms
from pvision.segmentation.methods.method import SegmentationMethod, resized
from pvision.segmentation.networks.network import SegmentationNetwork

__all__ = ["BARM"]


class BARM(SegmentationMethod):
    """Background adaptation with residual modelling.

    The background's logit of the first experience is never retrained on later ones' labels. Each later experience has a
    branch of its own, whose first output is a residual of that logit; evaluated, a residual can only lower it.

    Args:
        network: as `SegmentationMethod` says; a `SegmentationNetwork` says what its backbone and its neck are.
        pseudo_threshold: probability from which the old model's class is believed on a background pixel.
        positive_weight: of the term that makes the residual negative on pixels of new classes.
        negative_weight: of the term that keeps the residual at 0 or above elsewhere.
        feature_weight: of the distillation of old branches' features on background pixels.
        group_weight: of the distillation of old outputs.
        clamp: let residuals only lower the background; False is an ablation.
        residual: learn residuals; False is an ablation, in which the first background stays as it is.
        shared_lr_factor: the learning rate of old branches, old outputs and backbone, as a share of the new ones', from
            the second experience on.
        neck_lr_factor: the same for the network's neck.
        first_backbone_lr_factor: the same for the backbone in the first experience; [1] takes 0.1 for one that was
            pretrained on ImageNet.

    Raises:
        ConfigError: if a weight or factor is below 0, or the threshold is not above 0 and at most 1.
    """

    head: BranchedHead

    def __init__(
        self,
        network: nn.Module,
        *,
        pseudo_threshold: float = 0.7,
        positive_weight: float = 1.0,
        negative_weight: float = 5.0,
        feature_weight: float = 4.0,
        group_weight: float = 1.0,
        clamp: bool = True,
        residual: bool = True,
        shared_lr_factor: float = 0.1,
        neck_lr_factor: float = 1.0,
        first_backbone_lr_factor: float = 1.0,
    ) -> None:
        self.clamp = clamp  # before the base class makes the head, which depends on both
        self.residual = residual
        super().__init__(network)
        self.pseudo_threshold = unit_rate("pseudo_threshold", pseudo_threshold)
        self.positive_weight = at_least("positive_weight", positive_weight, 0)
        self.negative_weight = at_least("negative_weight", negative_weight, 0)
        self.feature_weight = at_least("feature_weight", feature_weight, 0)
        self.group_weight = at_least("group_weight", group_weight, 0)
        self.shared_lr_factor = at_least("shared_lr_factor", shared_lr_factor, 0)
        self.neck_lr_factor = at_least("neck_lr_factor", neck_lr_factor, 0)
        self.first_backbone_lr_factor = at_least("first_backbone_lr_factor", first_backbone_lr_factor, 0)

    @override
    def new_head(self, feature_dim: int) -> BranchedHead:
        return BranchedHead(feature_dim, residual=self.residual, clamp=self.clamp)

    @override
    def logits(self, features: Tensor) -> Tensor:
        return self.head.trained(self.head.outputs(self.head.branch_features(features)))

    @override
    def scores(self, image: Tensor) -> Tensor:
        """Return probabilities ``(B, 1 + classes, H, W)``: sigmoids at the feature map's size, resized."""
        return resized(self.head(self.network(image)).sigmoid(), image)

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``bce`` and, from the second experience on, the background's two terms and the two distillations."""
        branches = self.head.branch_features(self.network(batch.image))
        outputs = self.head.outputs(branches)
        logits = resized(self.head.trained(outputs), batch.image)
        targets = self.targets(batch.mask)
        if not isinstance(self.teacher, BARM):
            return self.classification(logits, targets)
        with torch.no_grad():
            old_branches = self.teacher.head.branch_features(self.teacher.network(batch.image))
            old_outputs = self.teacher.head.outputs(old_branches)
            probabilities = resized(self.teacher.head.evaluated(old_outputs).sigmoid(), batch.image)
        targets = terms.pseudo_labels(targets, probabilities, threshold=self.pseudo_threshold)
        mask = terms.at_features(batch.mask, outputs[-1])
        found = terms.feature_distillation(branches[:-1], old_branches, mask)
        return {
            **self.classification(logits, targets),
            **self._background_terms(outputs[-1][:, :1], mask),
            "feature_distillation": self.feature_weight * found,
            "group_distillation": self.group_weight * terms.group_distillation(outputs[:-1], old_outputs),
        }

    def classification(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms that compare the training logits with labels and pseudo-labels.

        Args:
            logits: ``(B, 1 + classes, H, W)``; those of old classes are constant.
            targets: the column of each pixel's label, int64 ``(B, H, W)``, with `VOID`.
        """
        return {"bce": terms.bce(logits, targets)}

    def _background_terms(self, residual: Tensor, mask: Tensor) -> dict[str, Tensor]:
        if not self.residual:
            return {}
        return {
            "background_positive": self.positive_weight * terms.lowered_background(residual, mask),
            "background_negative": self.negative_weight * terms.kept_background(residual, mask),
        }

    @override
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the newest branch and outputs at the full rate, and neck, backbone and all older at their factors."""
        newest = [*self.head.branches[-1].parameters(), *self.head.layers[-1].parameters()]
        older = [*self.head.branches[:-1].parameters(), *self.head.layers[:-1].parameters()]
        backbone, neck = _parts(self.network)
        if self.current > 0:
            shared, neck_factor, shared_factor = backbone + older, self.neck_lr_factor, self.shared_lr_factor
        else:
            shared, neck_factor, shared_factor = backbone, 1.0, self.first_backbone_lr_factor
        groups = [(newest, 1.0), (neck, neck_factor), (shared, shared_factor)]
        trained = [([one for one in params if one.requires_grad], factor) for params, factor in groups]
        return [{"params": params, "lr_factor": factor} for params, factor in trained if params]


def _parts(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters of backbone and neck; a network that names no parts is all backbone."""
    if isinstance(network, SegmentationNetwork):
        return network.backbone_parameters(), network.neck_parameters()
    return list(network.parameters()), []
