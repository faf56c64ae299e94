"""Clips in few colours: small without loss, and part maps and pictures in one.

A rendered picture has at most a handful of background colours, and each body pixel is its garment's colour in some
shade. So a clip is kept as a map (which background colour, or which body part), the shade of each body pixel in 16
steps, and a short table of colours. Rounding the shades is the only loss, at most 2 % of full brightness; it belongs to
the rendering, so what is written to disk comes back bit for bit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.mocap.body import PARTS, SHIRT, SKIN
from pvision.datamodules.mocap.scenes import Color, Scene

__all__ = ["BACKGROUND_COLORS", "COLORS", "IndexedClip", "garments", "paint", "parts_of", "posterize"]

BACKGROUND_COLORS = 16
"""Map values below this are background colours; above, a body part's value plus 15."""

COLORS = BACKGROUND_COLORS + 3
"""Rows of a clip's colour table: the background, then skin, shirt and trousers, fully lit."""

_SHADES = 16
_DARKEST = 0.5625  # no lit or shaded surface of this renderer falls below this share of its colour
_STEP = (1 - _DARKEST) / _SHADES
_GARMENT = np.array([0 if part in SKIN else 1 if part in SHIRT else 2 for part in range(len(PARTS))])

Bytes = NDArray[np.uint8]


class IndexedClip(NamedTuple):
    """A clip in few colours.

    Attributes:
        map: background colour or body part of each pixel, uint8, ``(T, H, W)``.
        shades: brightness of the body's pixels in order, uint8 below 16, ``(body pixels,)``.
        colors: the colour table, uint8, ``(19, 3)``.
    """

    map: Bytes
    shades: Bytes
    colors: Bytes


def garments(scene: Scene) -> list[Color]:
    """Return the colour, 0 to 1, of each part of the body, by part value."""
    worn = (scene.skin, scene.shirt, scene.trousers)
    return [worn[garment] for garment in _GARMENT]


def posterize(video: Bytes, parts: Bytes, scene: Scene) -> IndexedClip:
    """Reduce a rendered clip to few colours.

    Args:
        video: as rendered, uint8, ``(T, H, W, 3)``.
        parts: body part of each pixel, uint8, ``(T, H, W)``.
        scene: what was rendered.
    """
    body = parts > 0
    indices = parts + np.uint8(BACKGROUND_COLORS - 1)
    colors = np.zeros((COLORS, 3), np.uint8)
    colors[BACKGROUND_COLORS:] = np.rint(255 * np.array([scene.skin, scene.shirt, scene.trousers]))
    background, indices[~body] = _few_colors(video[~body])
    colors[: len(background)] = background
    full = colors[BACKGROUND_COLORS:][_GARMENT[parts[body]]].astype(np.float64)
    # Least squares: the brightness that turns the garment's colour into the pixel's.
    brightness = (video[body] * full).sum(-1) / (full**2).sum(-1)
    shades = np.clip(np.floor((brightness - _DARKEST) / _STEP), 0, _SHADES - 1).astype(np.uint8)
    return IndexedClip(indices, shades, colors)


def paint(maps: Bytes, shades: Bytes, colors: Bytes) -> Bytes:
    """Return the pictures of clips.

    Args:
        maps: uint8, ``(N, T, H, W)``.
        shades: of all clips' body pixels in order, uint8, ``(body pixels,)``.
        colors: uint8, ``(N, 19, 3)``.

    Returns:
        uint8, ``(N, T, H, W, 3)``.
    """
    lit = _DARKEST + _STEP * (np.arange(_SHADES) + 0.5)
    by_part = colors[:, BACKGROUND_COLORS:][:, _GARMENT[1:]]
    body_table = np.rint(by_part[:, :, None] * lit[:, None]).astype(np.uint8)
    table = np.concatenate([colors[:, :BACKGROUND_COLORS], body_table.reshape(len(colors), -1, 3)], axis=1)
    # Row of the table: a background colour's own number, or 16 rows of shades for each part.
    row = maps.astype(np.int32)
    body = maps >= BACKGROUND_COLORS
    row[body] = (row[body] - BACKGROUND_COLORS) * _SHADES + BACKGROUND_COLORS + shades
    row += (np.arange(len(maps), dtype=np.int32) * table.shape[1])[:, None, None, None]
    return np.take(table.reshape(-1, 3), row, axis=0)


def parts_of(maps: Bytes) -> Bytes:
    """Return the part maps of maps: 0 for the background, else the value of the body part."""
    return np.maximum(maps, BACKGROUND_COLORS - 1) - np.uint8(BACKGROUND_COLORS - 1)


def _few_colors(pixels: Bytes) -> tuple[Bytes, Bytes]:
    """Return the most frequent colours, 16 at most, and the nearest of them for each pixel."""
    packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    codes, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    found = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    kept = found[np.argsort(-counts, kind="stable")[:BACKGROUND_COLORS]]
    if not len(kept):
        return kept.astype(np.uint8), inverse.astype(np.uint8)
    nearest = ((found[:, None] - kept) ** 2).sum(-1).argmin(1)
    return kept.astype(np.uint8), nearest[inverse].astype(np.uint8)
