"""PLOP: pseudo-labels where the old model is sure for its class, and features pooled over strips that stay.

[0] Douillard et al., "PLOP: Learning without Forgetting for Continual Semantic Segmentation", CVPR 2021,
arXiv 2011.11390.
[1] https://github.com/arthurdouillard/CVPR2021_PLOP
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from pvision.checks import at_least
from pvision.continual._collectives import sum_of_all
from pvision.continual.experience import Experience
from pvision.continual.masks import BACKGROUND, VOID, SegmentationBatch
from pvision.errors import ConfigError
from pvision.segmentation.methods._background_start import split_background
from pvision.segmentation.methods._feature_terms import levels_of, local_pod
from pvision.segmentation.methods._softmax_terms import cross_entropy
from pvision.segmentation.methods._uncertainty import UncertaintyCounts, uncertainty
from pvision.segmentation.methods.method import SegmentationMethod, resized
from pvision.segmentation.reductions import mean_where

__all__ = ["PLOP"]


class PLOP(SegmentationMethod):
    """Local POD and entropy pseudo-labels; new outputs are split off the background as in `MiB`.

    A background pixel takes the old model's class if its entropy is below a threshold, and is left out otherwise. The
    threshold of a class is the median entropy of the background pixels that the old model gives it, found in one pass
    over the experience's records, and at least ``least_threshold``.

    Deviations from [1]: medians are found on a fine histogram, while its 100 bins of equal width put nearly all pixels
    into the first; labels of old classes that are shown are kept; features are compared after, not before, the
    activation that ends a stage; an image without background has factor 1, not NaN; the mean is over pixels that are
    not void.

    Args:
        network: as `SegmentationMethod` says, with ``levels(image)``.
        feature_weight: of the Local POD of each level, before its mean over levels.
        logit_weight: of that of the logits, where the new classes' count as background.
        least_threshold: of the entropy, in the unit of `uncertainty`.

    Attributes:
        thresholds: of the old model's columns; empty before `look_through` and in the first experience.

    Raises:
        ConfigError: if a number is below 0.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        feature_weight: float = 0.01,
        logit_weight: float = 5e-4,
        least_threshold: float = 1e-3,
    ) -> None:
        super().__init__(network)
        self.feature_weight = at_least("feature_weight", feature_weight, 0)
        self.logit_weight = at_least("logit_weight", logit_weight, 0)
        self.least_threshold = at_least("least_threshold", least_threshold, 0)
        self.thresholds: list[float] = []

    @override
    def before_experience(self, experience: Experience, *, upcoming: int = 0) -> None:
        """Keep the teacher, make room, and begin new outputs as shares of the background."""
        super().before_experience(experience, upcoming=upcoming)
        if self.teacher is not None:
            split_background(self.head)

    @override
    def look_through(self, batches: Iterable[SegmentationBatch]) -> None:
        """Find the classes' thresholds, from the second experience on. A collective."""
        if self.teacher is None:
            return
        columns = 1 + len(self.teacher.head.classes)
        counts = UncertaintyCounts(columns, device=self.head.get_buffer("_like").device)
        for batch in batches:
            with torch.no_grad():
                probabilities = self.teacher.scores(batch.image).softmax(dim=1)
            background = batch.mask == BACKGROUND
            counts.add(self._uncertainty(probabilities)[background], probabilities.argmax(dim=1)[background])
        counts.counts = sum_of_all(counts.counts)
        self.thresholds = [max(median, self.least_threshold) for median in counts.medians()]

    @override
    def after_experience(self) -> None:
        """Drop the teacher and the thresholds."""
        super().after_experience()
        self.thresholds = []

    @override
    def losses(self, batch: SegmentationBatch) -> Mapping[str, Tensor]:
        """Return ``cross_entropy`` and, from the second experience on, ``pod``.

        Raises:
            ConfigError: if `look_through` has not been called for this experience.
        """
        levels = levels_of(self.network, batch.image)
        small = self.logits(levels[-1])
        logits, targets = resized(small, batch.image), self.targets(batch.mask)
        if self.teacher is None:
            return {"cross_entropy": cross_entropy(logits, targets)}
        with torch.no_grad():
            old_levels = levels_of(self.teacher.network, batch.image)
            old_small = self.teacher.logits(old_levels[-1])
            probabilities = resized(old_small, batch.image).softmax(dim=1)
        return {
            "cross_entropy": self._classification(logits, targets, probabilities),
            "pod": self._pod([*levels, _merged(small, old_small.shape[1])], [*old_levels, old_small]),
        }

    def _uncertainty(self, probabilities: Tensor) -> Tensor:
        return uncertainty(probabilities, columns=1 + len(self.head.classes))

    def _classification(self, logits: Tensor, targets: Tensor, probabilities: Tensor) -> Tensor:
        """Return the cross-entropy with pseudo-labels, section 3.3 of [0].

        Each image's is weighted with the share of its background pixels that got a label, so that new classes do not
        outweigh old ones that were left out.
        """
        if not self.thresholds:
            raise ConfigError("PLOP has no thresholds for this experience. Call look_through before training it.")
        column = probabilities.argmax(dim=1)
        sure = self._uncertainty(probabilities) < torch.tensor(self.thresholds, device=column.device)[column]
        background = targets == BACKGROUND
        labels = torch.where(background, torch.where(sure, column, VOID), targets)
        count = background.sum(dim=(1, 2))
        share = torch.where(count > 0, (background & sure).sum(dim=(1, 2)) / count.clamp(min=1), 1.0)
        each = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
        return mean_where(share[:, None, None] * each, targets != VOID)

    def _pod(self, new: list[Tensor], old: list[Tensor]) -> Tensor:
        """Return the mean over levels and logits of their Local POD, weighted by ``sqrt(columns / new classes)``."""
        weights = [self.feature_weight] * (len(new) - 1) + [self.logit_weight]
        terms = [weight * local_pod(now, then) for weight, now, then in zip(weights, new, old, strict=True)]
        growth = (1 + len(self.head.classes)) / len(self.head.groups[-1])
        return math.sqrt(growth) * torch.stack(terms).mean()

    @override
    def get_extra_state(self) -> dict[str, Any]:
        """Return, beside what all methods keep, the thresholds."""
        return {**super().get_extra_state(), "thresholds": list(self.thresholds)}

    @override
    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        super().set_extra_state(state)
        self.thresholds = [float(one) for one in state["thresholds"]]


def _merged(logits: Tensor, old: int) -> Tensor:
    """Return the old columns of logits, the new ones added to the background's."""
    background = logits[:, :1] + logits[:, old:].sum(dim=1, keepdim=True)
    return torch.cat([background, logits[:, 1:old]], dim=1)
