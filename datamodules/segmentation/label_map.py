"""Which label of a stream each value of a stored mask means."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pvision.continual.masks import BACKGROUND, VOID
from pvision.continual.scenarios.labels import shown
from pvision.errors import ConfigError, DataError

__all__ = ["LabelMap"]


class LabelMap:
    """From the values of stored masks to the labels of a stream: 0 background, classes from 1, 255 void.

    Several values may mean one label. 255 means void unless the map says otherwise. Masks with any other value that
    the map does not list are refused.

    Args:
        labels: the label of each stored value.
        num_classes: how many classes there are; each must be the label of a value.
        background: whether the data set has a background. Where it has none, no value may mean 0: map what belongs to
            no class to 255.

    Raises:
        ConfigError: if a value or label is out of range, or a class has no value.

    Example:
        >>> LabelMap({7: 1, 8: 2}, num_classes=2, background=False).apply(np.array([[7, 255, 8]], np.uint8), "a.png")
        array([[  1, 255,   2]], dtype=uint8)
    """

    def __init__(self, labels: Mapping[int, int], *, num_classes: int, background: bool = True) -> None:
        known = {*range(0 if background else 1, num_classes + 1), VOID}
        wrong = [f"{value}: {label}" for value, label in labels.items() if label not in known]
        if wrong:
            lowest = BACKGROUND if background else 1
            raise ConfigError(
                f"label_map gives labels that do not exist ({shown(wrong)}). Labels are {lowest} to {num_classes} and "
                f"{VOID}, which is void; masks of 8 bits have no room for more than {VOID - 1} classes."
            )
        outside = [value for value in labels if isinstance(value, bool) or not 0 <= value <= 255]
        if outside:
            raise ConfigError(f"label_map lists the values {shown(outside)}, but a mask of 8 bits holds 0 to 255.")
        missing = sorted(set(range(1, num_classes + 1)) - set(labels.values()))
        if missing:
            raise ConfigError(
                f"label_map has no value for the classes {shown(missing)} of {num_classes}. Add one for each, or "
                "shorten class_names."
            )
        self.labels = {int(value): int(label) for value, label in ({VOID: VOID} | dict(labels)).items()}
        self._known = np.zeros(256, dtype=bool)
        self._table = np.zeros(256, dtype=np.uint8)
        for value, label in self.labels.items():
            self._known[value], self._table[value] = True, label

    @classmethod
    def in_order(cls, num_classes: int, *, background: bool = True) -> "LabelMap":
        """Return the map of masks that number the classes in order.

        Args:
            num_classes: how many classes there are.
            background: whether 0 is the background and the first class 1. If not, the first class is stored as 0.
        """
        first = 1 if background else 0
        labels = {value: value + 1 - first for value in range(num_classes + first)}
        return cls(labels, num_classes=num_classes, background=background)

    def apply(self, mask: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
        """Return a mask's labels.

        Args:
            mask: uint8, as it is stored.
            name: of the mask, for errors.

        Raises:
            DataError: if it holds a value that the map does not list.
        """
        if not self._known[mask].all():
            unknown = np.unique(mask[~self._known[mask]]).tolist()
            raise DataError(
                f"The mask {name} holds the values {shown(unknown)}, which label_map does not list. Add them to it, "
                f"{VOID} for pixels that are neither trained nor evaluated."
            )
        labels: npt.NDArray[np.uint8] = self._table[mask]
        return labels
