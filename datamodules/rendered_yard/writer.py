"""Writing of sets."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from pvision.datamodules._packed_set import file_entries, open_packed
from pvision.datamodules.rendered_yard.camera import SIZE
from pvision.datamodules.rendered_yard.labels import CLASS_NAMES
from pvision.datamodules.rendered_yard.palette import draw_colors
from pvision.datamodules.rendered_yard.scenes import Scene, generator
from pvision.datamodules.rendered_yard.stage import Picture
from pvision.datamodules.rendered_yard.storage import FORMAT, VERSION, Facts

__all__ = ["GENERATOR", "write_manifest", "write_split"]

GENERATOR = 1
"""Raised whenever the same seed gives other scenes than before."""


def write_split(folder: Path, split: str, scenes: Iterable[tuple[Scene, Picture]], *, seed: int) -> int:
    """Write the scenes of a split as they come, and return how many came.

    Args:
        folder: where to.
        split: its name.
        scenes: what was rendered, from the split's first scene on.
        seed: from which it was rendered; the colours are drawn from it here.
    """
    facts = Facts([], [], [], [], [], [])
    with (
        open_packed(folder / f"{split}.map.xz") as maps,
        open_packed(folder / f"{split}.shades.xz") as shades,
        open_packed(folder / f"{split}.colors.xz") as colors,
    ):
        for index, (scene, picture) in enumerate(scenes):
            kinds = [item.kind for item in scene.objects]
            maps.write(picture.labels.tobytes())
            shades.write(picture.shades.tobytes())
            colors.write(draw_colors(generator(split, index, seed, "colors"), kinds).tobytes())
            _note(facts, scene)
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
        "size": [SIZE, SIZE],
        "class_names": CLASS_NAMES,
        "scenes": dict(scenes),
        "files": file_entries(folder),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _note(facts: Facts, scene: Scene) -> None:
    facts.height.append(scene.camera.height)
    facts.pitch.append(scene.camera.pitch)
    facts.kinds.append([item.kind for item in scene.objects])
    facts.aspect.append([_down(item.aspect, 2) for item in scene.objects])
    facts.phase.append([_down(item.phase, 3) for item in scene.objects])
    facts.performance.append([item.performance for item in scene.objects])


def _down(value: float, digits: int) -> float:
    # Down, so that an angle or a phase stays below the upper bound of its range.
    return float(np.floor(value * 10**digits) / 10**digits)
