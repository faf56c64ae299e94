"""A rendered scene in few bytes: which surface, how much light, how far, for the pixels of objects only.

Depth is kept as its logarithm in steps of 1/256, which is 1 cm at 2.5 m and 4 cm at 10 m, about half a pixel's width,
and light in 16 steps. Both roundings belong to the rendering, so what is written comes back bit for bit. The floor, the
buildings and the sky follow from the camera and the weather and are not kept.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.rendered.objects import KINDS, SURFACES

__all__ = ["SHADES", "Geometry", "decode_depth", "encode_depth", "owners"]

SHADES = 16
"""How many steps of light there are."""

_STEPS = 256  # of the logarithm of depth

Bytes = NDArray[np.uint8]


class Geometry(NamedTuple):
    """What one scene looks like.

    Attributes:
        map: 0 where no object is, else 1 plus the row of the surface in the scene's table, uint8, ``(H, W)``.
        shades: light on each object pixel, row by row, uint8 below `SHADES`, ``(P,)``.
        depths: of each object pixel, object by object, uint8, ``(P,)``; `decode_depth` reads it.
        anchors: middle depth of each object, in steps; 0 if it is hidden.
        shares: visible share of each object, 0 to 1, of what it would show of itself without the others.
    """

    map: Bytes
    shades: Bytes
    depths: Bytes
    anchors: list[int]
    shares: list[float]


def owners(kinds: list[int]) -> Bytes:
    """Return for each map value the number of the object that it belongs to, from 1; 0 for none.

    Args:
        kinds: of the scene's objects, in order.
    """
    counts = [len(SURFACES[KINDS[kind]]) for kind in kinds]
    return np.concatenate([[0], np.repeat(np.arange(1, len(kinds) + 1), counts)]).astype(np.uint8)


def encode_depth(depth: NDArray[np.float64], belongs: Bytes, count: int) -> tuple[Bytes, list[int]]:
    """Return ``depths`` and ``anchors`` as `Geometry` has them.

    Args:
        depth: along the camera's axis in metres, ``(H, W)``.
        belongs: number of the object in each pixel, from 1; 0 for none, ``(H, W)``.
        count: of the objects.
    """
    steps = np.rint(_STEPS * np.log(np.maximum(depth, 0.1))).astype(np.int64)
    anchors = [
        int(np.median(steps[belongs == number])) if (belongs == number).any() else 0 for number in range(1, count + 1)
    ]
    order = _order(belongs)
    offsets = steps.ravel()[order] - np.array([0, *anchors])[belongs.ravel()[order]]
    codes = np.clip(offsets + 128, 0, 255).astype(np.uint8)
    return np.diff(codes, prepend=np.uint8(0)), anchors  # neighbours are alike: differences are small


def decode_depth(depths: Bytes, anchors: list[int], belongs: Bytes) -> NDArray[np.float32]:
    """Return the depth along the camera's axis in metres, ``(H, W)``; infinite where no object is.

    Args:
        depths: as `Geometry` has them.
        anchors: as `Geometry` has them.
        belongs: number of the object in each pixel, from 1; 0 for none, ``(H, W)``.
    """
    order = _order(belongs)
    codes = np.cumsum(depths, dtype=np.uint8)
    steps = codes.astype(np.int32) - 128 + np.array([0, *anchors], np.int32)[belongs.ravel()[order]]
    result = np.full(belongs.size, np.inf, np.float32)
    result[order] = np.exp(steps.astype(np.float32) / np.float32(_STEPS))
    return result.reshape(belongs.shape)


def _order(belongs: Bytes) -> NDArray[np.int64]:
    """Return the places of the object pixels, object by object and row by row."""
    places = np.flatnonzero(belongs)
    return places[np.argsort(belongs.ravel()[places], kind="stable")]
