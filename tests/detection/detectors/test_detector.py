"""What all detectors share: freezing, and names for labels."""

import pytest
from small_detectors import small_faster_rcnn, small_fcos

from pvision.errors import ConfigError


def test_freezing_and_unfreezing() -> None:
    detector = small_fcos()
    assert not detector.frozen

    assert detector.freeze() is detector
    detector.train()
    assert detector.frozen
    assert not any(module.training for module in detector.modules())
    assert not any(parameter.requires_grad for parameter in detector.parameters())

    assert detector.unfreeze() is detector
    assert not detector.training  # the mode stays as it is
    detector.train()
    assert all(module.training for module in detector.modules())
    assert all(parameter.requires_grad for parameter in detector.parameters())


def test_a_new_detector_is_in_evaluation_mode() -> None:
    assert not any(module.training for module in small_fcos().modules())


@pytest.mark.parametrize("name", ["car", ""])
def test_a_class_that_the_detector_does_not_know_is_refused(name: str) -> None:
    detector = small_faster_rcnn()

    assert detector.label_of("person") == 1
    with pytest.raises(ConfigError, match="It knows: person, dog"):
        detector.label_of(name)
