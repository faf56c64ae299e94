"""Streams of images with label masks, learned class by class."""

from pvision.datamodules.segmentation.ade20k import ADE20KStream
from pvision.datamodules.segmentation.cityscapes import CityscapesStream
from pvision.datamodules.segmentation.label_map import LabelMap
from pvision.datamodules.segmentation.mask_folder import MaskFolderStream
from pvision.datamodules.segmentation.preprocessing import CROP_513, SegmentationPreprocessing
from pvision.datamodules.segmentation.rendered_yard import RenderedYardStream
from pvision.datamodules.segmentation.sources import ArraySegmentation, FileSegmentation, SegmentationSource
from pvision.datamodules.segmentation.stamps import StampsStream
from pvision.datamodules.segmentation.stream import SegmentationStream
from pvision.datamodules.segmentation.voc import VOCSegmentationStream

__all__ = [
    "CROP_513",
    "ADE20KStream",
    "ArraySegmentation",
    "CityscapesStream",
    "FileSegmentation",
    "LabelMap",
    "MaskFolderStream",
    "RenderedYardStream",
    "SegmentationPreprocessing",
    "SegmentationSource",
    "SegmentationStream",
    "StampsStream",
    "VOCSegmentationStream",
]
