"""Listed images, checked: every defect of a file's header or of a box is found before the first step."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from pvision.datamodules.detection.image_file import image_shape, read_image
from pvision.datamodules.detection.listed import Listed, NamedBox
from pvision.detection.records import DetectionBatch, Target, check_target
from pvision.errors import DataError

__all__ = ["ListedImages", "shapes_of"]

_READERS = 8  # headers are short: what takes time is waiting for the disk


class ListedImages:
    """Images of files, each with its checked objects.

    Args:
        rows: the images, each with a name of its own.
        modality: which sensor they come from.
        class_names: in label order; boxes have no other labels.
        channels: how many an image has; None for as many as its file has.
        clip_boxes: whether boxes are cut at the image's edges; else one that leaves the image is refused.

    Attributes:
        names: of the images.
        modality: as given.
        targets: of the images.

    Raises:
        DataError: naming the image, if its file is missing or no image, its size is not what the annotations say, or a
            box has a defect.
    """

    def __init__(
        self,
        rows: Sequence[Listed],
        modality: str,
        class_names: Sequence[str],
        *,
        channels: int | None,
        clip_boxes: bool,
    ) -> None:
        self.names = [row.name for row in rows]
        self.modality = modality
        self._paths, self._channels = [row.path for row in rows], channels
        shapes = shapes_of(self._paths)
        self.targets = [
            _target(row, shape, class_names, clip=clip_boxes) for row, shape in zip(rows, shapes, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, positions: Sequence[int], /) -> DetectionBatch:
        return DetectionBatch(
            [read_image(self._paths[position], channels=self._channels) for position in positions],
            [{**self.targets[position]} for position in positions],
            [self.names[position] for position in positions],
            self.modality,
        )


def shapes_of(paths: Iterable[Path]) -> list[tuple[int, int, int]]:
    """Return channels, height and width of images, from their headers.

    Raises:
        DataError: as `image_shape`.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(image_shape, paths))


def _target(row: Listed, shape: tuple[int, int, int], class_names: Sequence[str], *, clip: bool) -> Target:
    _, height, width = shape
    if row.size is not None and row.size != (height, width):
        raise DataError(
            f"{row.source}: the annotations say {row.size[1]} x {row.size[0]} pixels, but {row.path} has {width} x "
            f"{height}. Resize the image back, or the boxes with it."
        )
    boxes = [_clipped(box, height, width) if clip else box[:4] for box in row.boxes]
    labels = [class_names.index(box.label) for box in row.boxes]
    target: Target = {
        "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    return check_target(target, name=row.source, height=height, width=width, class_names=class_names)


def _clipped(box: NamedBox, height: int, width: int) -> tuple[float, ...]:
    left, top, right, bottom, _ = box
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
