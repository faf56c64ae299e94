"""Networks that give a segmentation method its map of features."""

from pvision.segmentation.networks.compact import CompactSegmenter
from pvision.segmentation.networks.deeplab import DeepLabV3Features
from pvision.segmentation.networks.network import SegmentationNetwork
from pvision.segmentation.networks.vit import ViTFeatures

__all__ = ["CompactSegmenter", "DeepLabV3Features", "SegmentationNetwork", "ViTFeatures"]
