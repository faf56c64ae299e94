"""Let evaluation count every record once, however many processes share it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.data import _reinstantiate_wrapped_cls
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.data import _get_dataloader_init_args_and_kwargs
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, Sampler, SequentialSampler

from pvision.errors import ConfigError
from pvision.training.trainer_parts import replaced

__all__ = ["EvenBatches", "each_record_once", "refuse_lost_processes"]

_SHARE_YOURSELF = "share the records out yourself, each once, with Trainer(use_distributed_sampler=False)"


class EvenBatches(Sampler[list[int]]):
    """Batches of one process: its records, each once, in as many batches as every other process has.

    Processes that keep buffers or synchronise metrics meet in every step, so none may have a batch more; and a batch
    that is filled up with repeats would count records twice. So the sizes of batches differ by one instead.

    Args:
        positions: the records of all processes, the same list on each.
        batch_size: records in a batch at most, one more where the processes' shares differ and a batch is that small.
        rank: which process this is, from 0.
        world_size: how many there are; no more than there are records.

    Example:
        >>> [len(batch) for rank in (0, 1) for batch in EvenBatches(range(9), 2, rank=rank, world_size=2)]
        [1, 2, 2, 1, 1, 2]
    """

    def __init__(self, positions: Sequence[int], batch_size: int, *, rank: int, world_size: int) -> None:
        self._mine = positions[rank::world_size]
        smallest, largest = len(positions) // world_size, -(-len(positions) // world_size)
        self._batches = min(-(-largest // batch_size), smallest)

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self._batches):
            start, stop = (len(self._mine) * place // self._batches for place in (number, number + 1))
            yield list(self._mine[start:stop])

    def __len__(self) -> int:
        return self._batches


@contextmanager
def each_record_once(trainer: pl.Trainer, stage: RunningStage) -> Iterator[None]:
    """Share out the loaders of ``stage`` without repeats where Lightning would fill up the shares.

    Lightning puts a ``DistributedSampler`` into each loader of a run of several processes. Its last records are repeats
    wherever the processes cannot divide the records equally: 797 records on two processes count as 798.
    """
    connector = trainer._data_connector  # where Lightning shares loaders out; it offers no public place for it
    prepare = connector._prepare_dataloader
    if getattr(prepare, "counts_once", False):  # another ForgettingMetrics of this Trainer sees to it
        yield
        return

    def prepared(dataloader: object, shuffle: bool, mode: RunningStage) -> object:
        if mode != stage or not isinstance(dataloader, DataLoader):
            return prepare(dataloader, shuffle, mode)
        if isinstance(dataloader.batch_sampler, EvenBatches):
            return dataloader  # a CombinedLoader that is evaluated again
        if connector._requires_distributed_sampler(dataloader):
            return _shared(trainer, dataloader)
        _refuse_repeats(dataloader)
        return prepare(dataloader, shuffle, mode)

    prepared.counts_once = True  # type: ignore[attr-defined]  # a function takes attributes
    with replaced(connector, "_prepare_dataloader", prepared):
        yield


def refuse_lost_processes(trainer: pl.Trainer) -> None:
    """Refuse strategies that fork or spawn, after which the callback of the user's own process knows nothing.

    Raises:
        ConfigError: if the Trainer starts new processes for each fit and test.
    """
    method = getattr(trainer.strategy, "_start_method", "popen")
    if method != "popen":
        raise ConfigError(
            f"This Trainer starts processes by {method!r} for each fit and test, and what ForgettingMetrics measures "
            "in them ends with them. Use trainer.strategy='ddp', in a script."
        )


def _shared(trainer: pl.Trainer, loader: DataLoader[Any]) -> object:
    """Return the loader with this process's share of its records."""
    if type(loader.batch_sampler) is not BatchSampler or loader.batch_size is None:
        own = "no batch_size" if loader.batch_sampler is None else f"the batch sampler {_name(loader.batch_sampler)}"
        raise ConfigError(
            f"A loader of evaluation has {own}, which ForgettingMetrics cannot share out among processes without "
            f"counting records twice. Give it batch_size=… and a sampler, or {_SHARE_YOURSELF}."
        )
    positions = _positions(trainer, loader)
    share = trainer.distributed_sampler_kwargs or {}
    world_size = int(share["num_replicas"])
    if 0 < len(positions) < world_size:
        raise ConfigError(
            f"{world_size} processes cannot share a loader of evaluation with {len(positions)} records. "
            "Lower trainer.devices, or take more records."
        )
    batches = EvenBatches(positions, loader.batch_size, rank=int(share["rank"]), world_size=world_size)
    return _with_batches(loader, batches)


def _positions(trainer: pl.Trainer, loader: DataLoader[Any]) -> Sequence[int]:
    sampler: Any = loader.sampler
    positions: Sequence[int] = range(_size(loader))
    shuffled_once = isinstance(sampler, RandomSampler) and not sampler.replacement
    if not isinstance(sampler, SequentialSampler) and not (shuffled_once and sampler.num_samples == _size(loader)):
        # Rank 0's choice: a sampler that draws from the global generator draws something else on every rank.
        positions = trainer.strategy.broadcast(list(sampler))
        if len(set(positions)) < len(positions):
            raise ConfigError(
                f"The sampler {_name(sampler)} of a loader of evaluation repeats records, so that they would count "
                "more than once. Evaluate each record once: leave the sampler out."
            )
    left_out = len(positions) % (loader.batch_size or 1) if loader.drop_last else 0
    return positions[: len(positions) - left_out]


def _refuse_repeats(loader: DataLoader[Any]) -> None:
    sampler: Any = loader.sampler
    pads: tuple[Callable[..., Any], ...] = (DistributedSampler.__iter__, DistributedSamplerWrapper.__iter__)
    if isinstance(sampler, DistributedSampler) and type(sampler).__iter__ in pads:
        records: Any = sampler.dataset
        if sampler.total_size != len(records):
            done = "leaves out" if sampler.drop_last else "repeats"
            raise ConfigError(
                f"The {_name(sampler)} of a loader of evaluation {done} records: {len(records)} on "
                f"{sampler.num_replicas} processes count as {sampler.total_size}. Leave the sampler out of the loader: "
                "ForgettingMetrics shares the records out, each once."
            )


def _with_batches(loader: DataLoader[Any], batches: EvenBatches) -> object:
    """Return the loader anew, as Lightning does it, so that subclasses keep what they were made with."""
    args, kwargs = _get_dataloader_init_args_and_kwargs(loader, loader.sampler)
    names = getattr(loader, "__pl_saved_arg_names", ())
    kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    instead = {"sampler": None, "shuffle": False, "batch_sampler": batches, "batch_size": 1, "drop_last": False}
    return _reinstantiate_wrapped_cls(loader, *args[len(names) :], **{**kwargs, **instead})


def _size(loader: DataLoader[Any]) -> int:
    records: Any = loader.dataset
    return len(records)


def _name(value: object) -> str:
    return type(value).__name__
