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

import hashlib
import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvision.checks import one_of, positive_int
from pvision.datamodules.rendered.camera import HEIGHT, WIDTH, Camera
from pvision.datamodules.rendered.geometry import SHADES, Geometry
from pvision.datamodules.rendered.objects import KINDS, SURFACES
from pvision.datamodules.rendered.weather import SPLITS
from pvision.errors import ConfigError, DataError

__all__ = ["FORMAT", "VERSION", "Facts", "Manifest", "StoredScene", "StoredScenes", "load_scenes", "read_manifest"]

FORMAT = "pvision-rendered"
VERSION = 1
_SHIPPED = Path(__file__).parent
_REMEDY = "Reinstall pvision, or make the set again with: python -m pvision.datamodules.rendered"
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
    folder, manifest = _folder(root), read_manifest(root)
    count = _count(manifest, split, limit)
    facts = _facts(folder, manifest, split)
    facts = Facts(**{name: column[:count] for name, column in facts._asdict().items()})
    maps = _read(folder, manifest, f"{split}.map.xz", count * HEIGHT * WIDTH).reshape(count, HEIGHT, WIDTH)
    pixels = int((maps > 0).sum())
    shades = _read(folder, manifest, f"{split}.shades.xz", pixels)
    depths = _read(folder, manifest, f"{split}.depths.xz", pixels)
    rows = [_surface_count(kinds) for kinds in facts.kinds]
    surfaces = _read(folder, manifest, f"{split}.surfaces.xz", 6 * sum(rows)).reshape(-1, 6)
    if (maps.max((1, 2), initial=0) > np.array(rows, np.int64)).any() or (shades >= SHADES).any():
        raise _damaged(folder / f"{split}.map.xz", "names surfaces that its scenes do not have")
    return StoredScenes(maps, shades, depths, surfaces, facts, seed=manifest.seed)


def read_manifest(root: str | Path | None = None) -> Manifest:
    """Read what a set holds.

    Args:
        root: folder of the set; the shipped one if None.

    Raises:
        DataError: if the folder holds no set, or one of another version.
    """
    path = _folder(root) / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing, so its folder holds no RenderedModalities set. {_REMEDY}") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
    if found != (FORMAT, VERSION):
        raise DataError(f"{path} describes {found}, but {(FORMAT, VERSION)} is expected. {_REMEDY}")
    try:
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()}
        scenes = {str(split): int(count) for split, count in content["scenes"].items()}
        return Manifest(int(content["seed"]), scenes, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"lacks an entry ({error!r})") from error


def _folder(root: str | Path | None) -> Path:
    return _SHIPPED if root is None else Path(root).expanduser()


def _count(manifest: Manifest, split: str, limit: int | None) -> int:
    available = manifest.scenes.get(one_of("split", split, SPLITS), 0)
    if limit is not None and positive_int("limit", limit, low=0) > available:
        raise ConfigError(f"{limit} scenes of the {split} split are wanted, but the set has {available}.")
    return available if limit is None else limit


def _facts(folder: Path, manifest: Manifest, split: str) -> Facts:
    path = folder / f"{split}.facts.json.xz"
    content = _checked(path, manifest)
    try:
        facts = Facts(**json.loads(lzma.decompress(content)))
        whole = all(len(column) == manifest.scenes[split] for column in facts)
        fits = all(len({len(column[index]) for column in facts[2:]}) == 1 for index in range(len(facts.kinds)))
        known = all(0 <= kind < len(KINDS) for kinds in facts.kinds for kind in kinds)
    except (lzma.LZMAError, ValueError, TypeError, IndexError) as error:
        raise _damaged(path, "is no list of scenes") from error
    if not (whole and fits and known):
        raise _damaged(path, f"does not describe {manifest.scenes[split]} scenes")
    return facts


def _surface_count(kinds: list[int]) -> int:
    return sum(len(SURFACES[KINDS[kind]]) for kind in kinds)


def _ends(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _checked(path: Path, manifest: Manifest) -> bytes:
    """Return a file's bytes if they are those that the manifest announces."""
    if path.name not in manifest.files:
        raise _damaged(path.with_name("manifest.json"), f"does not name {path.name}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). {_REMEDY}") from error
    size, digest = manifest.files[path.name]
    if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, f"is not the file that was written ({len(content)} bytes, {size} expected)")
    return content


def _read(folder: Path, manifest: Manifest, name: str, count: int) -> Bytes:
    """Return the first ``count`` bytes that a file decompresses to."""
    path = folder / name
    try:
        # A fresh decompressor, because it can stop early: the first scenes of a long split cost little.
        content = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(_checked(path, manifest), max_length=count)
    except lzma.LZMAError as error:
        raise _damaged(path, f"cannot be decompressed ({error})") from error
    if len(content) != count:
        raise _damaged(path, f"holds {len(content)} bytes, {count} expected")
    return np.frombuffer(content, np.uint8)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}. {_REMEDY}")
