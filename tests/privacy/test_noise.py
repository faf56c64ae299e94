import random

import numpy as np
import pytest
import torch
from scipy import stats

from pvision.privacy.noise import SecretSource


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 1, 5)])
def test_normal_numbers_take_the_form_asked_for(dtype, shape):
    draws = SecretSource().normal(torch.zeros(shape, dtype=dtype))
    assert draws.shape == shape
    assert draws.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_normal(dtype):
    draws = SecretSource(seed=0).normal(torch.zeros(1_000_000, dtype=dtype)).double()
    assert abs(draws.mean().item()) < 4e-3
    assert draws.std().item() == pytest.approx(1, rel=5e-3)
    assert stats.kstest(draws[:200_000].numpy(), "norm").pvalue > 1e-3
    assert draws.abs().max() > 4.5  # tails are not cut


def test_uniform_numbers_are_uniform_with_53_bits():
    draws = SecretSource(seed=0).uniform(200_000)
    assert draws.dtype == torch.float64
    assert 0 <= draws.min() < draws.max() < 1
    assert stats.kstest(draws.numpy(), "uniform").pvalue > 1e-3
    assert ((draws * 2**53) % 1 == 0).all()
    assert ((draws * 2**40) % 1 != 0).any()


def test_sources_are_independent_of_each_other_and_of_the_global_seed():
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  # the global generator, as seed_everything seeds it
        random.seed(0)
        source = SecretSource()
        draws += [source.uniform(100), source.normal(torch.zeros(100, dtype=torch.float64))]
    assert not any(torch.equal(one, other) for i, one in enumerate(draws) for other in draws[:i])


def test_drawing_leaves_the_global_generators_alone():
    def state():
        return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002  # see above

    before = state()
    SecretSource().normal(torch.zeros(10))
    assert state() == before


def test_a_seed_repeats_the_numbers_and_large_ones_differ_too():
    one, again, other = (SecretSource(seed=seed).uniform(5) for seed in (7, 7, 7 + 2**32))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
