"""Detectors of several libraries under one contract.

Nothing here imports torchvision or transformers before a detector is made.
"""

from pvision.detection.detectors.compact_fcos import CompactFCOS
from pvision.detection.detectors.detector import Detector
from pvision.detection.detectors.hugging_face import HuggingFaceDetector
from pvision.detection.detectors.image_preparation import ImagePreparation
from pvision.detection.detectors.torchvision_detector import TorchvisionDetector
from pvision.detection.detectors.torchvision_network import TorchvisionNetwork
from pvision.detection.detectors.torchvision_style import TorchvisionStyleDetector

__all__ = [
    "CompactFCOS",
    "Detector",
    "HuggingFaceDetector",
    "ImagePreparation",
    "TorchvisionDetector",
    "TorchvisionNetwork",
    "TorchvisionStyleDetector",
]
