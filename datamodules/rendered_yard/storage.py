"""The on-disk format of a set, and its reader. `python -m pvision.datamodules.rendered_yard` writes such sets.

A folder holds ``manifest.json`` and, for each split, four xz files, raw bytes but for the last:

======================  =================================================================
``SPLIT.map.xz``        label of each pixel, uint8, ``(N, H, W)``
``SPLIT.shades.xz``     light on the object pixels, uint8, scene by scene, row by row
``SPLIT.colors.xz``     colour tables, see `draw_colors`, uint8, ``(N, 10, 3)``
``SPLIT.facts.json.xz`` what is known of each scene, see `Facts`
======================  =================================================================

Nothing here is a pickle. The manifest has each file's size and SHA-256, which are checked before it is read.
"""

import json
import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules._packed_set import PackedSet, SetFormat
from pvision.datamodules.rendered_yard.camera import SIZE, Camera
from pvision.datamodules.rendered_yard.labels import CLASS_NAMES
from pvision.datamodules.rendered_yard.painting import SHADES, paint
from pvision.datamodules.rendered_yard.scenes import SPLITS, generator

__all__ = ["FORMAT", "VERSION", "Facts", "YardImages", "load_facts", "load_yard", "read_manifest"]

FORMAT = "pvision-rendered-yard"
VERSION = 1
_LAYOUT = SetFormat(
    title="rendered yard",
    name=FORMAT,
    version=VERSION,
    shipped=Path(__file__).parent,
    command="python -m pvision.datamodules.rendered_yard",
    unit="scenes",
    splits=SPLITS,
)


class YardImages(NamedTuple):
    """Pictures in memory.

    Attributes:
        images: uint8, ``(N, 64, 64, 3)``.
        masks: label of each pixel, 0 for the background, else 1 plus its place in `CLASS_NAMES`, uint8,
            ``(N, 64, 64)``.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]


class Facts(NamedTuple):
    """What is known of each scene of a split; the last four hold a list for each scene, in the order of its objects.

    Attributes:
        height: of the camera, metres.
        pitch: of the camera, degrees.
        kinds: of the objects.
        aspect: from which side each is seen, degrees.
        phase: of a person's performance, 0 to 1.
        performance: what a person does; -1 for other objects.
    """

    height: list[float]
    pitch: list[float]
    kinds: list[list[str]]
    aspect: list[list[float]]
    phase: list[list[float]]
    performance: list[list[int]]


def load_yard(split: str, root: str | Path | None = None, *, limit: int | None = None) -> YardImages:
    """Load a split.

    Args:
        split: ``"train"`` or ``"test"``.
        root: folder of the set; the shipped one if None.
        limit: only the first pictures; all if None.

    Raises:
        ConfigError: if there is no such split, or it has fewer scenes than ``limit``.
        DataError: if a file is missing or damaged.
    """
    packed = read_manifest(root)
    count = packed.count(split, limit)
    facts = _facts(packed, split)
    masks = packed.read(f"{split}.map.xz", count * SIZE * SIZE).reshape(count, SIZE, SIZE)
    ends = np.cumsum((masks > 0).sum((1, 2)))
    shades = packed.read(f"{split}.shades.xz", int(ends[-1]) if count else 0)
    colors = packed.read(f"{split}.colors.xz", count * len(CLASS_NAMES) * 3).reshape(count, len(CLASS_NAMES), 3)
    if masks.max(initial=0) > len(CLASS_NAMES):
        raise packed.damaged(f"{split}.map.xz", f"has labels above {len(CLASS_NAMES)}")
    if shades.max(initial=0) >= SHADES:
        raise packed.damaged(f"{split}.shades.xz", f"has steps of light above {SHADES - 1}")
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for index, lit in enumerate(np.split(shades, ends[:-1]) if count else []):
        camera = Camera(facts.height[index], facts.pitch[index])
        surroundings = generator(split, index, packed.seed, "surroundings")
        images[index] = paint(masks[index], lit, colors[index], camera, surroundings)
    return YardImages(images, masks.copy())  # a copy, because what is read from bytes cannot be written to


def load_facts(split: str, root: str | Path | None = None) -> Facts:
    """Load what is known of each scene of a split.

    Args:
        split: ``"train"`` or ``"test"``.
        root: folder of the set; the shipped one if None.

    Raises:
        ConfigError: if there is no such split.
        DataError: if a file is missing or damaged.
    """
    packed = read_manifest(root)
    packed.count(split, None)
    return _facts(packed, split)


def read_manifest(root: str | Path | None = None) -> PackedSet:
    """Read what a set holds: its ``seed``, its ``counts`` of scenes, its ``files``.

    Args:
        root: folder of the set; the shipped one if None.

    Raises:
        DataError: if the folder holds no set, or one of another version.
    """
    return PackedSet(_LAYOUT, root=root)


def _facts(packed: PackedSet, split: str) -> Facts:
    name, count = f"{split}.facts.json.xz", packed.counts.get(split, 0)
    content = packed.checked(name)
    try:
        facts = Facts(**json.loads(lzma.decompress(content)))
        whole = all(len(column) == count for column in facts)
        cameras = [Camera(float(height), float(pitch)) for height, pitch in zip(facts.height, facts.pitch, strict=True)]
    except (lzma.LZMAError, ValueError, TypeError) as error:
        raise packed.damaged(name, "is no list of scenes") from error
    if not whole or not all(0 < height < np.inf and abs(pitch) < 90 for height, pitch in cameras):
        raise packed.damaged(name, f"does not describe {count} scenes")
    return facts
