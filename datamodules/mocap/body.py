"""The body: its links, its joints, and the arrays that describe how it moves."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASS_NAMES", "JOINTS", "LINK_OFFSET", "PARTS", "REGIONS", "SHIRT", "SKIN", "Joint", "Poses"]

CLASS_NAMES = (
    "walk",
    "run",
    "jump",
    "kick",
    "punch",
    "spin",
    "spinkick",
    "backflip",
    "cartwheel",
    "roll",
    "crawl",
    "dance_a",
    "dance_b",
    "getup_facedown",
    "getup_faceup",
)
"""The 15 performances, in label order."""

PARTS = (
    "background",
    "base",
    "pelvis",
    "chest",
    "head",
    "right_thigh",
    "right_shin",
    "right_foot",
    "right_upper_arm",
    "right_forearm",
    "right_hand",
    "left_thigh",
    "left_shin",
    "left_foot",
    "left_upper_arm",
    "left_forearm",
    "left_hand",
)
"""Name of each value of a part map; ``base`` has no surface, so 1 never occurs."""

LINK_OFFSET = 2
"""Part value of the renderer's link 0; its base is link -1."""

SKIN = (4, 9, 10, 15, 16)
"""The parts that show skin."""

SHIRT = (1, 2, 3, 8, 14)
"""The parts that wear the shirt; the others wear the trousers."""

_ARMS = (8, 9, 10, 14, 15, 16)

REGIONS = {
    "person": tuple(range(1, 17)),
    "upper_body": (3, 4, *_ARMS),
    "arms": _ARMS,
    "hands": (10, 16),
    "head": (4,),
    "legs": (5, 6, 7, 11, 12, 13),
}
"""The part values that make up each region which can be called sensitive."""


class Joint(NamedTuple):
    """One joint of the body.

    Attributes:
        link: the link that the joint moves, as the renderer numbers it.
        column: its first column in `Poses.joints`.
        size: 4 for a ball joint (a quaternion), 1 for a hinge (an angle in radians).
    """

    link: int
    column: int
    size: int

    @property
    def columns(self) -> slice:
        """The joint's columns in `Poses.joints`."""
        return slice(self.column, self.column + self.size)


JOINTS = (
    Joint(1, 0, 4),
    Joint(2, 4, 4),
    Joint(3, 8, 4),
    Joint(4, 12, 1),
    Joint(5, 13, 4),
    Joint(6, 17, 4),
    Joint(7, 21, 1),
    Joint(9, 22, 4),
    Joint(10, 26, 1),
    Joint(11, 27, 4),
    Joint(12, 31, 4),
    Joint(13, 35, 1),
)


class Poses(NamedTuple):
    """How the body stands at a series of times.

    Attributes:
        position: of the pelvis in metres, z up, ``(T, 3)``.
        rotation: of the pelvis, ``(T, 4)``.
        joints: angles and quaternions in the order of `JOINTS`, ``(T, 36)``.
    """

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]
    joints: NDArray[np.float64]
