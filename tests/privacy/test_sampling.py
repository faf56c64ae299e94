"""Who joins a batch: everyone with the same probability, independently, and nobody else decides."""

import math
import random

import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader

from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PoissonBatches


def inclusions(batches):
    """One row per batch, one column per record."""
    table = torch.zeros(batches.steps, batches.units.count)
    for step, batch in enumerate(batches):
        table[step, batch] = 1
    return table


def correlation(one, other):
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].item()


@pytest.mark.parametrize("sample_rate", [0.01, 0.3, 0.9])
def test_every_record_joins_with_the_stated_probability(sample_rate):
    steps, records = 2000, 200
    table = inclusions(PoissonBatches(num_records=records, sample_rate=sample_rate, steps=steps, seed=0))
    deviation = math.sqrt(sample_rate * (1 - sample_rate) / steps)
    shares = table.mean(0)
    assert (shares - sample_rate).abs().max().item() < 4.5 * deviation
    assert shares.mean().item() == pytest.approx(sample_rate, abs=4 * deviation / math.sqrt(records))


def test_batch_sizes_are_binomial():
    table = inclusions(PoissonBatches(num_records=50, sample_rate=0.1, steps=4000, seed=3))
    sizes = table.sum(1).long()
    counts = torch.bincount(sizes, minlength=51)[:12].double()
    expected = torch.tensor([4000 * stats.binom.pmf(k, 50, 0.1) for k in range(12)], dtype=torch.float64)
    expected *= counts.sum() / expected.sum()
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_records_and_batches_are_independent():
    table = inclusions(PoissonBatches(num_records=100, sample_rate=0.2, steps=2000, seed=2))
    limit = 3 / math.sqrt(table.numel())
    assert abs(correlation(table[:, :-1], table[:, 1:])) < limit
    assert abs(correlation(table[:-1], table[1:])) < limit


def test_two_samplers_under_one_global_seed_are_independent():
    tables = []
    for _ in range(2):
        torch.manual_seed(7)
        random.seed(7)
        tables.append(inclusions(PoissonBatches(num_records=200, sample_rate=0.3, steps=500)))
    assert abs(correlation(*tables)) < 4.5 / math.sqrt(tables[0].numel())  # drawn anew in every run of this test


def test_the_check_of_independence_can_fail():
    same = [inclusions(PoissonBatches(num_records=200, sample_rate=0.3, steps=500, seed=7)) for _ in range(2)]
    assert correlation(*same) == pytest.approx(1)


def test_sampling_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    list(PoissonBatches(num_records=10, sample_rate=0.5, steps=3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_empty_batches_are_batches():
    batches = PoissonBatches(num_records=10, sample_rate=0.03, steps=500, seed=0)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 500
    assert 300 < sum(not batch for batch in drawn) < 430


def test_a_rate_of_one_takes_every_record_in_order():
    assert list(PoissonBatches(num_records=5, sample_rate=1.0, steps=2)) == [[0, 1, 2, 3, 4]] * 2


def test_batches_are_confirmed_in_the_order_in_which_they_were_drawn():
    batches = PoissonBatches(num_records=20, sample_rate=0.5, steps=4, seed=0)
    drawn = list(batches)  # as a loader does that reads ahead
    with pytest.raises(PrivacyError, match=f"A batch of {len(drawn[1])} records came"):
        batches.confirm(drawn[1])
    for batch in drawn:
        batches.confirm(torch.tensor(batch))
    with pytest.raises(PrivacyError, match="do not replace, shuffle, wrap or shard the loader"):
        batches.confirm(drawn[-1])


def test_a_new_pass_forgets_the_old_one():
    batches = PoissonBatches(num_records=20, sample_rate=0.5, steps=2, seed=0)
    old, new = list(batches), list(batches)
    assert old != new
    with pytest.raises(PrivacyError):
        batches.confirm(old[0])
    batches.confirm(new[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_what_was_drawn(workers):
    batches = PoissonBatches(num_records=30, sample_rate=0.2, steps=8, seed=3)
    loader = DataLoader(_Positions(), sampler=batches, batch_size=None, num_workers=workers)
    for batch in loader:
        batches.confirm(batch)
    assert len(loader) == 8


class _Positions(torch.utils.data.Dataset):
    def __getitem__(self, indices):
        return torch.tensor(indices, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_records", 0), ("num_records", 1.5), ("sample_rate", 0), ("sample_rate", 1.01), ("steps", 0), ("steps", "5")],
)
def test_wrong_arguments_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be"):
        PoissonBatches(**{"num_records": 10, "sample_rate": 0.5, "steps": 5, name: value})
