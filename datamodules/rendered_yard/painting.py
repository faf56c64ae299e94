"""From labels, light and a colour table to the picture: floor, sky, brightness and noise are drawn again from the seed.

Arithmetic on arrays is in float64 and without transcendental functions, so other processors paint the same bytes.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules.rendered_yard.camera import SIZE, Camera, FloorView

__all__ = ["SHADES", "paint"]

SHADES = 16
"""How many steps of light there are."""

_DARKEST = 0.35  # share of its colour that a surface shows which no directed light meets
_NOISE = 0.02  # standard deviation, of full brightness
_TEXELS = 64

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]


class _Surroundings(NamedTuple):
    sky: Array
    floor: tuple[Array, Array]  # the two colours of the floor's texture
    texture: int  # 0 patches, 1 tiles, 2 stripes
    grain: float  # of the texture, metres
    turn: float  # of the texture about the vertical, radians
    exposure: Array  # of red, green and blue


def paint(labels: Bytes, shades: Bytes, colors: Bytes, camera: Camera, rng: np.random.Generator) -> Bytes:
    """Return the picture of a scene, uint8, ``(H, W, 3)``.

    Args:
        labels: class of each pixel, 0 for the background, uint8, ``(H, W)``.
        shades: light on each pixel of an object, row by row, uint8 below `SHADES`, ``(P,)``.
        colors: the scene's colour table, uint8, ``(10, 3)``.
        camera: where it stands.
        rng: of the scene's surroundings.
    """
    around = _draw(rng)
    view = camera.floor()
    second = _texture(around, view, rng)
    picture = np.empty((SIZE, SIZE, 3))
    picture[:] = around.sky
    picture[view.shown] = np.where(second[:, None], around.floor[1], around.floor[0])
    solid = labels > 0
    light = _DARKEST + (1 - _DARKEST) / SHADES * (shades + 0.5)
    picture[solid] = colors[labels[solid] - 1] / 255 * light[:, None]
    noisy = picture * around.exposure + _NOISE * rng.standard_normal(picture.shape)
    return np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)


def _draw(rng: np.random.Generator) -> _Surroundings:
    # Floors are greyish, so that colour helps to tell objects from them.
    floor = 0.4 * rng.uniform(0.1, 0.8, 3) + 0.6 * rng.uniform(0.1, 0.8)
    return _Surroundings(
        sky=rng.uniform(0.45, 1, 3),
        floor=(floor, np.clip(floor + rng.normal(0, 0.12, 3), 0, 1)),
        texture=int(rng.integers(3)),
        grain=rng.uniform(0.3, 1),
        turn=rng.uniform(0, math.pi),
        exposure=rng.uniform(0.7, 1.1) * (1 + rng.normal(0, 0.06, 3)),
    )


def _texture(around: _Surroundings, view: FloorView, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return where the floor has its second colour, ``(P,)``."""
    sine, cosine = math.sin(around.turn) / around.grain, math.cos(around.turn) / around.grain
    u = np.floor(view.x * cosine + view.y * sine).astype(np.int64)
    v = np.floor(view.y * cosine - view.x * sine).astype(np.int64)
    if around.texture == 1:
        return np.asarray((u + v) % 2 == 1)
    if around.texture == 2:
        return np.asarray(u % 2 == 1)
    texels = rng.random((_TEXELS, _TEXELS)) < 0.4
    return np.asarray(texels[v % _TEXELS, u % _TEXELS])
