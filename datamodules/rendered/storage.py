"""The on-disk format of a set, and its reader. `python -m pvision.datamodules.rendered` writes such sets.

A folder holds ``manifest.json`` and, for each split, five xz files, raw bytes but for the last:

======================  ======================================================================
``SPLIT.map.xz``        surface in each pixel, uint8, ``(N, H, W)``, see `Geometry`
``SPLIT.shades.xz``     light on the object pixels, uint8, scene by scene
``SPLIT.depths.xz``     distance of the object pixels, uint8, scene by scene
``SPLIT.surfaces.xz``   the surfaces' six bytes, see `Surface.row`, scene by scene
``SPLIT.facts.json.xz`` what is known of each scene, see `Facts`
======================  ======================================================================

Nothing here is a pickle. The manifest has each file's size and SHA-256, which are checked before it is read.
"""

import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules._packed_set import PackedSet, SetFormat
from pvision.datamodules.rendered.camera import HEIGHT, WIDTH, Camera
from pvision.datamodules.rendered.geometry import SHADES, Geometry
from pvision.datamodules.rendered.objects import KINDS, SURFACES
from pvision.datamodules.rendered.weather import SPLITS

__all__ = ["FORMAT", "VERSION", "Facts", "Manifest", "StoredScene", "StoredScenes", "load_scenes", "read_manifest"]

FORMAT = "pvision-rendered"
VERSION = 1
_LAYOUT = SetFormat(
    title="RenderedModalities",
    name=FORMAT,
    version=VERSION,
    shipped=Path(__file__).parent,
    command="python -m pvision.datamodules.rendered",
    unit="scenes",
    splits=SPLITS,
)
Bytes = NDArray[np.uint8]


class Facts(NamedTuple):
    """What is known of each scene of a split; the last six hold a list for each scene, in the order of its objects.

    Attributes:
        height: of the camera, metres.
        pitch: of the camera, degrees.
        kinds: of the objects, their places in `pvision.datamodules.rendered.objects.KINDS`.
        anchors: their middle depths, see `Geometry`.
        shares: which share of each is visible, see `Geometry`.
        aspect: from which side each is seen, degrees.
        phase: of a person's performance, 0 to 1.
        performance: what a person does; -1 for other objects.
    """

    height: list[float]
    pitch: list[float]
    kinds: list[list[int]]
    anchors: list[list[int]]
    shares: list[list[float]]
    aspect: list[list[float]]
    phase: list[list[float]]
    performance: list[list[int]]


class Manifest(NamedTuple):
    """What a set holds.

    Attributes:
        seed: from which it was rendered.
        scenes: how many scenes each split has.
        files: size in bytes and SHA-256 of each file.
    """

    seed: int
    scenes: Mapping[str, int]
    files: Mapping[str, tuple[int, str]]


class StoredScene(NamedTuple):
    """One scene as it is stored.

    Attributes:
        geometry: of its objects.
        table: their surfaces, uint8, ``(S, 6)``.
        kinds: of the objects.
        camera: where it stands.
    """

    geometry: Geometry
    table: Bytes
    kinds: list[int]
    camera: Camera


class StoredScenes:
    """The scenes of a split in memory. Get them from `load_scenes`.

    Args:
        maps: uint8, ``(N, H, W)``.
        shades: of all scenes, uint8.
        depths: of all scenes, uint8.
        surfaces: of all scenes, uint8, ``(S, 6)``.
        facts: of all scenes.
        seed: of the set.
    """

    def __init__(self, maps: Bytes, shades: Bytes, depths: Bytes, surfaces: Bytes, facts: Facts, *, seed: int) -> None:
        self.facts = facts
        self.seed = seed
        self._maps, self._shades, self._depths, self._surfaces = maps, shades, depths, surfaces
        self._pixel_ends = _ends((maps > 0).sum((1, 2)))
        self._surface_ends = _ends(np.array([_surface_count(kinds) for kinds in facts.kinds], np.int64))

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, index: int) -> StoredScene:
        pixels = slice(self._pixel_ends[index], self._pixel_ends[index + 1])
        surfaces = slice(self._surface_ends[index], self._surface_ends[index + 1])
        facts = self.facts
        geometry = Geometry(
            self._maps[index], self._shades[pixels], self._depths[pixels], facts.anchors[index], facts.shares[index]
        )
        camera = Camera(facts.height[index], facts.pitch[index])
        return StoredScene(geometry, self._surfaces[surfaces], facts.kinds[index], camera)


def load_scenes(split: str, root: str | Path | None = None, *, limit: int | None = None) -> StoredScenes:
    """Load a split.

    Args:
        split: ``"train"``, ``"val"``, ``"test"`` or ``"detector"``.
        root: folder of the set; the shipped one if None.
        limit: only the first scenes.

    Raises:
        ConfigError: if there is no such split, or it has fewer scenes than ``limit``.
        DataError: if a file is missing or damaged.
    """
    packed = PackedSet(_LAYOUT, root=root)
    count = packed.count(split, limit)
    facts = _facts(packed, split)
    facts = Facts(**{name: column[:count] for name, column in facts._asdict().items()})
    maps = packed.read(f"{split}.map.xz", count * HEIGHT * WIDTH).reshape(count, HEIGHT, WIDTH)
    pixels = int((maps > 0).sum())
    shades = packed.read(f"{split}.shades.xz", pixels)
    depths = packed.read(f"{split}.depths.xz", pixels)
    rows = [_surface_count(kinds) for kinds in facts.kinds]
    surfaces = packed.read(f"{split}.surfaces.xz", 6 * sum(rows)).reshape(-1, 6)
    if (maps.max((1, 2), initial=0) > np.array(rows, np.int64)).any() or (shades >= SHADES).any():
        raise packed.damaged(f"{split}.map.xz", "names surfaces that its scenes do not have")
    return StoredScenes(maps, shades, depths, surfaces, facts, seed=packed.seed)


def read_manifest(root: str | Path | None = None) -> Manifest:
    """Read what a set holds.

    Args:
        root: folder of the set; the shipped one if None.

    Raises:
        DataError: if the folder holds no set, or one of another version.
    """
    packed = PackedSet(_LAYOUT, root=root)
    return Manifest(packed.seed, packed.counts, packed.files)


def _facts(packed: PackedSet, split: str) -> Facts:
    name, count = f"{split}.facts.json.xz", packed.count(split, None)
    content = packed.checked(name)
    try:
        facts = Facts(**json.loads(lzma.decompress(content)))
        whole = all(len(column) == count for column in facts)
        fits = all(len({len(column[index]) for column in facts[2:]}) == 1 for index in range(len(facts.kinds)))
        known = all(0 <= kind < len(KINDS) for kinds in facts.kinds for kind in kinds)
    except (lzma.LZMAError, ValueError, TypeError, IndexError) as error:
        raise packed.damaged(name, "is no list of scenes") from error
    if not (whole and fits and known):
        raise packed.damaged(name, f"does not describe {count} scenes")
    return facts


def _surface_count(kinds: list[int]) -> int:
    return sum(len(SURFACES[KINDS[kind]]) for kind in kinds)


def _ends(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
