"""Synthetic motions: every joint swings at random, so they share nothing with the captured performances."""

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.mocap.body import JOINTS, Joint, Poses
from pvision.datamodules.mocap.motions import Y_TO_Z
from pvision.datamodules.mocap.quaternions import from_rotation_vector, multiply

__all__ = ["PROGRAM_COUNT", "PROGRAM_SECONDS", "Program"]

PROGRAM_COUNT = 160
"""How many programs the synthetic set has; their number is the label."""

PROGRAM_SECONDS = 4.0
"""Clips begin at a random time below this."""

_SEED = 777
_LEGS = (3, 4, 5, 9, 10, 11)
_ELBOWS = (7, 13)

Array = NDArray[np.float64]


class Program:
    """A random joint-motion program, the same each time for the same number.

    Args:
        number: which program.
    """

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng([_SEED, number])
        self._swings = [_Swing(joint, rng) for joint in JOINTS]
        tilt = rng.choice([0, 0, 0, 0.4, 1.4, 1.4])
        lean = rng.normal(size=2)
        self._axis = np.array([*lean / np.linalg.norm(lean), 0])
        self._tilt = float(tilt)
        self._flip = float(rng.choice([0, 0, 0, 0, 3, -3]))
        self._yaw = float(rng.choice([0, 0, 0, 1.5, -1.5, 4]))
        self._height = 0.85 if tilt < 1 else float(rng.uniform(0.3, 0.8))
        self._bounce = float(rng.choice([0, 0, 0.1, 0.3]))
        self._bounce_rate = float(rng.choice([0.7, 1.2, 2]))
        self._drift = rng.normal(size=2) * rng.choice([0, 0.3, 1])

    def poses(self, times: Array) -> Poses:
        """Return the body at ``times``, in seconds."""
        height = self._height + self._bounce * np.sin(2 * np.pi * self._bounce_rate * times)
        position = np.column_stack([np.outer(times, self._drift), height])
        lean = from_rotation_vector(np.outer(self._tilt + self._flip * times, self._axis))
        turn = from_rotation_vector(np.outer(self._yaw * times, [0, 0, 1]))
        joints = np.concatenate([swing.values(times) for swing in self._swings], axis=1)
        return Poses(position, multiply(multiply(lean, turn), Y_TO_Z), joints)


class _Swing:
    """A joint that swings about a random pose."""

    def __init__(self, joint: Joint, rng: np.random.Generator) -> None:
        axes = 3 if joint.size == 4 else 1
        leg = joint.link in _LEGS
        self._ball = joint.size == 4
        # Elbows bend forwards and knees backwards.
        self._sign = 1 if self._ball or joint.link in _ELBOWS else -1
        self._middle = rng.normal(size=axes) * (0.35 if leg else 0.6)
        self._reach = rng.normal(size=axes) * (0.4 if leg else 0.7)
        self._rate = float(rng.choice([0.5, 1, 1, 2]))
        self._offset = rng.uniform(0, 2 * np.pi, axes)

    def values(self, times: Array) -> Array:
        phase = 2 * np.pi * self._rate * times[:, None] + self._offset
        swing = self._sign * (self._middle + self._reach * np.sin(phase))
        return from_rotation_vector(swing) if self._ball else swing
