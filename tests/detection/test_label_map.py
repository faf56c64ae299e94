"""LabelMap: by the names of the classes, there and back."""

import pytest
import torch
from small_detectors import small_fcos

from pvision.detection.label_map import LabelMap
from pvision.errors import ConfigError

DETECTOR = small_fcos(("", "person", "N/A", "dog", "N/A"))


def test_labels_come_back_as_they_went_whatever_the_order_of_the_data():
    labels = LabelMap(DETECTOR, ("dog", "person"))
    (target,) = labels.to_detector([{"boxes": torch.zeros(2, 4), "labels": torch.tensor([0, 1])}])
    assert target["labels"].tolist() == [3, 1]
    found = {"boxes": torch.arange(20.0).reshape(5, 4), "scores": torch.arange(5.0), "labels": torch.arange(5)}
    (prediction,) = labels.to_data([found])
    assert prediction["labels"].tolist() == [1, 0]
    assert prediction["scores"].tolist() == [1, 3]


def test_without_data_the_classes_are_those_of_the_detector_each_once():
    assert LabelMap(DETECTOR, None).class_names == ("person", "N/A", "dog")


@pytest.mark.parametrize(("names", "message"), [(("dog", "dog", "person"), "once"), (("cat",), "cat"), (("",), "''")])
def test_names_that_lead_nowhere_are_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        LabelMap(DETECTOR, names)
