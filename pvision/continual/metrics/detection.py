"""Class-incremental detection: how far old and new classes stay below joint training.

mAP is a fraction here, as everywhere. Say which AP it is (VOC AP50, COCO AP[.5:.95]), which classes are in each group
and which joint model it is compared with. The mAP of experience j's classes after experience t, put into R[t, j], gives
every metric of forgetting.
"""

import numpy.typing as npt

from pvision.continual.metrics._arrays import as_fractions, ratio
from pvision.continual.metrics.plasticity import harmonic_mean
from pvision.errors import ConfigError

__all__ = ["f_map", "omega", "relative_plasticity_deficit", "relative_stability_deficit"]


def relative_stability_deficit(joint_old: float, old: float) -> float:
    """Return RSD = (joint - mAP) / joint over the old classes; negative where the stream does better than joint."""
    return _deficit(joint_old, old)


def relative_plasticity_deficit(joint_new: float, new: float) -> float:
    """Return RPD = (joint - mAP) / joint over the new classes; negative where the stream does better than joint."""
    return _deficit(joint_new, new)


def omega(stream: npt.ArrayLike, joint: npt.ArrayLike) -> float:
    """Return Ω: the mean over steps of the stream's mAP relative to the joint model's.

    Args:
        stream: mAP over all classes seen after each step, ``(T,)``.
        joint: the same of a joint training up to that step, ``(T,)``; where it is 0 the result is NaN.
    """
    values, references = as_fractions("stream", stream, 1), as_fractions("joint", joint, 1)
    if not 0 < len(values) == len(references):
        raise ConfigError(f"stream and joint must be equally long, but {len(values)} and {len(references)} came.")
    return float(ratio(values, references).mean())


def f_map(old: float, new: float) -> float:
    """Return F_mAP, the harmonic mean of the mAP of old and new classes."""
    return harmonic_mean(float(as_fractions("old", old, 0)), float(as_fractions("new", new, 0)))


def _deficit(joint: float, stream: float) -> float:
    reference, value = as_fractions("the joint mAP", joint, 0), as_fractions("the stream's mAP", stream, 0)
    return float(ratio(reference - value, reference))
