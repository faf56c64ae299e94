"""Which records make a batch, and how the processes of a run share them.

Both are `DistributedSampler`s: that is how Lightning knows that the batches are already shared. In a run of several
processes it wraps any other sampler into its own, which would share them once more and repeat records.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DistributedSampler

from pvision.errors import ConfigError

__all__ = ["EvaluationBatches", "Share", "ShuffledBatches"]


class Share(NamedTuple):
    """Which of several processes this is.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1


class ShuffledBatches(DistributedSampler[list[int]]):
    """One shuffle of the records for each pass, cut into batches, of each of which every process takes an equal part.

    Where a batch cannot be divided, the last of a pass only, it is filled up with the first records of the shuffle. So
    all processes take equally many steps on equally many records, and the mean of their gradients is the gradient of
    the whole batch: a run makes the same steps however many processes share it.

    Args:
        records: the data set.
        batch_size: records in a batch of all processes together.
        share: which process this is.
        seed: the same on all processes; each pass has a shuffle of its own. None, for one process only, draws each
            shuffle from torch's global generator.
        positions: the records to take; None for all.

    Raises:
        ConfigError: if the processes cannot divide a batch equally, or several come without a seed.
    """

    def __init__(
        self,
        records: Any,
        batch_size: int,
        share: Share,
        *,
        seed: int | None,
        positions: Sequence[int] | None = None,
    ) -> None:
        super().__init__(records, num_replicas=share.world_size, rank=share.rank)
        if batch_size % share.world_size:
            raise ConfigError(
                f"data.batch_size counts the records of all processes together and must be a multiple of their number, "
                f"{share.world_size}, but {batch_size} came. Change it, or trainer.devices."
            )
        if seed is None and share.world_size > 1:
            raise ConfigError(f"seed must be shared by the {share.world_size} processes, but None came.")
        self._positions = range(len(records)) if positions is None else list(positions)
        self._count, self._batch_size, self._share, self._seed = len(self._positions), batch_size, share, seed
        self._passes = 0

    def __iter__(self) -> Iterator[list[int]]:
        rank, world_size = self._share
        order = self._shuffle()
        for start in range(0, self._count, self._batch_size):
            batch = order[start : start + self._batch_size]
            filling = -len(batch) % world_size
            # Several rounds where there are fewer records than processes.
            batch += (order * (filling // self._count + 1))[:filling]
            yield batch[rank::world_size]

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def _shuffle(self) -> list[int]:
        seed = int(torch.empty((), dtype=torch.int64).random_()) if self._seed is None else self._seed + self._passes
        self._passes += 1
        order = torch.randperm(self._count, generator=torch.Generator().manual_seed(seed % 2**63))
        return [self._positions[place] for place in order.tolist()]


class EvaluationBatches(DistributedSampler[list[int]]):
    """All records once, in order: positions ``rank``, ``rank + world_size``, … for each process.

    The parts differ by one record at most and are never filled up, so that metrics count every record once. All
    processes have equally many batches, none of them empty, because networks that keep buffers meet in every step.

    Args:
        records: the data set.
        batch_size: records that a process takes at a time, one more at most.
        share: which process this is.

    Raises:
        ConfigError: if there are fewer records than processes.
    """

    def __init__(self, records: Any, batch_size: int, share: Share) -> None:
        super().__init__(records, num_replicas=share.world_size, rank=share.rank, shuffle=False)
        if 0 < len(records) < share.world_size:
            raise ConfigError(
                f"{share.world_size} processes cannot share {len(records)} records of evaluation. Lower "
                "trainer.devices, or take more records."
            )
        self._mine = list(range(len(records)))[share.rank :: share.world_size]
        self._batch_size, self._alone = batch_size, share.world_size == 1
        largest, smallest = -(-len(records) // share.world_size), len(records) // share.world_size
        self._batches = min(-(-largest // batch_size), smallest)

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self._batches):
            yield self._mine[self._start(number) : self._start(number + 1)]

    def __len__(self) -> int:
        return self._batches

    def _start(self, number: int) -> int:
        # One process fills its batches; with several, the last one could run empty on some of them.
        return number * self._batch_size if self._alone else number * len(self._mine) // self._batches
