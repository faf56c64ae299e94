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

import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pvision.datamodules._packed_set import PackedSet, SetFormat
from pvision.datamodules.mocap.palette import BACKGROUND_COLORS, COLORS, paint, parts_of
from pvision.datamodules.mocap.scenes import SPLITS

__all__ = ["FORMAT", "VERSION", "Clips", "Facts", "Manifest", "load_clips", "load_facts", "read_manifest"]

FORMAT = "pvision-mocap"
VERSION = 1
_LAYOUT = SetFormat(
    title="MocapActions",
    name=FORMAT,
    version=VERSION,
    shipped=Path(__file__).parent,
    command="python -m pvision.datamodules.mocap",
    unit="clips",
    splits=SPLITS,
)
_AT_ONCE = 100  # clips that are painted at a time; bounds the memory of the intermediate index


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
    packed = PackedSet(_LAYOUT, root=root)
    count, size = packed.count(split, limit), packed.number("size")
    shape = (count, size, size, packed.number("frames"))
    maps = packed.read(f"{split}.map.xz", int(np.prod(shape))).reshape(shape).transpose(0, 3, 1, 2)
    per_clip = (maps >= BACKGROUND_COLORS).sum((1, 2, 3))
    shades = packed.read(f"{split}.shades.xz", int(per_clip.sum()))
    colors = packed.read(f"{split}.colors.xz", count * COLORS * 3).reshape(count, COLORS, 3)
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
    packed = PackedSet(_LAYOUT, root=root)
    name, count = f"{split}.facts.json.xz", packed.count(split, None)
    content = packed.checked(name)
    try:
        facts = Facts(**json.loads(lzma.decompress(content)))
        whole = all(len(column) == count for column in facts)
    except (lzma.LZMAError, ValueError, TypeError) as error:
        raise packed.damaged(name, "is no list of clips") from error
    if not whole:
        raise packed.damaged(name, f"does not list {count} clips")
    return facts


def read_manifest(root: str | Path | None = None) -> Manifest:
    """Read what a set holds.

    Args:
        root: folder of the set; the shipped one if None.

    Raises:
        DataError: if the folder holds no set, or one of another version.
    """
    packed = PackedSet(_LAYOUT, root=root)
    return Manifest(packed.seed, packed.number("frames"), packed.number("size"), packed.counts, packed.files)
