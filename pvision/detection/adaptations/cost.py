"""What a way of adapting costs: numbers to train, and bytes to keep."""

from collections.abc import Iterable
from itertools import chain

from torch import Tensor

from pvision.detection.adaptations.adaptation import Adaptation
from pvision.detection.adaptations.detector_adaptation import DetectorAdaptation
from pvision.detection.detectors.detector import Detector

__all__ = ["added_bytes", "trainable_parameters"]


def trainable_parameters(detector: Detector, adaptation: Adaptation) -> int:
    """Return how many numbers training may change, in the adaptation and in the detector.

    Args:
        detector: to which ``adaptation`` was attached, and whose training has not been consolidated.
        adaptation: what is trained.
    """
    parameters = {id(p): p for p in chain(adaptation.parameters(), detector.parameters()) if p.requires_grad}
    return sum(parameter.numel() for parameter in parameters.values())


def added_bytes(detector: Detector, adaptation: Adaptation) -> int:
    """Return how many bytes this modality adds to what is kept beside the RGB detector.

    That is the adaptation's state, or, if it changes the detector, the part that it changes.

    Args:
        detector: to which ``adaptation`` was attached, and whose training has not been consolidated.
        adaptation: what stands for the modality.
    """
    if isinstance(adaptation, DetectorAdaptation):
        return _bytes(adaptation.changed_state(detector).values())
    return _bytes(adaptation.state_dict().values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
