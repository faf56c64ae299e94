"""Training images as a loader asks for them: by batch key, mirrored or not."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pvision.datamodules.detection.records import DetectionRecords
from pvision.datamodules.streams.loading import BatchKey
from pvision.detection.records import DetectionBatch, Target

__all__ = ["TrainingImages", "draw", "kept_share", "mirrored"]


class TrainingImages:
    """Answers each batch key with a batch, in which half of the images are mirrored if that is wanted.

    Whether an image is mirrored is a function of seed, epoch and the image's name: neither its place in a batch nor
    the process that loads it changes it.

    Args:
        records: the training images.
        flip: whether to mirror.
        seed: of the data module.
    """

    def __init__(self, records: DetectionRecords, *, flip: bool, seed: int) -> None:
        self._records, self._flip, self._seed = records, flip, seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, key: BatchKey) -> DetectionBatch:
        batch = self._records[key.positions]
        if not self._flip:
            return batch
        pairs = [
            mirrored(image, target) if draw("flip", self._seed, key.epoch, name) < 0.5 else (image, target)
            for image, target, name in zip(batch.images, batch.targets, batch.names, strict=True)
        ]
        return batch._replace(images=[image for image, _ in pairs], targets=[target for _, target in pairs])


def mirrored(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Return an image and its boxes with left and right exchanged.

    Done twice it gives back the same pixels, and the same boxes where they lie on quarters of a pixel or coarser.

    Args:
        image: ``(C, H, W)``.
        target: its objects.
    """
    left, top, right, bottom = target["boxes"].unbind(1)
    width = image.shape[-1]
    boxes = torch.stack([width - right, top, width - left, bottom], 1)
    return image.flip(-1), {"boxes": boxes, "labels": target["labels"]}


def kept_share(names: Sequence[str], fraction: float, *, seed: int) -> list[int]:
    """Return the positions of a share of images, drawn by name: those of a smaller share are among them.

    Args:
        names: of all images.
        fraction: which share, above 0 and at most 1; rounded, but one image at least.
        seed: draws it.

    Returns:
        Positions in ascending order.
    """
    count = max(1, round(fraction * len(names)))
    order = sorted(range(len(names)), key=lambda position: draw("share", seed, names[position]))
    return sorted(order[:count])


def draw(*what: object) -> float:
    """Return a number from 0 up to 1 that looks random and is a function of the arguments alone."""
    text = "\0".join(str(part) for part in what)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:7], "big") / 2**56
