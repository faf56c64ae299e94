"""Losses of methods that see a pixel's label as one choice among background and classes.

Each is a mean over all processes' pixels. Logits are ``(B, columns, H, W)``, background first; targets are the columns
of the labels, int64 ``(B, H, W)``, with `VOID`. The old model's columns are the first of the new one's.

[0] Cermelli et al., "Modeling the Background for Incremental Learning in Semantic Segmentation", CVPR 2020,
arXiv 2002.00718.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.continual.masks import VOID
from pvision.segmentation.reductions import mean_of_all, mean_where

__all__ = ["cross_entropy", "distillation", "unbiased_cross_entropy", "unbiased_distillation"]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy, averaged over pixels that are not `VOID`; 0 if there are none."""
    each = F.cross_entropy(logits, targets, ignore_index=VOID, reduction="none")
    return mean_where(each, targets != VOID)


def unbiased_cross_entropy(logits: Tensor, targets: Tensor, *, old: int) -> Tensor:
    """Return the cross-entropy in which the background's probability is that of background and old classes together.

    What an experience shows as background may be an old class: section 3.2 of [0], "revisiting the cross-entropy loss".

    Args:
        logits: of the new model.
        targets: of the current experience's classes and background; an old class counts as background.
        old: how many columns the old model has, the background's included.
    """
    log = logits.log_softmax(dim=1)
    merged = torch.cat([log[:, :old].logsumexp(dim=1, keepdim=True), log[:, old:]], dim=1)
    shifted = torch.where(targets == VOID, VOID, (targets - old + 1).clamp(min=0))
    each = F.nll_loss(merged, shifted, ignore_index=VOID, reduction="none")
    return mean_where(each, targets != VOID)


def distillation(logits: Tensor, old_logits: Tensor) -> Tensor:
    """Return ``-1/K sum over k of q_k log p_k`` over the K old columns, averaged over all pixels, void included.

    Args:
        logits: of the new model; the softmax p is over old columns only.
        old_logits: of the old model, whose softmax is q.
    """
    old = old_logits.shape[1]
    return _distilled(logits[:, :old].log_softmax(dim=1), old_logits)


def unbiased_distillation(logits: Tensor, old_logits: Tensor) -> Tensor:
    """Return `distillation` in which the new classes' probability counts as background.

    What the old model calls background may be a new class: section 3.2 of [0], "revisiting the distillation loss".
    """
    old = old_logits.shape[1]
    log = logits.log_softmax(dim=1)
    background = torch.cat([log[:, :1], log[:, old:]], dim=1).logsumexp(dim=1, keepdim=True)
    return _distilled(torch.cat([background, log[:, 1:old]], dim=1), old_logits)


def _distilled(log: Tensor, old_logits: Tensor) -> Tensor:
    each = -(old_logits.softmax(dim=1) * log).mean(dim=1)
    return mean_of_all(each)
