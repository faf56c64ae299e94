"""Segmentation that is learned class by class: networks, growing pixel classifiers, and methods of learning them."""

from pvision.segmentation.export import export_segmenter
from pvision.segmentation.files import load_segmenter, save_segmenter
from pvision.segmentation.head import MaskHead

__all__ = ["MaskHead", "export_segmenter", "load_segmenter", "save_segmenter"]
