"""The three simulated sensors: a colour camera, a long-wave infrared camera and a time-of-flight depth camera."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.rendered.view import View

__all__ = ["MODALITIES", "SENSORS", "depth", "lwir", "rgb"]

_NOISE_FLOOR, _SHOT = 0.005, 0.0003  # of the colour camera: standard deviation in the dark, variance per signal
_GAMMA = 1 / 2.0

_NETD, _COLUMNS = 0.06, 0.04  # K: noise of each pixel and fixed pattern of each column
_SKY_SCALE = 0.12  # sine of the elevation in which the sky becomes clear
_OPTICS = (0.14, 0.72, 0.14)  # point spread of the lens

_RANGE = 20.0  # metres to which the depth camera reaches
_POWER = 900.0  # amplitude that a white surface returns at 1 m; at 4 m it is a sixteenth
_DIMMEST = 1.2  # amplitude below which there is no reading

Array = NDArray[np.float32]


def rgb(view: View, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the picture of the colour camera, uint8, ``(H, W, 3)``."""
    weather = view.weather
    light = weather.light * (weather.ambient + (1 - weather.ambient) * view.lit)
    signal = view.color * light[..., None] * np.array(weather.tint, np.float32)
    signal = _blur(signal)
    noise = np.sqrt(_NOISE_FLOOR**2 + _SHOT * signal) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.asarray(np.rint(255 * np.clip(signal + noise, 0, 1) ** _GAMMA), np.uint8)


def lwir(view: View, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return the simulated long-wave infrared picture in counts of 0.01 K, uint16, ``(H, W, 1)``.

    Radiance goes with the fourth power of temperature. A surface shows its own, and, the less it emits, the sky's,
    which it mirrors; at grazing angles it emits less. The air between adds its own.
    """
    weather = view.weather
    grazing = 1 - np.float32(0.35) * (1 - view.cosine) ** 4
    emissivity = np.where(view.sky, 1, view.emissivity * grazing)
    clear = 1 - np.exp(-np.maximum(view.elevation, 0) / np.float32(_SKY_SCALE))
    sky = np.float32(weather.air) + np.float32(weather.cold_sky - weather.air) * clear
    own = np.where(view.sky, sky, view.temperature) ** 4
    radiance = emissivity * own + (1 - emissivity) * np.float32(weather.cold_sky) ** 4
    passed = np.where(view.sky, 1, np.exp(np.float32(-weather.haze) * np.where(view.sky, 0, view.distance)))
    radiance = passed * radiance + (1 - passed) * np.float32(weather.air) ** 4
    kelvin = np.sqrt(np.sqrt(_blur(radiance)))
    height, width = kelvin.shape
    kelvin += np.float32(_NETD) * rng.standard_normal((height, width), dtype=np.float32)
    kelvin += np.float32(_COLUMNS) * rng.standard_normal((1, width), dtype=np.float32)
    return np.asarray(np.rint(100 * kelvin), np.uint16)[..., None]


def depth(view: View, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return distance in mm (0: no reading) and amplitude of the time-of-flight camera, uint16, ``(H, W, 2)``."""
    far = np.where(view.sky, np.float32(1e6), view.distance)
    returned = np.float32(_POWER) * view.infrared * view.cosine / far**2
    noise = rng.standard_normal((2, *far.shape), dtype=np.float32)
    amplitude = np.maximum(returned + 0.5 * noise[0], 0)
    # The weaker the light that comes back, the less sure the phase.
    distance = far + noise[1] * (0.005 + 0.12 / np.maximum(amplitude, 0.5))
    read = (amplitude > _DIMMEST) & (far < _RANGE) & (rng.random(far.shape, dtype=np.float32) > 0.003)
    millimetres = np.where(read, np.rint(1000 * np.clip(distance, 0.05, 65)), 0)
    return np.stack([millimetres, np.rint(np.minimum(16 * amplitude, 65535))], axis=-1).astype(np.uint16)


SENSORS: dict[str, Callable[[View, np.random.Generator], NDArray[Any]]] = {"rgb": rgb, "lwir": lwir, "depth": depth}
"""The sensor of each modality."""

MODALITIES = tuple(SENSORS)
"""Names of the modalities."""


def _blur(values: Array) -> Array:
    """Return a picture as the lens spreads it, the edges repeated."""
    side, middle, _ = (np.float32(weight) for weight in _OPTICS)
    for axis in (0, 1):
        padded = np.concatenate([values.take([0], axis), values, values.take([-1], axis)], axis)
        low, high = (padded.take(range(start, start + values.shape[axis]), axis) for start in (0, 2))
        values = side * (low + high) + middle * values
    return values
