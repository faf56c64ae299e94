"""What stands in a scene: kinds of objects, the surfaces that each is made of, and how surfaces are written down."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASS_NAMES", "CLUTTER", "KINDS", "SURFACES", "Surface", "decode_temperature", "encode_temperature"]

CLASS_NAMES = ("person", "quadruped", "vehicle")
"""The classes, in label order."""

KINDS = (*CLASS_NAMES, "clutter")
"""What an object can be: a class, or clutter, which never gets a box."""

CLUTTER = KINDS.index("clutter")
"""The kind that is no class."""

SURFACES = {
    "person": ("skin", "shirt", "trousers", "shoes"),
    "quadruped": ("body", "motors", "legs"),
    "vehicle": ("engine", "wheels", "trim"),
    "clutter": ("clutter",),
}
"""The surfaces of each kind, in the order of their rows in a scene's table."""

_COLDEST, _STEP = 233.15, 0.5  # K; 256 steps reach to 360 K


class Surface(NamedTuple):
    """One surface of one object, as the sensors see it.

    Attributes:
        color: red, green and blue albedo, 0 to 1.
        infrared: albedo in the near infrared, where the depth camera works, 0 to 1.
        temperature: K.
        emissivity: in the long-wave infrared, seen straight on, 0 to 1.
    """

    color: tuple[float, float, float]
    infrared: float
    temperature: float
    emissivity: float

    def row(self) -> list[int]:
        """Return the six bytes that a set keeps."""
        shares = [*self.color, self.infrared, self.emissivity]
        red, green, blue, infrared, emissivity = (round(255 * share) for share in shares)
        return [red, green, blue, infrared, encode_temperature(self.temperature), emissivity]


def encode_temperature(kelvin: float) -> int:
    """Return the byte for a temperature between 233 and 360 K, to the nearest half Kelvin."""
    return int(np.clip(round((kelvin - _COLDEST) / _STEP), 0, 255))


def decode_temperature(code: NDArray[Any]) -> NDArray[np.float32]:
    """Return the temperatures in K that bytes stand for, float32."""
    return np.asarray(_COLDEST + _STEP * code, np.float32)
