"""What `incremental_segmentation.py` compares: ways to learn to segment one class after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from pvision.segmentation.methods import (
    BARM,
    DFT,
    DKD,
    ILT,
    PLOP,
    SSUL,
    FineTuning,
    LwF,
    MiB,
    PlasticBARM,
    PseudoLabels,
    SegmentationMethod,
)

__all__ = ["ABLATIONS", "ARMS", "CURVE", "MAIN", "ORDERED", "Arm"]


@dataclass(frozen=True)
class Arm:
    """One way.

    Args:
        title: in tables.
        build: makes it on a network.
        joint: whether all classes are learned at once, in as many steps as the stream has.
    """

    title: str
    build: Callable[[nn.Module], SegmentationMethod]
    joint: bool = False


ARMS = {
    "joint": Arm("joint (all classes at once)", FineTuning, joint=True),
    "fine_tuning": Arm("fine-tuning", FineTuning),
    "lwf": Arm("LwF", LwF),
    "ilt": Arm("ILT", ILT),
    "mib": Arm("MiB", MiB),
    "plop": Arm("PLOP", PLOP),
    "dkd": Arm("DKD", DKD),
    "ssul": Arm("SSUL-style, frozen", SSUL),
    "dft": Arm("DFT*-style, frozen", DFT),
    "pseudo_labels": Arm("BCE + pseudo-labels", PseudoLabels),
    "barm": Arm("BARM", BARM),
    "plastic_barm": Arm("PlasticBARM (ours)", PlasticBARM),
    "barm_no_residual": Arm("BARM without residual", partial(BARM, residual=False)),
    "barm_no_clamp": Arm("… without clamp", partial(BARM, clamp=False)),
    "barm_no_tri": Arm("… without the negative term", partial(BARM, negative_weight=0.0)),
    "barm_no_group": Arm("… without group distillation", partial(BARM, group_weight=0.0)),
    "barm_no_feature": Arm("… without feature distillation", partial(BARM, feature_weight=0.0)),
    "barm_equal_rates": Arm("… with equal learning rates", partial(BARM, shared_lr_factor=1.0)),
}

MAIN = (
    "barm",
    "plastic_barm",
    "mib",
    "pseudo_labels",
    "fine_tuning",
    "plop",
    "dkd",
    "ssul",
    "dft",
    "lwf",
    "ilt",
    "joint",
)
ABLATIONS = tuple(name for name in ARMS if name.startswith("barm_"))
CURVE = ("barm", "plastic_barm", "mib", "pseudo_labels")
ORDERED = ("barm", "plastic_barm", "mib", "pseudo_labels", "fine_tuning")
