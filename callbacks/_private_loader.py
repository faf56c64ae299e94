"""The loader of somebody else's data set, driven by the mechanism's batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, default_collate

from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PrivacySpec
from pvision.privacy.record_batches import rows_of

__all__ = ["EpochBatches", "PrivateDataLoader", "PublicBatches", "TrainingData", "make_loader"]

_DRAWN_BY_MECHANISM = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")


class TrainingData(NamedTuple):
    """What the user gave for training."""

    loader: "PrivateDataLoader"
    batches: "EpochBatches"
    units: Sequence[str] | None
    population: Sequence[int] | None
    options: dict[str, Any]

    @property
    def dataset(self) -> Any:
        """The user's data set."""
        return self.loader.dataset


class EpochBatches:
    """The mechanism's batches, cut into epochs; in an epoch, every unit comes once on average.

    Args:
        spec: the privacy statement.
        draw: gives the mechanism's batches that are left.
    """

    def __init__(self, spec: PrivacySpec, draw: Callable[[], Iterable[list[int]]]) -> None:
        self._length = min(max(1, round(1 / spec.sample_rate)), spec.steps)
        self._draw = draw
        self._drawn: deque[list[int]] = deque()
        self._iteration = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        self._iteration += 1
        iteration = self._iteration
        self._drawn.clear()
        for positions in islice(self._draw(), len(self)):
            self._drawn.append(positions)
            yield positions
            if iteration != self._iteration:
                raise PrivacyError(
                    "The private loader was iterated a second time while training draws from it, so it is unknown who "
                    "is in which batch. Make a DataLoader of your own to look at the data."
                )

    def next_positions(self) -> list[int]:
        """Return the records of the batch that came, the next of those drawn."""
        if not self._drawn:
            raise PrivacyError("A batch came that private.loader did not draw. Train on the loader that it returned.")
        return self._drawn.popleft()


class PrivateDataLoader(DataLoader[Any]):
    """A DataLoader that draws anew wherever training goes on, so that it has no state to restore."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; that there is this method tells Lightning that a resumed epoch is no accident."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class PublicBatches:
    """Batches for the un-noised part: shuffled as usual, endless, brought to the device as Lightning does it.

    Args:
        data: what the user gave.
        batch_size: records in each, for one process.
        trainer: the Trainer in fit.
    """

    def __init__(self, data: TrainingData, *, batch_size: int, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        # Public, but each rank should see other records.
        generator = torch.Generator().manual_seed((torch.initial_seed() + trainer.global_rank) % 2**63)
        own = {"batch_size": batch_size, "shuffle": True, "generator": generator}
        loader: DataLoader[Any] = DataLoader(data.dataset, **{**data.options, **own})
        self._batches = _endless(loader)

    def next(self) -> Any:
        """Return the next batch."""
        trainer, module = self._trainer, self._trainer.lightning_module
        batch = trainer.precision_plugin.convert_input(next(self._batches))
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def make_loader(
    dataset: Any,
    batches: EpochBatches,
    *,
    units: Sequence[str] | None,
    population: Sequence[int] | None,
    options: dict[str, Any],
) -> TrainingData:
    """Return the private loader of a data set; see `TrainPrivately.loader`."""
    for name in _DRAWN_BY_MECHANISM:
        if name in options:
            raise ConfigError(
                f"{name} came for private.loader, but the mechanism draws the batches: leave it out. "
                "privacy.sample_rate times the number of records is the expected batch size."
            )
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ConfigError(
            f"private.loader needs a data set with __getitem__ and __len__, from which records are drawn by position, "
            f"but a {type(dataset).__name__} came."
        )
    collate = _AlsoNothing(options.get("collate_fn") or default_collate, dataset)
    loader = PrivateDataLoader(dataset, batch_sampler=batches, **{**options, "collate_fn": collate})
    return TrainingData(loader, batches, units, population, options)


class _AlsoNothing:
    """The user's collate function, and what it would return if nobody was drawn: a batch without rows."""

    def __init__(self, collate: Callable[[list[Any]], Any], dataset: Any) -> None:
        self._collate = collate
        self._dataset = dataset

    def __call__(self, items: list[Any]) -> Any:
        if items:
            return self._collate(items)
        return rows_of(self._collate([self._dataset[0]]), slice(0, 0), records=1)


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader
