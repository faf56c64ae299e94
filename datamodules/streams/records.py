"""Data sets that answer with whole batches of a stream's images."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pvision.continual.experience import ImageBatch, Positions
from pvision.datamodules.streams._seeding import seeded_globals
from pvision.datamodules.streams.loading import BatchKey
from pvision.datamodules.streams.sources import ImageSource
from pvision.errors import DataError

__all__ = ["PlainRecords", "Preprocess", "ReplayedImages", "TrainingRecords"]


class Preprocess(Protocol):
    """From a stored image to what a network sees."""

    def train(self, image: Tensor) -> Tensor:
        """Return an image for training, augmented by the global generators of torch, numpy or Python."""

    def eval(self, image: Tensor) -> Tensor:
        """Return an image for evaluation, always the same."""


class ReplayedImages(Protocol):
    """What training reads of a replay memory.

    Attributes:
        images: uint8 ``(C, H, W)`` each.
        labels: int64 ``(n,)``.
        experiences: int64 ``(n,)``, the index of the experience that each image came from.
    """

    @property
    def images(self) -> Sequence[Tensor]:
        """The stored images."""

    @property
    def labels(self) -> Positions:
        """Their labels."""

    @property
    def experiences(self) -> Positions:
        """The experiences that they came from."""


class TrainingRecords(Dataset[ImageBatch]):
    """Augmented batches: records of the training set, and after them replayed ones.

    The augmentation of an image is a function of the seed, the experience, the epoch and the image, and of the batch
    too where it is replayed, because an epoch may show a replayed image several times: it does not matter
    which process or worker loads it, in which batch, or how often the run was interrupted. The global generators are
    left as they were.

    Args:
        source: the training set.
        preprocess: the images.
        origin: int64 ``(N,)``, the index of the experience that each record of ``source`` belongs to.
        seed: of the stream.
        experience: the index of the one trained now.
        memory: where replayed images come from; None if there are none.
    """

    def __init__(
        self,
        source: ImageSource,
        preprocess: Preprocess,
        origin: Positions,
        *,
        seed: int,
        experience: int,
        memory: ReplayedImages | None = None,
    ) -> None:
        self._source, self._preprocess, self._origin = source, preprocess, origin
        self._seed, self._experience, self._memory = seed, experience, memory

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: BatchKey) -> ImageBatch:  # batches, not items
        labels, experiences = self._source.labels[key.positions], self._origin[key.positions]
        if key.replayed and self._memory is not None:
            labels = np.concatenate([labels, self._memory.labels[key.replayed]])
            experiences = np.concatenate([experiences, self._memory.experiences[key.replayed]])
        positions = np.concatenate([key.positions, [-1] * len(key.replayed)]).astype(np.int64)
        return ImageBatch(
            _stacked(list(self._images(key))),
            torch.from_numpy(labels),
            torch.from_numpy(experiences),
            torch.from_numpy(positions),
        )

    def _images(self, key: BatchKey) -> Iterator[tuple[str, Tensor]]:
        with seeded_globals() as seed_all:
            for position in key.positions:
                image = self._source.image(position)
                seed_all(self._seed, self._experience, key.epoch, "record", position)
                yield self._source.names[position], self._preprocess.train(image)
            for place in key.replayed:
                image = self._replayed(place)
                seed_all(self._seed, self._experience, key.epoch, "replayed", key.number, place)
                yield f"replayed image {place}", self._preprocess.train(image)

    def _replayed(self, place: int) -> Tensor:
        if self._memory is None:
            raise DataError(f"Replayed image {place} is asked for, but the stream has no replay memory.")
        return self._memory.images[place]


class PlainRecords(Dataset[ImageBatch]):
    """Batches of records as evaluation sees them.

    Args:
        source: where the images come from.
        preprocess: the images.
        positions: of the records in ``source``, in order; batches are asked for by their places in this list.
        experiences: int64 of equal length, the index of the experience that each of them belongs to.
    """

    def __init__(
        self, source: ImageSource, preprocess: Preprocess, positions: Positions, experiences: Positions
    ) -> None:
        self._source, self._preprocess = source, preprocess
        self._positions, self._experiences = positions, experiences

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, places: Sequence[int]) -> ImageBatch:  # batches, not items
        positions = self._positions[list(places)]
        images = [
            (self._source.names[position], self._preprocess.eval(self._source.image(position)))
            for position in positions.tolist()
        ]
        return ImageBatch(
            _stacked(images),
            torch.from_numpy(self._source.labels[positions]),
            torch.from_numpy(self._experiences[list(places)]),
            torch.from_numpy(positions),
        )


def _stacked(images: Sequence[tuple[str, Tensor]]) -> Tensor:
    """Return named images of one shape as a batch.

    Raises:
        DataError: if one has another shape than the first.
    """
    (first, one), *others = images
    for name, image in others:
        if image.shape != one.shape:
            raise DataError(
                f"The images of a batch must have one shape, but {first} has {tuple(one.shape)} and {name} has "
                f"{tuple(image.shape)}. Set data.preprocessing.resize and data.preprocessing.crop."
            )
    return torch.stack([image for _, image in images])
