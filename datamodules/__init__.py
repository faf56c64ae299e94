"""Data modules: clips with their masks, and streams of labelled images."""

if __name__ != "pvision.datamodules":
    raise ImportError(f"import these as `pvision.datamodules`, not as {__name__!r}, which would make other classes")

from pvision.datamodules.detection import (
    KAIST,
    LLVIP,
    CocoFolder,
    DetectionDataModule,
    FLIRAligned,
    NYUv2Detection,
    VocFolder,
)
from pvision.datamodules.hmdb51 import HMDB51
from pvision.datamodules.masks import Boxes, FixedRegions, MaskArrays, MaskImages, MaskSource, MaskVideos, WholeFrame
from pvision.datamodules.mocap.datamodule import MocapActions
from pvision.datamodules.records import PublicOnly, Records, TensorRecords
from pvision.datamodules.rendered.datamodule import RenderedModalities
from pvision.datamodules.segmentation import (
    ADE20KStream,
    CityscapesStream,
    MaskFolderStream,
    RenderedYardStream,
    SegmentationStream,
    StampsStream,
    VOCSegmentationStream,
)
from pvision.datamodules.streams import (
    CIFAR10Stream,
    CIFAR100Stream,
    CUB200Stream,
    DigitsStream,
    DomainNetStream,
    FashionDigitsAnimalsStream,
    FashionMNISTStream,
    ImageFolderStream,
    ImageNetAStream,
    ImageNetRStream,
    TaskStream,
    TinyImageNetStream,
)
from pvision.datamodules.ucf101 import UCF101
from pvision.datamodules.video import VideoDataModule
from pvision.datamodules.video_folder import VideoFolder

__all__ = [
    "HMDB51",
    "KAIST",
    "LLVIP",
    "UCF101",
    "ADE20KStream",
    "Boxes",
    "CIFAR10Stream",
    "CIFAR100Stream",
    "CUB200Stream",
    "CityscapesStream",
    "CocoFolder",
    "DetectionDataModule",
    "DigitsStream",
    "DomainNetStream",
    "FLIRAligned",
    "FashionDigitsAnimalsStream",
    "FashionMNISTStream",
    "FixedRegions",
    "ImageFolderStream",
    "ImageNetAStream",
    "ImageNetRStream",
    "MaskArrays",
    "MaskFolderStream",
    "MaskImages",
    "MaskSource",
    "MaskVideos",
    "MocapActions",
    "NYUv2Detection",
    "PublicOnly",
    "Records",
    "RenderedModalities",
    "RenderedYardStream",
    "SegmentationStream",
    "StampsStream",
    "TaskStream",
    "TensorRecords",
    "TinyImageNetStream",
    "VOCSegmentationStream",
    "VideoDataModule",
    "VideoFolder",
    "VocFolder",
    "WholeFrame",
]
