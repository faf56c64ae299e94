"""Callbacks for any Lightning project."""

if __name__ != "pvision.callbacks":
    raise ImportError(f"import these as `pvision.callbacks`, not as {__name__!r}, which would make other classes")

from pvision.callbacks.detection_pictures import DetectionPictures
from pvision.callbacks.detection_writer import DetectionWriter
from pvision.callbacks.exemplar_free import ExemplarFree
from pvision.callbacks.forgetting_metrics import ForgettingMetrics
from pvision.callbacks.frozen_guard import FrozenGuard
from pvision.callbacks.interference_certificate import InterferenceCertificate
from pvision.callbacks.mask_writer import MaskWriter
from pvision.callbacks.prediction_writer import PredictionWriter
from pvision.callbacks.privacy_accounting import PrivacyAccounting
from pvision.callbacks.run_summary import RunSummary
from pvision.callbacks.segmentation_matrix import SegmentationMatrix
from pvision.callbacks.segmentation_pictures import SegmentationPictures
from pvision.callbacks.train_privately import TrainPrivately
from pvision.callbacks.training_cost import TrainingCost

__all__ = [
    "DetectionPictures",
    "DetectionWriter",
    "ExemplarFree",
    "ForgettingMetrics",
    "FrozenGuard",
    "InterferenceCertificate",
    "MaskWriter",
    "PredictionWriter",
    "PrivacyAccounting",
    "RunSummary",
    "SegmentationMatrix",
    "SegmentationPictures",
    "TrainPrivately",
    "TrainingCost",
]
