"""The energy rule for coarse, extreme and degenerate features, and the directions that InfLoRA designs with."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.features import FeatureFactor
from pvision.continual.subspace import LayerSubspace
from pvision.errors import ConfigError, DataError

DIM = 48


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def turn(dim=DIM, seed=9):
    return torch.linalg.qr(normal(dim, dim, seed=seed)).Q


def spectrum(strengths, *, count=200, seed=3):
    """Feature vectors ``(count, dim)`` whose singular values are exactly ``strengths``."""
    dim = len(strengths)
    left = torch.linalg.qr(normal(count, dim, seed=seed)).Q
    return left * torch.as_tensor(strengths, dtype=torch.float64) @ turn(dim)


def shared_tasks():
    """Three experiences: the first uses 11 directions, each further one 6 of these and 5 new ones."""
    directions = turn().T
    chosen = [list(range(11)), [*range(6), *range(11, 16)], [*range(6), *range(16, 21)]]
    return [normal(300, 11, seed=t) @ directions[columns] for t, columns in enumerate(chosen)]


def defect(basis):
    return float((basis.T @ basis - torch.eye(basis.shape[1], dtype=basis.dtype)).abs().max()) if basis.numel() else 0.0


# Coarse and extreme features


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("share", [0.9, 0.98])
def test_features_of_little_precision_and_no_strong_direction_are_held_all_the_same(dtype, share):
    """Each of 400 directions is 1/20 of the whole, less than the rounding of bfloat16; together they are all of it."""
    features = turn(400).to(dtype)
    subspace = LayerSubspace(400)
    assert abs(subspace.update(features, energy=share) - share * 400) <= 2
    held_energy = (features.double() @ subspace.basis()).square().sum() / features.double().square().sum()
    assert float(held_energy) >= share


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_coarse_features_is_no_direction(dtype):
    subspace = LayerSubspace(DIM)
    assert subspace.update(shared_tasks()[0].to(dtype), energy=1.0) <= 11
    assert subspace.update(shared_tasks()[0], energy=0.99) == 0


@pytest.mark.parametrize("scale", [1e-250, 1e-160, 1e160, 1e250])
def test_features_whose_squares_overflow_or_vanish_are_held(scale):
    features = spectrum([1.0, 0.5, 0.1, 1e-3])
    subspace = LayerSubspace(4)
    assert subspace.update(features * scale, energy=0.999) == LayerSubspace(4).update(features, energy=0.999) == 3
    assert subspace.update(features * scale, energy=1.0) == 1


def reference_rank(features, inside, share):
    """The rule in numpy's extended precision, from the definition: as few as hold the share, with what M holds."""
    rows, memory = features.numpy().astype(np.longdouble), inside.numpy().astype(np.longdouble)
    kept = rows @ memory @ memory.T
    strengths = np.linalg.svd((rows - kept).astype(np.float64), compute_uv=False).astype(np.longdouble)
    missing = share * (rows**2).sum() - (kept**2).sum()
    return 0 if missing <= 0 else 1 + int(np.searchsorted(np.cumsum(strengths**2), missing))


@given(dim=st.integers(1, 12), count=st.integers(1, 20), share=st.floats(0.05, 0.999), seed=st.integers(0, 999))
def test_the_rank_is_that_of_the_definition_for_the_first_and_for_later_experiences(dim, count, share, seed):
    subspace = LayerSubspace(dim)
    for experience in range(3):
        features = normal(count, dim, seed=seed + experience) * 0.5 ** torch.arange(dim)
        expected = reference_rank(features, subspace.basis(), share)
        assert subspace.update(features, energy=share) == expected


# What InfLoRA designs with


@pytest.mark.parametrize("compact", [False, True])
def test_the_strongest_directions_outside_are_those_of_the_projected_gram_matrix(compact):
    subspace, (first, second, _) = LayerSubspace(DIM, compact=compact), shared_tasks()
    subspace.update(first, energy=1.0)
    moments = FeatureFactor(DIM)
    moments.add(second)
    found = subspace.strongest_outside(moments, 5)
    inside = subspace.basis()
    projected = second.T @ second - inside @ (inside.T @ second.T @ second)
    left = torch.linalg.svd(projected)[0][:, :5]
    assert (found.T @ left).abs().diagonal().min() >= 1 - 1e-10
    assert defect(found) <= 1e-12
    assert float((first @ found).abs().max()) <= 1e-12 * float(first.abs().max()) * DIM
    assert subspace.rank == 11, "the memory is as it was"


def test_no_more_directions_than_there_are_outside():
    subspace = LayerSubspace(5)
    assert subspace.strongest_outside(normal(9, 5), 3).shape == (5, 3)
    subspace.update(normal(3, 5), energy=1.0)
    assert subspace.strongest_outside(normal(9, 5), 4).shape == (5, 2)
    with pytest.raises(ConfigError, match="count"):
        subspace.strongest_outside(normal(9, 5), 0)
    with pytest.raises(DataError, match="5 entries"):
        subspace.strongest_outside(normal(9, 4), 1)
