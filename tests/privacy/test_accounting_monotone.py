"""More steps, a larger sample rate, less noise or a smaller δ never make ε smaller: 240 generated cases."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.privacy import epsilon

ARGUMENTS = ["steps", "sample_rate", "noise_multiplier", "delta"]
RELATIONS = {
    "poisson": ["zero_out", "replace", "add_remove"],
    "truncated_poisson": ["zero_out", "replace", "add_remove"],
    "revealed_poisson": ["zero_out", "replace"],
    "deterministic": ["zero_out", "replace"],
}


def points(noise, rates, most_steps):
    return st.fixed_dictionaries(
        {
            "noise_multiplier": noise,
            "sample_rate": rates,
            "steps": st.integers(1, most_steps),
            "delta": st.sampled_from([1e-3, 1e-5, 1e-7]),
        }
    )


def worse(point, name, how_far):
    changed = {
        "steps": point["steps"] + 1 + round(100 * how_far),
        "sample_rate": point["sample_rate"] + (1 - point["sample_rate"]) * how_far,
        "noise_multiplier": point["noise_multiplier"] * (1 - how_far / 2),
        "delta": point["delta"] * 0.1**how_far,
    }
    return {**point, name: changed[name]}


def rises(point, name, how_far, sampling, draw_relation, tolerance=1e-6, **more):
    more |= {"relation": draw_relation, "sampling": sampling}
    before, after = epsilon(**point, **more), epsilon(**worse(point, name, how_far), **more)
    return after >= before * (1 - tolerance) - tolerance


rates = st.sampled_from([1.0, 0.5]) | st.floats(1e-3, 1.0)
gentle = points(st.floats(8.0, 40.0), rates, 300)  # cheap on a grid
any_noise = points(st.floats(0.05, 1e4), rates | st.floats(1e-15, 1.0), 100_000)
one_over = st.integers(1, 10**6).map(lambda batches: 1 / batches)


@settings(max_examples=60)
@given(gentle, st.sampled_from(ARGUMENTS), st.floats(0.0, 1.0), st.sampled_from(RELATIONS["poisson"]))
def test_poisson(point, name, how_far, relation):
    assert rises(point, name, how_far, "poisson", relation)


@settings(max_examples=30)
@given(
    gentle,
    st.sampled_from(["steps", "noise_multiplier", "delta"]),
    st.floats(0.0, 1.0),
    st.sampled_from(RELATIONS["truncated_poisson"]),
    st.integers(1, 200),
)
def test_truncated_poisson(point, name, how_far, relation, max_batch_size):
    sizes = {"num_records": 200, "max_batch_size": max_batch_size}
    assert rises(point, name, how_far, "truncated_poisson", relation, **sizes)


@settings(max_examples=100)
@given(any_noise, st.sampled_from(ARGUMENTS), st.floats(0.0, 1.0), st.sampled_from(RELATIONS["revealed_poisson"]))
def test_revealed_poisson(point, name, how_far, relation):
    assert rises(point, name, how_far, "revealed_poisson", relation, tolerance=1e-4)  # counts are rounded up in blocks


@settings(max_examples=50)
@given(
    points(st.floats(0.05, 1e4), one_over, 100_000),
    st.sampled_from(["steps", "noise_multiplier", "delta"]),
    st.floats(0.0, 1.0),
    st.sampled_from(RELATIONS["deterministic"]),
)
def test_deterministic(point, name, how_far, relation):
    assert rises(point, name, how_far, "deterministic", relation)


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_deterministic_cycles_of_fewer_batches_cost_more(steps):
    spent = [
        epsilon(
            noise_multiplier=3.0,
            sample_rate=1 / batches,
            steps=steps,
            delta=1e-5,
            relation="zero_out",
            sampling="deterministic",
        )
        for batches in range(1, 30)
    ]
    assert spent == sorted(spent, reverse=True)


def test_the_comparison_sees_what_falls():
    point = {"noise_multiplier": 9.0, "sample_rate": 0.5, "steps": 50, "delta": 1e-5}
    assert rises(point, "steps", 0.5, "poisson", "zero_out")
    falling = {**point, "steps": 100}
    assert not rises(falling, "steps", -0.6, "poisson", "zero_out")
