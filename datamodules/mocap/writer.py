"""Writing of sets, whole or not at all."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pvision.datamodules._packed_set import file_entries, open_packed
from pvision.datamodules.mocap.body import CLASS_NAMES
from pvision.datamodules.mocap.palette import IndexedClip
from pvision.datamodules.mocap.scenes import FRAMES_PER_SECOND, Scene
from pvision.datamodules.mocap.storage import FORMAT, VERSION, Facts
from pvision.errors import ConfigError

__all__ = ["GENERATOR", "new_folder", "write_manifest", "write_split"]

GENERATOR = 1
"""Raised whenever the same seed gives other clips than before."""

_WINDOW = 1 << 20


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``path`` if all goes well, and vanishes otherwise.

    Args:
        path: the folder to make; must not exist.

    Raises:
        ConfigError: if it exists, or its parent cannot be written to.
    """
    if path.exists():
        raise ConfigError(f"{path} exists already. Choose another folder, or remove it first.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise ConfigError(f"{path} cannot be made ({error.strerror}). Choose another folder.") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_split(folder: Path, split: str, clips: Iterable[tuple[Scene, IndexedClip]], *, frames: int) -> int:
    """Write the clips of a split as they come, and return how many came.

    Args:
        folder: where to.
        split: its name.
        clips: what was rendered.
        frames: length of a clip.
    """
    facts = Facts([], [], [], [], [])
    with (
        open_packed(folder / f"{split}.map.xz", window=_WINDOW) as maps,
        open_packed(folder / f"{split}.shades.xz", window=_WINDOW) as shades,
        open_packed(folder / f"{split}.colors.xz", window=_WINDOW) as colors,
    ):
        for scene, clip in clips:
            # Time innermost: what stays the same from frame to frame then repeats byte by byte.
            maps.write(np.ascontiguousarray(clip.map.transpose(1, 2, 0)).tobytes())
            shades.write(clip.shades.tobytes())
            colors.write(clip.colors.tobytes())
            facts.label.append(scene.label)
            facts.azimuth.append(_rounded(scene.azimuth))
            facts.phase.append(_rounded(scene.phase))
            facts.start.append(_rounded(scene.start(frames)))
            facts.speed.append(_rounded(scene.speed))
    with open_packed(folder / f"{split}.facts.json.xz", window=_WINDOW) as file:
        file.write(json.dumps(facts._asdict(), separators=(",", ":")).encode())
    return len(facts.label)


def write_manifest(folder: Path, *, seed: int, frames: int, size: int, clips: Mapping[str, int]) -> None:
    """Write the manifest of the files in a folder.

    Args:
        folder: of the set, complete but for the manifest.
        seed: from which it was rendered.
        frames: length of a clip.
        size: height and width in pixels.
        clips: how many clips each split has.
    """
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": GENERATOR,
        "seed": seed,
        "frames": frames,
        "size": size,
        "frames_per_second": FRAMES_PER_SECOND,
        "class_names": CLASS_NAMES,
        "clips": dict(clips),
        "files": file_entries(folder),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _rounded(value: float) -> float:
    # Down, so that an angle or a phase stays below the upper bound of its range.
    return math.floor(value * 1e4) / 1e4


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
