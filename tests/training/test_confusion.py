"""The confusion matrix counts every pixel of every process once, as whole numbers."""

import numpy as np
import pytest
import torch

from pvision.training.confusion import LABELS, ConfusionMatrix

SHARES = {"uneven": [(0, 5), (5, 7)], "one has none": [(0, 7), (7, 7)]}


def masks():
    random = np.random.default_rng(0)
    predicted = random.integers(0, 5, (7, 6, 6))
    truth = random.choice([0, 1, 2, 3, 4, 255], (7, 6, 6))
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def expected():
    matrix = np.zeros((LABELS, LABELS), dtype=np.int64)
    predicted, truth = masks()
    np.add.at(matrix, (truth.numpy().ravel(), predicted.numpy().ravel()), 1)
    return torch.from_numpy(matrix)


@pytest.mark.parametrize("deterministic", [False, True])
def test_counts_are_those_of_numpy(deterministic):
    metric = ConfusionMatrix()
    torch.use_deterministic_algorithms(deterministic)
    try:
        for predicted, truth in zip(*masks(), strict=True):
            metric.update(predicted, truth)
    finally:
        torch.use_deterministic_algorithms(False)
    assert metric.compute().dtype == torch.int64
    assert torch.equal(metric.compute(), expected())


def test_a_new_evaluation_begins_with_nothing_and_checkpoints_hold_no_counts():
    metric = ConfusionMatrix()
    metric.update(*masks())
    metric.reset()
    assert metric.compute().sum() == 0
    assert metric.state_dict() == {}


def count_share(rank, shares):
    metric = ConfusionMatrix()
    metric.reset()
    predicted, truth = masks()
    first, last = shares[rank]
    for place in range(first, last):  # never called on a process without images
        metric.update(predicted[place], truth[place])
    return metric.compute()


@pytest.mark.parametrize("name", SHARES)
def test_two_processes_count_together_what_one_counts(ranks, name):
    for state, found in ranks(count_share, 2, shares=SHARES[name]):
        assert state == "returned", found
        assert torch.equal(found, expected())
