"""ε of Poisson samples against dp-accounting called directly, closed forms and published anchors."""

import logging
import math

import pytest
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant
from scipy.special import log_ndtr

from pvision.errors import ConfigError
from pvision.privacy import affordable_steps, epsilon, noise_multiplier_for
from pvision.privacy.accounting import epsilons as accounting
from pvision.privacy.accounting import grid as accounting_grid

RELATIONS = {
    "zero_out": NeighboringRelation.REPLACE_SPECIAL,
    "replace": NeighboringRelation.REPLACE_ONE,
    "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
}

# sample_rate, noise_multiplier, steps, ε of zero_out = add_remove, ε of replace, RDP's ε; all at δ = 1e-5.
ANCHORS = [
    (256 / 10000, 1.0, 781, 4.5143, 7.1953, 5.0062),
    (512 / 10000, 2.0, 781, 3.3151, 6.6560, 3.6115),
    (4096 / 50000, 3.0, 1099, 4.0955, 8.8147, 4.4405),
    (256 / 7000, 1.5, 820, 3.4740, 6.5315, 3.7966),
    (0.01, 1.0, 5000, 4.2019, 7.1463, 4.5890),
    (0.004, 0.7, 2000, 2.5953, 3.1520, 3.2846),
    (0.5, 8.0, 100, 2.5968, 5.6666, 2.8228),
    (0.125, 1.0, 40, 5.7882, None, 6.5941),
    (0.125, 1.0, 8, 3.1747, None, 3.7937),
    (0.125, 1.0, 48, 6.2711, None, 7.1092),
]

# μ of the Gaussian mechanism that √T full-batch steps make, and its exact ε at δ = 1e-5.
GAUSSIAN_ANCHORS = [
    (math.sqrt(20), 28.3735),
    (math.sqrt(40) / 2, 17.8566),
    (math.sqrt(90) / 3, 17.8566),
    (math.sqrt(30) / 1.5, 21.5801),
    (math.sqrt(50), 54.3766),
    (2 * math.sqrt(20), 77.3301),
]

# What the Gaussian-CLT accountant reports: too little, everywhere.
TOO_LOW = [(256 / 10000, 1.0, 781, 4.064), (0.01, 1.0, 5000, 4.010), (0.004, 0.7, 2000, 1.829), (0.5, 8.0, 100, 2.571)]

GOOD = {"noise_multiplier": 5.0, "sample_rate": 0.1, "steps": 10, "delta": 1e-5, "relation": "zero_out"}


@pytest.fixture(autouse=True)
def _quiet():
    # dp-accounting says which RDP orders it left out; harmless, and long.
    logging.getLogger("absl").setLevel(logging.ERROR)


def event(noise_multiplier, sample_rate, steps):
    release = dp_event.GaussianDpEvent(noise_multiplier)
    if sample_rate != 1:
        release = dp_event.PoissonSampledDpEvent(sample_rate, release)
    return dp_event.SelfComposedDpEvent(release, steps)


def direct(noise_multiplier, sample_rate, steps, relation):
    accountant = PLDAccountant(RELATIONS[relation], value_discretization_interval=1e-4)
    accountant.compose(event(noise_multiplier, sample_rate, steps))
    return accountant.get_epsilon


def ours(noise_multiplier, sample_rate, steps, delta=1e-5, relation="zero_out", **more):
    return epsilon(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
        delta=delta,
        relation=relation,
        **more,
    )


def gaussian_delta(eps, mu):
    """δ(ε) of the Gaussian mechanism with shift μ, exact."""
    return math.exp(log_ndtr(mu / 2 - eps / mu)) - math.exp(eps + log_ndtr(-mu / 2 - eps / mu))


def gaussian_epsilon(mu, delta):
    low, high = 0.0, mu * mu / 2 + 40 * mu
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > delta else (low, middle)
    return high


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("sample_rate", "noise", "steps"), [(1.0, 3.0, 7), (0.2, 2.5, 30), (0.02, 1.3, 100)])
def test_each_relation_agrees_with_dp_accounting(relation, sample_rate, noise, steps):
    for delta in (1e-4, 1e-6):
        theirs = direct(noise, sample_rate, steps, relation)(delta)
        assert ours(noise, sample_rate, steps, delta, relation) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(("sample_rate", "noise", "steps", "zero_out", "replace", "rdp"), ANCHORS)
def test_the_anchors_hold(sample_rate, noise, steps, zero_out, replace, rdp):
    claimed = ours(noise, sample_rate, steps)
    assert claimed == pytest.approx(zero_out, abs=1e-4)
    assert ours(noise, sample_rate, steps, accountant="rdp") == pytest.approx(rdp, abs=5e-3)
    if replace is not None:
        assert ours(noise, sample_rate, steps, relation="replace") == pytest.approx(replace, abs=1e-4)


@pytest.mark.parametrize(("sample_rate", "noise", "steps", "too_low"), TOO_LOW)
def test_the_gaussian_limit_would_claim_too_little(sample_rate, noise, steps, too_low):
    assert ours(noise, sample_rate, steps) > too_low + 0.02


@pytest.mark.parametrize(("mu", "exact"), GAUSSIAN_ANCHORS)
def test_the_closed_form_of_these_tests_is_right(mu, exact):
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize(("noise", "steps"), [(4.0, 1), (8.0, 20), (10.77, 60), (28.9, 60)])
@pytest.mark.parametrize("delta", [1e-4, 1e-6])
def test_full_batches_agree_with_the_exact_gaussian_mechanism(noise, steps, delta):
    mu = math.sqrt(steps) / noise
    for relation, shift in (("zero_out", mu), ("add_remove", mu), ("replace", 2 * mu)):
        claimed, exact = ours(noise, 1.0, steps, delta, relation), gaussian_epsilon(shift, delta)
        assert exact - 1e-6 <= claimed <= exact + 2e-3


@pytest.mark.parametrize(("sample_rate", "noise", "steps"), [(0.3, 4.0, 50), (0.01, 2.0, 300), (1.0, 6.0, 10)])
def test_the_relations_and_accountants_are_ordered(sample_rate, noise, steps):
    zero_out = ours(noise, sample_rate, steps)
    assert ours(noise, sample_rate, steps, relation="add_remove") == pytest.approx(zero_out, abs=1e-9)
    assert ours(noise, sample_rate, steps, relation="replace") > zero_out * 1.2
    assert ours(noise, sample_rate, steps, accountant="rdp") > zero_out


def test_rdp_agrees_with_dp_accounting():
    for relation in ("zero_out", "add_remove"):
        accountant = RdpAccountant(neighboring_relation=RELATIONS[relation])
        accountant.compose(event(3.0, 0.1, 50))
        claimed = ours(3.0, 0.1, 50, relation=relation, accountant="rdp")
        assert claimed == pytest.approx(accountant.get_epsilon(1e-5), abs=1e-9)


def test_rdp_covers_replacing_only_without_sampling():
    exchanged = ours(10.0, 1.0, 5, relation="replace", accountant="rdp")
    assert exchanged > ours(10.0, 1.0, 5, relation="replace")
    assert exchanged == ours(5.0, 1.0, 5, accountant="rdp")
    with pytest.raises(ConfigError, match="accountant 'rdp' has no bound for relation 'replace' under sampling"):
        ours(10.0, 0.9, 5, relation="replace", accountant="rdp")


def test_epsilon_of_no_steps_is_zero_and_of_hardly_any_noise_infinite():
    assert ours(5.0, 0.1, 0) == 0.0
    assert ours(0.9e-3, 0.1, 1) == math.inf
    assert ours(1e-300, 1.0, 1, accountant="rdp") == math.inf


@pytest.mark.parametrize(
    "extreme",
    [{"noise_multiplier": 1e308}, {"sample_rate": 1e-320}, {"delta": 1e-300}, {"delta": 1 - 1e-12}, {"steps": 2**62}],
    ids=str,
)
def test_extreme_values_give_a_number_or_infinity(extreme):
    assert epsilon(**{**GOOD, **extreme}) >= 0


@pytest.mark.parametrize("delta", [1e-11, 1e-13, 1e-14, 1e-16, 1e-100, 1e-300])
@pytest.mark.parametrize(("noise", "steps"), [(20.0, 50), (3.0, 1)])
def test_a_tiny_delta_gets_an_upper_bound_near_the_exact_one(noise, steps, delta):
    # So nearly every record is drawn that the exact Gaussian mechanism is what must come out, on the grid all the same.
    exact = gaussian_epsilon(math.sqrt(steps) / noise, delta)
    assert exact * (1 - 1e-6) <= ours(noise, 1 - 1e-13, steps, delta) <= exact * 1.005


def test_a_coarser_grid_is_still_an_upper_bound(monkeypatch):
    fine = ours(0.5, 0.5, 10)
    monkeypatch.setattr(accounting_grid, "_MAX_BUCKETS", 2e3)
    accounting._epsilon.cache_clear()
    try:
        assert fine < ours(0.5, 0.5, 10) < 1.05 * fine
    finally:
        accounting._epsilon.cache_clear()


@pytest.mark.parametrize("accountant", ["gdp", "prv", "", None, True])
def test_other_accountants_are_refused(accountant):
    with pytest.raises(ConfigError, match=r"^accountant must be one of 'pld', 'rdp', but"):
        epsilon(**GOOD, accountant=accountant)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("target", "sample_rate", "steps"), [(1.0, 1.0, 60), (0.5, 0.1, 40), (0.1, 0.05, 10)])
def test_the_noise_for_a_target_meets_it_from_below_and_hardly_more(target, sample_rate, steps, relation):
    point = {"sample_rate": sample_rate, "steps": steps, "delta": 1e-5, "relation": relation}
    noise = noise_multiplier_for(target_epsilon=target, **point)
    assert 0.995 * target <= epsilon(noise_multiplier=noise, **point) <= target
    assert epsilon(noise_multiplier=noise * 0.998, **point) > target


@pytest.mark.parametrize(
    ("target", "noise", "relation"), [(1.0, 28.90, "zero_out"), (3.0, 10.77, "zero_out"), (3.0, 21.54, "replace")]
)
def test_the_noise_of_sixty_full_batches_is_the_published_one(target, noise, relation):
    found = noise_multiplier_for(target_epsilon=target, sample_rate=1.0, steps=60, delta=1e-5, relation=relation)
    assert found == pytest.approx(noise, rel=2e-3)


def test_a_tiny_target_needs_finite_noise():
    point = {"sample_rate": 0.1, "steps": 10, "delta": 1e-5, "relation": "replace"}
    noise = noise_multiplier_for(target_epsilon=1e-9, **point)
    assert math.isfinite(noise)
    assert epsilon(noise_multiplier=noise, **point) <= 1e-9


@pytest.mark.parametrize("budget", [0.01, 0.15, 0.3, 5.0])
def test_the_affordable_steps_are_exact(budget):
    point = {"noise_multiplier": 25.0, "sample_rate": 0.5, "delta": 1e-5, "relation": "zero_out"}
    fitting = [steps for steps in range(1, 31) if epsilon(steps=steps, **point) <= budget]
    assert affordable_steps(budget=budget, steps=30, **point) == len(fitting)


def test_the_cases_of_affordable_steps_are_none_some_and_all():
    point = {"noise_multiplier": 25.0, "sample_rate": 0.5, "steps": 30, "delta": 1e-5, "relation": "zero_out"}
    counts = [affordable_steps(budget=budget, **point) for budget in (0.01, 0.15, 0.3, 5.0)]
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2] < 30
    assert counts[3] == 30


def test_a_missing_dp_accounting_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    accounting._epsilon.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'pvision\[privacy\]'"):
        epsilon(**GOOD)
