"""Data sets that answer with whole batches of images and masks."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pvision.continual.experience import Positions
from pvision.continual.masks import SegmentationBatch
from pvision.datamodules.segmentation.sources import SegmentationSource
from pvision.datamodules.streams._seeding import seeded_globals
from pvision.datamodules.streams.loading import BatchKey
from pvision.errors import DataError

__all__ = ["EvaluationMasks", "PreprocessPair", "TrainingMasks"]


class PreprocessPair(Protocol):
    """From a stored image and its mask to what a network sees."""

    def train(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return an image and a mask for training, augmented by the global generators of torch, numpy or Python."""

    def eval(self, image: Tensor) -> Tensor:
        """Return a normalised image of the same size, always the same."""

    def centre(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what crop evaluation sees of both, before `eval`."""


class TrainingMasks(Dataset[SegmentationBatch]):
    """Augmented batches of the training set, with the labels that the current experience shows.

    The augmentation of a record is a function of the seed, the experience, the epoch and the record: it does not matter
    which process or worker loads it, in which batch, or how often the run was interrupted. The global generators are
    left as they were.

    Args:
        source: the training set.
        preprocess: the images and masks.
        table: uint8 ``(256,)``, what each label becomes; labels are exchanged before the augmentation, so that what
            lies outside of an image is void.
        seed: of the stream.
        experience: the index of the one trained now.
    """

    def __init__(
        self,
        source: SegmentationSource,
        preprocess: PreprocessPair,
        table: npt.NDArray[np.uint8],
        *,
        seed: int,
        experience: int,
    ) -> None:
        self._source, self._preprocess, self._table = source, preprocess, torch.from_numpy(table)
        self._seed, self._experience = seed, experience

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: BatchKey) -> SegmentationBatch:  # batches, not items
        pairs = []
        with seeded_globals() as seed_all:
            for position in key.positions:
                image, mask = _read(self._source, position)
                seed_all(self._seed, self._experience, key.epoch, "record", position)
                pairs.append(self._preprocess.train(image, self._table[mask.long()]))
        return _batch(pairs, [self._source.names[position] for position in key.positions], key.positions)


class EvaluationMasks(Dataset[SegmentationBatch]):
    """Batches of records as evaluation sees them.

    Args:
        source: where they come from.
        preprocess: the images and masks.
        positions: of the records in ``source``, in order; batches are asked for by their places in this list.
        table: uint8 ``(256,)``, what each label becomes; None to show all labels.
        evaluation: whole images, or the square in their middle.
    """

    def __init__(
        self,
        source: SegmentationSource,
        preprocess: PreprocessPair,
        positions: Positions,
        *,
        table: npt.NDArray[np.uint8] | None,
        evaluation: Literal["full", "crop"],
    ) -> None:
        self._source, self._preprocess, self._positions = source, preprocess, positions
        self._table = None if table is None else torch.from_numpy(table)
        self._evaluation = evaluation

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, places: Sequence[int]) -> SegmentationBatch:  # batches, not items
        positions = self._positions[list(places)].tolist()
        pairs = [self._pair(position) for position in positions]
        return _batch(pairs, [self._source.names[position] for position in positions], positions)

    def _pair(self, position: int) -> tuple[Tensor, Tensor]:
        image, mask = _read(self._source, position)
        if self._table is not None:
            mask = self._table[mask.long()]
        if self._evaluation == "crop":
            image, mask = self._preprocess.centre(image, mask)
        return self._preprocess.eval(image), mask


def _read(source: SegmentationSource, position: int) -> tuple[Tensor, Tensor]:
    """Return an image and its mask.

    Raises:
        DataError: if they have not the same size.
    """
    image, mask = source.image(position), source.mask(position)
    if image.shape[1:] != mask.shape:
        raise DataError(
            f"The image {source.names[position]} has {image.shape[2]} x {image.shape[1]} pixels and its mask "
            f"{mask.shape[1]} x {mask.shape[0]}. Give both one size."
        )
    return image, mask


def _batch(pairs: Sequence[tuple[Tensor, Tensor]], names: Sequence[str], positions: Sequence[int]) -> SegmentationBatch:
    """Return images and masks of one size as a batch.

    Raises:
        DataError: if one has another size than the first.
    """
    size = pairs[0][1].shape
    for (_, mask), name in zip(pairs, names, strict=True):
        if mask.shape != size:
            raise DataError(
                f"The images of a batch must have one size, but {names[0]} has {tuple(size)} and {name} has "
                f"{tuple(mask.shape)}. For training set data.preprocessing.crop; for evaluation set "
                "data.eval_batch_size to 1."
            )
    return SegmentationBatch(
        torch.stack([image for image, _ in pairs]),
        torch.stack([mask for _, mask in pairs]).long(),
        torch.tensor(positions, dtype=torch.int64),
    )
