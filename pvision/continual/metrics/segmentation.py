"""Class-incremental segmentation: IoU from one confusion matrix over the whole data set.

Never take means over images: a class with intersection/union 0/1 in one image and 10/15 in another has the IoU 10/16,
not 1/3. A class that is absent in truth and prediction has no IoU: NaN, left out of every mean.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pvision.continual.metrics._arrays import Floats, Integers, as_fractions, as_integers, ratio
from pvision.continual.metrics.class_groups import present_mean
from pvision.continual.metrics.plasticity import harmonic_mean
from pvision.errors import ConfigError

__all__ = ["iou_per_class", "mean_iou", "mean_over_steps", "pixel_accuracy", "segmentation_summary"]


def iou_per_class(confusion: npt.ArrayLike) -> Floats:
    """Return intersection / union per class, ``(C,)``; NaN for a class that is absent in truth and prediction.

    Args:
        confusion: pixels per true class (row) and predicted class (column), whole numbers ``(C, C)``.
    """
    pixels = _pixels(confusion)
    both = pixels.diagonal()
    union = pixels.sum(axis=0) + pixels.sum(axis=1) - both
    return ratio(both, union)


def mean_iou(confusion: npt.ArrayLike, classes: Sequence[int] | None = None) -> float:
    """Return the mean IoU over the classes that are present, NaN if none is.

    Args:
        confusion: as in `iou_per_class`.
        classes: those to average over; all of them without it.
    """
    values = iou_per_class(confusion)
    return present_mean(values, range(len(values)) if classes is None else classes)


def pixel_accuracy(confusion: npt.ArrayLike) -> float:
    """Return the share of pixels that are right, NaN if there are none.

    Args:
        confusion: as in `iou_per_class`.
    """
    pixels = _pixels(confusion)
    return float(pixels.trace() / pixels.sum()) if pixels.any() else np.nan


def mean_over_steps(values: npt.ArrayLike) -> float:
    """Return the mean of one value per step, as the mIoU of all classes after each; NaN if one is."""
    steps = as_fractions("values", values, 1)
    return float(steps.mean()) if steps.size else np.nan


def segmentation_summary(
    confusion: npt.ArrayLike, *, old: Sequence[int], new: Sequence[int], background: int | None = 0
) -> dict[str, float]:
    """Return mIoU of old, new and all classes with and without the background, harmonic means and pixel accuracy.

    Args:
        confusion: as in `iou_per_class`.
        old: classes learned before, without the background.
        new: classes learned last, without the background.
        background: the background's class; None if there is none.

    Returns:
        ``miou_old``, ``miou_new``, ``miou_all``, ``harmonic``: without the background; ``miou_old_with_background``,
        ``miou_all_with_background``, ``harmonic_with_background``: with it, among the old classes;
        ``iou_background``, ``pixel_accuracy``.

    Raises:
        ConfigError: if a class stands in two groups.
    """
    values = iou_per_class(confusion)
    groups = [*old, *new]
    if len({*groups, background}) != len(groups) + 1:
        raise ConfigError(f"Each class belongs to one of old {[*old]}, new {[*new]} and background {background}.")
    fresh = present_mean(values, new)
    result = {"miou_new": fresh, "pixel_accuracy": pixel_accuracy(confusion)}
    for suffix, extra in [("", []), *([] if background is None else [("_with_background", [background])])]:
        kept = present_mean(values, [*extra, *old])
        result[f"miou_old{suffix}"] = kept
        result[f"miou_all{suffix}"] = present_mean(values, [*extra, *groups])
        result[f"harmonic{suffix}"] = harmonic_mean(kept, fresh)
    if background is not None:
        result["iou_background"] = present_mean(values, [background])
    return result


def _pixels(confusion: npt.ArrayLike) -> Integers:
    pixels = as_integers("confusion", confusion, (-1, -1))
    if pixels.shape[0] != pixels.shape[1] or not pixels.size or (pixels < 0).any():
        raise ConfigError(
            f"confusion must be square and hold pixel counts, none negative, but its shape is {pixels.shape}"
            f" and its smallest entry {pixels.min(initial=0)}."
        )
    return pixels
