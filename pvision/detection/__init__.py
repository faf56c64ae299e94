"""Modality translators in front of frozen detectors, what they compete with, and the detectors under one contract."""

from pvision.detection.adaptations import (
    Adaptation,
    DetectorLoRA,
    FineTuning,
    HistogramEqualisation,
    Inversion,
    InvertedEqualisation,
    VisualPrompt,
    WiSEFineTuning,
    ZeroShot,
)
from pvision.detection.detectors.compact_fcos import CompactFCOS
from pvision.detection.detectors.detector import Detector
from pvision.detection.detectors.hugging_face import HuggingFaceDetector
from pvision.detection.detectors.torchvision_detector import TorchvisionDetector
from pvision.detection.detectors.torchvision_style import TorchvisionStyleDetector
from pvision.detection.inputs import ImageInput
from pvision.detection.records import DetectionBatch, Prediction, Target
from pvision.detection.router import ModalityRouter
from pvision.detection.scaling import FixedRange, PercentileRange, PerImageRange, Scaling
from pvision.detection.translator import ModalityTranslator
from pvision.detection.translator_cost import multiply_adds, translator_within

__all__ = [
    "Adaptation",
    "CompactFCOS",
    "DetectionBatch",
    "Detector",
    "DetectorLoRA",
    "FineTuning",
    "FixedRange",
    "HistogramEqualisation",
    "HuggingFaceDetector",
    "ImageInput",
    "Inversion",
    "InvertedEqualisation",
    "ModalityRouter",
    "ModalityTranslator",
    "PerImageRange",
    "PercentileRange",
    "Prediction",
    "Scaling",
    "Target",
    "TorchvisionDetector",
    "TorchvisionStyleDetector",
    "VisualPrompt",
    "WiSEFineTuning",
    "ZeroShot",
    "multiply_adds",
    "translator_within",
]
