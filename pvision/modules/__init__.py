"""LightningModules, one per method; thin: they wire an algorithm of the plain packages to Lightning."""

from pvision.modules.baselines import DropOnly, NonPrivate
from pvision.modules.continual_classifier import ContinualClassifier
from pvision.modules.incremental_segmenter import IncrementalSegmenter
from pvision.modules.mask_dp import MaskDP
from pvision.modules.modality_detector import ModalityDetector
from pvision.modules.private_classifier import PrivateClassifier
from pvision.modules.private_training import PrivateTraining
from pvision.modules.video_classifier import VideoClassifier

__all__ = [
    "ContinualClassifier",
    "DropOnly",
    "IncrementalSegmenter",
    "MaskDP",
    "ModalityDetector",
    "NonPrivate",
    "PrivateClassifier",
    "PrivateTraining",
    "VideoClassifier",
]
