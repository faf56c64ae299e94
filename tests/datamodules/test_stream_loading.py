"""The batches of an experience: the same whoever asks, whenever, in whatever share."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.datamodules.batches import Share
from pvision.datamodules.streams.loading import BatchKey, ExperienceBatches, StreamLoader
from pvision.errors import ConfigError

ALONE = Share()


def batches(count=10, batch_size=4, share=ALONE, *, seed=5, experience=1, **replay):
    return ExperienceBatches(np.arange(100, 100 + count), batch_size, share, seed=seed, experience=experience, **replay)


def keys(sampler, epoch=0, done=0):
    sampler.begin(epoch, done)
    return list(sampler)


class Echo(torch.utils.data.Dataset):
    """Answers with the key that came."""

    def __getitem__(self, key):
        return key

    def __len__(self):
        return 100


def test_every_epoch_has_each_record_once_in_an_order_of_its_own():
    first, second = (keys(batches(), epoch) for epoch in (0, 1))
    for epoch in (first, second):
        assert sorted(position for key in epoch for position in key.positions) == list(range(100, 110))
    assert first != second
    assert [len(key.positions) for key in first] == [4, 4, 2]


@pytest.mark.parametrize("other", [{"seed": 6}, {"experience": 2}])
def test_the_order_depends_on_the_seed_and_on_the_experience(other):
    assert keys(batches()) != keys(batches(**other))


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 7))
def test_going_on_after_some_batches_gives_the_rest_of_the_epoch(count, per_rank, world, epoch, done):
    share = Share(world - 1, world)
    replay = {"replay_size": 7, "replay_batch_size": 2 * world}
    whole = keys(batches(count, per_rank * world, share, **replay), epoch)
    assert keys(batches(count, per_rank * world, share, **replay), epoch, done) == whole[done:]


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(2, 4))
def test_the_shares_of_all_processes_make_the_batch_of_one(count, per_rank, world):
    size, replay = per_rank * world, {"replay_size": 9, "replay_batch_size": world}
    alone = keys(batches(count, size, **replay))
    shares = [keys(batches(count, size, Share(rank, world), **replay)) for rank in range(world)]
    for number, whole in enumerate(alone):
        together = [share[number] for share in shares]
        assert len({len(key.positions) for key in together}) == 1
        # Interleaved they are the whole batch, then what fills up a last one that cannot be divided.
        woven = [position for row in zip(*(key.positions for key in together), strict=True) for position in row]
        assert woven[: len(whole.positions)] == whole.positions
        assert len(woven) - len(whole.positions) < world
        assert [
            place for row in zip(*(key.replayed for key in together), strict=True) for place in row
        ] == whole.replayed


def test_replayed_records_differ_within_a_batch_and_between_batches():
    drawn = [key.replayed for key in keys(batches(replay_size=20, replay_batch_size=5))]
    assert all(len(set(replayed)) == 5 and max(replayed) < 20 for replayed in drawn)
    assert len({tuple(replayed) for replayed in drawn}) == len(drawn)


def test_a_memory_smaller_than_its_part_of_a_batch_gives_some_twice_and_an_empty_one_none():
    assert all(len(key.replayed) == 4 for key in keys(batches(replay_size=2, replay_batch_size=4)))
    assert all(key.replayed == [] for key in keys(batches(replay_size=0, replay_batch_size=4)))


@pytest.mark.parametrize("sizes", [{"batch_size": 3}, {"batch_size": 4, "replay_size": 9, "replay_batch_size": 3}])
def test_a_batch_that_processes_cannot_divide_is_refused(sizes):
    with pytest.raises(ConfigError, match=r"must be a multiple of their number, 2, but 3 came"):
        batches(share=Share(0, 2), **sizes)


def test_an_experience_without_records_is_refused():
    with pytest.raises(ConfigError, match="Experience 1 has no training records"):
        batches(count=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_asks_where_it_is_when_the_first_batch_is_wanted(workers):
    place = [0, 0]
    loader = StreamLoader(Echo(), batches(), num_workers=workers, progress=lambda: tuple(place))
    iterator = iter(loader)
    place[:] = [3, 2]  # known only later, as when a run is resumed
    found = [BatchKey(*key) for key in iterator]
    assert found == keys(batches(), 3, 2)


def test_a_loader_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(StreamLoader(Echo(), batches(), progress=lambda: (0, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    list(torch.utils.data.DataLoader(range(3)))  # an ordinary one does not: the safeguard is needed
    assert not torch.equal(torch.get_rng_state(), before)
