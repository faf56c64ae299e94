"""From the classes of the data to the labels of a detector, and back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pvision.detection.detectors.detector import Detector
from pvision.detection.records import Prediction, Target
from pvision.errors import ConfigError

__all__ = ["LabelMap"]


class LabelMap:
    """Bring labels of the data, from 0, to those of the detector, by the names of the classes.

    Args:
        detector: whose labels they become.
        class_names: of the data; None for the detector's own.

    Attributes:
        class_names: of the data.

    Raises:
        ConfigError: if the detector lacks one of the classes, or the data names one twice.

    Example:
        A detector of COCO calls a person 1 and a car 3; in data of these two classes they are 0 and 1.
    """

    def __init__(self, detector: Detector, class_names: Sequence[str] | None) -> None:
        # A detector may have two labels of one name; the labels of the data are places in this tuple.
        own = list(dict.fromkeys(name for name in detector.class_names if name))
        self.class_names = tuple(own if class_names is None else class_names)
        if len(set(self.class_names)) < len(self.class_names):
            raise ConfigError(f"class_names must name each class of the data once, but {self.class_names} came.")
        self._to_detector = torch.tensor([detector.label_of(name) for name in self.class_names], dtype=torch.int64)
        self._to_data = torch.full((len(detector.class_names),), -1)
        self._to_data[self._to_detector] = torch.arange(len(self.class_names))

    def to_detector(self, targets: Sequence[Target]) -> list[Target]:
        """Return targets with the detector's labels."""
        return [
            {"boxes": target["boxes"], "labels": self._to_detector.to(target["labels"].device)[target["labels"]]}
            for target in targets
        ]

    def to_data(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Return predictions with the data's labels, without those of classes that the data does not have."""
        return [self._known(prediction) for prediction in predictions]

    def _known(self, prediction: Prediction) -> Prediction:
        labels: Tensor = self._to_data.to(prediction["labels"].device)[prediction["labels"]]
        known = labels >= 0
        return {"boxes": prediction["boxes"][known], "scores": prediction["scores"][known], "labels": labels[known]}
