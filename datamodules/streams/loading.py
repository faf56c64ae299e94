"""Which training records make a batch of a stream: the same ones whoever asks, however often a run was interrupted."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from pvision.checks import positive_int
from pvision.continual.experience import Positions
from pvision.datamodules.batches import Share
from pvision.errors import ConfigError

__all__ = ["BatchKey", "ExperienceBatches", "StreamLoader", "progress_of"]

_SHUFFLE, _REPLAY = 0, 1  # what a random generator is for


class BatchKey(NamedTuple):
    """What a data set is asked for: one batch of one process.

    Attributes:
        epoch: the epoch of the experience, from 0.
        number: of the batch in its epoch, from 0; with the epoch it decides the augmentation.
        positions: of training records.
        replayed: places in the replay memory.
    """

    epoch: int
    number: int
    positions: list[int]
    replayed: list[int]


class ExperienceBatches(DistributedSampler[BatchKey]):
    """The batches of one experience: a pure function of seed, experience and epoch, shared out among processes.

    Each epoch has one shuffle, cut into batches of which every process takes an equal part, so that the mean of the
    processes' gradients is the gradient of the whole batch. Where the last batch cannot be divided, it is filled up
    with the first records of the shuffle. Being a `DistributedSampler` tells Lightning that all is shared out.

    Args:
        positions: the training records of the experience.
        batch_size: records in a batch of all processes together, without the replayed ones.
        share: which process this is.
        seed: of the stream.
        experience: the index of the experience.
        replay_size: how many records the replay memory holds.
        replay_batch_size: replayed records in a batch of all processes together.

    Raises:
        ConfigError: if the processes cannot divide a batch equally, or there is nothing to train on.
    """

    def __init__(
        self,
        positions: Positions,
        batch_size: int,
        share: Share,
        *,
        seed: int,
        experience: int,
        replay_size: int = 0,
        replay_batch_size: int = 0,
    ) -> None:
        super().__init__(range(max(1, len(positions))), num_replicas=share.world_size, rank=share.rank)  # type: ignore[arg-type]  # wants a length only
        for name, size in (("data.batch_size", batch_size), ("data.replay_batch_size", replay_batch_size)):
            if size % share.world_size:
                raise ConfigError(
                    f"{name} counts the images of all processes together and must be a multiple of their number, "
                    f"{share.world_size}, but {size} came. Change it, or trainer.devices."
                )
        if not len(positions):
            raise ConfigError(f"Experience {experience} has no training records. Look at the stream's scenario.")
        self._positions = np.asarray(positions, dtype=np.int64)
        self._batch_size, self._share = positive_int("data.batch_size", batch_size), share
        self._root = (positive_int("data.seed", seed, low=0), experience)
        self._replay_size, self._replay_batch_size = replay_size, replay_batch_size if replay_size else 0
        self._epoch, self._done = 0, 0

    def begin(self, epoch: int, done: int) -> None:
        """Set which epoch comes next, and how many of its batches were trained on before an interruption."""
        self._epoch, self._done = epoch, done

    @override
    def set_epoch(self, epoch: int) -> None:
        """Ignore Lightning's count, which does not know of interruptions; `StreamLoader` calls `begin`."""

    def __len__(self) -> int:
        return -(-len(self._positions) // self._batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        order = self._generator(_SHUFFLE).permutation(self._positions)
        for number in range(self._done, len(self)):
            batch = order[number * self._batch_size : (number + 1) * self._batch_size]
            yield BatchKey(self._epoch, number, self._mine(batch, order), self._replayed(number))

    def _mine(self, batch: Positions, order: Positions) -> list[int]:
        filling = -len(batch) % self._share.world_size
        filled = np.concatenate([batch, np.resize(order, filling)])
        return [int(position) for position in filled[self._share.rank :: self._share.world_size]]

    def _replayed(self, number: int) -> list[int]:
        if not self._replay_batch_size:
            return []
        # A batch larger than the memory needs some of its records twice.
        generator, wanted = self._generator(_REPLAY, number), self._replay_batch_size
        drawn = generator.choice(self._replay_size, wanted, replace=wanted > self._replay_size)
        return [int(place) for place in drawn[self._share.rank :: self._share.world_size]]

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([*self._root, self._epoch, *purpose])


class StreamLoader(DataLoader[Any]):
    """A loader that consumes no global randomness and goes on in the middle of an epoch.

    It looks at the training loop's progress at the moment its first batch is asked for, because Lightning makes
    iterators before it knows where a resumed run stands.

    Args:
        records: answers each key of ``batches`` with a whole batch.
        batches: the keys: `ExperienceBatches`, or lists of positions.
        num_workers: loader processes; 0 loads in the main process.
        progress: tells the epoch and the batches of it that are done; None if every pass is the same.
    """

    def __init__(
        self,
        records: Any,
        batches: Sequence[Any] | DistributedSampler[Any],
        *,
        num_workers: int = 0,
        progress: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(
            records,
            sampler=batches,
            batch_size=None,
            num_workers=num_workers,
            generator=torch.Generator(),  # else the seeds of workers come from the global generator
            pin_memory=torch.cuda.is_available(),
        )
        self._progress = progress

    def __iter__(self) -> Any:
        return self._lazily()

    def _lazily(self) -> Iterator[Any]:
        if self._progress is not None and isinstance(self.sampler, ExperienceBatches):
            self.sampler.begin(*self._progress())
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; that there is this method tells Lightning that a resumed epoch is no accident."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing: the training loop's own progress says where to go on."""


def progress_of(trainer: pl.Trainer) -> tuple[int, int]:
    """Return the epoch that a Trainer is in, and how many of its batches it has trained on."""
    loop = trainer.fit_loop
    # `trainer.current_epoch` lags behind where a checkpoint was written between two epochs.
    epoch: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # typed as its base class
    return epoch, loop.epoch_loop.batch_progress.current.ready
