"""Class statistics: those of all records, however they come, and by however many processes."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.class_statistics import ClassStatistics
from pvision.errors import ConfigError, DataError

DIM = 5


def records(count=120, *, seed=0, offset=0.0):
    made = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=made)
    rows = torch.randn(count, DIM, generator=made, dtype=torch.float64) * torch.arange(1, DIM + 1) + labels[:, None]
    return rows + offset, labels * 10


def filled(rows, labels):
    statistics = ClassStatistics(DIM)
    statistics.add(rows, labels)
    return statistics


def by_hand(rows, labels, label):
    own = rows[labels == label].numpy()
    return own.mean(0), np.cov(own, rowvar=False)


@given(cuts=st.lists(st.integers(0, 120), max_size=5))
def test_any_batches_give_numpys_mean_and_covariance(cuts):
    rows, labels = records()
    statistics = ClassStatistics(DIM)
    for part, own in zip(torch.tensor_split(rows, sorted(cuts)), torch.tensor_split(labels, sorted(cuts)), strict=True):
        statistics.add(part, own)
    assert statistics.classes == [0, 10, 20]
    for label in statistics.classes:
        mean, covariance = by_hand(rows, labels, label)
        assert statistics.count(label) == int((labels == label).sum())
        assert np.abs(statistics.mean(label).numpy() - mean).max() <= 1e-13
        assert np.abs(statistics.covariance(label).numpy() - covariance).max() <= 1e-12


def test_a_large_mean_costs_no_digits():
    """Sums of squares would: 1e8 squared leaves no digit of a variance of 1 in float64."""
    rows, labels = records(offset=1e8)
    statistics = ClassStatistics(DIM)
    for part, own in zip(rows.split(7), labels.split(7), strict=True):
        statistics.add(part, own)
    for label in statistics.classes:
        _, covariance = by_hand(rows - 1e8, labels, label)
        assert np.abs(statistics.covariance(label).numpy() - covariance).max() <= 1e-5


def test_shrinkage_keeps_the_trace_and_a_ridge_adds_to_it():
    statistics = filled(*records())
    sample = statistics.covariance(10)
    shrunk = statistics.covariance(10, shrinkage=0.3)
    assert shrunk.trace().item() == pytest.approx(sample.trace().item())
    assert torch.allclose(shrunk - torch.diag(shrunk.diagonal()), 0.7 * (sample - torch.diag(sample.diagonal())))
    even = statistics.covariance(10, shrinkage=1.0)
    assert torch.allclose(even, torch.eye(DIM, dtype=torch.float64) * sample.trace() / DIM)
    assert torch.allclose(statistics.covariance(10, ridge=0.5) - sample, 0.5 * torch.eye(DIM, dtype=torch.float64))


def test_a_class_with_one_record_has_no_spread():
    statistics = filled(torch.ones(1, DIM), torch.tensor([4]))
    assert float(statistics.covariance(4).abs().sum()) == 0
    features, labels = statistics.sample(3)
    assert torch.equal(features, torch.ones(3, DIM, dtype=torch.float64))
    assert labels.tolist() == [4, 4, 4]


def test_samples_have_the_mean_and_the_covariance():
    statistics = filled(*records())
    features, labels = statistics.sample(40_000, classes=[20, 0], generator=torch.Generator().manual_seed(1))
    assert labels.unique_consecutive().tolist() == [20, 0]
    for label in (20, 0):
        mean, covariance = by_hand(features, labels, label)
        scale = float(statistics.covariance(label).abs().max())
        assert np.abs(mean - statistics.mean(label).numpy()).max() <= 0.02 * scale
        assert np.abs(covariance - statistics.covariance(label).numpy()).max() <= 0.04 * scale


def test_samples_repeat_with_the_generator_and_of_nothing_there_are_none():
    statistics = filled(*records())
    drawn = [statistics.sample(4, ridge=1e-4, generator=torch.Generator().manual_seed(5))[0] for _ in range(2)]
    assert torch.equal(*drawn)
    features, labels = ClassStatistics(DIM).sample(4)
    assert (features.shape, labels.shape) == ((0, DIM), (0,))


def test_a_forgotten_class_is_gone_and_the_others_keep_their_bits():
    rows, labels = records()
    statistics = filled(rows, labels)
    kept = statistics.covariance(0)
    statistics.forget([10, 99])
    assert statistics.classes == [0, 20]
    assert 10 not in statistics
    assert torch.equal(statistics.covariance(0), kept)
    with pytest.raises(ConfigError, match=r"class 10.*\[0, 20\]"):
        statistics.mean(10)
    assert 10 not in statistics.state_dict()["classes"]
    statistics.add(rows, labels)
    assert statistics.count(10) == int((labels == 10).sum())


def test_the_state_comes_back_bit_for_bit_through_a_weights_only_file():
    statistics, copied = filled(*records()), ClassStatistics(DIM)
    file = io.BytesIO()
    torch.save(statistics.state_dict(), file)
    file.seek(0)
    copied.load_state_dict(torch.load(file, weights_only=True))
    for one in (statistics, copied):
        one.add(*records(seed=3))
    assert all(torch.equal(statistics.covariance(label), copied.covariance(label)) for label in (0, 10, 20))
    assert copied.nbytes == statistics.nbytes == 3 * 8 * (1 + DIM + DIM * DIM)


@pytest.mark.parametrize("spoil", ["dim", "scatter", "count", "float32"])
def test_a_damaged_state_is_refused_and_nothing_is_taken(spoil):
    statistics = filled(*records())
    state = filled(*records(seed=1)).state_dict()
    before = statistics.mean(0)
    if spoil == "dim":
        state["dim"] = 4
    elif spoil == "float32":
        state["classes"][20]["mean"] = state["classes"][20]["mean"].float()
    else:
        del state["classes"][20][spoil]
    with pytest.raises(DataError):
        statistics.load_state_dict(state)
    assert torch.equal(statistics.mean(0), before)


@pytest.mark.parametrize(
    ("features", "labels", "told"),
    [
        (torch.ones(3, 4), torch.zeros(3, dtype=torch.int64), r"\(B, 5\)"),
        (torch.ones(3, DIM), torch.zeros(2, dtype=torch.int64), r"\(2,\)"),
        (torch.ones(3, DIM), torch.zeros(3), "whole numbers"),
        (torch.full((3, DIM), torch.inf), torch.zeros(3, dtype=torch.int64), "finite"),
    ],
)
def test_wrong_features_are_refused_and_leave_nothing(features, labels, told):
    statistics = ClassStatistics(DIM)
    with pytest.raises(DataError, match=told):
        statistics.add(features, labels)
    assert statistics.classes == []


@pytest.mark.parametrize("settings", [{"shrinkage": -0.1}, {"shrinkage": 1.1}, {"ridge": -1.0}, {"ridge": True}])
def test_numbers_outside_their_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        filled(*records()).covariance(0, **settings)


def test_given_statistics_are_made_positive():
    statistics = ClassStatistics(2)
    covariance = torch.tensor([[1.0, 0.0], [0.0, -0.5]])
    statistics.put(3, count=10.5, mean=torch.tensor([1.0, 2.0]), covariance=covariance)
    assert torch.allclose(statistics.covariance(3), torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    with pytest.raises(DataError, match="count above 0"):
        statistics.put(3, count=0, mean=torch.zeros(2), covariance=covariance)


# Several processes


def statistics_of_rank(rank, sizes, together):
    rows, labels = records(sum(sizes))
    start = sum(sizes[:rank])
    own = slice(start, start + sizes[rank])
    labels = torch.where(torch.arange(sum(sizes)) == 0, 77, labels)  # a class that rank 0 alone has seen
    found = filled(rows[own], labels[own])
    found = found.together() if together else found
    return {
        label: (found.count(label), found.mean(label).numpy(), found.covariance(label).numpy())
        for label in found.classes
    }


def test_two_processes_with_unequal_shares_know_what_one_knows(ranks):
    sizes = (1000, 797)
    alone = statistics_of_rank(0, (1797,), False)
    (_, first), (_, second) = ranks(statistics_of_rank, 2, sizes=sizes, together=True)
    assert list(first) == list(second) == list(alone) == [0, 10, 20, 77]
    for label, (count, mean, covariance) in alone.items():
        assert first[label][0] == second[label][0] == count
        assert (first[label][2] == second[label][2]).all(), "the same bits on both"
        assert np.abs(first[label][1] - mean).max() <= 1e-12
        assert np.abs(first[label][2] - covariance).max() <= 1e-11


def test_without_exchange_a_process_knows_its_own_records_only(ranks):
    (_, first), (_, second) = ranks(statistics_of_rank, 2, sizes=(1000, 797), together=False)
    assert 77 not in second
    assert first[0][0] != second[0][0]
