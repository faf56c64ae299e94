"""What a clip shows: everything about it follows from the set's seed, the split and the clip's number.

The splits differ in view and in time. Training clips are seen from four camera sectors of 67.5 degrees and begin
outside the middle fifth of a performance; test clips are seen from the four sectors of 22.5 degrees between them and
begin inside it. The synthetic split has no such limits, and its motions are `Program`s.
"""

from dataclasses import dataclass

import numpy as np

from pvision.datamodules.mocap.body import CLASS_NAMES, Poses
from pvision.datamodules.mocap.motions import load_motion
from pvision.datamodules.mocap.programs import PROGRAM_COUNT, PROGRAM_SECONDS, Program

__all__ = ["FRAMES_PER_SECOND", "SPLITS", "Scene", "draw_scene"]

FRAMES_PER_SECOND = 8
SPLITS = ("train", "test", "synthetic")

_TRAIN_SECTOR = 67.5  # degrees of each quarter turn; the rest is for the test
_TEST_PHASES = (0.4, 0.6)
_SKINS = ((0.93, 0.76, 0.65), (0.55, 0.38, 0.27), (0.36, 0.24, 0.18), (0.8, 0.6, 0.45))

Color = tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """One clip before it is rendered.

    Args:
        label: the class, or the program of a synthetic clip.
        synthetic: whether the motion is a program.
        azimuth: of the camera, degrees.
        elevation: of the camera, degrees; negative looks down.
        distance: of the camera from the body, metres.
        phase: where in the motion the clip begins, 0 to 1.
        speed: of the motion, 1 as captured.
        light: where the light comes from, any length.
        skin: RGB, 0 to 1.
        shirt: RGB, 0 to 1.
        trousers: RGB, 0 to 1.
        floor: RGB, 0 to 1.
    """

    label: int
    synthetic: bool
    azimuth: float
    elevation: float
    distance: float
    phase: float
    speed: float
    light: Color
    skin: Color
    shirt: Color
    trousers: Color
    floor: Color

    def start(self, frames: int) -> float:
        """Return the time in the motion, in seconds, that a clip of ``frames`` begins with."""
        if self.synthetic:
            return self.phase * PROGRAM_SECONDS
        return load_motion(self.label).start(self.phase, frames / FRAMES_PER_SECOND * self.speed)

    def poses(self, frames: int) -> Poses:
        """Return the body in each frame."""
        times = self.start(frames) + np.arange(frames) / FRAMES_PER_SECOND * self.speed
        return Program(self.label).poses(times) if self.synthetic else load_motion(self.label).poses(times)


def draw_scene(split: str, index: int, seed: int) -> Scene:
    """Return the scene of one clip; labels go round, so any prefix of a split is balanced.

    Args:
        split: one of `SPLITS`.
        index: number of the clip in its split.
        seed: of the whole set.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    synthetic = split == "synthetic"
    azimuth, phase = _view(split, rng)
    return Scene(
        label=index % (PROGRAM_COUNT if synthetic else len(CLASS_NAMES)),
        synthetic=synthetic,
        azimuth=azimuth,
        phase=phase,
        elevation=rng.uniform(-30, -5),
        distance=rng.uniform(1.9, 2.7),
        speed=rng.uniform(0.85, 1.15),
        light=_light(rng),
        skin=_SKINS[rng.integers(len(_SKINS))],
        shirt=tuple(rng.uniform(0.1, 1, 3).tolist()),
        trousers=tuple(rng.uniform(0.05, 0.8, 3).tolist()),
        floor=tuple(rng.uniform(0.3, 1, 3).tolist()),
    )


def _view(split: str, rng: np.random.Generator) -> tuple[float, float]:
    """Draw azimuth and phase from what belongs to the split."""
    low, high = _TEST_PHASES
    quarter = 90.0 * float(rng.integers(4))
    if split == "train":
        phase = rng.uniform(0, 1 - (high - low))
        return quarter + rng.uniform(0, _TRAIN_SECTOR), phase if phase < low else phase + (high - low)
    if split == "test":
        return quarter + rng.uniform(_TRAIN_SECTOR, 90), rng.uniform(low, high)
    return rng.uniform(0, 360), rng.uniform()


def _light(rng: np.random.Generator) -> Color:
    x, y, z = rng.normal(size=3).tolist()
    return x, y, abs(z) + 1  # from above
