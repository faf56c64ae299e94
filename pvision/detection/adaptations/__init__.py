"""Ways to make an RGB detector work on another modality, one file each."""

from pvision.detection.adaptations.adaptation import Adaptation, by_shape
from pvision.detection.adaptations.cost import added_bytes, trainable_parameters
from pvision.detection.adaptations.detector_adaptation import DetectorAdaptation
from pvision.detection.adaptations.equalisation import HistogramEqualisation, InvertedEqualisation
from pvision.detection.adaptations.fine_tuning import FineTuning
from pvision.detection.adaptations.inversion import Inversion
from pvision.detection.adaptations.lora import DetectorLoRA
from pvision.detection.adaptations.visual_prompt import VisualPrompt
from pvision.detection.adaptations.wise import WiSEFineTuning
from pvision.detection.adaptations.zero_shot import ZeroShot

__all__ = [
    "Adaptation",
    "DetectorAdaptation",
    "DetectorLoRA",
    "FineTuning",
    "HistogramEqualisation",
    "Inversion",
    "InvertedEqualisation",
    "VisualPrompt",
    "WiSEFineTuning",
    "ZeroShot",
    "added_bytes",
    "by_shape",
    "trainable_parameters",
]
