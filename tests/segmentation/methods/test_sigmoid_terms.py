"""BARM's terms against loops over pixels, and what void pixels and missing labels do to them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pvision.continual.masks import VOID
from pvision.segmentation.methods import _sigmoid_terms as terms

COLUMNS = 4
quick = settings(max_examples=25, deadline=None)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def entropy(logit: float, wanted: float) -> float:
    probability = sigmoid(logit)
    return -wanted * math.log(probability) - (1 - wanted) * math.log(1 - probability)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@st.composite
def scenes(draw: Any) -> tuple[Tensor, Tensor]:
    """Logits and labels of two small images; any label may be missing."""
    labels = draw(st.sets(st.sampled_from([0, 1, 2, 3, VOID]), min_size=1))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    places = torch.randint(0, len(labels), (2, 3, 4), generator=noise)
    return 3 * torch.randn(2, COLUMNS, 3, 4, generator=noise).double(), torch.tensor(sorted(labels))[places]


@quick
@given(scenes())
def test_binary_cross_entropy(scene: tuple[Tensor, Tensor]) -> None:
    logits, targets = scene
    each = [
        sum(entropy(float(logits[b, c, i, j]), float(targets[b, i, j] == c)) for c in range(COLUMNS))
        for b, i, j in np.ndindex(*targets.shape)
        if targets[b, i, j] != VOID
    ]
    assert float(terms.bce(logits, targets)) == pytest.approx(mean(each), rel=1e-5)


@quick
@given(scenes(), st.integers(0, COLUMNS - 1))
def test_soft_dice(scene: tuple[Tensor, Tensor], first: int) -> None:
    logits, targets = scene
    each = []
    for c in range(first, COLUMNS):
        places = [place for place in np.ndindex(*targets.shape) if targets[place] != VOID]
        likely = {(b, i, j): sigmoid(float(logits[b, c, i, j])) for b, i, j in places}
        true = [place for place in places if targets[place] == c]
        both = sum(likely[place] for place in true)
        each.append(1 - (2 * both + 1) / (sum(likely.values()) + len(true) + 1))
    assert float(terms.soft_dice(logits, targets, first=first)) == pytest.approx(mean(each), rel=1e-5)


def test_soft_dice_does_not_depend_on_how_small_a_class_is() -> None:
    def loss(side: int) -> Tensor:
        targets = torch.zeros(1, 100, 100, dtype=torch.int64)
        targets[:, :side, :side] = 1
        half_found = (targets == 1) & (torch.arange(100) % 2 == 0)
        return terms.soft_dice(torch.where(half_found, 30.0, -30.0).unsqueeze(1).repeat(1, 2, 1, 1), targets, first=1)

    assert float(loss(10)) == pytest.approx(float(loss(80)), abs=0.01)
    assert float(loss(10)) == pytest.approx(1 / 3, abs=0.01)


@quick
@given(scenes())
def test_the_background_is_lowered_on_new_classes(scene: tuple[Tensor, Tensor]) -> None:
    logits, mask = scene
    each = [
        entropy(float(logits[b, 0, i, j]), 0.0) for b, i, j in np.ndindex(*mask.shape) if mask[b, i, j] not in (0, VOID)
    ]
    assert float(terms.lowered_background(logits[:, :1], mask)) == pytest.approx(mean(each), rel=1e-5)


@quick
@given(scenes())
def test_the_background_is_kept_elsewhere(scene: tuple[Tensor, Tensor]) -> None:
    logits, mask = scene
    squares = [
        max(0.0, (sigmoid(float(logits[b, 0, i, j])) - 1) ** 2 - sigmoid(float(logits[b, 0, i, j])) ** 2)
        for b, i, j in np.ndindex(*mask.shape)
        if mask[b, i, j] == 0
    ]
    assert float(terms.kept_background(logits[:, :1], mask)) == pytest.approx(mean(squares), rel=1e-5)


@quick
@given(scenes(), st.integers(1, 3))
def test_feature_distillation(scene: tuple[Tensor, Tensor], branches: int) -> None:
    old, mask = scene
    new = [old + 0.1 * (1 + place) * torch.ones_like(old) * old.flip(1) for place in range(branches)]
    wanted = 0.0
    for one in new:
        kept = (mask == 0).unsqueeze(1).numpy()
        wanted += float(np.mean((one.numpy() * kept - old.numpy() * kept) ** 2))
    found = terms.feature_distillation(new, [old] * branches, mask)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@quick
@given(scenes(), st.integers(1, 3))
def test_group_distillation(scene: tuple[Tensor, Tensor], groups: int) -> None:
    old, mask = scene
    new = [old.roll(1 + place, 0) for place in range(groups)]
    wanted = sum(
        mean([entropy(float(one[b, c, i, j]), sigmoid(float(old[b, c, i, j]))) for b, i, j in np.ndindex(*mask.shape)])
        for one in new
        for c in range(COLUMNS)
    )
    assert float(terms.group_distillation(new, [old] * groups)) == pytest.approx(wanted, rel=1e-5)


@quick
@given(scenes(), st.sampled_from([0.3, 0.7, 0.95]))
def test_pseudo_labels(scene: tuple[Tensor, Tensor], threshold: float) -> None:
    logits, targets = scene
    probabilities = logits.sigmoid()
    found = terms.pseudo_labels(targets, probabilities, threshold=threshold)
    for b, i, j in np.ndindex(*targets.shape):
        column = int(probabilities[b, :, i, j].argmax())
        sure = float(probabilities[b, column, i, j]) >= threshold
        wanted = column if targets[b, i, j] == 0 and column > 0 and sure else int(targets[b, i, j])
        assert found[b, i, j] == wanted
    assert torch.equal(found == VOID, targets == VOID)


def test_the_difference_of_squares_is_linear() -> None:
    for residual in (-9.0, -0.5, 0.0, 2.0):
        assert (sigmoid(residual) - 1) ** 2 - sigmoid(residual) ** 2 == pytest.approx(1 - 2 * sigmoid(residual))


def changed_at_void(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where((mask == VOID).unsqueeze(1), values + 5, values)


@quick
@given(scenes())
def test_void_pixels_count_in_the_groups_distillation_only(scene: tuple[Tensor, Tensor]) -> None:
    logits, mask = scene
    other, fixed = changed_at_void(logits, mask), logits.flip(1)
    assert torch.equal(terms.bce(logits, mask), terms.bce(other, mask))
    assert torch.equal(terms.soft_dice(logits, mask, first=1), terms.soft_dice(other, mask, first=1))
    for term in (terms.lowered_background, terms.kept_background):
        assert torch.equal(term(logits[:, :1], mask), term(other[:, :1], mask))
    assert torch.equal(
        terms.feature_distillation([logits], [fixed], mask), terms.feature_distillation([other], [fixed], mask)
    )
    same = torch.equal(terms.group_distillation([logits], [fixed]), terms.group_distillation([other], [fixed]))
    assert same == (not (mask == VOID).any())


@pytest.mark.parametrize("label", [0, 1, VOID])
def test_terms_without_their_pixels_are_zero_with_a_gradient_of_zero(label: int) -> None:
    logits = torch.randn(2, COLUMNS, 3, 4, requires_grad=True)
    mask = torch.full((2, 3, 4), label)
    expected = {
        terms.lowered_background: label == 1,
        terms.kept_background: label == 0,
        terms.bce: label != VOID,
        lambda values, mask: terms.feature_distillation([values], [values.detach() + 1], mask): label == 0,
    }
    for term, counts in expected.items():
        channels = logits if term is terms.bce else logits[:, :1] - 1
        loss = term(channels, mask)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert bool(loss > 0) == counts == bool(gradient.any())


def test_labels_at_the_features_size_are_the_nearest_ones() -> None:
    mask = torch.randint(0, 256, (2, 8, 12))
    features = torch.empty(2, 3, 4, 6)
    assert torch.equal(terms.at_features(mask, features), mask[:, ::2, ::2])
    assert terms.at_features(mask, torch.empty(2, 3, 3, 5)).dtype == torch.int64


def gradients(images: slice = slice(None)) -> list[float]:
    """Return the gradients of all terms; background and void lie as unevenly among the images as they can."""
    noise = torch.Generator().manual_seed(4)
    logits = torch.randn(3, COLUMNS, 4, 4, generator=noise)[images]
    mask = torch.tensor([0, 1, VOID]).view(3, 1, 1).repeat(1, 4, 4)
    mask[1, 0, 0], mask[1, 1] = 0, VOID
    mask = mask[images]
    weight = torch.ones((), requires_grad=True)
    now, then = [logits * weight, 2 * logits * weight], [logits + 0.5, logits]
    found = [
        terms.bce(now[0], mask),
        terms.lowered_background(now[0][:, :1], mask),
        terms.kept_background(now[0][:, :1], mask),
        terms.feature_distillation(now, then, mask),
        terms.group_distillation(now, then),
        terms.soft_dice(now[0], mask, first=1),
    ]
    return [float(torch.autograd.grad(one, weight, retain_graph=True)[0]) for one in found]


def on_rank_gradients(rank: int) -> list[float]:
    return gradients(slice(0, 1) if rank == 0 else slice(1, 3))


def test_the_mean_of_two_processes_gradients_is_that_of_the_whole_batch(ranks: Any) -> None:
    answers = ranks(on_rank_gradients, 2)
    assert [state for state, _ in answers] == ["returned", "returned"]
    assert np.mean([found for _, found in answers], axis=0) == pytest.approx(gradients(), rel=1e-5)
    alone = np.mean([gradients(slice(0, 1)), gradients(slice(1, 3))], axis=0)
    assert (abs(alone - gradients()) > 1e-3).all()  # so would means of each process' own pixels
