"""The 15 captured performances that come with pybullet, read at any time.

Format and body are those of DeepMimic [0]: a frame holds its duration, the pelvis (position, rotation) and the joints,
quaternions as ``(w, x, y, z)``, y up.

[0] Peng et al., DeepMimic: Example-Guided Deep Reinforcement Learning of Physics-Based Character Skills, 2018.
"""

import json
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.mocap.body import CLASS_NAMES, JOINTS, Poses
from pvision.datamodules.mocap.bullet import bullet_data
from pvision.datamodules.mocap.quaternions import from_rotation_vector, multiply, slerp
from pvision.errors import DataError

__all__ = ["Y_TO_Z", "Motion", "load_motion"]

Array = NDArray[np.float64]

Y_TO_Z = from_rotation_vector(np.array([np.pi / 2, 0, 0]))
"""The turn from the files' y-up world, in which the body is modelled, to the renderer's z-up world."""


@dataclass(frozen=True)
class Motion:
    """One performance.

    Args:
        times: start of each captured frame in seconds, ``(K,)``.
        position: of the pelvis, y up, ``(K, 3)``.
        rotation: of the pelvis, ``(K, 4)``.
        joints: in the order of `JOINTS`, ``(K, 36)``.
        loops: whether the performance goes on from its end with its beginning, else it holds its last pose.
    """

    times: Array
    position: Array
    rotation: Array
    joints: Array
    loops: bool

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(self.times[-1])

    def start(self, phase: float, span: float) -> float:
        """Return the time at which a clip of ``span`` seconds begins, for a phase from 0 to 1."""
        return phase * (self.duration if self.loops else max(0.0, self.duration - span))

    def poses(self, times: Array) -> Poses:
        """Return the body at ``times``, in seconds."""
        if self.loops:
            rounds, within = np.divmod(times, self.duration)
        else:
            rounds, within = np.zeros_like(times), np.clip(times, 0, self.duration)
        index = np.clip(np.searchsorted(self.times, within, side="right") - 1, 0, len(self.times) - 2)
        step = self.times[index + 1] - self.times[index]
        fraction = ((within - self.times[index]) / step)[:, None]
        advance = (self.position[-1] - self.position[0]) * [1, 0, 1]  # a walk goes on where the last round ended
        position = _mix(self.position, index, fraction) + rounds[:, None] * advance
        rotation = slerp(self.rotation[index], self.rotation[index + 1], fraction)
        joints = _mix(self.joints, index, fraction)
        for joint in JOINTS:
            if joint.size == 4:
                turns = self.joints[:, joint.columns]
                joints[:, joint.columns] = slerp(turns[index], turns[index + 1], fraction)
        upright = np.stack([position[:, 0], -position[:, 2], position[:, 1]], axis=1)
        return Poses(upright, multiply(Y_TO_Z, rotation), joints)


@cache
def load_motion(label: int) -> Motion:
    """Return the performance of a class.

    Args:
        label: its place in `CLASS_NAMES`.

    Raises:
        MissingExtraError: if pybullet, which brings the performances, is not installed.
        DataError: if its file is missing or damaged.
    """
    path = bullet_data() / "data" / "motions" / f"humanoid3d_{CLASS_NAMES[label]}.txt"
    try:
        content = json.loads(path.read_text())
        return _motion(np.array(content["Frames"], dtype=np.float64), loops=content["Loop"] == "wrap")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is missing or damaged ({error}). Reinstall pybullet.") from error


def _motion(frames: Array, *, loops: bool) -> Motion:
    joints = frames[:, 8:].copy()
    for joint in JOINTS:
        if joint.size == 4:
            joints[:, joint.columns] = _unit(joints[:, joint.columns])
    times = np.concatenate([[0.0], np.cumsum(frames[:-1, 0])])
    return Motion(times, frames[:, 1:4], _unit(frames[:, 4:8]), joints, loops)


def _unit(quaternions: Array) -> Array:
    """Put the scalar last and scale to length 1: in some captured frames it is as short as 0.6."""
    return np.asarray(np.roll(quaternions, -1, axis=1) / np.linalg.norm(quaternions, axis=1, keepdims=True))


def _mix(values: Array, index: NDArray[np.int64], fraction: Array) -> Array:
    return np.asarray(values[index] * (1 - fraction) + values[index + 1] * fraction)
