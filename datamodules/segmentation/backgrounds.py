"""What stamps are pasted on: photographs of a folder, or clouds of colour that are drawn."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pvision.datamodules.segmentation.stamp_files import pillow_image
from pvision.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Background", "divide_photographs", "drawn_clouds", "photographs"]

Background = Callable[[int, np.random.Generator], npt.NDArray[np.uint8]]
"""Makes a background from its side in pixels and a generator: uint8 ``(side, side, 3)``."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_OCTAVES = (2, 4, 8, 16, 32)  # grid points along a side
_LARGEST = 2.5  # short side of a photograph that is kept, in sides of the scene
_KEPT = 1_000  # of this many photographs 0.2 GB are kept at 96 pixels


def drawn_clouds(side: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return soft clouds of colour with shading at several scales and some grain.

    Args:
        side: in pixels.
        random: draws everything.
    """
    roughness = random.uniform(0.5, 1.1)
    clouds = np.zeros((3, side, side))
    for points in _OCTAVES:
        shade = random.normal(size=(1, points, points)) + 0.4 * random.normal(size=(3, points, points))
        clouds += _enlarged(shade, side) / points**roughness
    colour = random.uniform(40, 215, size=(3, 1, 1))
    contrast = random.uniform(20, 70) / clouds.std()
    pixels = colour + contrast * (clouds - clouds.mean()) + random.normal(scale=3.0, size=clouds.shape)
    return np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def photographs(paths: Sequence[Path]) -> Background:
    """Return what cuts square parts out of photographs, mirrored half of the time.

    Args:
        paths: of the files; they are read when they are first needed.
    """
    kept: dict[Path, Image] = {}

    def part(side: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
        path = paths[int(random.integers(len(paths)))]
        image = kept.get(path)
        if image is None:
            image = _reduced(path, side)
            if len(kept) < _KEPT:
                kept[path] = image
        cut = int(random.uniform(0.5, 1.0) * min(image.size))
        left, top = (int(random.integers(length - cut + 1)) for length in image.size)
        pixels = np.asarray(image.resize((side, side), box=(left, top, left + cut, top + cut)))
        return np.ascontiguousarray(pixels[:, ::-1] if random.random() < 0.5 else pixels)

    return part


def divide_photographs(folder: Path, *, fraction: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Return the photographs of a folder for training and for the test: no file is on both sides.

    Args:
        folder: holds JPEG or PNG files, also in folders below.
        fraction: part that is for the test, rounded down, but one file at least.
        seed: draws them.

    Raises:
        DataError: if there are fewer than two.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if len(paths) < 2:
        raise DataError(
            f"data.backgrounds {folder} holds {len(paths)} photographs (.jpg, .png), but two at least are needed, one "
            "for training and one for the test. Give another folder, or leave it out for drawn backgrounds."
        )
    order = np.random.default_rng([seed, 0]).permutation(len(paths))
    count = max(1, int(len(paths) * fraction))
    return [paths[place] for place in sorted(order[count:])], [paths[place] for place in sorted(order[:count])]


def _enlarged(grid: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    values = torch.from_numpy(grid)[None]
    return np.asarray(F.interpolate(values, size=(side, side), mode="bilinear", align_corners=True)[0])


def _reduced(path: Path, side: int) -> "Image":
    image = pillow_image(path).convert("RGB")
    factor = _LARGEST * side / min(image.size)
    return image.resize([max(side, round(length * factor)) for length in image.size]) if factor < 1 else image
