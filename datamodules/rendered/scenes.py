"""What a scene shows: everything about it follows from the set's seed, the split and the scene's number.

The splits differ in view and in time, as in MocapActions: in train, val and detector the bodies are seen from four
sectors of 67.5 degrees and people are caught outside the middle fifth of a performance; in test from the four sectors
of 22.5 degrees between them, and inside it.
"""

import math
from typing import NamedTuple

import numpy as np

from pvision.datamodules.mocap.body import CLASS_NAMES as PERFORMANCES
from pvision.datamodules.rendered.camera import FOCAL, WIDTH, Camera
from pvision.datamodules.rendered.objects import CLUTTER, KINDS, Surface
from pvision.datamodules.rendered.palette import draw_surfaces
from pvision.datamodules.rendered.weather import draw_weather, generator

__all__ = ["CLUTTER_SHAPES", "MODELS", "Object", "Scene", "draw_scene"]

MODELS = (6, 3, 3, 20)
"""How many different bodies of each kind the stage has; a scene shows each at most once."""

_TRAIN_SECTOR = 67.5  # degrees of each quarter turn; the rest is for the test
_TEST_PHASES = (0.4, 0.6)
_KIND_SHARES = (0.5, 0.25, 0.25)
_NEAREST = (2.6, 2.0, 2.6)  # metres from the camera, by kind
_FARTHEST = (6.0, 5.0, 6.5)
_ROOM = (0.45, 0.7, 1.2, 0.5)  # radius that each kind keeps free, metres
_TRIES = 15


class _Shape(NamedTuple):
    form: str
    size: tuple[float, float, float]


def _shapes() -> tuple[_Shape, ...]:
    rng = np.random.default_rng(20)
    forms = ("box", "cylinder", "box", "sphere", "cylinder")
    sizes = np.exp(rng.uniform(np.log(0.12), np.log(0.5), (MODELS[CLUTTER], 3))) * [1, 1, 1.7]
    return tuple(_Shape(forms[number % 5], tuple(size)) for number, size in enumerate(np.round(sizes, 3).tolist()))


CLUTTER_SHAPES = _shapes()
"""Form and half sizes (x, y, z; metres) of the clutter."""


class Object(NamedTuple):
    """One object of a scene.

    Attributes:
        kind: its place in `KINDS`.
        model: which body of its kind.
        x: metres to the right of the camera.
        y: metres in front of the camera.
        yaw: about the vertical, degrees.
        aspect: from which side the camera sees it, degrees: 0 to 360.
        performance: what a person does, its place in `pvision.datamodules.mocap.body.CLASS_NAMES`; else -1.
        phase: when, 0 to 1.
        joints: random numbers from -1 to 1 that pose a quadruped's legs, 12 of them; else none.
        surfaces: in the order of `pvision.datamodules.rendered.objects.SURFACES`.
    """

    kind: int
    model: int
    x: float
    y: float
    yaw: float
    aspect: float
    performance: int
    phase: float
    joints: tuple[float, ...]
    surfaces: tuple[Surface, ...]


class Scene(NamedTuple):
    """One scene before it is rendered.

    Attributes:
        camera: where it stands.
        light: where the light comes from, any length.
        objects: what stands there.
    """

    camera: Camera
    light: tuple[float, float, float]
    objects: tuple[Object, ...]


def draw_scene(split: str, index: int, seed: int) -> Scene:
    """Return one scene.

    Args:
        split: ``"train"``, ``"val"``, ``"test"`` or ``"detector"``.
        index: number of the scene in its split.
        seed: of the whole set.
    """
    rng = generator(split, index, seed, "scene")
    weather = draw_weather(split, index, seed)
    height = float(np.exp(rng.uniform(np.log(0.9), np.log(3.2))))
    pitch = math.degrees(math.atan((height - 0.6) / rng.uniform(5, 10))) + rng.normal(0, 1.5)
    camera = Camera(round(height, 3), round(pitch, 3))
    taken: list[tuple[float, float, float]] = []
    used: list[tuple[int, int]] = []
    objects: list[Object] = []
    wanted = [int(rng.choice(3, p=_KIND_SHARES)) for _ in range(rng.integers(1, 7))]
    for kind in [*wanted, *[CLUTTER] * int(rng.integers(1, 7))]:
        place = _place(rng, kind, taken, objects)
        free = [model for model in range(MODELS[kind]) if (kind, model) not in used]
        if place is None or not free:
            continue
        model = free[int(rng.integers(len(free)))]
        taken.append((*place, _ROOM[kind]))
        used.append((kind, model))
        objects.append(_object(split, rng, kind, model, place, weather.air))
    x, y, z = rng.normal(size=3).tolist()
    return Scene(camera, (x, y - 0.7, abs(z) + 0.8), tuple(objects))


def _place(
    rng: np.random.Generator, kind: int, taken: list[tuple[float, float, float]], objects: list[Object]
) -> tuple[float, float] | None:
    """Return a free place on the floor, x and y, or None if none was found."""
    for _ in range(_TRIES):
        if kind == CLUTTER and objects and rng.random() < 0.3:
            hidden = objects[int(rng.integers(len(objects)))]  # stand in its way
            y = hidden.y * rng.uniform(0.5, 0.9)
            x = hidden.x / hidden.y * y + rng.uniform(-0.4, 0.4)
        else:
            like = kind if kind != CLUTTER else 0
            y = float(np.exp(rng.uniform(np.log(_NEAREST[like]), np.log(_FARTHEST[like]))))
            x = y * rng.uniform(-0.52, 0.52) * WIDTH / FOCAL
        near = [math.hypot(x - left, y - far) < room + _ROOM[kind] for left, far, room in taken]
        if y > 1.3 and not any(near):
            return x, y
    return None


def _object(
    split: str, rng: np.random.Generator, kind: int, model: int, place: tuple[float, float], air: float
) -> Object:
    aspect, phase = _view(split, rng)
    x, y = place
    return Object(
        kind=kind,
        model=model,
        x=x,
        y=y,
        yaw=aspect - math.degrees(math.atan2(x, y)),  # the camera's direction to the object turns with its place
        aspect=aspect,
        performance=int(rng.integers(len(PERFORMANCES))) if KINDS[kind] == "person" else -1,
        phase=phase,
        joints=tuple(rng.uniform(-1, 1, 12).tolist()) if KINDS[kind] == "quadruped" else (),
        surfaces=draw_surfaces(rng, KINDS[kind], air),
    )


def _view(split: str, rng: np.random.Generator) -> tuple[float, float]:
    """Draw aspect and phase from what belongs to the split."""
    low, high = _TEST_PHASES
    quarter = 90.0 * float(rng.integers(4))
    if split == "test":
        return quarter + rng.uniform(_TRAIN_SECTOR, 90), rng.uniform(low, high)
    phase = rng.uniform(0, 1 - (high - low))
    return quarter + rng.uniform(0, _TRAIN_SECTOR), phase if phase < low else phase + (high - low)
