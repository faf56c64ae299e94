"""Images with boxes around their objects: the base of all detection data modules, and published data sets."""

from pvision.datamodules.detection.coco_folder import CocoFolder
from pvision.datamodules.detection.datamodule import DetectionDataModule
from pvision.datamodules.detection.flir_aligned import FLIRAligned
from pvision.datamodules.detection.kaist import KAIST
from pvision.datamodules.detection.llvip import LLVIP
from pvision.datamodules.detection.nyuv2_detection import NYUv2Detection
from pvision.datamodules.detection.records import DetectionRecords
from pvision.datamodules.detection.voc_folder import VocFolder

__all__ = [
    "KAIST",
    "LLVIP",
    "CocoFolder",
    "DetectionDataModule",
    "DetectionRecords",
    "FLIRAligned",
    "NYUv2Detection",
    "VocFolder",
]
