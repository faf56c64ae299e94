"""The softmax methods' terms against loops over pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pvision.continual.masks import VOID
from pvision.segmentation.methods import _softmax_terms as terms

COLUMNS, OLD = 5, 3
quick = settings(max_examples=25)


def softmax(logits: Tensor) -> Any:
    exponents = np.exp(logits.numpy())
    return exponents / exponents.sum(axis=0)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@st.composite
def scenes(draw: Any, among: tuple[int, ...] = (0, 1, 2, 3, 4, VOID)) -> tuple[Tensor, Tensor]:
    """Logits and targets of two small images; any label may be missing, and all may be void."""
    labels = draw(st.sets(st.sampled_from(among), min_size=1))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    places = torch.randint(0, len(labels), (2, 3, 4), generator=noise)
    return 3 * torch.randn(2, COLUMNS, 3, 4, generator=noise).double(), torch.tensor(sorted(labels))[places]


def pixels(targets: Tensor) -> list[tuple[int, int, int]]:
    return [place for place in np.ndindex(*targets.shape) if targets[place] != VOID]


@quick
@given(scenes())
def test_cross_entropy(scene: tuple[Tensor, Tensor]) -> None:
    logits, targets = scene
    each = [-np.log(softmax(logits[b, :, i, j])[targets[b, i, j]]) for b, i, j in pixels(targets)]
    assert float(terms.cross_entropy(logits, targets)) == pytest.approx(mean(each), rel=1e-6)


@quick
@given(scenes())
def test_unbiased_cross_entropy_counts_old_classes_as_background(scene: tuple[Tensor, Tensor]) -> None:
    logits, targets = scene
    each = []
    for b, i, j in pixels(targets):
        probabilities, label = softmax(logits[b, :, i, j]), int(targets[b, i, j])
        each.append(-np.log(probabilities[:OLD].sum() if label < OLD else probabilities[label]))
    assert float(terms.unbiased_cross_entropy(logits, targets, old=OLD)) == pytest.approx(mean(each), rel=1e-6)


@quick
@given(scenes())
def test_distillation_is_over_old_columns_and_void_pixels_too(scene: tuple[Tensor, Tensor]) -> None:
    logits, old = scene[0], scene[0].flip(0)[:, :OLD]
    each = [
        -(softmax(old[b, :, i, j]) * np.log(softmax(logits[b, :OLD, i, j]))).sum() / OLD
        for b, i, j in np.ndindex(2, 3, 4)
    ]
    assert float(terms.distillation(logits, old)) == pytest.approx(mean(each), rel=1e-6)


@quick
@given(scenes())
def test_unbiased_distillation_counts_new_classes_as_background(scene: tuple[Tensor, Tensor]) -> None:
    logits, old = scene[0], scene[0].flip(0)[:, :OLD]
    each = []
    for b, i, j in np.ndindex(2, 3, 4):
        probabilities = softmax(logits[b, :, i, j])
        merged = np.array([probabilities[0] + probabilities[OLD:].sum(), *probabilities[1:OLD]])
        each.append(-(softmax(old[b, :, i, j]) * np.log(merged)).sum() / OLD)
    assert float(terms.unbiased_distillation(logits, old)) == pytest.approx(mean(each), rel=1e-6)


@quick
@given(scenes())
def test_void_pixels_have_no_gradient(scene: tuple[Tensor, Tensor]) -> None:
    logits, targets = scene
    logits.requires_grad_(True)
    (terms.cross_entropy(logits, targets) + terms.unbiased_cross_entropy(logits, targets, old=OLD)).backward()
    moved = logits.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, targets != VOID)
