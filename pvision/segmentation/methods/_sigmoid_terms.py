"""Losses of methods whose outputs are probabilities of their own, BARM's terms among them.

Each is a mean, or a ratio of sums, over all processes' pixels.

[0] Zhang & Gao, "Background Adaptation with Residual Modeling for Exemplar-Free Class-Incremental Semantic
Segmentation", ECCV 2024, arXiv 2407.09838.
[1] Milletari, Navab & Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
3DV 2016, arXiv 1606.04797.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pvision.continual.masks import BACKGROUND, VOID
from pvision.segmentation.reductions import mean_where, share_of_all, sum_over_all

__all__ = [
    "at_features",
    "bce",
    "feature_distillation",
    "group_distillation",
    "kept_background",
    "lowered_background",
    "pseudo_labels",
    "soft_dice",
]


def pseudo_labels(targets: Tensor, probabilities: Tensor, *, threshold: float) -> Tensor:
    """Give background pixels the old class that the old model is sure of.

    Args:
        targets: the column of each pixel's label, int64 ``(B, H, W)``, with `VOID`.
        probabilities: of the old model, ``(B, columns, H, W)``, background first.
        threshold: the lowest probability that counts as sure.

    Returns:
        As ``targets``. Pixels whose best old class is less probable, or comes after the background, stay background.
    """
    score, column = probabilities.max(dim=1)
    sure = (targets == BACKGROUND) & (column != BACKGROUND) & (score >= threshold)
    return torch.where(sure, column, targets)


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy, summed over columns, averaged over pixels that are not `VOID`.

    Args:
        logits: ``(B, columns, H, W)``.
        targets: int64 ``(B, H, W)``.
    """
    labelled = targets != VOID
    wanted = torch.zeros_like(logits).scatter_(1, torch.where(labelled, targets, BACKGROUND).unsqueeze(1), 1.0)
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1)
    return mean_where(each, labelled)


def soft_dice(logits: Tensor, targets: Tensor, *, first: int) -> Tensor:
    """Return one minus the Dice coefficient of probabilities, averaged over classes.

    ``1 - (2 * sum(p * t) + 1) / (sum(p) + sum(t) + 1)`` of each class, over all pixels that are not `VOID`. It does not
    depend on how few the class' pixels are. The sums are plain ones, not squared as in [1]; the added pixel gives a
    class that is absent a finite loss.

    Args:
        logits: ``(B, columns, H, W)``.
        targets: int64 ``(B, H, W)``.
        first: the first column that counts; all from there on do.
    """
    labelled = (targets != VOID).unsqueeze(1)
    columns = torch.arange(first, logits.shape[1], device=logits.device)[:, None, None]
    wanted = targets.unsqueeze(1) == columns
    probabilities = torch.where(labelled, logits[:, first:].float().sigmoid(), 0.0)
    both = torch.where(wanted, probabilities, 0.0).sum((0, 2, 3))
    either = probabilities.sum((0, 2, 3)) + wanted.sum((0, 2, 3))
    sums = sum_over_all(torch.stack([both, either]))
    return (1 - (2 * sums[0] + 1) / (sums[1] + 1)).mean()


def at_features(mask: Tensor, features: Tensor) -> Tensor:
    """Return labels ``(B, H, W)`` at the size of a feature map ``(B, C, h, w)``, the nearest pixel's."""
    # Float32 holds every label exactly, and interpolation takes no integers.
    nearest = F.interpolate(mask.unsqueeze(1).float(), size=features.shape[-2:], mode="nearest")
    return nearest.squeeze(1).to(mask.dtype)


def lowered_background(residual: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``BCE(r, 0)`` over pixels of the new classes: there the residual has to be negative.

    Args:
        residual: of the current experience, ``(B, 1, h, w)``.
        mask: the labels that it shows, int64 ``(B, h, w)``.
    """
    residual = residual.squeeze(1)
    each = F.binary_cross_entropy_with_logits(residual, torch.zeros_like(residual), reduction="none")
    return mean_where(each, (mask != BACKGROUND) & (mask != VOID))


def kept_background(residual: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``max(0, (sigmoid(r) - 1)^2 - sigmoid(r)^2)`` over background pixels.

    There the residual has to be 0 or above, where the clamp makes it no change. The difference of squares is
    ``1 - 2 sigmoid(r)``. Without a background pixel the term is 0.

    Args:
        residual: of the current experience, ``(B, 1, h, w)``.
        mask: the labels that it shows, int64 ``(B, h, w)``.
    """
    each = F.relu(1 - 2 * torch.sigmoid(residual.squeeze(1)))
    return mean_where(each, mask == BACKGROUND)


def feature_distillation(new: Sequence[Tensor], old: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean squared change of each old branch on background pixels, summed over branches.

    The mean is over all pixels: those that are not background count as unchanged.

    Args:
        new: the old branches' features now, ``(B, C, h, w)`` each.
        old: the same of the old model.
        mask: the labels that the experience shows, int64 ``(B, h, w)``.
    """
    background = (mask == BACKGROUND).unsqueeze(1)
    changes = [torch.where(background, now - then, 0.0).square().sum() for now, then in zip(new, old, strict=True)]
    return torch.stack(changes).sum() * _per_element(new[0])


def group_distillation(new: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """Return binary cross-entropy between old experiences' outputs now and then, averaged over pixels.

    Summed over experiences and their outputs, background and residuals included; over all pixels, whatever their label.

    Args:
        new: logits of the old experiences now, ``(B, outputs, h, w)`` each.
        old: the same of the old model.
    """
    pairs = zip(new, old, strict=True)
    each = [F.binary_cross_entropy_with_logits(now, then.sigmoid(), reduction="sum") for now, then in pairs]
    return torch.stack(each).sum() * _per_element(new[0][:, :1])


def _per_element(values: Tensor) -> Tensor:
    """Return what makes a sum over such values a mean over all processes' values."""
    return share_of_all(torch.tensor(values.numel(), device=values.device))
