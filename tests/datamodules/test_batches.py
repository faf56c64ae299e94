"""How processes share batches: compared with one process that does all of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler

from pvision.datamodules.batches import EvaluationBatches, Share, ShuffledBatches
from pvision.errors import ConfigError


def flat(batches):
    return [position for batch in batches for position in batch]


def of_all_ranks(make, world_size):
    return [list(make(Share(rank, world_size))) for rank in range(world_size)]


@given(records=st.integers(1, 60), size=st.integers(1, 8), world_size=st.integers(1, 4), seed=st.integers(0, 2**63 - 1))
def test_the_processes_together_take_the_batches_of_one(records, size, world_size, seed):
    size *= world_size
    alone = list(ShuffledBatches(range(records), size, Share(), seed=seed))
    assert sorted(flat(alone)) == list(range(records))
    parts = of_all_ranks(lambda share: ShuffledBatches(range(records), size, share, seed=seed), world_size)
    assert {len(part) for part in parts} == {len(alone)}
    for step, whole in enumerate(alone):
        shares = [part[step] for part in parts]
        assert len({len(share) for share in shares}) == 1, "the mean of the ranks' means must be the batch's mean"
        together = [position for share in zip(*shares, strict=True) for position in share]
        assert together[: len(whole)] == whole
        assert len(together) - len(whole) < world_size


def test_only_the_last_batch_is_filled_up():
    parts = of_all_ranks(lambda share: ShuffledBatches(range(21), 8, share, seed=3), 4)
    seen = sorted(position for part in parts for batch in part for position in batch)
    assert len(seen) == 24
    assert len(set(seen)) == 21
    assert all(len(set().union(*(part[step] for part in parts))) == 8 for step in (0, 1))


def test_each_pass_has_a_shuffle_of_its_own_and_the_ranks_agree_on_it():
    first, second = (ShuffledBatches(range(40), 10, Share(rank, 2), seed=5) for rank in range(2))
    passes = [[sorted(flat(pair)) for pair in zip(first, second, strict=True)] for _ in range(3)]
    assert len({str(batches) for batches in passes}) == 3
    assert all(sorted(flat(batches)) == list(range(40)) for batches in passes)


def test_one_process_shuffles_as_torch_does():
    torch.manual_seed(7)
    ours = list(ShuffledBatches(range(30), 8, Share(), seed=None))
    torch.manual_seed(7)
    assert ours == list(BatchSampler(RandomSampler(range(30)), 8, drop_last=False))


def test_chosen_positions_are_shuffled_and_no_others():
    batches = list(ShuffledBatches(range(30), 4, Share(), seed=1, positions=[3, 5, 8, 21, 29]))
    assert [len(batch) for batch in batches] == [4, 1]
    assert sorted(flat(batches)) == [3, 5, 8, 21, 29]
    assert list(ShuffledBatches(range(30), 4, Share(), seed=1, positions=[])) == []


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match=r"data\.batch_size.*multiple of their number, 3, but 8 came"):
        ShuffledBatches(range(30), 8, Share(0, 3), seed=1)


def test_several_processes_without_a_common_seed_are_refused():
    with pytest.raises(ConfigError, match="shared by the 2 processes"):
        ShuffledBatches(range(30), 8, Share(0, 2), seed=None)


@given(records=st.integers(1, 60), size=st.integers(1, 9), world_size=st.integers(1, 4))
def test_evaluation_sees_every_record_once_in_as_many_batches_on_every_process(records, size, world_size):
    if records < world_size:
        with pytest.raises(ConfigError, match="cannot share"):
            EvaluationBatches(range(records), size, Share(0, world_size))
        return
    parts = of_all_ranks(lambda share: EvaluationBatches(range(records), size, share), world_size)
    assert len({len(part) for part in parts}) == 1
    assert len(EvaluationBatches(range(records), size, Share(0, world_size))) == len(parts[0])
    for rank, part in enumerate(parts):
        assert flat(part) == list(range(records))[rank::world_size]
        assert all(0 < len(batch) <= (size if size > 1 else 2) for batch in part)


def test_one_process_fills_its_batches_in_evaluation():
    assert [len(batch) for batch in EvaluationBatches(range(9), 4, Share())] == [4, 4, 1]
