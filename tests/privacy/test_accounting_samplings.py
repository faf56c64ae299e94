"""ε of the other ways to draw batches: truncated, revealed and deterministic."""

import math
from itertools import product

import mpmath
import numpy as np
import pytest

from pvision.errors import ConfigError
from pvision.privacy.accounting import affordable_steps, batches_per_cycle, epsilon, noise_multiplier_for
from pvision.privacy.accounting import exact as accounting_exact
from pvision.privacy.accounting.exact import gaussian_epsilon, revealed_poisson_epsilon

# Batches of at most so many of 10,000 records; sample_rate 0.0256, noise 1, 781 steps, δ 1e-5, on a grid of 1e-3.
TRUNCATED = [(256, 21.79), (282, 10.05), (307, 5.490), (320, 4.581), (333, 4.517), (346, 4.5146), (384, 4.5146)]

# sample_rate, noise_multiplier, steps, ε if the members of the batches are known; δ 1e-5.
REVEALED = [
    (256 / 10000, 1.0, 781, 34.4579),
    (512 / 10000, 2.0, 781, 19.5328),
    (4096 / 50000, 3.0, 1099, 18.6399),
    (256 / 7000, 1.5, 820, 24.4557),
    (0.01, 1.0, 5000, 61.8208),
    (0.004, 0.7, 2000, 35.2473),
    (0.5, 8.0, 100, 3.8843),
]

# Batches in a cycle, noise_multiplier, steps, relation, exact ε; δ 1e-5.
DETERMINISTIC = [
    (39, 1.0, 39 * 20, "zero_out", 28.3735),
    (20, 2.0, 20 * 40, "zero_out", 17.8566),
    (12, 3.0, 12 * 90, "zero_out", 17.8566),
    (27, 1.5, 27 * 30, "zero_out", 21.5801),
    (100, 1.0, 100 * 50, "zero_out", 54.3766),
    (39, 1.0, 39 * 20, "replace", 77.3301),
]

OTHERS = {
    "truncated_poisson": {"num_records": 50, "max_batch_size": 20},
    "revealed_poisson": {},
    "deterministic": {},
}


def ours(noise=5.0, sample_rate=0.1, steps=10, delta=1e-5, relation="zero_out", sampling="poisson", **more):
    return epsilon(
        noise_multiplier=noise,
        sample_rate=sample_rate,
        steps=steps,
        delta=delta,
        relation=relation,
        sampling=sampling,
        **more,
    )


def truncated(max_batch_size, noise=1.0, sample_rate=0.0256, steps=781, num_records=10_000, **more):
    sizes = {"num_records": num_records, "max_batch_size": max_batch_size}
    return ours(noise, sample_rate, steps, sampling="truncated_poisson", **sizes, **more)


class TestTruncated:
    @pytest.mark.parametrize(("max_batch_size", "anchor"), TRUNCATED)
    def test_the_anchors_hold(self, max_batch_size, anchor):
        assert truncated(max_batch_size) == pytest.approx(anchor, rel=5e-4)

    def test_the_anchor_of_replacing_holds(self):
        assert truncated(384, relation="replace") == pytest.approx(7.196, rel=5e-4)

    @pytest.mark.parametrize("relation", ["zero_out", "replace", "add_remove"])
    def test_room_for_everybody_is_no_truncation(self, relation):
        plain = ours(3.0, 0.05, 60, relation=relation)
        assert truncated(500, 3.0, 0.05, 60, 500, relation=relation) == pytest.approx(plain, rel=1e-4)
        assert truncated(500, 3.0, 0.05, 60, 500, relation=relation) >= plain - 1e-6
        assert truncated(20, 3.0, 0.05, 60, 500, relation=relation) > 1.2 * plain  # and the comparison can fail

    def test_it_bounds_what_a_cut_batch_of_two_reveals(self):
        # The other record contributes -1, ours +1; of both, one is kept at random. Without ours, or with it zeroed.
        q, noise, delta = 0.5, 1.0, 1e-3
        alone, none, both = q * (1 - q), (1 - q) ** 2, q * q
        present = {1: alone + both / 2, -1: alone + both / 2, 0: none}
        neighbours = {
            "add_remove": {-1: q, 0: 1 - q},
            "zero_out": {0: none + alone + both / 2, -1: alone + both / 2},
            "replace": {-1: 2 * alone + both, 0: none},
        }
        for relation, absent in neighbours.items():
            claimed = truncated(1, noise, q, 1, 2, delta=delta, relation=relation)
            assert hockey_stick(present, absent, noise, claimed) <= delta
            assert hockey_stick(absent, present, noise, claimed) <= delta

    def test_ignoring_the_cut_would_claim_too_little(self):
        # Ours displaces the other one nearly always, so the sum moves by two.
        q, noise, delta = 0.99, 1.0, 1e-3
        present, absent = {1: 0.99, -1: 0.01}, {-1: 1.0}
        naive = ours(noise, q, 1, delta, "add_remove")
        assert hockey_stick(present, absent, noise, naive) > delta

    @pytest.mark.parametrize("missing", ["num_records", "max_batch_size"])
    @pytest.mark.parametrize("value", [None, 0, -1, 1.5, True, "7", math.nan, 2**63])
    def test_both_sizes_are_needed(self, missing, value):
        with pytest.raises(ConfigError, match=rf"^{missing} must be a whole number"):
            ours(sampling="truncated_poisson", **{**OTHERS["truncated_poisson"], missing: value})

    def test_a_batch_cannot_be_larger_than_the_data(self):
        with pytest.raises(ConfigError, match=r"^max_batch_size must be at most num_records, 50, but 51 came"):
            ours(sampling="truncated_poisson", num_records=50, max_batch_size=51)

    @pytest.mark.parametrize("sampling", ["poisson", "revealed_poisson", "deterministic"])
    @pytest.mark.parametrize("name", ["num_records", "max_batch_size"])
    def test_nobody_else_takes_them(self, sampling, name):
        with pytest.raises(ConfigError, match=rf"^{name} must be left out under sampling '{sampling}'"):
            ours(sampling=sampling, **{name: 10})


class TestRevealed:
    @pytest.mark.parametrize(("sample_rate", "noise", "steps", "anchor"), REVEALED)
    def test_the_anchors_hold(self, sample_rate, noise, steps, anchor):
        assert ours(noise, sample_rate, steps, sampling="revealed_poisson") == pytest.approx(anchor, abs=1e-4)

    @pytest.mark.parametrize(("sample_rate", "noise", "steps"), [(0.3, 1.0, 5), (0.05, 0.7, 40), (0.9, 3.0, 12)])
    @pytest.mark.parametrize("shift", [1, 2])
    def test_it_is_the_mean_over_who_takes_part(self, sample_rate, noise, steps, shift):
        delta, rng = 1e-2, np.random.default_rng(0)
        claimed = ours(noise, sample_rate, steps, delta, ("zero_out", "replace")[shift - 1], "revealed_poisson")
        # Simulated: the privacy loss of a Gaussian release with K participations, under the one of two hypotheses.
        mu = shift * np.sqrt(rng.binomial(steps, sample_rate, size=1_000_000)) / noise
        loss = mu * rng.standard_normal(len(mu)) + mu**2 / 2
        disclosed = -np.expm1(np.minimum(claimed - loss, 0))
        error = disclosed.std() / math.sqrt(len(disclosed))
        assert abs(disclosed.mean() - delta) <= 4 * error
        assert error < delta / 20  # or nothing was compared

    @pytest.mark.parametrize(("sample_rate", "steps"), [(0.3, 4), (0.01, 60)])
    def test_it_agrees_with_direct_integration(self, sample_rate, steps):
        noise, delta = 1.2, 1e-4
        claimed = ours(noise, sample_rate, steps, delta, sampling="revealed_poisson")
        mean = sum(
            math.comb(steps, k)
            * sample_rate**k
            * (1 - sample_rate) ** (steps - k)
            * hockey_stick({math.sqrt(k): 1.0}, {0: 1.0}, noise, claimed)
            for k in range(steps + 1)
        )
        assert mean == pytest.approx(delta, rel=1e-4)

    def test_the_usual_number_of_participations_would_claim_too_little(self):
        usual = gaussian_epsilon(mu=math.sqrt(0.0256 * 781), delta=1e-5)
        assert usual < 0.9 * ours(1.0, 0.0256, 781, sampling="revealed_poisson")

    @pytest.mark.parametrize("relation", ["zero_out", "replace"])
    def test_it_lies_between_secret_and_certain_participation(self, relation):
        for noise, rate, steps in product((2.0, 6.0), (0.02, 0.5), (5, 60)):
            revealed = ours(noise, rate, steps, relation=relation, sampling="revealed_poisson")
            assert ours(noise, rate, steps, relation=relation) <= revealed
            assert revealed <= ours(noise, 1.0, steps, relation=relation, sampling="revealed_poisson")

    def test_blocks_of_counts_err_upwards_and_hardly(self, monkeypatch):
        point = {"mu": 0.01, "sample_rate": 0.3, "steps": 10**6, "delta": 1e-5}
        accounting_exact._participations.cache_clear()
        fine = revealed_poisson_epsilon(**point)
        monkeypatch.setattr(accounting_exact, "_BLOCKS", 50)
        accounting_exact._participations.cache_clear()
        try:
            assert fine < revealed_poisson_epsilon(**point) < 1.01 * fine
        finally:
            accounting_exact._participations.cache_clear()


class TestDeterministic:
    @pytest.mark.parametrize(("batches", "noise", "steps", "relation", "exact"), DETERMINISTIC)
    def test_the_exact_values_hold(self, batches, noise, steps, relation, exact):
        claimed = ours(noise, 1 / batches, steps, relation=relation, sampling="deterministic")
        assert claimed == pytest.approx(exact, abs=1e-4)

    def test_a_begun_cycle_counts_as_a_whole_one(self):
        def spent(steps):
            return ours(steps=steps, sample_rate=0.25, sampling="deterministic")

        assert spent(1) == spent(4) < spent(5) == spent(8) < spent(9)

    def test_one_batch_of_everybody_is_the_revealed_sample_of_everybody(self):
        assert ours(sample_rate=1.0, sampling="deterministic") == ours(sample_rate=1.0, sampling="revealed_poisson")

    @pytest.mark.parametrize(("rate", "batches"), [(1.0, 1), (0.5, 2), (0.3333, 3), (0.33366, 3), (1e-3, 1000)])
    def test_a_rate_of_one_over_a_whole_number_is_taken(self, rate, batches):
        assert batches_per_cycle(rate) == batches

    @pytest.mark.parametrize(
        ("rate", "nearest"), [(0.3, "1/3 or 1/4"), (0.999 / 1.01, "1/1 or 1/2"), (0.0256, "1/39 or 1/40")]
    )
    def test_any_other_rate_is_refused_with_the_nearest(self, rate, nearest):
        for call in (batches_per_cycle, lambda rate: ours(sample_rate=rate, sampling="deterministic")):
            with pytest.raises(ConfigError, match=rf"^sample_rate must be one over a whole number .* use {nearest}\.$"):
                call(rate)

    def test_a_rate_too_small_to_invert_is_refused(self):
        with pytest.raises(ConfigError, match=r"^sample_rate must be one over"):
            batches_per_cycle(5e-324)


class TestExactGaussian:
    @pytest.mark.parametrize("mu", [1e-12, 1e-6, 1e-3, 0.3, 1.0, 4.0, 30.0, 1e4])
    @pytest.mark.parametrize("delta", [1e-300, 1e-40, 1e-12, 1e-5, 1e-2, 0.5])
    def test_it_is_never_too_little_and_hardly_too_much(self, mu, delta):
        claimed = gaussian_epsilon(mu=mu, delta=delta)
        if claimed == 0:
            assert exact_delta(0, mu) <= delta
            return
        assert exact_delta(claimed, mu) <= delta
        assert exact_delta(claimed * (1 - 1e-4), mu) > delta


def exact_delta(eps, mu):
    """δ(ε) of the Gaussian mechanism, with digits enough for the difference of two nearly equal numbers."""
    with mpmath.workdps(400):
        eps, mu = mpmath.mpf(eps), mpmath.mpf(mu)

        def above(x):
            return mpmath.erfc(x / mpmath.sqrt(2)) / 2

        return above(eps / mu - mu / 2) - mpmath.exp(eps) * above(eps / mu + mu / 2)


def hockey_stick(one, other, noise, eps):
    """δ at ``eps`` between two mixtures of Gaussians, each a dictionary of means and weights, integrated."""
    x = np.linspace(-4 - 12 * noise, 10 + 12 * noise, 400_001)

    def density(mixture):
        return (
            sum(w * np.exp(-(((x - m) / noise) ** 2) / 2) for m, w in mixture.items()) / noise / math.sqrt(2 * math.pi)
        )

    return float(np.trapezoid(np.maximum(density(one) - math.exp(eps) * density(other), 0), x))


@pytest.mark.parametrize("sampling", ["revealed_poisson", "deterministic"])
def test_adding_or_removing_has_no_bound_where_batches_are_known(sampling):
    point = {"sample_rate": 0.1, "steps": 10, "delta": 1e-5, "relation": "add_remove", "sampling": sampling}
    refusal = rf"^relation 'add_remove' has no bound under sampling '{sampling}': .* Use relation 'zero_out'"
    for call in (
        lambda: epsilon(noise_multiplier=5.0, **point),
        lambda: noise_multiplier_for(target_epsilon=1.0, **point),
        lambda: affordable_steps(budget=1.0, noise_multiplier=5.0, **point),
    ):
        with pytest.raises(ConfigError, match=refusal):
            call()


@pytest.mark.parametrize("sampling", OTHERS)
def test_rdp_is_for_plain_poisson_samples(sampling):
    with pytest.raises(ConfigError, match=rf"^accountant 'rdp' has no bound for sampling '{sampling}'"):
        ours(sampling=sampling, accountant="rdp", **OTHERS[sampling])


@pytest.mark.parametrize("sampling", ["", "shuffled", "POISSON", None, True, 1])
def test_other_samplings_are_refused(sampling):
    with pytest.raises(ConfigError, match=r"^sampling must be one of 'poisson', 'truncated_poisson', 'revealed_"):
        ours(sampling=sampling)


@pytest.mark.parametrize("sampling", OTHERS)
@pytest.mark.parametrize("relation", ["zero_out", "replace"])
def test_the_noise_for_a_target_meets_it_from_below_and_hardly_more(sampling, relation):
    point = {"sample_rate": 0.1, "steps": 40, "delta": 1e-5, "relation": relation, "sampling": sampling}
    point |= OTHERS[sampling]
    noise = noise_multiplier_for(target_epsilon=0.7, **point)
    assert 0.995 * 0.7 <= epsilon(noise_multiplier=noise, **point) <= 0.7
    assert epsilon(noise_multiplier=noise * 0.998, **point) > 0.7


@pytest.mark.parametrize("sampling", OTHERS)
def test_the_affordable_steps_are_exact(sampling):
    point = {"noise_multiplier": 25.0, "sample_rate": 0.5, "delta": 1e-5, "relation": "zero_out", "sampling": sampling}
    point |= {name: value * 2 for name, value in OTHERS[sampling].items()}
    for budget in (0.1, 0.3, 0.6):
        fitting = [steps for steps in range(1, 31) if epsilon(steps=steps, **point) <= budget]
        assert affordable_steps(budget=budget, steps=30, **point) == len(fitting)


@pytest.mark.parametrize("sampling", ["poisson", *OTHERS])
def test_a_target_that_no_noise_reaches_is_refused(sampling):
    point = {"sample_rate": 0.5, "steps": 10, "delta": 1e-300, "relation": "zero_out", "sampling": sampling}
    with pytest.raises(ConfigError, match=r"^target_epsilon 1e-15 is not reached by any noise multiplier"):
        noise_multiplier_for(target_epsilon=1e-15, **point, **OTHERS.get(sampling, {}))


EXTREMES = list(product((1e-3, 0.05, 1.0, 1e12), (1e-15, 0.5, 1.0), (1, 10**7), (1e-300, 1e-5, 0.999)))


@pytest.mark.parametrize("sampling", ["revealed_poisson", "deterministic"])
def test_extremes_give_a_number_or_infinity_in_order(sampling):
    for noise, rate, steps, delta in EXTREMES:
        zero_out, replace = (ours(noise, rate, steps, delta, name, sampling) for name in ("zero_out", "replace"))
        assert 0 <= zero_out <= replace


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"), [(0.25, 1 - 1e-12, 1, 1e-5), (1e12, 0.5, 1000, 1e-300), (1e-3, 1e-15, 1, 1e-5)]
)
@pytest.mark.parametrize("sampling", ["poisson", "truncated_poisson"])
def test_extremes_on_a_grid_give_a_number_or_infinity(noise, rate, steps, delta, sampling):
    assert ours(noise, rate, steps, delta, sampling=sampling, **OTHERS.get(sampling, {})) >= 0
