"""The loader from which a Trainer really draws: whether it is Opacus's Poisson loader, and draws in secret."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from torch.utils.data import DataLoader

from pvision.errors import PrivacyError
from pvision.privacy.noise import SecretSource

__all__ = ["PoissonLoader", "Witness", "draw_in_secret", "read_loader"]


class PoissonLoader(NamedTuple):
    """What ε needs to know of a training loader.

    Attributes:
        sampler: Opacus's Poisson sampler.
        sample_rate: probability that a record is in one global batch.
        num_records: records in the data set.
        split: whether BatchMemoryManager cuts its batches into physical ones.
    """

    sampler: Any
    sample_rate: float
    num_records: int
    split: bool


class Witness(Protocol):
    """Who is told what the sampler draws."""

    def new_stream(self) -> None:
        """Take note that batches are drawn from the beginning: what was drawn before is void."""

    def drawn(self, records: int) -> None:
        """Take note of a batch of so many records."""


def _secret_draws(sampler: Any) -> Iterator[list[int]]:
    """Yield the batches of an Opacus sampler, made right: independent on each process, secret, empty ones as well."""
    sampler.witness.new_stream()
    total = getattr(sampler, "total_size", sampler.num_samples)
    # Any fixed dealing out of the records will do: what is secret is who is drawn from a process's share.
    share = range(getattr(sampler, "rank", 0), total, getattr(sampler, "num_replicas", 1))
    source = SecretSource()
    for _ in range(len(sampler)):
        chosen = (source.uniform(len(share)) < sampler.sample_rate).nonzero().flatten().tolist()
        sampler.witness.drawn(len(chosen))
        yield [share[position] for position in chosen]


def read_loader(loader: object, optimizer: Any, *, world_size: int) -> PoissonLoader:
    """Return what ``loader`` draws.

    Args:
        loader: as the Trainer iterates it.
        optimizer: the Opacus optimizer.
        world_size: processes that train.

    Raises:
        PrivacyError: if ε, which assumes Poisson sampling, would not hold for it.
    """
    from opacus.utils.uniform_sampler import DistributedUniformWithReplacementSampler, UniformWithReplacementSampler

    outer = _batch_sampler(loader)
    sampler = _unsplit(outer, optimizer)
    kind = DistributedUniformWithReplacementSampler if world_size > 1 else UniformWithReplacementSampler
    kinds = (UniformWithReplacementSampler, DistributedUniformWithReplacementSampler)
    if _own_class(sampler) not in kinds:
        raise _not_poisson(sampler)
    if world_size > 1 and _own_class(sampler) is not kind:
        raise PrivacyError(
            f"The training loader draws with {_own_class(sampler).__name__} on each of {world_size} processes: all "
            "would draw from all records, and one record could enter a step several times. Use the loader that "
            "make_private gives for a network in DifferentiallyPrivateDistributedDataParallel."
        )
    if getattr(sampler, "num_replicas", world_size) != world_size:
        raise PrivacyError(
            f"The training loader deals out the records to {sampler.num_replicas} processes, and {world_size} train. "
            "Call make_private in configure_optimizers, where the processes are known."
        )
    num_records = int(getattr(sampler, "total_size", sampler.num_samples))
    _check_data(loader, num_records)
    return PoissonLoader(sampler, float(sampler.sample_rate), num_records, split=outer is not sampler)


def draw_in_secret(sampler: Any, witness: Witness) -> None:
    """Make the sampler draw from the system's randomness and tell ``witness``.

    Guarantee:
        Every record is drawn with probability ``sample_rate``, independently across records, batches and processes, and
        of every seed that the user set. Empty batches are yielded.
    """
    sampler.witness = witness
    if not _is_secret(sampler):
        # The object keeps its length, its place in the loader and what it is an instance of.
        sampler.__class__ = type("SecretPoissonSampler", (type(sampler),), {"__iter__": _secret_draws})


def _is_secret(sampler: object) -> bool:
    return getattr(type(sampler), "__iter__", None) is _secret_draws


def _own_class(sampler: object) -> type:
    """Return the class with which the sampler was made."""
    return type(sampler).__mro__[int(_is_secret(sampler))]


def _batch_sampler(loader: object) -> Any:
    if isinstance(loader, DataLoader) and loader.batch_sampler is not None:
        return loader.batch_sampler
    raise PrivacyError(
        f"The Trainer draws its training batches from a {type(loader).__name__}, of which no sample_rate is known. "
        "Give it one map-style loader, the one that make_private returned."
    )


def _unsplit(sampler: Any, optimizer: Any) -> Any:
    from opacus.utils.batch_memory_manager import BatchSplittingSampler

    if type(sampler) is not BatchSplittingSampler:
        return sampler
    if sampler.optimizer is not optimizer:
        raise PrivacyError(
            "BatchMemoryManager tells another optimizer when a batch is complete than the one that trains, so batches "
            "would be mixed. Give it the optimizer that configure_optimizers returns."
        )
    return sampler.sampler


def _not_poisson(sampler: Any) -> PrivacyError:
    inner = getattr(sampler, "sampler", None)
    name = type(sampler).__name__ + ("" if inner is None else f" over {type(inner).__name__}")
    return PrivacyError(
        f"The Trainer's training loader draws with {name}, but ε assumes Poisson sampling: every record independently, "
        "with one probability. Let train_dataloader return the loader that make_private gave, or "
        "DPDataLoader.from_data_loader(…)."
    )


def _check_data(loader: Any, num_records: int) -> None:
    if len(loader.dataset) != num_records:
        raise PrivacyError(
            f"The training loader draws from {num_records} records, and its data set has {len(loader.dataset)}. Make "
            "the private loader from this data set."
        )
    if getattr(loader.collate_fn, "rand_on_empty", False):
        raise PrivacyError(
            "rand_on_empty=True puts an invented record into a batch in which nobody was drawn: one record more then "
            "exchanges a gradient instead of adding one, which ε does not cover. Leave it out."
        )
