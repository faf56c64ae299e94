"""Scenes of cut-outs on a background: image and label mask, a pure function of a seed and a position."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pvision.continual.masks import VOID
from pvision.datamodules.segmentation.backgrounds import Background

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Scene", "SceneSettings", "draw_scene"]

_SIZE = (0.28, 0.6)  # longer side of an object, in sides of the scene
_TURN = 20.0  # degrees to either side
_LIGHT = (0.75, 1.25)
_MARGIN = 2  # pixels
_OPAQUE, _CLEAR = 0.75, 0.25
_Pixels = npt.NDArray[np.uint8]


class Scene(NamedTuple):
    """An image and what its pixels are.

    Attributes:
        image: uint8 ``(H, W, 3)``.
        mask: uint8 ``(H, W)``: 0 background, classes from 1, 255 where an object's edge mixes with what is behind.
    """

    image: _Pixels
    mask: _Pixels


class SceneSettings(NamedTuple):
    """What all scenes of a set have in common.

    Attributes:
        side: of the square scene, in pixels.
        objects: the fewest and the most in a scene.
    """

    side: int
    objects: tuple[int, int]


def draw_scene(
    stamps: Mapping[int, Sequence["Image"]],
    background: Background,
    *,
    settings: SceneSettings,
    seed: Sequence[int],
) -> Scene:
    """Draw one scene.

    The number of objects, and the class of each, are drawn evenly; the stamp, evenly within its class. Objects are
    turned, mirrored, lit and scaled at random. Their centres lie in the scene; later ones hide earlier ones.

    Args:
        stamps: RGBA images, by label.
        background: makes what is behind them.
        settings: size and number of objects.
        seed: whole numbers of at least 0: the same numbers, stamps and settings give the same scene.
    """
    random = np.random.default_rng(list(seed))
    side = settings.side
    image = background(side, random).astype(np.float32)
    mask = np.zeros((side, side), np.uint8)
    labels = sorted(stamps)
    for _ in range(int(random.integers(settings.objects[0], settings.objects[1] + 1))):
        label = labels[int(random.integers(len(labels)))]
        stamp = stamps[label][int(random.integers(len(stamps[label])))]
        _paste(_posed(stamp, side, random), label, image, mask, random)
    return Scene(image.round().astype(np.uint8), mask)


def _posed(stamp: "Image", side: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a stamp as it comes into the scene: float RGBA ``(h, w, 4)``, 0 to 255, turned, scaled and lit."""
    from PIL.Image import Resampling, Transpose
    from PIL.ImageOps import expand

    if random.random() < 0.5:
        stamp = stamp.transpose(Transpose.FLIP_LEFT_RIGHT)
    factor = random.uniform(*_SIZE) * side / max(stamp.size)
    stamp = stamp.resize([max(1, round(length * factor)) for length in stamp.size], Resampling.BICUBIC)
    # The margin is what a stamp that fills its frame mixes with when it is turned; without it, its edge is a staircase.
    stamp = expand(stamp, _MARGIN, (0, 0, 0, 0))
    stamp = stamp.rotate(random.uniform(-_TURN, _TURN), Resampling.BICUBIC, expand=True)
    pixels = np.asarray(stamp, np.float32).copy()
    pixels[..., :3] = (pixels[..., :3] * random.uniform(*_LIGHT)).clip(0, 255)
    return pixels


def _paste(
    stamp: npt.NDArray[np.float32],
    label: int,
    image: npt.NDArray[np.float32],
    mask: _Pixels,
    random: np.random.Generator,
) -> None:
    """Put a stamp into an image and its label into the mask, both in place."""
    side = len(mask)
    spans = []
    for length in stamp.shape[:2]:
        start = int(random.integers(side)) - length // 2
        spans.append((slice(max(start, 0), min(start + length, side)), slice(max(-start, 0), side - start)))
    (rows, stamp_rows), (columns, stamp_columns) = spans
    part = stamp[stamp_rows, stamp_columns]
    alpha = part[..., 3] / 255
    under = image[rows, columns]
    under += alpha[..., None] * (part[..., :3] - under)
    labels = mask[rows, columns]
    labels[alpha >= _OPAQUE] = label
    labels[(alpha > _CLEAR) & (alpha < _OPAQUE)] = VOID
