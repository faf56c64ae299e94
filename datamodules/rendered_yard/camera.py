"""The camera: a pinhole before the objects. The world is z up, in metres; the camera looks along y, turned down."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIELD_OF_VIEW", "SIZE", "Camera", "FloorView"]

SIZE = 64
"""Height and width of a picture, pixels."""

FIELD_OF_VIEW = 55.0
"""From the upper to the lower edge, degrees."""

Array = NDArray[np.float64]


class FloorView(NamedTuple):
    """Which pixels show the floor if nothing stands on it, and where it is that they see.

    Attributes:
        shown: whether a pixel lies below the horizon, bool, ``(H, W)``.
        x: metres to the right of the camera, of each pixel that shows the floor, ``(P,)``.
        y: metres in front of the camera, ``(P,)``.
    """

    shown: NDArray[np.bool_]
    x: Array
    y: Array


class Camera(NamedTuple):
    """Where the camera stands, over the world's origin, and how far it looks down.

    Attributes:
        height: above the floor, metres.
        pitch: degrees; positive looks down.
    """

    height: float
    pitch: float

    def floor(self) -> FloorView:
        """Return what the camera sees of the floor."""
        right, above = _plane()
        sine, cosine = math.sin(math.radians(self.pitch)), math.cos(math.radians(self.pitch))
        up = cosine * above - sine
        shown = up < -1e-3
        reach = self.height / -up[shown]
        return FloorView(shown, right[shown] * reach, (cosine + sine * above[shown]) * reach)


@cache
def _plane() -> tuple[Array, Array]:
    """Return how far right and up the ray through each pixel goes for one metre along the camera's axis."""
    half = math.tan(math.radians(FIELD_OF_VIEW / 2))
    steps = (np.arange(SIZE) + 0.5 - SIZE / 2) * (2 * half / SIZE)
    right, down = np.meshgrid(steps, steps)
    return right, -down
