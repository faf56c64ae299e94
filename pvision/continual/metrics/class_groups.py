"""Means over groups of classes, as mAP or mIoU of the old and the new ones."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pvision.continual.metrics._arrays import Floats, as_fractions, as_integers
from pvision.errors import ConfigError

__all__ = ["group_means", "present_mean"]


def group_means(per_class: npt.ArrayLike, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the mean over each group of classes: mAP from AP per class, mIoU from IoU per class.

    Args:
        per_class: one fraction per class, ``(C,)``; NaN for a class that is absent, which is left out.
        groups: name to classes, as ``{"old": range(15), "new": range(15, 20), "all": range(20)}``.
    """
    values = as_fractions("per_class", per_class, 1)
    return {name: present_mean(values, classes) for name, classes in groups.items()}


def present_mean(values: Floats, classes: Sequence[int]) -> float:
    """Return the mean over those of the classes that are present, NaN if none is."""
    places = as_integers("classes", list(classes), (-1,))
    if places.size and not 0 <= places.min() <= places.max() < len(values):
        raise ConfigError(f"classes must lie in 0..{len(values) - 1}, but {places.tolist()} came.")
    if len(np.unique(places)) != places.size:
        raise ConfigError(f"classes must name each class once, but {places.tolist()} came.")
    present = values[places][~np.isnan(values[places])]
    return float(present.mean()) if present.size else np.nan
