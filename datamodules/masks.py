"""Mask sources: where the masks of a user's own clips come from.

====================  ===========================================================================
source                what it reads
====================  ===========================================================================
`MaskVideos`          a mask video for each clip
`MaskImages`          a folder of PNGs for each clip
`MaskArrays`          an NPZ file for each clip
`Boxes`               one JSON file of boxes for all clips
`FixedRegions`        nothing: the same boxes everywhere, for fixed cameras
`WholeFrame`          nothing: all pixels
====================  ===========================================================================
"""

from pvision.datamodules.mask_boxes import Boxes, FixedRegions
from pvision.datamodules.mask_files import MaskArrays, MaskImages, MaskVideos
from pvision.datamodules.mask_source import Footage, MaskSource, WholeFrame

__all__ = ["Boxes", "FixedRegions", "Footage", "MaskArrays", "MaskImages", "MaskSource", "MaskVideos", "WholeFrame"]
