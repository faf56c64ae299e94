"""Loaders that the mechanism does not drive, or that mix records, are refused; their safe siblings are not."""

import functools
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.utilities import CombinedLoader
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PoissonBatches
from pvision.training import GUARDS, mixes_records, refuse_unsafe_loader

RECORDS = 10
DATA = TensorDataset(torch.arange(20.0).reshape(RECORDS, 2), torch.arange(RECORDS))
PAIR = [DATA[0], DATA[3]]


def batches() -> PoissonBatches:
    return PoissonBatches(num_records=RECORDS, sample_rate=0.5, steps=3)


EXPECTED = batches()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(RECORDS))


class Halving(BatchSampler):
    """Wraps the mechanism's batches and hands on half of each."""

    def __init__(self, inner: Any) -> None:
        self.sampler = inner

    def __iter__(self):
        return (batch[::2] for batch in self.sampler)

    def __len__(self):
        return len(self.sampler)


class MixUp:
    """Stands for the classes of that name in torchvision, timm and others."""

    def __call__(self, items):
        batch = default_collate(items)
        return 0.7 * batch[0] + 0.3 * batch[0].flip(0), batch[1]


class Transformed(Dataset):
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self):
        return RECORDS

    def __getitem__(self, index):
        return DATA[index]


mixup = MixUp()


def collate_with_a_global(items):
    return mixup(items)


def collate_with_a_helper(items):
    return collate_with_a_global(items)


def collate_in_place(items):
    return MixUp()(items)


def collate_with_a_closure(mixing: Any) -> Callable[..., Any]:
    return lambda items: mixing(items)


def collate_unnamed(items):
    videos = torch.stack([video for video, _ in items])
    return videos - videos.mean(0), torch.stack([label for _, label in items])


def loader(**settings: Any) -> Any:
    return DataLoader(**{"dataset": DATA, **settings})


def driven(**settings: Any) -> Any:
    return loader(batch_sampler=EXPECTED, **settings)


def weighted() -> Any:
    return loader(batch_size=2, sampler=WeightedRandomSampler([0.1] * RECORDS, RECORDS))


def distributed() -> Any:
    return loader(batch_size=2, sampler=DistributedSampler(DATA, num_replicas=2, rank=0))


def wrapped_by_lightning() -> Any:
    return loader(batch_size=2, sampler=DistributedSamplerWrapper(RandomSampler(DATA), num_replicas=2, rank=0))


def shuffled_lists() -> Any:
    return BatchSampler(RandomSampler(DATA), 2, drop_last=False)


def unnamed() -> Any:
    return driven(collate_fn=collate_unnamed)


UNSAFE: list[tuple[str, str, Callable[[], Any]]] = [
    ("several_loaders", "Several", lambda: CombinedLoader([driven(), driven()])),
    ("several_loaders", "Several", lambda: [driven(), driven()]),
    ("several_loaders", "Several", lambda: {"one": driven()}),
    ("unknown_loader", "list_iterator", lambda: iter([1])),
    ("iterable_dataset", "Stream", lambda: DataLoader(Stream(), batch_size=2)),
    ("shuffle", "shuffles", lambda: loader(batch_size=4, shuffle=True)),
    ("shuffle", "shuffles", lambda: loader(sampler=shuffled_lists(), batch_size=None)),
    ("weighted_sampler", "WeightedRandomSampler", weighted),
    ("subset_sampler", "SubsetRandomSampler", lambda: loader(batch_size=2, sampler=SubsetRandomSampler([0, 1, 2]))),
    ("distributed_sampler", "DistributedSampler", distributed),
    ("distributed_sampler", "DistributedSamplerWrapper", wrapped_by_lightning),
    ("drop_last", "drop_last", lambda: loader(batch_sampler=BatchSampler(EXPECTED, 1, drop_last=True))),
    ("batched_anew", "BatchSampler makes", lambda: loader(sampler=EXPECTED, batch_size=2)),
    ("batched_anew", "Halving makes", lambda: loader(batch_sampler=Halving(EXPECTED))),
    ("other_sampler", "SequentialSampler", lambda: loader(batch_size=2)),
    ("other_sampler", "PoissonBatches", lambda: loader(batch_sampler=batches())),
    ("other_sampler", "PoissonBatches", lambda: loader(batch_sampler=Halving(batches()))),
    ("other_sampler", "list", lambda: loader(batch_sampler=[[0, 1], [2]])),
    ("other_data_set", "has 5 records", lambda: driven(dataset=TensorDataset(torch.zeros(5)))),
    ("out_of_order", "in_order", lambda: driven(in_order=False)),
    ("mixing_records", "holds MixUp", lambda: driven(collate_fn=mixup)),
    ("mixing_records", "holds MixUp", lambda: driven(collate_fn=functools.partial(mixup))),
    ("mixing_records", "holds MixUp", lambda: driven(collate_fn=collate_with_a_global)),
    ("mixing_records", "holds MixUp", lambda: driven(collate_fn=collate_with_a_helper)),
    ("mixing_records", "holds MixUp", lambda: driven(collate_fn=collate_in_place)),
    ("mixing_records", "holds MixUp", lambda: driven(collate_fn=collate_with_a_closure(mixup))),
    ("mixing_records", "holds MixUp", lambda: driven(dataset=Transformed([str, {"a": mixup}]))),
    ("mixing_records", "changes a record", unnamed),
]

SAFE: dict[str, Callable[[], Any]] = {
    "as batch sampler": driven,
    "as sampler without batches": lambda: loader(sampler=EXPECTED, batch_size=None),
    "workers that stay and look ahead": lambda: driven(num_workers=1, persistent_workers=True, prefetch_factor=4),
    "transforms of one record": lambda: driven(dataset=Transformed([torch.nn.Dropout(0.5)])),
    "a collate function of its own": lambda: driven(collate_fn=lambda items: default_collate(items)),
}


def check(made: Any) -> None:
    refuse_unsafe_loader(made, EXPECTED, num_records=RECORDS, items=PAIR)


@pytest.mark.parametrize(("name", "came", "made"), UNSAFE)
def test_an_unsafe_loader_is_refused(name: str, came: str, made: Callable[[], Any]) -> None:
    guard = next(one for one in GUARDS["loader"] if one.name == name)
    with pytest.raises(PrivacyError) as refused:
        check(made())
    lines = str(refused.value).splitlines()
    assert any(all(part in line for part in (came, guard.reason, guard.remedy)) for line in lines)


@pytest.mark.parametrize("made", SAFE.values(), ids=SAFE.keys())
def test_a_safe_loader_passes(made: Callable[[], Any]) -> None:
    check(made())


def test_every_guard_of_loaders_is_seen_to_refuse() -> None:
    assert {name for name, _, _ in UNSAFE} == {guard.name for guard in GUARDS["loader"]}


def test_shuffling_and_dropping_are_told_together() -> None:
    with pytest.raises(PrivacyError) as refused:
        check(loader(batch_size=4, shuffle=True, drop_last=True))
    assert str(refused.value).count("\n- ") == 2


@pytest.mark.parametrize("sampler", [SequentialSampler, RandomSampler])
def test_a_mechanism_of_the_same_settings_is_not_the_mechanism(sampler: Callable[[Any], Any]) -> None:
    """Also where the accountant would reach the same number: what it counts must be what was drawn."""
    with pytest.raises(PrivacyError):
        check(loader(sampler=sampler(DATA), batch_size=5))


def test_without_items_the_collate_function_is_not_run() -> None:
    def never(items):
        raise AssertionError("run")

    refuse_unsafe_loader(driven(collate_fn=never), EXPECTED)


# What a collate function does with records.


class Pair(NamedTuple):
    video: torch.Tensor
    name: str


def own_noise(items):
    """Augments each record by itself, by every global generator."""
    rows = [video + torch.rand(2) + random.random() + float(np.random.rand()) for video, _ in items]  # noqa: NPY002  # as transforms do
    return torch.stack(rows)


@pytest.mark.parametrize(
    "collate",
    [
        default_collate,
        own_noise,
        lambda items: items,
        lambda items: tuple(zip(*items, strict=True)),
        lambda items: {"video": torch.stack([video for video, _ in items]), "meta": {"count": len(items)}},
        lambda items: Pair(torch.stack([video for video, _ in items]), "constant"),
        lambda items: ([str(label) for _, label in items], torch.tensor(0.5)),
        lambda items: torch.stack([video for video, _ in items]) * float("nan"),
    ],
)
def test_collating_each_record_by_itself_is_no_mixing(collate: Callable[..., Any]) -> None:
    assert not mixes_records(collate, PAIR)


def sometimes(items):
    return mixup(items) if random.random() < 0.5 else default_collate(items)


@pytest.mark.parametrize(
    "collate",
    [
        mixup,
        sometimes,
        collate_unnamed,
        lambda items: {"video": mixup(items)[0]},
        lambda items: [video * len({int(label) for _, label in items}) for video, _ in items],
        lambda items: ([str(items[0][1])] * len(items), torch.zeros(2)),
        lambda items: Pair(default_collate(items)[0].flip(0), "constant"),
        lambda items: {"video": default_collate(items)[0], "mean": float(default_collate(items)[0].mean())},
    ],
)
def test_mixing_is_seen(collate: Callable[..., Any]) -> None:
    assert mixes_records(collate, PAIR)


def test_padding_to_the_longest_is_seen() -> None:
    """The length that one record is padded to is another record's."""
    items = [torch.ones(2), torch.ones(5)]
    assert mixes_records(lambda some: pad_sequence(some, batch_first=True), items)
    assert not mixes_records(lambda some: pad_sequence(some, batch_first=True), [torch.ones(2), torch.zeros(2)])


def test_the_generators_are_given_back() -> None:
    expected = draws()
    mixes_records(own_noise, PAIR)
    assert draws() == expected


def draws() -> list[float]:
    """The next number of each global generator, which stays where it was."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002  # as transforms do
    numbers = [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002
    return numbers


def test_one_record_is_too_few() -> None:
    with pytest.raises(ConfigError, match="two records"):
        mixes_records(default_collate, PAIR[:1])


# The classes of the libraries themselves.


def of_torchvision(name: str) -> Any:
    return getattr(pytest.importorskip("torchvision.transforms.v2"), name)(num_classes=RECORDS)


def of_timm(name: str) -> Any:
    """A stand-in: timm is not among the packages that the tests need, and guards go by the class's name."""
    return type(name, (), {"__module__": "timm.data.mixup", "__call__": lambda self, batch: batch})()


def of_kornia(name: str) -> Any:
    return getattr(pytest.importorskip("kornia.augmentation"), name)()


def of_albumentations(name: str) -> Any:
    return getattr(pytest.importorskip("albumentations"), name)()


MIXING: list[tuple[Callable[..., Any], str]] = [
    (of_torchvision, "MixUp"),
    (of_torchvision, "CutMix"),
    (of_timm, "Mixup"),
    (of_timm, "FastCollateMixup"),
    (of_kornia, "RandomMixUpV2"),
    (of_kornia, "RandomCutMixV2"),
    (of_kornia, "RandomMosaic"),
    (of_kornia, "RandomTransplantation"),
    (of_albumentations, "Mosaic"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:RandomCutMixV2 currently uses the old:DeprecationWarning")
@pytest.mark.parametrize(("make", "name"), MIXING, ids=lambda value: value if isinstance(value, str) else "")
def test_mixing_transforms_of_the_libraries_are_found(
    make: Callable[[str], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", os.environ.get("LD_LIBRARY_PATH", ""))  # OpenCV sets it at import
    with pytest.raises(PrivacyError, match=f"holds {name}"):
        check(driven(collate_fn=functools.partial(print, make(name))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RandomHorizontalFlip", "ColorJiggle", "RandomJigsaw", "RandomErasing"])
def test_kornias_transforms_of_one_record_pass(name: str) -> None:
    check(driven(dataset=Transformed(of_kornia(name))))
