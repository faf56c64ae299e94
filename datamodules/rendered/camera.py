"""The camera: one pinhole for all three sensors, so that their pictures lie on each other pixel by pixel.

The world is z up, in metres; the camera stands at ``(0, 0, height)`` and looks along y, turned down by its pitch.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIELD_OF_VIEW", "FOCAL", "HEIGHT", "WIDTH", "Camera", "ray_lengths"]

HEIGHT = 96
"""Rows of a picture."""

WIDTH = 128
"""Columns of a picture."""

FIELD_OF_VIEW = 40.0
"""From the upper to the lower edge, degrees."""

FOCAL = HEIGHT / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
"""Focal length in pixels."""

Array = NDArray[np.float32]


class Camera(NamedTuple):
    """Where the camera stands and how far it looks down.

    Attributes:
        height: above the floor, metres.
        pitch: degrees; positive looks down.
    """

    height: float
    pitch: float

    def rays(self) -> tuple[Array, Array, Array]:
        """Return the world's x, y, z of the ray through each pixel, for one metre along the camera's axis."""
        right, up = _plane()
        sine, cosine = math.sin(math.radians(self.pitch)), math.cos(math.radians(self.pitch))
        return right, np.float32(cosine) + np.float32(sine) * up, np.float32(cosine) * up - np.float32(sine)


@cache
def ray_lengths() -> Array:
    """Return how long the ray through each pixel is for one metre along the camera's axis."""
    right, up = _plane()
    return np.asarray(np.sqrt(1 + right**2 + up**2), np.float32)


@cache
def _plane() -> tuple[Array, Array]:
    columns = (np.arange(WIDTH, dtype=np.float32) + 0.5 - WIDTH / 2) / np.float32(FOCAL)
    rows = (HEIGHT / 2 - 0.5 - np.arange(HEIGHT, dtype=np.float32)) / np.float32(FOCAL)
    right, up = np.meshgrid(columns, rows)
    return right, up
