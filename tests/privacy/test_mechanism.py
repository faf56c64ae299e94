"""What one record can do to a release, what noise is in it, and what is charged."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pvision.errors import PrivacyError
from pvision.privacy import DenseGradients, GaussianMechanism, OuterGradients, PrivacySpec
from pvision.privacy.noise import SecretSource

SHAPES = {"matrix": (3, 4), "bias": (5,), "scale": ()}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def spec_of(**changes):
    values = {
        "mechanism": "residual",
        "unit": "clip",
        "mask": "public",
        "polarity": "inside",
        "label": "public",
        "relation": "zero_out",
        "delta": 1e-5,
        "max_grad_norm": 1.0,
        "sample_rate": 1.0,
        "steps": 3,
        "noise_multiplier": 1.0,
        "noise_seed": 0,
    }
    return PrivacySpec(**{**values, **changes})


def like(dtype=torch.float64):
    return {name: torch.zeros(shape, dtype=dtype) for name, shape in SHAPES.items()}


def rows_of(records, scale=1.0, seed=0, dtype=torch.float64):
    """Gradients whose entries spread over six powers of ten around ``scale``."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        spread = 10 ** (6 * torch.rand(shape, generator=generator, dtype=torch.float64) - 3)
        return torch.randn(shape, generator=generator, dtype=torch.float64) * spread * scale

    limit = torch.finfo(dtype).max
    return {name: draw(records, *shape).clamp(-limit, limit).to(dtype) for name, shape in SHAPES.items()}


def first_batch(mechanism):
    return torch.tensor(next(iter(mechanism.batches)), dtype=torch.int64)


def release(spec, *pieces, records, dtype=torch.float64):
    mechanism = GaussianMechanism(spec, num_records=records)
    return mechanism.release(pieces, like(dtype), index=first_batch(mechanism))


def norm(gradient):
    return math.sqrt(sum(value.double().square().sum().item() for value in gradient.values()))


def difference(one, other):
    return {name: one[name] - other[name] for name in one}


def zeroed(rows, record):
    return {name: value.index_fill(0, torch.tensor(record), 0) for name, value in rows.items()}


SCALES = st.floats(-30, 30).map(lambda power: 10**power)


@settings(max_examples=200)
@given(SCALES, SCALES, st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_zeroing_a_record_out_moves_the_sum_by_the_bound_at_most(scale, bound, dtype, seed):
    spec = spec_of(max_grad_norm=bound)
    rows = rows_of(4, scale, seed, dtype)
    with_record, without = (release(spec, DenseGradients(one), records=4) for one in (rows, zeroed(rows, 2)))
    assert norm(difference(with_record, without)) * 4 <= bound * (1 + 1e-6)


@settings(max_examples=100)
@given(SCALES, SCALES, st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_exchanging_a_record_moves_the_sum_by_twice_the_bound_at_most(scale, bound, dtype, seed):
    spec = spec_of(max_grad_norm=bound)
    rows, others = rows_of(4, scale, seed, dtype), rows_of(4, scale, seed + 1, dtype)
    exchanged = {name: torch.cat([rows[name][:2], others[name][2:3], rows[name][3:]]) for name in rows}
    one, other = (release(spec, DenseGradients(which), records=4) for which in (rows, exchanged))
    assert norm(difference(one, other)) * 4 <= 2 * bound * (1 + 1e-6)


@settings(max_examples=100)
@given(st.floats(-19, 18), st.floats(-19, 18), SCALES, st.sampled_from([torch.float32, torch.float64]))
def test_a_record_of_a_linear_head_moves_the_sum_by_the_bound_at_most(error_power, feature_power, bound, dtype):
    spec, matrix = spec_of(max_grad_norm=bound), {"weight": torch.zeros(3, 6, dtype=torch.float64)}
    error, features = (
        torch.randn(5, 3, dtype=dtype) * 10**error_power,
        torch.randn(5, 6, dtype=dtype) * 10**feature_power,
    )
    sums = []
    for used in (features, features.index_fill(0, torch.tensor(2), 0)):
        mechanism = GaussianMechanism(spec, num_records=5)
        pieces = [OuterGradients("weight", error, used)]
        sums.append(mechanism.release(pieces, matrix, index=first_batch(mechanism))["weight"] * 5)
    assert (sums[0] - sums[1]).norm().item() <= bound * (1 + 1e-6)


def test_the_bound_holds_among_thousands_of_records():
    spec, records = spec_of(max_grad_norm=0.1), 5000
    rows = {name: value.float() for name, value in rows_of(records, 1e3).items()}
    one, other = (release(spec, DenseGradients(which), records=records) for which in (rows, zeroed(rows, 17)))
    moved = norm(difference(one, other)) * records
    assert 0.099 < moved <= 0.1 * (1 + 1e-6)


def test_without_clipping_a_record_would_move_the_sum_further():
    rows = rows_of(4)
    unclipped = DenseGradients(rows).weighted_sum(torch.ones(4, dtype=torch.float64))
    without = DenseGradients(zeroed(rows, 2)).weighted_sum(torch.ones(4, dtype=torch.float64))
    assert norm(difference(unclipped, without)) > 10


def exact_noise(spec, records, dtype=torch.float64):
    return release(spec, DenseGradients({n: torch.zeros(records, *s) for n, s in SHAPES.items()}), records=records)


def test_short_gradients_stay_and_long_ones_keep_their_direction():
    rows = {name: torch.zeros(2, *shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    rows["bias"][0, 0], rows["bias"][1, :2] = 0.25, torch.tensor([30.0, 40.0])
    spec = spec_of()
    total = difference(release(spec, DenseGradients(rows), records=2), exact_noise(spec, 2))["bias"] * 2
    torch.testing.assert_close(total, torch.tensor([0.25 + 0.6, 0.8, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_record_is_clipped_never_normalised():
    rows = {name: torch.zeros(1, *shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    rows["bias"][0, 0] = 1e-7  # the rounding error of a residual that should be zero
    spec = spec_of()
    moved = norm(difference(release(spec, DenseGradients(rows), records=1), exact_noise(spec, 1)))
    assert moved == pytest.approx(1e-7, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", SHAPES)
def test_a_gradient_that_is_not_finite_contributes_zero_and_the_others_keep_their_bits(bad, name):
    rows = {key: value.float() for key, value in rows_of(5).items()}
    expected = release(spec_of(), DenseGradients(zeroed(rows, 3)), records=5)
    rows[name][3].view(-1)[-1] = bad
    result = release(spec_of(), DenseGradients(rows), records=5)
    assert all(torch.equal(result[key], expected[key]) for key in expected)


def test_a_linear_heads_gradient_that_is_not_finite_contributes_zero():
    error, features, matrix = torch.randn(4, 3), torch.randn(4, 6), {"weight": torch.zeros(3, 6)}

    def released(error, features):
        mechanism = GaussianMechanism(spec_of(), num_records=4)
        pieces = [OuterGradients("weight", error, features)]
        return mechanism.release(pieces, matrix, index=first_batch(mechanism))["weight"]

    expected = released(error.index_fill(0, torch.tensor(1), 0), features)
    for spoiled in (error, features):
        before = spoiled.clone()
        spoiled[1, 0] = math.nan
        assert torch.equal(released(error, features), expected)
        spoiled.copy_(before)


@pytest.mark.parametrize("sizes", [[6], [1, 1, 1, 1, 1, 1], [4, 2], [0, 6]])
def test_the_sum_does_not_depend_on_the_pieces(sizes):
    rows = rows_of(6)
    parts = zip(*(value.split(sizes) for value in rows.values()), strict=True)
    pieces = [DenseGradients(dict(zip(rows, part, strict=True))) for part in parts]
    expected = release(spec_of(), DenseGradients(rows), records=6)
    result = release(spec_of(), *pieces, records=6)
    assert norm(difference(result, expected)) < 1e-13


def test_the_divisor_is_the_expected_batch_size_whoever_was_drawn():
    spec, sizes = spec_of(sample_rate=0.3, steps=6, noise_seed=5), []
    mechanism, silent = (GaussianMechanism(spec, num_records=20) for _ in range(2))
    for batch, again in zip(mechanism.batches, silent.batches, strict=True):
        assert batch == again
        index = torch.tensor(batch, dtype=torch.int64)
        rows = {name: torch.full((len(batch), *shape), 1e-3) for name, shape in SHAPES.items()}
        nothing = {name: torch.zeros_like(value) for name, value in rows.items()}
        released = mechanism.release([DenseGradients(rows)], like(), index=index)["bias"]
        noise = silent.release([DenseGradients(nothing)], like(), index=index)["bias"]
        expected = torch.full((5,), len(batch) * 1e-3 / (0.3 * 20), dtype=torch.float64)
        torch.testing.assert_close(released - noise, expected, rtol=1e-5, atol=1e-12)
        sizes.append(len(batch))
    assert len(set(sizes)) > 2


def test_an_empty_batch_is_noise_alone_and_is_charged():
    spec = spec_of(sample_rate=1e-9, noise_multiplier=7.0, max_grad_norm=0.5)
    mechanism = GaussianMechanism(spec, num_records=10)
    index = first_batch(mechanism)
    assert len(index) == 0
    released = mechanism.release([], {"w": torch.zeros(100_000)}, index=index)["w"]
    assert mechanism.steps == 1
    assert released.std().item() == pytest.approx(7.0 * 0.5 / (1e-9 * 10), rel=0.02)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_release_has_the_form_of_the_parameters(dtype):
    released = release(spec_of(), DenseGradients(rows_of(2, dtype=dtype)), records=2, dtype=dtype)
    assert {name: (value.shape, value.dtype) for name, value in released.items()} == {
        name: (torch.Size(shape), dtype) for name, shape in SHAPES.items()
    }


def test_a_foreign_batch_is_refused_and_nothing_is_charged():
    mechanism = GaussianMechanism(spec_of(sample_rate=0.5), num_records=30)
    rows = DenseGradients(rows_of(30))
    index = first_batch(mechanism)
    for foreign in (torch.arange(30), index[:-1], index.flip(0), torch.cat([index, index[:1]])):
        with pytest.raises(PrivacyError, match="that the privacy mechanism did not draw"):
            mechanism.release([rows], like(), index=foreign)
    assert mechanism.steps == 0
    assert mechanism.report().epsilon_zero_out == 0
    mechanism.release([DenseGradients(rows_of(len(index)))], like(), index=index)
    with pytest.raises(PrivacyError, match="did not draw"):
        mechanism.release([DenseGradients(rows_of(len(index)))], like(), index=index)
    assert mechanism.steps == 1


@pytest.mark.parametrize("records", [0, 3, 5, 8])
def test_gradients_of_other_records_than_the_batch_has_are_refused(records):
    mechanism = GaussianMechanism(spec_of(), num_records=4)
    with pytest.raises(PrivacyError, match=f"Gradients of {records} records came for a batch of 4"):
        mechanism.release([DenseGradients(rows_of(records))], like(), index=first_batch(mechanism))
    assert mechanism.steps == 0


def test_no_release_follows_the_last_one():
    mechanism = GaussianMechanism(spec_of(steps=2), num_records=4)
    for batch in mechanism.batches:
        mechanism.release([DenseGradients(rows_of(4))], like(), index=torch.tensor(batch))
    for batch in mechanism.batches:
        with pytest.raises(PrivacyError, match="All 2 steps of the privacy statement are released"):
            mechanism.release([DenseGradients(rows_of(4))], like(), index=torch.tensor(batch))
    assert mechanism.steps == 2


def test_a_release_that_is_interrupted_is_charged(monkeypatch):
    mechanism = GaussianMechanism(spec_of(), num_records=4)

    def interrupt(like):
        raise KeyboardInterrupt

    monkeypatch.setattr(mechanism._noise, "normal", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mechanism.release([DenseGradients(rows_of(4))], like(), index=first_batch(mechanism))
    assert mechanism.steps == 1


def test_epsilon_is_that_of_the_releases_made():
    spec = spec_of(steps=3, noise_multiplier=20.0)
    mechanism = GaussianMechanism(spec, num_records=4)
    claims = [mechanism.report().epsilon_zero_out]
    for batch in mechanism.batches:
        mechanism.release([DenseGradients(rows_of(4))], like(), index=torch.tensor(batch))
        claims.append(mechanism.report().epsilon_zero_out)
    assert claims == [spec.epsilon("zero_out", steps=steps) for steps in range(4)]
    assert claims == sorted(set(claims))


def noise_of(spec, size=400_000, steps=1):
    """The noise of some releases over ``noise_multiplier * max_grad_norm``."""
    mechanism = GaussianMechanism(spec, num_records=1)
    gradient, scale = DenseGradients({"w": torch.zeros(1, size)}), spec.noise * spec.max_grad_norm
    return [
        mechanism.release([gradient], {"w": torch.zeros(size)}, index=torch.tensor([0]))["w"] / scale
        for _, _ in zip(range(steps), mechanism.batches, strict=False)
    ]


@pytest.mark.parametrize("bound", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("noise", [0.5, 28.9])
def test_the_noise_is_gaussian_of_the_stated_size(bound, noise):
    (draws,) = noise_of(spec_of(max_grad_norm=bound, noise_multiplier=noise))
    assert abs(draws.mean().item()) < 4 / math.sqrt(len(draws))
    assert draws.std().item() == pytest.approx(1, rel=5e-3)
    assert stats.kstest(draws.numpy(), "norm").pvalue > 1e-3


def test_secret_noise_has_the_stated_size_too():
    (draws,) = noise_of(spec_of(noise_seed=None))
    assert draws.std().item() == pytest.approx(1, rel=0.02)


def test_every_release_and_every_parameter_has_noise_of_its_own():
    first, second = noise_of(spec_of(), size=100_000, steps=2)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 4 / math.sqrt(100_000)
    mechanism = GaussianMechanism(spec_of(), num_records=1)
    rows = DenseGradients({"a": torch.zeros(1, 9), "b": torch.zeros(1, 9)})
    both = mechanism.release([rows], {"a": torch.zeros(9), "b": torch.zeros(9)}, index=first_batch(mechanism))
    assert not (both["a"] == both["b"]).any()


def test_the_global_seed_decides_nothing():
    noises, batches = [], []
    for _ in range(2):
        torch.manual_seed(0)
        noises += noise_of(spec_of(noise_seed=None), size=100)
        mechanism = GaussianMechanism(spec_of(noise_seed=None, sample_rate=0.5), num_records=100)
        batches.append(next(iter(mechanism.batches)))
    assert not (noises[0] == noises[1]).any()
    assert batches[0] != batches[1]


def test_a_known_seed_repeats_the_noise_and_is_not_private():
    assert torch.equal(*(noise_of(spec_of(noise_seed=3), size=100)[0] for _ in range(2)))
    for seed, private in ((None, True), (3, False)):
        assert GaussianMechanism(spec_of(noise_seed=seed), num_records=4).report().private is private


def test_noise_and_sampling_do_not_share_a_generator():
    sampler, noise = SecretSource(seed=11), SecretSource(seed=12)
    (released,) = noise_of(spec_of(noise_seed=11), size=100)
    draws = [source.normal(torch.zeros(100, dtype=torch.float64)).float() for source in (sampler, noise)]
    assert not torch.allclose(released, draws[0])
    torch.testing.assert_close(released, draws[1])  # or the line before would say nothing


@pytest.mark.parametrize(("delta", "records"), [(0.1, 10), (0.2, 10), (1e-3, 1000), (1e-3, 2000)])
def test_a_delta_of_one_record_or_more_is_refused(delta, records):
    with pytest.raises(PrivacyError, match=r"privacy.delta .* is not below 1/N .* for example"):
        GaussianMechanism(spec_of(delta=delta), num_records=records)


def test_a_delta_below_one_record_is_taken():
    assert GaussianMechanism(spec_of(delta=0.99e-3), num_records=1000).num_records == 1000
