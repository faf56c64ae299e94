"""Classifier alignment, and the class statistics that it draws from."""

import copy
from typing import Any

import pytest
import torch
from small_methods import SmallData, experience, small_vit
from torch import Tensor

from pvision.adapters.methods import ContinualMethod
from pvision.adapters.methods.alignment import ClassifierAlignment, add_class_statistics
from pvision.continual.class_statistics import ClassStatistics
from pvision.continual.cosine_head import CosineHead
from pvision.continual.head import IncrementalHead
from pvision.errors import ConfigError

QUICK = ClassifierAlignment(samples_per_class=64, steps=60, batch_size=64)


def make(classes: int = 4) -> tuple[Tensor, Tensor, ClassStatistics]:
    """Return features around a point for each class, their labels, and their statistics."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(200) % classes
    centres = 2 * torch.randn(classes, 8, generator=generator, dtype=torch.float64)
    features = centres[label] + 0.5 * torch.randn(200, 8, generator=generator, dtype=torch.float64)
    statistics = ClassStatistics(8)
    statistics.add(features, label)
    return features, label, statistics


def grown(head: IncrementalHead) -> IncrementalHead:
    torch.manual_seed(0)
    head.grow([0, 1])
    head.grow([3, 2])
    return head.double()


@pytest.mark.parametrize("kind", [IncrementalHead, CosineHead])
def test_heads_learn_classes_that_they_never_saw_together(kind: Any) -> None:
    features, label, statistics = make()
    head = grown(kind(8))
    assert (head.predictions(head(features)) == label).double().mean() < 0.8
    QUICK.align(head, statistics, seed=0)
    assert (head.predictions(head(features)) == label).double().mean() > 0.95


def test_the_seed_decides_and_nothing_else_does() -> None:
    _, _, statistics = make()
    heads = [grown(IncrementalHead(8)) for _ in range(3)]
    for head, seed in zip(heads, (0, 0, 1), strict=True):
        torch.rand(seed + 1)  # the global generator has no part in it
        QUICK.align(head, statistics, seed=seed)
    first, again, other = (head.layers[0].weight for head in heads)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    state = torch.get_rng_state()
    QUICK.align(heads[0], statistics, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_frozen_stays_frozen_and_classes_without_statistics_are_left_out() -> None:
    _, _, statistics = make()
    statistics.forget([2])
    head = grown(IncrementalHead(8))
    head.train_only([0])
    before = copy.deepcopy(head)
    QUICK.align(head, statistics, seed=0)
    assert [one.requires_grad for one in head.parameters()] == [one.requires_grad for one in before.parameters()]
    assert torch.equal(head.layers[1].weight[1], before.layers[1].weight[1])
    assert not torch.equal(head.layers[1].weight[0], before.layers[1].weight[0])


def test_statistics_of_a_class_that_comes_again_are_those_of_all_its_records() -> None:
    method = ContinualMethod(small_vit())
    parts = [SmallData(experience(0), size=size) for size in (8, 14)]
    apart, together = ClassStatistics(64), ClassStatistics(64)
    for part in parts:
        add_class_statistics(apart, method, part)
        with torch.no_grad():
            method.eval()
            together.add(method.features(part.image), part.label)
    for label in (0, 1):
        assert apart.count(label) == together.count(label)
        assert torch.allclose(apart.mean(label), together.mean(label))
        assert torch.allclose(apart.covariance(label), together.covariance(label), atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples_per_class": 0}, "alignment.samples_per_class"),
        ({"steps": 1.5}, "alignment.steps"),
        ({"batch_size": 0}, "alignment.batch_size"),
        ({"lr": 0.0}, "alignment.lr"),
        ({"shrinkage": 1.5}, "alignment.shrinkage must be at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassifierAlignment(**settings)
