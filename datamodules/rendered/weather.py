"""Light, heat, floor and buildings of a scene: what needs no rendering and so is not stored, only drawn again."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPLITS", "Building", "Weather", "draw_weather", "generator"]

SPLITS = ("train", "val", "test", "detector")
_STREAMS = ("scene", "weather", "texture", "rgb", "lwir", "depth")
_DARK_SHARE = 0.15
_COLDEST_SKY = 245.0  # K

Color = tuple[float, float, float]


def generator(split: str, index: int, seed: int, stream: str) -> np.random.Generator:
    """Return the random numbers of one purpose of one scene, which depend on nothing else.

    Args:
        split: one of `SPLITS`.
        index: number of the scene in its split.
        seed: of the whole set.
        stream: ``"scene"``, ``"weather"``, ``"texture"`` of the floor, or a modality for its sensor's noise.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index, _STREAMS.index(stream)])


class Building(NamedTuple):
    """A wall in the distance, square to the camera's direction.

    Attributes:
        distance: from the camera along the floor, metres.
        left: its left edge, metres to the right of the camera.
        width: metres.
        height: metres.
        color: albedo, 0 to 1.
        windows: albedo of its windows.
        pitch: from window to window, metres.
        warmth: of the wall above the air, K.
        leak: of the windows above the wall, K.
    """

    distance: float
    left: float
    width: float
    height: float
    color: Color
    windows: Color
    pitch: float
    warmth: float
    leak: float


class Weather(NamedTuple):
    """What surrounds the objects of a scene.

    Attributes:
        dark: whether it is night for the colour camera.
        light: how bright it is, 1 by day.
        ambient: share of the light that comes from everywhere.
        tint: colour of the light.
        sky: colour of the sky, 0 to 1.
        floor: the two colours that the floor's texture mixes.
        texture: 0 blotches, 1 tiles, 2 stripes.
        grain: size of the texture, metres.
        turn: of the texture about the vertical, radians.
        air: temperature, K.
        cold_sky: temperature of the zenith as the long-wave infrared sees it, K.
        ground: temperature of the floor above the air, K.
        patches: by how much its texture makes it warmer and colder, K.
        haze: extinction of the long-wave infrared, per metre.
        infrared: albedo of the floor's two colours in the near infrared.
        buildings: far to near.
    """

    dark: bool
    light: float
    ambient: float
    tint: Color
    sky: Color
    floor: tuple[Color, Color]
    texture: int
    grain: float
    turn: float
    air: float
    cold_sky: float
    ground: float
    patches: float
    haze: float
    infrared: tuple[float, float]
    buildings: tuple[Building, ...]


def draw_weather(split: str, index: int, seed: int) -> Weather:
    """Return light, heat, floor and buildings of a scene.

    Args:
        split: one of `SPLITS`.
        index: number of the scene in its split.
        seed: of the whole set.
    """
    rng = generator(split, index, seed, "weather")
    dark = bool(rng.random() < _DARK_SHARE)
    floor = _greyish(rng.uniform(0.1, 0.8, 3))
    other = np.clip(floor + _greyish(rng.normal(0, 0.15, 3)), 0.05, 0.95)
    air = rng.uniform(268, 306)
    sunny = 0.0 if dark else float(rng.random() < 0.5)
    return Weather(
        dark=dark,
        light=float(np.exp(rng.uniform(np.log(0.03), np.log(0.12)))) if dark else rng.uniform(0.55, 1.15),
        ambient=rng.uniform(0.3, 0.7),
        tint=_color(1 + rng.normal(0, 0.07, 3)),
        sky=_color(rng.uniform(0.45, 1, 3) * [0.85, 0.95, 1]),
        floor=(_color(floor), _color(other)),
        texture=int(rng.integers(3)),
        grain=float(np.exp(rng.uniform(np.log(0.15), np.log(1.5)))),
        turn=rng.uniform(0, np.pi),
        air=air,
        cold_sky=max(_COLDEST_SKY, air - rng.uniform(12, 45)),
        ground=rng.uniform(-2, 4) + sunny * rng.uniform(0, 14),
        patches=rng.uniform(0.3, 1.5) + sunny * rng.uniform(0, 3),
        haze=rng.uniform(0.002, 0.012),
        infrared=(rng.uniform(0.1, 0.7), rng.uniform(0.1, 0.7)),
        buildings=tuple(sorted((_building(rng) for _ in range(rng.integers(0, 6))), key=lambda wall: -wall.distance)),
    )


def _building(rng: np.random.Generator) -> Building:
    distance = rng.uniform(17, 45)
    color = _greyish(rng.uniform(0.15, 0.85, 3))
    return Building(
        distance=distance,
        left=distance * rng.uniform(-0.6, 0.45),
        width=rng.uniform(2, 12),
        height=rng.uniform(1.5, 9),
        color=_color(color),
        windows=_color(np.clip(color + rng.normal(0, 0.3, 3), 0.05, 0.95)),
        pitch=rng.uniform(1, 3),
        warmth=rng.uniform(-1, 6),
        leak=rng.uniform(-3, 10),
    )


def _greyish(color: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = color.mean()
    return np.asarray(mean + 0.4 * (color - mean))


def _color(values: NDArray[np.float64]) -> Color:
    red, green, blue = np.clip(values, 0, 1.2).tolist()
    return red, green, blue
