"""Class-incremental segmentation: IoU from one confusion matrix over the whole data set.

Never take means over images: a class with intersection/union 0/1 in one image and 10/15 in another has the IoU 10/16,
not 1/3. A class that is absent in truth and prediction has no IoU: NaN, left out of every mean.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pvision.continual.metrics._arrays import Floats, as_confusion, as_fractions, ratio
from pvision.continual.metrics.class_groups import present_mean
from pvision.continual.metrics.iou import group_iou
from pvision.errors import ConfigError

__all__ = ["iou_per_class", "mean_iou", "mean_over_steps", "pixel_accuracy", "segmentation_summary"]


def iou_per_class(confusion: npt.ArrayLike) -> Floats:
    """Return intersection / union per class, ``(C,)``; NaN for a class that is absent in truth and prediction.

    Args:
        confusion: pixels per true class (row) and predicted class (column), whole numbers ``(C, C)``.
    """
    pixels = as_confusion(confusion)
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
    pixels = as_confusion(confusion)
    return float(pixels.trace() / pixels.sum()) if pixels.any() else np.nan


def mean_over_steps(values: npt.ArrayLike) -> float:
    """Return the mean of one value per step, as the mIoU of all classes after each; NaN if one is."""
    steps = as_fractions("values", values, 1)
    return float(steps.mean()) if steps.size else np.nan


def segmentation_summary(
    confusion: npt.ArrayLike, *, old: Sequence[int], new: Sequence[int], background: int | None = 0
) -> dict[str, float]:
    """Return what `pvision.continual.metrics.iou.group_iou` makes of a confusion matrix, and the pixel accuracy.

    The names are those that `SegmentationMatrix` logs: with the background among the old classes, and
    ``…_without_background``.

    Args:
        confusion: as in `iou_per_class`.
        old: classes learned before, without the background.
        new: classes learned last, without the background.
        background: the background's class; None if there is none.

    Raises:
        ConfigError: if a class stands in two groups.
    """
    groups = [*old, *new]
    if len({*groups, background}) != len(groups) + 1:
        raise ConfigError(f"Each class belongs to one of old {[*old]}, new {[*new]} and background {background}.")
    values = dict(enumerate(iou_per_class(confusion).tolist()))
    found = group_iou(values, old=old, new=new, background=background)
    return {**found, "pixel_accuracy": pixel_accuracy(confusion)}
