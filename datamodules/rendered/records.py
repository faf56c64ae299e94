"""Scenes as one sensor sees them, with their boxes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvision.checks import one_of
from pvision.datamodules.rendered.geometry import owners
from pvision.datamodules.rendered.objects import CLUTTER
from pvision.datamodules.rendered.sensors import MODALITIES, SENSORS
from pvision.datamodules.rendered.storage import StoredScene, StoredScenes
from pvision.datamodules.rendered.view import see
from pvision.datamodules.rendered.weather import draw_weather, generator
from pvision.detection.records import DetectionBatch, Target, no_boxes

__all__ = ["LEAST_PIXELS", "LEAST_SHARE", "SceneRecords", "boxes_of", "simulate"]

LEAST_PIXELS = 80
"""An object that shows fewer pixels gets no box."""

LEAST_SHARE = 0.7
"""An object that shows a smaller share of what it would show without the others gets no box."""


class SceneRecords:
    """The scenes of a split in one modality. Pictures are simulated when they are first asked for, and then kept.

    Args:
        split: its name, for the names of the images and the noise.
        scenes: as they are stored.
        modality: one of `MODALITIES`.
    """

    def __init__(self, split: str, scenes: StoredScenes, modality: str) -> None:
        self.modality = one_of("data.modality", modality, MODALITIES)
        self.names = [f"{split}/{number:05d}" for number in range(len(scenes))]
        self._split, self._scenes = split, scenes
        self._seen: dict[int, tuple[NDArray[np.uint8] | NDArray[np.uint16], Target]] = {}

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, positions: Sequence[int]) -> DetectionBatch:
        seen = [self._picture(int(position)) for position in positions]
        return DetectionBatch(
            images=[_tensor(picture) for picture, _ in seen],
            targets=[{"boxes": target["boxes"].clone(), "labels": target["labels"].clone()} for _, target in seen],
            names=[self.names[position] for position in positions],
            modality=self.modality,
        )

    def seen_by(self, modality: str) -> "SceneRecords":
        """Return the same scenes as another sensor sees them."""
        return SceneRecords(self._split, self._scenes, modality)

    def _picture(self, position: int) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], Target]:
        if position not in self._seen:
            scene = self._scenes[position]
            picture = simulate(scene, self.modality, split=self._split, index=position, seed=self._scenes.seed)
            self._seen[position] = picture, boxes_of(scene)
        return self._seen[position]


def simulate(
    scene: StoredScene, modality: str, *, split: str, index: int, seed: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the picture that a sensor takes of a scene, ``(H, W, C)``; the same arguments give the same picture.

    Args:
        scene: as it is stored.
        modality: one of `MODALITIES`.
        split: that it belongs to.
        index: its number there.
        seed: of its set.
    """
    weather = draw_weather(split, index, seed)
    texture, noise = (generator(split, index, seed, stream) for stream in ("texture", modality))
    view = see(scene.geometry, scene.table, scene.kinds, scene.camera, weather, texture)
    return SENSORS[one_of("modality", modality, MODALITIES)](view, noise)


def boxes_of(scene: StoredScene) -> Target:
    """Return the boxes of a scene's objects: left and top edge of the first, right and bottom of the last pixel.

    Clutter, objects of fewer than `LEAST_PIXELS` visible pixels and those hidden to more than 1 - `LEAST_SHARE` have
    none.
    """
    belongs = owners(scene.kinds)[scene.geometry.map]
    boxes, labels = [], []
    for number, (kind, share) in enumerate(zip(scene.kinds, scene.geometry.shares, strict=True), start=1):
        own = belongs == number
        if kind == CLUTTER or share < LEAST_SHARE or own.sum() < LEAST_PIXELS:
            continue
        rows, columns = np.flatnonzero(own.any(1)).tolist(), np.flatnonzero(own.any(0)).tolist()
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        labels.append(kind)
    if not boxes:
        return no_boxes()
    return {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels, dtype=torch.int64)}


def _tensor(picture: NDArray[np.uint8] | NDArray[np.uint16]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32))
