"""Units: who is protected as one, and the mean of their gradients before any clipping."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.errors import PrivacyError
from pvision.privacy import (
    DenseGradients,
    FixedBatches,
    GaussianMechanism,
    OuterGradients,
    PoissonBatches,
    PrivacySpec,
    Units,
    unit_means,
)

NAMES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=20)


def spec_of(**changes):
    values = {
        "mechanism": "residual",
        "unit": "subject",
        "mask": "public",
        "polarity": "inside",
        "label": "public",
        "relation": "zero_out",
        "delta": 1e-3,
        "max_grad_norm": 0.7,
        "sample_rate": 1.0,
        "steps": 1,
        "noise_multiplier": 1e-9,
        "noise_seed": 0,
    }
    return PrivacySpec(**{**values, **changes})


# Who belongs together


@given(NAMES)
def test_units_are_the_names(names):
    units = Units(len(names), names=names)
    assert units.count == len(set(names))
    positions = units.positions(torch.arange(units.count))
    assert sorted(positions) == list(range(len(names)))
    assert [names[position] for position in positions] == sorted(names, key=names.index)
    assert units.one_each == (len(set(names)) == len(names))


@given(NAMES, st.data())
def test_a_population_takes_whole_units(names, data):
    chosen = data.draw(st.sets(st.integers(0, len(names) - 1), min_size=1))
    units = Units(len(names), names=names, population=sorted(chosen))
    inside = {names[position] for position in chosen}
    expected = [position for position, name in enumerate(names) if name in inside]
    assert units.count == len(inside)
    assert sorted(units.positions(torch.arange(units.count))) == expected
    assert ((units.of_record >= 0).nonzero().flatten().tolist()) == expected


def test_names_and_population_must_fit():
    with pytest.raises(PrivacyError, match="one unit name for each of 3 records, but 2 came"):
        Units(3, names=["a", "b"])
    with pytest.raises(PrivacyError, match="nothing to draw from"):
        Units(3, population=[])


# Means


def pieces_of(rows, size):
    return [DenseGradients({"a": rows[start : start + size]}) for start in range(0, len(rows), size)]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 7))
def test_means_are_those_of_the_units_however_the_records_are_cut(sizes, piece):
    units = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    rows = torch.randn(len(units), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = torch.cat([one.rows()["a"] for one in unit_means(pieces_of(rows, piece), units)])
    torch.testing.assert_close(means, torch.stack([rows[units == unit].mean(0) for unit in range(len(sizes))]))


def test_means_of_a_linear_heads_gradients():
    error, features = torch.randn(5, 2), torch.randn(5, 3)
    units = torch.tensor([4, 4, 1, 1, 1])
    means = torch.cat([one.rows()["w"] for one in unit_means([OuterGradients("w", error, features)], units)])
    rows = torch.einsum("bo,bi->boi", error, features).double()
    torch.testing.assert_close(means, torch.stack([rows[:2].mean(0), rows[2:].mean(0)]), rtol=1e-6, atol=1e-6)


def test_an_empty_batch_has_no_means():
    assert list(unit_means([DenseGradients({"a": torch.zeros(0, 3)})], torch.zeros(0, dtype=torch.int64))) == []


# Releases


def released(rows, names, **changes):
    """Return the sum that a mechanism with practically no noise releases of everybody."""
    mechanism = GaussianMechanism(spec_of(**changes), num_records=len(names), units=names)
    (batch,) = mechanism.batches
    like = {"a": torch.zeros(rows.shape[1], dtype=rows.dtype)}
    gradients = pieces_of(rows[batch], 3)
    return mechanism.release(gradients, like, index=batch)["a"].double() * mechanism.units.count


@settings(max_examples=60)
@given(NAMES, st.integers(-30, 30), st.integers(0, 2**32), st.sampled_from([torch.float32, torch.float64]))
def test_replacing_all_records_of_a_unit_moves_a_release_by_the_bound_at_most(names, power, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(names), 4, generator=generator, dtype=torch.float64)
    mine = torch.tensor([name == names[0] for name in names])
    other, nothing = rows.clone(), rows.clone()
    other[mine] = 10.0**power * torch.randn(int(mine.sum()), 4, generator=generator, dtype=torch.float64)
    nothing[mine] = 0
    before, replaced, zeroed = (released(one.to(dtype), names) for one in (rows, other, nothing))
    slack = 1e-6 * len(names) + 1e-6
    assert (before - zeroed).norm() <= 0.7 + slack
    assert (replaced - zeroed).norm() <= 0.7 + slack
    assert (before - replaced).norm() <= 1.4 + slack


def test_without_units_the_records_of_one_person_add_up():
    """The control of the test above: the same eight records, as clips."""
    rows, names = torch.full((8, 4), 5.0), ["ann"] * 7 + ["bob"]
    as_one = released(rows, names)
    mechanism = GaussianMechanism(spec_of(unit="clip"), num_records=8)
    (batch,) = mechanism.batches
    as_clips = mechanism.release(pieces_of(rows, 3), {"a": torch.zeros(4)}, index=batch)["a"] * 8
    assert as_one.norm() == pytest.approx(2 * 0.7, rel=1e-5)
    assert as_clips.norm() == pytest.approx(8 * 0.7, rel=1e-5)


def test_one_spoilt_record_leaves_its_whole_unit_out():
    rows, names = torch.ones(4, 2), ["a", "a", "b", "b"]
    rows[1, 0] = math.nan
    total = released(rows, names)
    assert total.norm() == pytest.approx(0.7, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"unit": "subject"}, {}),
        ({"unit": "clip"}, {"units": ["a", "b", "c"]}),
        ({"unit": "clip", "population": "masked"}, {}),
        ({"unit": "clip"}, {"population": [1]}),
    ],
)
def test_a_mechanism_gets_what_its_statement_names(changes, given):
    with pytest.raises(PrivacyError, match=r"^privacy\.(unit|population) is .* (Pass it|Leave it out)"):
        GaussianMechanism(spec_of(**changes), num_records=3, **given)


# Sampling of units


def test_a_truncated_batch_is_a_uniform_choice():
    batches = PoissonBatches(num_records=30, sample_rate=0.5, steps=6000, max_batch_size=12, seed=0)
    counts, sizes = torch.zeros(30), []
    for batch in batches:
        counts[batch] += 1
        sizes.append(len(batch))
        assert batch == sorted(batch)
    assert max(sizes) == 12
    assert min(sizes) < 12
    share = sum(sizes) / 30
    assert ((counts - share).abs() < 4.5 * math.sqrt(6000 * 0.4 * 0.6)).all()


def test_batches_below_the_maximum_are_those_of_untruncated_sampling():
    whole, cut = (
        list(PoissonBatches(num_records=30, sample_rate=0.5, steps=200, max_batch_size=most, seed=4))
        for most in (None, 15)
    )
    for one, other in zip(whole, cut, strict=True):
        assert set(other) <= set(one)
        assert len(other) == min(15, len(one))


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 40), st.data())
def test_turns_never_come_more_often_than_epsilon_says(records, rounds, steps, data):
    batches = FixedBatches(Units(records), sample_rate=1 / rounds, steps=steps)
    counts = torch.zeros(records)
    while batches.spent < steps:
        lost = data.draw(st.integers(0, 3))
        for batch in batches:
            counts[batch] += 1
            batches.spent += 1
            if data.draw(st.booleans()):
                break  # interrupted: some steps are charged that nobody saw
        batches.spent = min(steps, batches.spent + lost)
    assert counts.max() <= math.ceil(steps / rounds)
