"""Writing of sets."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvision.datamodules._packed_set import file_entries, open_packed
from pvision.datamodules.rendered.camera import HEIGHT, WIDTH
from pvision.datamodules.rendered.geometry import Geometry
from pvision.datamodules.rendered.objects import CLASS_NAMES
from pvision.datamodules.rendered.scenes import Scene
from pvision.datamodules.rendered.storage import FORMAT, VERSION, Facts

__all__ = ["GENERATOR", "surface_table", "write_manifest", "write_split"]

GENERATOR = 1
"""Raised whenever the same seed gives other scenes than before."""


def surface_table(scene: Scene) -> NDArray[np.uint8]:
    """Return the bytes of a scene's surfaces, uint8, ``(S, 6)``."""
    rows = [surface.row() for item in scene.objects for surface in item.surfaces]
    return np.array(rows, np.uint8).reshape(-1, 6)


def write_split(folder: Path, split: str, scenes: Iterable[tuple[Scene, Geometry]]) -> int:
    """Write the scenes of a split as they come, and return how many came.

    Args:
        folder: where to.
        split: its name.
        scenes: what was rendered.
    """
    facts = Facts([], [], [], [], [], [], [], [])
    with (
        open_packed(folder / f"{split}.map.xz") as maps,
        open_packed(folder / f"{split}.shades.xz") as shades,
        open_packed(folder / f"{split}.depths.xz") as depths,
        open_packed(folder / f"{split}.surfaces.xz") as surfaces,
    ):
        for scene, geometry in scenes:
            maps.write(geometry.map.tobytes())
            shades.write(geometry.shades.tobytes())
            depths.write(geometry.depths.tobytes())
            surfaces.write(surface_table(scene).tobytes())
            _note(facts, scene, geometry)
    with open_packed(folder / f"{split}.facts.json.xz") as file:
        file.write(json.dumps(facts._asdict(), separators=(",", ":")).encode())
    return len(facts.kinds)


def write_manifest(folder: Path, *, seed: int, scenes: Mapping[str, int]) -> None:
    """Write the manifest of the files in a folder.

    Args:
        folder: of the set, complete but for the manifest.
        seed: from which it was rendered.
        scenes: how many scenes each split has.
    """
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "generator": GENERATOR,
        "seed": seed,
        "size": [HEIGHT, WIDTH],
        "class_names": CLASS_NAMES,
        "scenes": dict(scenes),
        "files": file_entries(folder),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _note(facts: Facts, scene: Scene, geometry: Geometry) -> None:
    facts.height.append(scene.camera.height)
    facts.pitch.append(scene.camera.pitch)
    facts.kinds.append([item.kind for item in scene.objects])
    facts.anchors.append(geometry.anchors)
    facts.shares.append(geometry.shares)
    facts.aspect.append([_down(item.aspect, 1) for item in scene.objects])
    facts.phase.append([_down(item.phase, 3) for item in scene.objects])
    facts.performance.append([item.performance for item in scene.objects])


def _down(value: float, digits: int) -> float:
    # Down, so that an angle or a phase stays below the upper bound of its range.
    return float(np.floor(value * 10**digits) / 10**digits)
