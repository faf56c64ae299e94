"""Replay memories: sizes, balance, uniformity, herding against a slow twin, forgetting, saving."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pvision.continual.experience import Experience
from pvision.continual.replay import (
    ClassBalancedMemory,
    HerdingMemory,
    ReplayMemory,
    ReservoirMemory,
    herding_order,
)
from pvision.errors import ConfigError, DataError

KINDS = (ReservoirMemory, ClassBalancedMemory, HerdingMemory)
every_kind = pytest.mark.parametrize("kind", KINDS)


def image(position: int) -> Tensor:
    """An image that tells its position in every pixel pair."""
    return torch.tensor([position % 256, position // 256] * 6, dtype=torch.uint8).reshape(3, 2, 2)


def features(positions: np.ndarray) -> Tensor:
    rows = [np.random.default_rng(int(position)).normal(size=5) for position in positions]
    return torch.tensor(np.array(rows).reshape(-1, 5))


def experience(index: int, positions: Any, *, labels: Any = (), **changes: Any) -> Experience:
    values = {"kind": "learn", "name": f"e{index}", "classes": tuple(sorted({int(label) for label in labels}))}
    return Experience(index=index, train=np.asarray(positions, dtype=np.int64), **{**values, **changes})


def learn(memory: ReplayMemory, *parts: list[int], seed: int = 0, start: int = 0) -> None:
    """Give ``memory`` one experience for each list of labels; positions go on from part to part."""
    position = start * 1000
    for index, labels in enumerate(parts, start):
        positions = np.arange(position, position + len(labels))
        position += len(labels)
        memory.update(
            experience(index, positions, labels=labels),
            labels=np.asarray(labels, dtype=np.int64),
            image=image,
            features=features,
            seed=seed,
        )


def counts(memory: ReplayMemory) -> dict[int, int]:
    return {int(label): int((memory.labels == label).sum()) for label in np.unique(memory.labels)}


def consistent(memory: ReplayMemory) -> bool:
    told = [int(pixels[0, 0, 0]) + 256 * int(pixels[0, 0, 1]) for pixels in memory.images]
    return told == memory.positions.tolist() and len(memory.labels) == len(memory.experiences) == len(memory)


streams = st.lists(st.lists(st.integers(0, 6), max_size=25), max_size=5)


@every_kind
@given(parts=streams, size=st.integers(7, 40), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_it_never_holds_more_than_its_size_nor_a_record_twice(
    kind: type[ReplayMemory], parts: list[list[int]], size: int, seed: int
) -> None:
    memory = kind(size)
    learn(memory, *parts, seed=seed)
    assert len(memory) <= size
    assert consistent(memory)
    assert len(set(memory.positions.tolist())) == len(memory)
    labels = np.array([label for part in parts for label in part], dtype=np.int64)
    assert np.array_equal(memory.labels, labels[memory.positions])
    assert memory.nbytes == len(memory) * (12 + 8)


@given(parts=streams, size=st.integers(1, 40))
@settings(max_examples=60)
def test_class_balanced_is_full_and_within_one_of_equal(parts: list[list[int]], size: int) -> None:
    memory = ClassBalancedMemory(size)
    seen: dict[int, int] = {}
    held: dict[int, int] = {}
    for index, part in enumerate(parts):
        before = held
        learn(memory, part, start=index)
        held = counts(memory)
        for label in part:
            seen[label] = seen.get(label, 0) + 1
        available = {label: before.get(label, 0) + part.count(label) for label in {*before, *part}}
        assert len(memory) == min(size, sum(available.values()))
        most = max(held.values(), default=0)
        assert all(held.get(label, 0) >= min(most - 1, number) for label, number in available.items())


def test_class_balanced_with_fewer_places_than_classes_draws_classes_at_random() -> None:
    drawn = set()
    for seed in range(20):
        memory = ClassBalancedMemory(2)
        learn(memory, [0, 0, 1, 1], [2, 2, 3, 3], seed=seed)
        assert sorted(counts(memory).values()) == [1, 1]
        drawn |= set(counts(memory))
    assert drawn == {0, 1, 2, 3}


def inclusion(kind: Callable[[int], ReplayMemory], parts: list[list[int]], size: int, seeds: int) -> np.ndarray:
    held = np.zeros(sum(map(len, parts)))
    for seed in range(seeds):
        memory = kind(size)
        learn(memory, *parts, seed=seed)
        held[memory.positions] += 1
    return held


def chi_square(held: np.ndarray) -> float:
    """Pearson's statistic against equal inclusion; for a sample of fixed size it is below its chi-square on average."""
    return float(((held - held.mean()) ** 2 / held.mean()).sum())


def test_a_reservoir_holds_every_record_so_far_with_the_same_probability() -> None:
    parts = [[0] * 10, [1] * 30, [0] * 5, [2] * 15]
    assert chi_square(inclusion(ReservoirMemory, parts, 20, 800)) < 98.3  # 0.999 quantile, 59 degrees of freedom


def test_a_memory_that_is_not_uniform_is_told_from_a_reservoir() -> None:
    parts = [[0] * 10, [1] * 30, [0] * 5, [2] * 15]
    assert chi_square(inclusion(ClassBalancedMemory, parts, 20, 300)) > 98.3


def test_a_reservoir_stays_uniform_after_records_were_forgotten() -> None:
    held = np.zeros(40)
    for seed in range(600):
        memory = ReservoirMemory(15)
        learn(memory, [0] * 30, seed=seed)
        memory.forget(
            positions=range(20)
        )  # about five of the other ten are held: more places are free than records come
        learn(memory, [1] * 10, seed=seed, start=1)
        held += np.isin(np.r_[:30, 1000:1010], memory.positions)
    assert not held[:20].any()
    assert chi_square(held[20:]) < 43.8  # 0.999 quantile, 19 degrees of freedom


def test_a_class_that_comes_again_is_sampled_from_all_its_records() -> None:
    held = inclusion(ClassBalancedMemory, [[0] * 10, [0] * 40], 10, 800)
    assert chi_square(held) < 85.4


def test_herding_keeps_the_first_of_its_lists_when_classes_come() -> None:
    memory = HerdingMemory(12)
    learn(memory, [0] * 20 + [1] * 20)
    before = {label: memory.positions[memory.labels == label].tolist() for label in (0, 1)}
    assert before[0] == [int(i) for i in herding_order(features(np.arange(20)).numpy(), 6)]
    learn(memory, [2] * 20, start=1)
    assert counts(memory) == {0: 4, 1: 4, 2: 4}
    for label in (0, 1):
        assert memory.positions[memory.labels == label].tolist() == before[label][:4]


def test_a_class_that_comes_again_divides_its_places_among_its_experiences() -> None:
    memory = HerdingMemory(12)
    learn(memory, [0] * 20 + [1] * 20, [0] * 20)
    assert counts(memory) == {0: 6, 1: 6}
    assert sorted(memory.experiences[memory.labels == 0].tolist()) == [0, 0, 0, 1, 1, 1]


def test_herding_gives_each_class_a_share_though_a_small_class_cannot_fill_it() -> None:
    memory = HerdingMemory(12)
    learn(memory, [0] * 20 + [1] * 2)
    assert counts(memory) == {0: 6, 1: 2}


def test_herding_refuses_more_classes_than_places() -> None:
    with pytest.raises(ConfigError, match=r"cannot hold one exemplar of each of 3 classes\. Give it size=3"):
        learn(HerdingMemory(2), [0, 1, 2])


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (None, "the module gives none"),
        (lambda positions: None, "the module gives none"),
        (lambda positions: torch.ones(1, 2), r"must be \(3, d\)"),
        (lambda positions: torch.full((3, 2), float("nan")), "NaN or infinity"),
    ],
)
def test_herding_says_what_is_wrong_with_features(given_: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        HerdingMemory(5).update(
            experience(0, [0, 1, 2]), labels=np.zeros(3, dtype=np.int64), image=image, features=given_, seed=0
        )


@every_kind
def test_the_same_seed_gives_the_same_memory_and_another_seed_another(kind: type[ReplayMemory]) -> None:
    def positions(seed: int) -> list[int]:
        memory = kind(10)
        learn(memory, [0] * 30, [1] * 30, seed=seed)
        return memory.positions.tolist()

    assert positions(3) == positions(3)
    if kind is not HerdingMemory:  # which draws nothing
        assert positions(3) != positions(4)


def test_what_is_drawn_in_one_experience_says_nothing_of_the_next() -> None:
    memory = ReservoirMemory(20)
    learn(memory, [0] * 50, [1] * 50)
    first, second = (set((memory.positions[memory.labels == label] % 50).tolist()) for label in (0, 1))
    assert len(first & second) < min(len(first), len(second))


@every_kind
def test_records_held_out_for_validation_are_never_kept(kind: type[ReplayMemory]) -> None:
    memory = kind(50)
    one = experience(0, range(20), val=np.arange(5, 10))
    memory.update(one, labels=np.zeros(20, dtype=np.int64), image=image, features=features, seed=0)
    assert sorted(memory.positions.tolist()) == [*range(5), *range(10, 20)]


@every_kind
def test_forgetting_drops_positions_and_classes_and_overwrites_their_pixels(kind: type[ReplayMemory]) -> None:
    memory = kind(30)
    learn(memory, [0] * 10 + [1] * 10)
    victims = [pixels for pixels, label in zip(memory.images, memory.labels, strict=True) if label == 1]
    kept_before = [p for p in memory.positions.tolist() if p < 10 and p != 4]
    assert memory.forget(positions=[4, 999], classes=[1]) == len(victims) + 1
    assert memory.positions.tolist() == kept_before
    assert consistent(memory)
    assert not any(pixels.any() for pixels in victims)
    assert memory.forget(classes=[7]) == 0
    with pytest.raises(ConfigError, match="needs positions= or classes="):
        memory.forget()


@every_kind
def test_no_storage_is_shared_so_that_forgetting_one_image_frees_it(kind: type[ReplayMemory]) -> None:
    data = torch.arange(240, dtype=torch.uint8).reshape(20, 3, 2, 2)
    memory = kind(10)
    memory.update(
        experience(0, range(20)),
        labels=np.zeros(20, dtype=np.int64),
        image=data.__getitem__,
        features=features,
        seed=0,
    )
    loaded = kind(10)
    loaded.load_state_dict(memory.state_dict())
    for one in (memory, loaded):
        assert all(pixels.untyped_storage().nbytes() == 12 for pixels in one.images)
    memory.forget(classes=[0])
    assert data.flatten().tolist() == list(range(240))
    assert len(loaded) == 10


@every_kind
@pytest.mark.parametrize("parts", [[], [[]], [[0] * 20, [1, 2] * 10]], ids=["new", "empty", "full"])
def test_a_saved_memory_comes_back_bit_for_bit_and_goes_on_alike(
    kind: type[ReplayMemory], parts: list[list[int]]
) -> None:
    memory, other = kind(9), kind(9)
    learn(memory, *parts)
    memory.forget(positions=[int(p) for p in memory.positions[:2]])
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for one in (memory, other):
        learn(one, [3] * 10, start=5)
    assert len(memory) == len(other)
    assert all(map(torch.equal, memory.images, other.images))
    for name in ("labels", "experiences", "positions"):
        assert np.array_equal(getattr(memory, name), getattr(other, name))
        assert getattr(other, name).dtype == np.int64
    first, second = memory.state_dict(), other.state_dict()
    assert all(
        torch.equal(first[name], second[name]) if isinstance(first[name], Tensor) else first[name] == second[name]
        for name in first
    )


def test_images_of_different_sizes_come_back_too() -> None:
    memory, other = ReservoirMemory(4), ReservoirMemory(4)
    sizes = [(1, 2, 3), (3, 4, 1), (3, 1, 1)]
    memory.update(
        experience(0, range(3)),
        labels=np.zeros(3, dtype=np.int64),
        image=lambda position: torch.full(sizes[position], position, dtype=torch.uint8),
        seed=0,
    )
    other.load_state_dict(memory.state_dict())
    assert [tuple(pixels.shape) for pixels in other.images] == sizes
    assert memory.nbytes == 6 + 12 + 3 + 3 * 8


def test_the_state_of_another_memory_is_refused_by_name() -> None:
    state = HerdingMemory(5).state_dict()
    with pytest.raises(ConfigError, match=r"is ReservoirMemory\(size=5\), .* that of HerdingMemory\(size=5\)"):
        ReservoirMemory(5).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"is HerdingMemory\(size=6\), .* that of HerdingMemory\(size=5\)"):
        HerdingMemory(6).load_state_dict(state)


@pytest.mark.parametrize("damage", [{"labels": torch.zeros(3)}, {"pixels": torch.zeros(1)}, {"learned": None}])
def test_a_damaged_state_is_refused(damage: dict[str, Any]) -> None:
    memory = ReservoirMemory(5)
    learn(memory, [0] * 5)
    with pytest.raises(DataError, match="damaged"):
        ReservoirMemory(5).load_state_dict({**memory.state_dict(), **damage})


def test_a_failed_update_leaves_the_memory_as_it_was() -> None:
    memory = ReservoirMemory(5)
    learn(memory, [0] * 10)
    before = memory.state_dict()

    def broken(position: int) -> Tensor:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        memory.update(experience(1, range(10, 30)), labels=np.ones(20, dtype=np.int64), image=broken, seed=0)
    after = memory.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in ("pixels", "labels", "ranks"))
    assert (before["bound"], before["learned"]) == (after["bound"], after["learned"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(2, dtype=np.int64)}, "the 3 records of experience 0"),
        ({"labels": np.zeros(3)}, "labels must be whole numbers"),
        (
            {"image": lambda position: torch.zeros(3, 2, 2)},
            r"image\(\d\) must be a uint8 tensor \(C, H, W\), but torch.fl",
        ),
        ({"image": lambda position: None}, "but NoneType came"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"experience": experience(0, [0, 1, 2], kind="forget")}, "asks to forget: use forget"),
    ],
)
def test_each_wrong_input_of_update_gets_its_sentence(changes: dict[str, Any], message: str) -> None:
    arguments = {
        "experience": experience(0, [0, 1, 2]),
        "labels": np.zeros(3, dtype=np.int64),
        "image": image,
        "seed": 0,
    }
    arguments |= changes
    with pytest.raises((ConfigError, DataError), match=message):
        ReservoirMemory(5).update(arguments.pop("experience"), **arguments)


def test_an_experience_is_taken_in_once() -> None:
    memory = ReservoirMemory(5)
    learn(memory, [0, 1])
    with pytest.raises(DataError, match=r"Experience 0 .* is in the replay memory already"):
        learn(memory, [0, 1])


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "5"])
def test_the_size_is_a_positive_whole_number(size: Any) -> None:
    with pytest.raises(ConfigError, match="size must be a whole number of at least 1"):
        ReservoirMemory(size)


def test_samples_have_no_repeats_until_there_are_not_enough() -> None:
    memory = ReservoirMemory(10)
    with pytest.raises(DataError, match="the memory is empty"):
        memory.sample(1)
    assert memory.sample(0).tolist() == []
    learn(memory, [0] * 10)
    generator = torch.Generator().manual_seed(0)
    assert len(set(memory.sample(7, generator).tolist())) == 7
    assert np.bincount(memory.sample(25, generator), minlength=10).tolist().count(3) == 5
    one, two = (memory.sample(5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == torch.int64


def test_samples_are_uniform() -> None:
    memory, generator = ReservoirMemory(10), torch.Generator().manual_seed(0)
    learn(memory, [0] * 10)
    drawn = np.bincount(np.concatenate([memory.sample(3, generator) for _ in range(2000)]), minlength=10)
    assert chi_square(drawn) < 27.9  # 0.999 quantile, 9 degrees of freedom
