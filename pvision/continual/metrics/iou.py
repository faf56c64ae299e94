"""IoU along a stream of classes: per class, of the old, the new and all, and what is forgotten of each.

Class 0 is the background, in data that has one. Old are the classes of the first experience, new all that
came later, as in the tables of this field ("0-15", "16-20"); `group_iou` divides as its caller says.
Everything comes from one confusion matrix over the whole test set, never from means over images.

[0] Cermelli et al., "Modeling the Background for Incremental Learning in Semantic Segmentation" (MiB), CVPR 2020.
[1] Baek et al., "Decomposed Knowledge Distillation for Class-Incremental Semantic Segmentation" (DKD), NeurIPS 2022.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from pvision.checks import one_of
from pvision.continual.metrics._arrays import Floats, as_confusion, as_fractions, ratio
from pvision.continual.metrics.plasticity import harmonic_mean
from pvision.errors import ConfigError

__all__ = ["ABSENT", "Absent", "class_forgetting", "group_iou", "iou_of_learned", "learned_minus_final"]

Absent = Literal["skip", "zero"]
ABSENT = ("skip", "zero")
"""What a class counts that is absent in truth and prediction; see `iou_of_learned`."""

_EPSILON = 1e-6  # in the denominator of the code of SSUL and BARM


def iou_of_learned(
    confusion: npt.ArrayLike, learned: Sequence[int], *, background: int | None = 0, absent: Absent = "skip"
) -> dict[int, float]:
    """Return the IoU of each class learned so far, and of the background.

    Pixels whose true label is not learned yet are left out, whatever was predicted there, as the protocol of [0] has
    it. Void pixels are such pixels.

    Args:
        confusion: pixels per true label (row) and predicted label (column), whole numbers ``(L, L)``.
        learned: the classes, without the background.
        background: the background's label; None where the data has none. Then pixels of that label have no truth.
        absent: ``"skip"`` gives NaN to a class that is absent in truth and prediction, which means leave out.
            ``"zero"`` gives it 0, which counts in means, and adds 1e-6 to each union, as in the code of SSUL and BARM.

    Raises:
        ConfigError: if a label stands twice or lies outside the matrix, or a count is negative.
    """
    one_of("absent", absent, ABSENT)
    labels = [*([] if background is None else [background]), *learned]
    pixels = as_confusion(confusion)
    if len(set(labels)) != len(labels) or not all(0 <= label < len(pixels) for label in labels):
        raise ConfigError(f"learned must name labels in 0..{len(pixels) - 1}, each once, but {labels} came.")
    counted = pixels[labels]
    both = counted[range(len(labels)), labels]
    union = counted.sum(axis=1) + counted[:, labels].sum(axis=0) - both
    values = both / (union + _EPSILON) if absent == "zero" else ratio(both, union)
    return dict(zip(labels, values.tolist(), strict=True))


def group_iou(
    iou: Mapping[int, float], *, old: Collection[int], new: Collection[int], background: int | None = 0
) -> dict[str, float]:
    """Return the mean IoU of old, new and all classes, and the harmonic mean of old and new [1].

    Args:
        iou: of each label; NaN where it is undefined, which is left out.
        old: the classes of the first experience, without the background.
        new: all others.
        background: the background's label; None where the data has none.

    Returns:
        ``miou_old``, ``miou_new``, ``miou_all`` and ``hiou``, with the background among the old classes; where there is
        one, ``miou_old_without_background``, ``miou_all_without_background`` and ``hiou_without_background`` too. NaN
        where no class is there to average over, as among the new ones after the first experience.
    """
    fresh = _mean(iou, new)
    found = {"miou_new": fresh}
    for suffix, further in [("", [background]), ("_without_background", [])] if background is not None else [("", [])]:
        kept = _mean(iou, [*further, *old])
        found[f"miou_old{suffix}"] = kept
        found[f"miou_all{suffix}"] = _mean(iou, [*further, *old, *new])
        found[f"hiou{suffix}"] = harmonic_mean(kept, fresh)
    return found


def class_forgetting(steps: npt.ArrayLike) -> Floats:
    """Return ``max over t of IoU[t, c] − IoU[T, c]`` of each class, never negative; NaN if it was not measured last.

    A class that was never learned shows none: read it beside the IoU itself.

    Args:
        steps: IoU per step (row) and class (column), fractions ``(T, C)``; NaN where nothing was measured.
    """
    values = _steps(steps)
    best = np.where(np.isnan(values), -np.inf, values).max(axis=0, initial=-np.inf)
    return _difference(best, values)


def learned_minus_final(steps: npt.ArrayLike) -> Floats:
    """Return the IoU of each class in the first step that measured it, minus its last; negative where it rose.

    Args:
        steps: as for `class_forgetting`.
    """
    values = _steps(steps)
    first = (~np.isnan(values)).argmax(axis=0)
    return _difference(values[first, range(values.shape[1])], values)


def _difference(before: Floats, values: Floats) -> Floats:
    last = values[-1]
    return np.where(np.isnan(last), np.nan, before - last)


def _steps(steps: npt.ArrayLike) -> Floats:
    values = as_fractions("steps", steps, 2)
    if not len(values):
        raise ConfigError("steps must hold at least one step, but none came.")
    return values


def _mean(iou: Mapping[int, float], labels: Collection[int]) -> float:
    present = [iou[label] for label in labels if not np.isnan(iou[label])]
    return float(np.mean(present)) if present else np.nan
