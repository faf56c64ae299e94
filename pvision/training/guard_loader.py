"""Training loaders that do not draw as the accountant believes, or that mix records."""

from typing import Any, NamedTuple

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from pvision.training.guard import Guard
from pvision.training.record_mixing import mixes_records, mixing_transforms

__all__ = ["LOADER_GUARDS", "TrainingLoader"]


class TrainingLoader(NamedTuple):
    """A loader, the batches that the mechanism draws, and a few records of its data set."""

    loader: Any
    expected: Any
    num_records: int | None = None
    items: tuple[Any, ...] | None = None


def _batches(subject: TrainingLoader) -> Any:
    """Return what draws the batches; positions or whole batches, as the loader was made."""
    loader = subject.loader
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def _sampler(subject: TrainingLoader) -> Any:
    """Return what chooses the records, freed of what batches them; None where the mechanism does, or nothing."""
    loader = subject.loader
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    batches = _batches(subject)
    if batches is subject.expected:
        return None
    return getattr(batches, "sampler", batches) if isinstance(batches, BatchSampler) else batches


def _several(subject: TrainingLoader) -> str:
    several = isinstance(subject.loader, CombinedLoader | list | tuple | dict)
    return "Several training loaders came" if several else ""


def _unknown(subject: TrainingLoader) -> str:
    if isinstance(subject.loader, CombinedLoader | list | tuple | dict | DataLoader):
        return ""
    return f"The training loader is a {type(subject.loader).__name__}"


def _iterable(subject: TrainingLoader) -> str:
    stream = isinstance(getattr(subject.loader, "dataset", None), IterableDataset)
    return f"The data set {type(subject.loader.dataset).__name__} is a stream" if stream else ""


def _shuffle(subject: TrainingLoader) -> str:
    return "The loader shuffles" if type(_sampler(subject)) is RandomSampler else ""


def _weighted(subject: TrainingLoader) -> str:
    return "The loader draws by WeightedRandomSampler" if isinstance(_sampler(subject), WeightedRandomSampler) else ""


def _subset(subject: TrainingLoader) -> str:
    return "The loader draws by SubsetRandomSampler" if isinstance(_sampler(subject), SubsetRandomSampler) else ""


def _distributed(subject: TrainingLoader) -> str:
    sampler = _sampler(subject)
    return f"The loader draws by {type(sampler).__name__}" if isinstance(sampler, DistributedSampler) else ""


def _drop_last(subject: TrainingLoader) -> str:
    dropped = _sampler(subject) is not None and getattr(_batches(subject), "drop_last", False)
    return "drop_last of the loader is True" if dropped else ""


def _batched_anew(subject: TrainingLoader) -> str:
    sampler = _sampler(subject)
    if sampler is None or sampler is not subject.expected:
        return ""
    return f"{type(_batches(subject)).__name__} makes new batches of the mechanism's"


def _other_sampler(subject: TrainingLoader) -> str:
    sampler = _sampler(subject)
    named = (RandomSampler, WeightedRandomSampler, SubsetRandomSampler, DistributedSampler)
    if sampler is None or sampler is subject.expected or isinstance(sampler, named):
        return ""
    return f"The loader draws by a {type(sampler).__name__} that is not the mechanism's"


def _data_set(subject: TrainingLoader) -> str:
    if not isinstance(subject.loader, DataLoader) or isinstance(subject.loader.dataset, IterableDataset):
        return ""
    records = len(subject.loader.dataset)  # type: ignore[arg-type]  # torch leaves __len__ out of Dataset
    if subject.num_records in (None, records):
        return ""
    return f"The loader's data set has {records} records, but the mechanism was made for {subject.num_records}"


def _order(subject: TrainingLoader) -> str:
    return "" if getattr(subject.loader, "in_order", True) else "in_order of the loader is False"


def _mixing(subject: TrainingLoader) -> str:
    loader = subject.loader
    if not isinstance(loader, DataLoader):
        return ""
    found = {*mixing_transforms(loader.collate_fn), *mixing_transforms(loader.dataset)}
    if found:
        return f"The loader holds {', '.join(sorted(found))}"
    collates = loader.batch_sampler is not None  # without one, items are batches already
    if collates and subject.items and mixes_records(loader.collate_fn, subject.items):
        return "The collate function changes a record when another record of its batch does"
    return ""


_DRAWN = "Give the DataLoader batch_sampler=mechanism.batches, and nothing else that chooses records"

LOADER_GUARDS: tuple[Guard[TrainingLoader], ...] = (
    Guard(
        name="several_loaders",
        setting="several training loaders, `CombinedLoader`",
        reason="records would reach a step by a way that the mechanism did not draw",
        remedy="Train on one loader; concatenate the data sets (ConcatDataset) before the mechanism is made.",
        finds=_several,
    ),
    Guard(
        name="unknown_loader",
        setting="a training loader that is no `DataLoader`",
        reason="what it draws cannot be compared with what the accountant believes",
        remedy=f"{_DRAWN}.",
        finds=_unknown,
    ),
    Guard(
        name="iterable_dataset",
        setting="`IterableDataset`",
        reason="its records come in an order of their own, not as the mechanism draws them",
        remedy="Use a data set with positions (`__getitem__`, `__len__`).",
        finds=_iterable,
    ),
    Guard(
        name="shuffle",
        setting="`shuffle=True`",
        reason="ε belongs to the draws of the mechanism, such as Poisson sampling: for each record a lot of its own",
        remedy=f"{_DRAWN}.",
        finds=_shuffle,
    ),
    Guard(
        name="weighted_sampler",
        setting="`WeightedRandomSampler`, class-balanced sampling",
        reason="a record with a higher weight is drawn more often than ε assumes",
        remedy=f"{_DRAWN}; weight the loss by class instead, with weights that are public.",
        finds=_weighted,
    ),
    Guard(
        name="subset_sampler",
        setting="`SubsetRandomSampler`",
        reason="its records are drawn more often than ε assumes, in batches of one size",
        remedy="Make a torch.utils.data.Subset and a mechanism for its length.",
        finds=_subset,
    ),
    Guard(
        name="distributed_sampler",
        setting="`DistributedSampler`",
        reason="it deals out records by a law of its own, and ε belongs to the draws of the mechanism",
        remedy=f"{_DRAWN}; it splits its batches between processes.",
        finds=_distributed,
    ),
    Guard(
        name="drop_last",
        setting="`drop_last=True`",
        reason="dropped batches change who is drawn, and empty batches must release noise too",
        remedy=f"{_DRAWN}.",
        finds=_drop_last,
    ),
    Guard(
        name="batched_anew",
        setting="`sampler=mechanism.batches` with a `batch_size`, or a batch sampler around it",
        reason="a step would get several batches, or a part of one, for the one that is charged",
        remedy=f"{_DRAWN}, or set batch_size=None.",
        finds=_batched_anew,
    ),
    Guard(
        name="other_sampler",
        setting="any other sampler, also one that wraps the mechanism's or was copied from it",
        reason="ε holds for the batches that the mechanism drew, and for no others",
        remedy=f"{_DRAWN}.",
        finds=_other_sampler,
    ),
    Guard(
        name="other_data_set",
        setting="a data set of another length than the mechanism was made for",
        reason="the sample rate and the divisor of the noisy mean belong to another number of records",
        remedy="Make the mechanism with num_records=len(dataset) of the very data set.",
        finds=_data_set,
    ),
    Guard(
        name="out_of_order",
        setting="`in_order=False`",
        reason="batches would come in another order than the mechanism drew them",
        remedy="Leave it out.",
        finds=_order,
    ),
    Guard(
        name="mixing_records",
        setting="MixUp, CutMix, mosaic, copy-paste in the transforms or the collate function; a collate function that "
        "changes one record by another, also by padding to the longest",
        reason="one record would enter the gradients of others, and its share would exceed the bound",
        remedy="Remove it from private training; augment and pad each record by itself.",
        finds=_mixing,
    ),
)
