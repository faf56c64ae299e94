"""What a scene shows: everything about it follows from the set's seed, the split and the scene's number.

The splits differ in view and in time. In test, objects are seen from four sectors of 22.5 degrees around the diagonals
of their models, and people are caught in the middle fifth of a performance; in train, from the four sectors of 67.5
degrees between them, and outside it. Around the diagonals, because the models are nearly symmetric: the mirror image of
a test view is a test view too, and so is that of a square table after a quarter turn.
"""

import math
from typing import NamedTuple

import numpy as np

from pvision.datamodules.mocap.body import CLASS_NAMES as PERFORMANCES
from pvision.datamodules.rendered_yard.camera import Camera
from pvision.datamodules.rendered_yard.labels import KINDS

__all__ = ["LEAST_DISTANCE", "SIZES", "SPLITS", "Object", "Scene", "draw_scene", "generator"]

SPLITS = ("train", "test")
SIZES = 3
"""How many sizes of each kind the stage has; people have one."""

LEAST_DISTANCE = 0.55
"""From one object's middle to another's, metres."""

_SET = 2  # keeps the numbers apart from those of other sets with the same seed
_STREAMS = ("scene", "colors", "surroundings")
_TEST_SECTOR = (33.75, 56.25)  # degrees of each quarter turn; the rest is for training
_TEST_PHASES = (0.4, 0.6)
_SHARES = {"person": 2.0, "vehicle": 1.2}  # of the other kinds 1
_NEAREST, _FARTHEST = 1.45, 2.5  # metres along y
_ASIDE = 0.36  # metres to the left or right at most, for one metre along y
_TRIES = 60
_JOINTS = {"quadruped": 12, "arm": 6}
_LYING_SHARE = 0.4  # of the drums


def generator(split: str, index: int, seed: int, stream: str) -> np.random.Generator:
    """Return the random numbers of one purpose of one scene, which depend on nothing else.

    Args:
        split: one of `SPLITS`.
        index: number of the scene in its split.
        seed: of the whole set.
        stream: ``"scene"``, ``"colors"`` of the objects, or ``"surroundings"``.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index, _STREAMS.index(stream), _SET])


class Object(NamedTuple):
    """One object of a scene.

    Attributes:
        kind: one of `KINDS`.
        size: which of its kind's sizes.
        x: metres to the right of the camera.
        y: metres in front of the camera.
        yaw: about the vertical, degrees.
        aspect: from which side the camera sees it, degrees: 0 to 360.
        performance: what a person does, its place in `pvision.datamodules.mocap.body.CLASS_NAMES`; else -1.
        phase: when, 0 to 1.
        joints: random numbers from -1 to 1 that pose a quadruped's legs (12) or an arm (6); else none.
        lying: whether a drum lies on its side.
    """

    kind: str
    size: int
    x: float
    y: float
    yaw: float
    aspect: float
    performance: int
    phase: float
    joints: tuple[float, ...]
    lying: bool


class Scene(NamedTuple):
    """One scene before it is rendered.

    Attributes:
        camera: where it stands.
        light: where the light comes from, any length.
        objects: what stands there, 2 or 3 of different kinds.
    """

    camera: Camera
    light: tuple[float, float, float]
    objects: tuple[Object, ...]


def draw_scene(split: str, index: int, seed: int) -> Scene:
    """Return one scene.

    Args:
        split: one of `SPLITS`.
        index: number of the scene in its split.
        seed: of the whole set.
    """
    rng = generator(split, index, seed, "scene")
    camera = Camera(round(rng.uniform(0.8, 1.5), 3), round(rng.uniform(8, 26), 3))
    shares = np.array([_SHARES.get(kind, 1.0) for kind in KINDS])
    wanted = rng.choice(len(KINDS), int(rng.integers(2, 4)), replace=False, p=shares / shares.sum()).tolist()
    places = _places(rng, len(wanted))
    # Where too few places were found, the last objects are left out.
    objects = tuple(_object(split, rng, KINDS[kind], place) for kind, place in zip(wanted, places, strict=False))
    x, y, z = rng.normal(size=3).tolist()
    return Scene(camera, (x, y, abs(z) + 1), objects)


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Return at least 2 and at most ``count`` places on the floor, x and y."""
    while True:
        places: list[tuple[float, float]] = []
        for _ in range(count):
            for _ in range(_TRIES):
                y = rng.uniform(_NEAREST, _FARTHEST)
                x = y * rng.uniform(-_ASIDE, _ASIDE)
                if all(math.hypot(x - left, y - far) >= LEAST_DISTANCE for left, far in places):
                    places.append((x, y))
                    break
        if len(places) >= 2:
            return places


def _object(split: str, rng: np.random.Generator, kind: str, place: tuple[float, float]) -> Object:
    x, y = place
    aspect, phase = _view(split, rng)
    return Object(
        kind=kind,
        size=0 if kind == "person" else int(rng.integers(SIZES)),
        x=x,
        y=y,
        yaw=aspect - math.degrees(math.atan2(x, y)),  # the camera's direction to the object turns with its place
        aspect=aspect,
        performance=int(rng.integers(len(PERFORMANCES))) if kind == "person" else -1,
        phase=phase,
        joints=tuple(rng.uniform(-1, 1, _JOINTS.get(kind, 0)).tolist()),
        lying=kind == "drum" and rng.random() < _LYING_SHARE,
    )


def _view(split: str, rng: np.random.Generator) -> tuple[float, float]:
    """Draw aspect and phase from what belongs to the split."""
    quarter = 90.0 * float(rng.integers(4))
    if split == "test":
        return quarter + rng.uniform(*_TEST_SECTOR), rng.uniform(*_TEST_PHASES)
    return quarter + _outside(rng, _TEST_SECTOR, 90.0), _outside(rng, _TEST_PHASES, 1.0)


def _outside(rng: np.random.Generator, hole: tuple[float, float], end: float) -> float:
    """Draw from 0 to ``end``, but not from the hole."""
    low, high = hole
    value = rng.uniform(0, end - (high - low))
    return value if value < low else value + (high - low)
