"""Local POD, uncertainties and their medians against loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pvision.errors import ConfigError
from pvision.segmentation.methods import _feature_terms as terms
from pvision.segmentation.methods._uncertainty import UncertaintyCounts, uncertainty


def looped_strips(values: np.ndarray) -> np.ndarray:
    found = []
    for scale in (1, 2, 4):
        rows, columns = values.shape[1] // scale, values.shape[2] // scale
        if rows == 0 or columns == 0:
            continue
        for i in range(scale):
            for j in range(scale):
                cell = values[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
                found += [cell.mean(axis=2).ravel(), cell.mean(axis=1).ravel()]
    return np.concatenate(found)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_local_pod_is_the_distance_of_pooled_squares(height: int, width: int, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    new, old = torch.randn(2, 3, 2, height, width, generator=noise, dtype=torch.float64)
    each = [
        np.linalg.norm(looped_strips(now.numpy() ** 2) - looped_strips(then.numpy() ** 2))
        for now, then in zip(new, old, strict=True)
    ]
    assert float(terms.local_pod(new, old)) == pytest.approx(np.mean(each), rel=1e-6)


def test_equal_features_have_no_loss_and_a_finite_gradient() -> None:
    new = torch.randn(2, 3, 6, 6, requires_grad=True)
    terms.local_pod(new, new.detach().clone()).backward()
    assert new.grad is not None
    assert not new.grad.any()


def test_half_precision_features_do_not_overflow() -> None:
    large = torch.full((1, 2, 4, 4), 1000.0, dtype=torch.float16)
    assert terms.local_pod(large, large / 2).isfinite()


def test_mean_squared_change() -> None:
    new, old = torch.randn(2, 2, 3, 4, 4)
    assert float(terms.mean_squared_change(new, old)) == pytest.approx(float(((new - old) ** 2).mean()), rel=1e-6)


def test_a_network_without_levels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Conv2d\) has no levels"):
        terms.levels_of(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 4, 4))


def test_uncertainty_is_the_mean_entropy_over_two_logarithms() -> None:
    probabilities = torch.randn(2, 4, 3, 3, dtype=torch.float64).softmax(dim=1)
    wanted = -(probabilities * probabilities.log()).sum(dim=1) / 4 / math.log(4) / math.log(6)
    torch.testing.assert_close(uncertainty(probabilities, columns=6), wanted)
    certain = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert uncertainty(certain, columns=3).item() == 0


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(1e-9, 1)), min_size=1, max_size=60))
def test_medians_are_right_to_three_per_cent(pixels: list[tuple[int, float]]) -> None:
    counts = UncertaintyCounts(4, device=torch.device("cpu"))
    for half in (pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]):
        values = torch.tensor([value for _, value in half], dtype=torch.float64)
        counts.add(values, torch.tensor([column for column, _ in half], dtype=torch.int64))
    for column, found in enumerate(counts.medians()):
        values = sorted(value for place, value in pixels if place == column)
        lower = values[(len(values) - 1) // 2] if values else 0.0
        assert found == pytest.approx(lower, rel=0.03)
