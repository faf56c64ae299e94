"""ε of Poisson samples against Opacus' PRV and RDP accountants, which share no code with ours.

Both come with Opacus: PRV gives a lower bound, an estimate and an upper bound, RDP a looser upper bound.
"""

import functools
import logging
import warnings
from itertools import product

import pytest

from pvision.privacy import epsilon

SMALL = list(product((0.3, 0.05, 0.01), (1.5, 4.0, 12.0), (1, 40)))  # times two δ: 36 points
LARGE = list(product((1.0, 0.1, 0.03, 0.01), (7.0, 12.0, 20.0), (1, 8, 40, 150)))  # times five δ: 240 points
HARDER = [(0.125, 1.0, 8), (0.05, 0.8, 30), (0.005, 0.8, 300), (0.02, 1.0, 200)]  # little noise


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("absl").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus' advice about its orders, and its imports
        yield


def ours(sample_rate, noise, steps, delta):
    return epsilon(noise_multiplier=noise, sample_rate=sample_rate, steps=steps, delta=delta, relation="zero_out")


def prv(sample_rate, noise, steps, delta, error):
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, sample_rate, steps)]
    composed = accountant._get_dprv(eps_error=error, delta_error=delta * 1e-6)
    # Where δ alone covers everything, Opacus goes below 0.
    return tuple(max(0.0, bound) for bound in composed.compute_epsilon(delta, delta * 1e-6, error))


@functools.cache
def rdp(sample_rate, noise, steps, delta):
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise, sample_rate, steps)]
    return max(0.0, accountant.get_epsilon(delta))


def agrees(claimed, bounds):
    low, estimate, high = bounds
    inside = low * (1 - 1e-3) <= claimed <= high * (1 + 1e-3)
    # Below, PRV's own error, an absolute one, is more than a thousandth.
    return inside and (estimate < 0.1 or abs(claimed / estimate - 1) <= 1e-3)


@pytest.mark.parametrize(("sample_rate", "noise", "steps"), SMALL + HARDER)
def test_pld_agrees_with_prv_and_rdp_lies_above(sample_rate, noise, steps):
    for delta in (1e-4, 1e-6):
        claimed = ours(sample_rate, noise, steps, delta)
        bounds = prv(sample_rate, noise, steps, delta, 1e-3)
        assert agrees(claimed, bounds), (claimed, bounds)
        assert rdp(sample_rate, noise, steps, delta) >= bounds[1]


@pytest.mark.slow
def test_the_large_grid_agrees_too():
    points = 0
    for (sample_rate, noise, steps), delta in product(LARGE, (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)):
        claimed, bounds = ours(sample_rate, noise, steps, delta), prv(sample_rate, noise, steps, delta, 0.01)
        assert agrees(claimed, bounds), (sample_rate, noise, steps, delta, claimed, bounds)
        assert rdp(sample_rate, noise, steps, delta) >= bounds[1]
        points += 1
    assert points >= 200


@pytest.mark.parametrize("wrong", [(0.125, 1.0, 9), (0.125 * 1.002, 1.0, 8), (0.125, 0.998, 8)])
def test_the_comparison_sees_one_step_or_two_per_mille(wrong):
    bounds = prv(0.125, 1.0, 8, 1e-5, 1e-3)
    assert agrees(ours(0.125, 1.0, 8, 1e-5), bounds)
    assert not agrees(ours(*wrong, 1e-5), bounds)
