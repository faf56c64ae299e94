"""Methods that learn to segment along a stream of classes: one file each, all of them a `SegmentationMethod`."""

from pvision.segmentation.methods.barm import BARM
from pvision.segmentation.methods.dft import DFT
from pvision.segmentation.methods.dkd import DKD
from pvision.segmentation.methods.fine_tuning import FineTuning
from pvision.segmentation.methods.ilt import ILT
from pvision.segmentation.methods.lwf import LwF
from pvision.segmentation.methods.lwf_mc import LwFMC
from pvision.segmentation.methods.method import SegmentationMethod
from pvision.segmentation.methods.mib import MiB
from pvision.segmentation.methods.plastic_barm import PlasticBARM
from pvision.segmentation.methods.plop import PLOP
from pvision.segmentation.methods.pseudo_labels import PseudoLabels
from pvision.segmentation.methods.ssul import SSUL

__all__ = [
    "BARM",
    "DFT",
    "DKD",
    "ILT",
    "PLOP",
    "SSUL",
    "FineTuning",
    "LwF",
    "LwFMC",
    "MiB",
    "PlasticBARM",
    "PseudoLabels",
    "SegmentationMethod",
]
