"""The on-disk format of a set, and its reader. `python -m pvision.datamodules.mocap` writes such sets.

A folder holds ``manifest.json`` and, for each split, four xz files, raw bytes but for the last:

======================  ==========================================================================
``SPLIT.map.xz``        background colour or body part of each pixel, uint8, clips of ``(H, W, T)``
``SPLIT.shades.xz``     brightness of the body's pixels, uint8, in the order clip, T, H, W
``SPLIT.colors.xz``     colour tables, uint8, ``(N, 19, 3)``
``SPLIT.facts.json.xz`` what is known of each clip, see `Facts`
======================  ==========================================================================

Nothing here is a pickle. The manifest has each file's size and SHA-256, which are checked before it is read.
"""

import hashlib
import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvision.checks import one_of, positive_int
from pvision.datamodules.mocap.palette import BACKGROUND_COLORS, COLORS, paint, parts_of
from pvision.datamodules.mocap.scenes import SPLITS
from pvision.errors import ConfigError, DataError

__all__ = ["FORMAT", "VERSION", "Clips", "Facts", "Manifest", "load_clips", "load_facts", "read_manifest"]

FORMAT = "pvision-mocap"
VERSION = 1
_SHIPPED = Path(__file__).parent
_REMEDY = "Reinstall pvision, or make the set again with: python -m pvision.datamodules.mocap"
_AT_ONCE = 100  # clips that are painted at a time; bounds the memory of the intermediate index
Bytes = NDArray[np.uint8]


class Clips(NamedTuple):
    """Clips in memory.

    Attributes:
        video: uint8, ``(N, T, H, W, 3)``.
        parts: body part of each pixel, values as in `PARTS`, uint8, ``(N, T, H, W)``.
        label: class, or program of a synthetic clip, int64, ``(N,)``.
    """

    video: Tensor
    parts: Tensor
    label: Tensor


class Facts(NamedTuple):
    """What is known of each clip of a split. The clip's own seed is (set's seed, split, position).

    Attributes:
        label: class, or program of a synthetic clip.
        azimuth: of the camera, degrees.
        phase: where in the motion the clip begins, 0 to 1.
        start: the same in seconds.
        speed: of the motion, 1 as captured.
    """

    label: list[int]
    azimuth: list[float]
    phase: list[float]
    start: list[float]
    speed: list[float]


class Manifest(NamedTuple):
    """What a set holds.

    Attributes:
        seed: from which it was rendered.
        frames: length of a clip.
        size: height and width in pixels.
        clips: how many clips each split has.
        files: size in bytes and SHA-256 of each file.
    """

    seed: int
    frames: int
    size: int
    clips: Mapping[str, int]
    files: Mapping[str, tuple[int, str]]


def load_clips(split: str, root: str | Path | None = None, *, limit: int | None = None) -> Clips:
    """Load a split.

    Args:
        split: ``"train"``, ``"test"`` or ``"synthetic"``.
        root: folder of the set; the shipped one if None.
        limit: only the first clips; since labels go round, they are balanced.

    Raises:
        ConfigError: if there is no such split, or it has fewer clips than ``limit``.
        DataError: if a file is missing or damaged.
    """
    folder = _folder(root)
    manifest = read_manifest(root)
    count = _count(manifest, split, limit)
    shape = (count, manifest.size, manifest.size, manifest.frames)
    maps = _read(folder, manifest, f"{split}.map.xz", int(np.prod(shape))).reshape(shape).transpose(0, 3, 1, 2)
    per_clip = (maps >= BACKGROUND_COLORS).sum((1, 2, 3))
    shades = _read(folder, manifest, f"{split}.shades.xz", int(per_clip.sum()))
    colors = _read(folder, manifest, f"{split}.colors.xz", count * COLORS * 3).reshape(count, COLORS, 3)
    ends = np.concatenate([[0], np.cumsum(per_clip)])
    video = np.empty((*maps.shape, 3), np.uint8)
    parts = np.empty(maps.shape, np.uint8)
    for start in range(0, count, _AT_ONCE):
        stop = min(start + _AT_ONCE, count)
        some = maps[start:stop]
        video[start:stop] = paint(some, shades[ends[start] : ends[stop]], colors[start:stop])
        parts[start:stop] = parts_of(some)
    label = load_facts(split, root).label[:count]
    return Clips(torch.from_numpy(video), torch.from_numpy(parts), torch.tensor(label, dtype=torch.int64))


def load_facts(split: str, root: str | Path | None = None) -> Facts:
    """Load what is known of each clip of a split.

    Args:
        split: ``"train"``, ``"test"`` or ``"synthetic"``.
        root: folder of the set; the shipped one if None.

    Raises:
        ConfigError: if there is no such split.
        DataError: if a file is missing or damaged.
    """
    folder, manifest = _folder(root), read_manifest(root)
    count = _count(manifest, split, None)
    path = folder / f"{split}.facts.json.xz"
    try:
        facts = Facts(**json.loads(lzma.decompress(_checked(path, manifest))))
    except (lzma.LZMAError, ValueError, TypeError) as error:
        raise _damaged(path, "is no list of clips") from error
    if any(len(column) != count for column in facts):
        raise _damaged(path, f"does not list {count} clips")
    return facts


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
        raise DataError(f"{path} is missing, so its folder holds no MocapActions set. {_REMEDY}") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
    if found != (FORMAT, VERSION):
        raise DataError(f"{path} describes {found}, but {(FORMAT, VERSION)} is expected. {_REMEDY}")
    try:
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()}
        clips = {str(split): int(count) for split, count in content["clips"].items()}
        return Manifest(int(content["seed"]), int(content["frames"]), int(content["size"]), clips, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"lacks an entry ({error!r})") from error


def _folder(root: str | Path | None) -> Path:
    return _SHIPPED if root is None else Path(root).expanduser()


def _count(manifest: Manifest, split: str, limit: int | None) -> int:
    available = manifest.clips.get(one_of("split", split, SPLITS), 0)
    if limit is not None and positive_int("limit", limit, low=0) > available:
        raise ConfigError(f"{limit} clips of the {split} split are wanted, but the set has {available}.")
    return available if limit is None else limit


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
        # A fresh decompressor, because it can stop early: the first clips of a long split cost little.
        content = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(_checked(path, manifest), max_length=count)
    except lzma.LZMAError as error:
        raise _damaged(path, f"cannot be decompressed ({error})") from error
    if len(content) != count:
        raise _damaged(path, f"holds {len(content)} bytes, {count} expected")
    return np.frombuffer(content, np.uint8)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}. {_REMEDY}")
