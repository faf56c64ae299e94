"""What must hold for every matrix: agreement with slow twins, NaN where something is missing, nothing changed."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pvision.continual import metrics
from pvision.continual.metrics import all_definitions, definition_of, definitions, forgetting, summary

# Accuracies as they come: shares of a small test set, so that ties and equal rows occur.
shares = st.integers(0, 20).map(lambda hits: hits / 20)


def squares(low=2, high=6):
    return st.integers(low, high).flatmap(lambda size: hnp.arrays(np.float64, (size, size), elements=shares))


def extras(size):
    rng = np.random.default_rng(size)
    names = ("baseline", "reference", "independent")
    return {"counts": rng.integers(1, 50, size), **{name: rng.uniform(0.1, 0.9, size) for name in names}}


def everything(matrix):
    """Every definition by its key: summary and compatible together."""
    return {**summary(matrix, **extras(len(matrix))), **metrics.compatible(matrix)}


# The slow twins, straight from the formulas: one task after another, no masks, no arrays.


def slow_chaudhry(r, last):
    drops = []
    for j in range(last):
        best = max(r[row][j] for row in range(j, last))
        drops.append(best - r[last][j])
    return sum(drops) / last


def slow_mammoth(r, last):
    return sum(max(r[row][j] for row in range(j, last + 1)) - r[last][j] for j in range(last)) / last


def slow_continuum(r, last):
    total = 0.0
    for j in range(last - 1):
        total += max(r[row][j] for row in range(last - 1) if row >= j) - r[last][j]
    return total / last


def slow_coda(r, last):
    return sum(sum(r[t - 1][j] - r[t][j] for j in range(t)) / t for t in range(1, last + 1)) / last


def slow_continuum_backward(r, last):
    total = sum(r[t][j] - r[j][j] for t in range(1, last + 1) for j in range(t - 1))
    return total / ((last + 1) * last / 2)


def slow_incremental(r, last):
    return sum(sum(r[t][: t + 1]) / (t + 1) for t in range(last + 1)) / (last + 1)


def slow_lowest(r, last):
    return sum(min(r[row][j] for row in range(j + 1, last + 1)) for j in range(last)) / last


TWINS = {
    ("forgetting", "chaudhry"): slow_chaudhry,
    ("forgetting", "mammoth"): slow_mammoth,
    ("forgetting", "continuum-1.2.7"): slow_continuum,
    ("forgetting", "coda-prompt"): slow_coda,
    ("backward_transfer", "continuum-1.2.7"): slow_continuum_backward,
    ("average_incremental_accuracy", "macro"): slow_incremental,
    ("min_accuracy", "de-lange"): slow_lowest,
}


@pytest.mark.parametrize(("metric", "name"), TWINS)
@given(matrix=squares())
def test_definitions_agree_with_slow_twins(metric, name, matrix):
    key = definition_of(metric, name).key
    twin = TWINS[metric, name](matrix.tolist(), len(matrix) - 1)
    assert everything(matrix)[key] == pytest.approx(twin, abs=1e-12)


@given(matrix=squares())
def test_each_experience_meets_its_own_baseline_and_reference(matrix):
    """The golden baseline has equal means with and without its first entry, so it does not tell them apart."""
    size = len(matrix)
    given_values = extras(size)
    values = summary(matrix, **given_values)
    gains = [matrix[j - 1, j] - given_values["baseline"][j] for j in range(1, size)]
    assert values["continual/forward_transfer"] == pytest.approx(np.mean(gains), abs=1e-12)
    for key, name in (("intransigence", "reference"), ("learning_accuracy_gap", "independent")):
        gaps = [given_values[name][k] - matrix[k, k] for k in range(size)]
        assert values[f"continual/{key}"] == pytest.approx(np.mean(gaps), abs=1e-12)


@given(matrix=squares())
def test_forgetting_pair_by_pair_agrees_with_a_slow_twin(matrix):
    pairs = metrics.forgetting_matrix(matrix)
    for t in range(len(matrix)):
        for u in range(len(matrix)):
            expected = max(matrix[row, u] for row in range(u, t)) - matrix[t, u] if u < t else np.nan
            np.testing.assert_equal(pairs[t, u], expected)


@given(matrix=squares(), more=st.data())
def test_a_further_experience_leaves_earlier_curves_as_they_are(matrix, more):
    size = len(matrix)
    longer = more.draw(hnp.arrays(np.float64, (size + 1, size + 1), elements=shares))
    longer[:size, :size] = matrix
    np.testing.assert_array_equal(metrics.forgetting_curve(longer)[:size], metrics.forgetting_curve(matrix))
    np.testing.assert_array_equal(metrics.accuracy_curve(longer)[:size], metrics.accuracy_curve(matrix))
    assert metrics.forgetting_curve(matrix)[-1] == forgetting(matrix)
    assert metrics.accuracy_curve(matrix)[-1] == metrics.average_accuracy(matrix)


@given(matrix=squares(low=1), to_come=st.integers(1, 3))
def test_a_stream_under_way_is_judged_by_what_it_learned(matrix, to_come):
    wide = np.concatenate([matrix, np.full((len(matrix), to_come), 0.5)], axis=1)
    whole = {name: np.append(values, [1] * to_come) for name, values in extras(len(matrix)).items()}
    np.testing.assert_equal({**summary(wide, **whole), **metrics.compatible(wide)}, everything(matrix))


@given(matrix=squares(low=3), place=st.data())
def test_a_missing_entry_that_counts_makes_the_value_nan(matrix, place):
    row = place.draw(st.integers(0, len(matrix) - 1))
    column = place.draw(st.integers(0, len(matrix) - 1))
    before = everything(matrix)
    missing = matrix.copy()
    missing[row, column] = np.nan
    without = everything(missing)
    for other in (0.0, 1.0):
        changed = matrix.copy()
        changed[row, column] = other
        for key, value in everything(changed).items():
            if value != before[key] and not np.isnan(value):
                assert np.isnan(without[key]), f"{key} reads R[{row}, {column}] and yet has a value without it"


@given(matrix=squares(), above=shares)
def test_what_stands_above_the_diagonal_is_forward_transfer_only(matrix, above):
    upper = np.triu(np.ones(matrix.shape, dtype=bool), 1)
    other, unmeasured = matrix.copy(), matrix.copy()
    other[upper], unmeasured[upper] = above, np.nan
    values, with_others, without = everything(matrix), everything(other), everything(unmeasured)
    for key, value in values.items():
        if "forward" not in key or key.endswith("continuum_1_2_7"):
            np.testing.assert_equal([with_others[key], without[key]], [value, value])
        else:
            assert np.isnan(without[key])


@given(matrix=squares(low=1))
def test_nothing_given_is_changed(matrix):
    with_zeros = np.tril(matrix)
    given_values = [with_zeros, *extras(len(matrix)).values()]
    before = [values.copy() for values in given_values]
    for values in given_values:
        values.setflags(write=False)
    summary(*given_values)
    metrics.compatible(with_zeros)
    metrics.forgetting_matrix(with_zeros)
    metrics.accuracy_curve(with_zeros)[:] = 7
    for values, old in zip(given_values, before, strict=True):
        np.testing.assert_array_equal(values, old)


def test_of_one_experience_there_is_no_forgetting_and_no_transfer():
    values = everything(np.array([[0.8]]))
    defined = {key: value for key, value in values.items() if not np.isnan(value)}
    assert defined == pytest.approx(
        {
            "continual/average_accuracy": 0.8,
            "continual/average_accuracy_micro": 0.8,
            "continual/average_incremental_accuracy": 0.8,
            "continual/average_incremental_accuracy_micro": 0.8,
            "continual/accuracy_diaz_rodriguez": 0.8,
            "continual/learning_accuracy": 0.8,
            "continual/intransigence": extras(1)["reference"][0] - 0.8,
            "continual/learning_accuracy_gap": extras(1)["independent"][0] - 0.8,
            "continual/worst_case_accuracy": 0.8,
        }
    )
    np.testing.assert_array_equal(metrics.forgetting_curve([[0.8]]), [np.nan])


@given(matrix=squares())
def test_inequalities_and_identities(matrix):
    by = {name: forgetting(matrix, definition=name) for name in definitions("forgetting")}
    assert by["mammoth"] >= max(0, by["chaudhry"], by["avalanche"]) - 1e-12
    assert by["chaudhry"] >= by["avalanche"] - 1e-12  # the best of the past is at least the first
    assert by["avalanche"] == pytest.approx(-metrics.backward_transfer(matrix), abs=1e-12)
    assert metrics.min_accuracy(matrix) <= metrics.stability(matrix) + 1e-12
    assert metrics.worst_case_accuracy(matrix) <= metrics.average_accuracy(matrix) + 1e-12
    kept, learned = metrics.stability(matrix), metrics.learning_accuracy(matrix)
    assert min(kept, learned) - 1e-12 <= metrics.harmonic_accuracy(matrix) <= (kept + learned) / 2 + 1e-12
    assert metrics.remembering(matrix) - metrics.positive_backward_transfer(matrix) == pytest.approx(
        1 - abs(metrics.backward_transfer(matrix, definition="diaz-rodriguez")), abs=1e-12
    )
    assert all(-1 <= value <= 1 for value in by.values())


@given(matrix=squares(low=1), count=st.integers(1, 1000), factor=st.integers(2, 9))
def test_micro_is_macro_for_equal_counts_and_knows_no_scale(matrix, count, factor):
    equal, uneven = np.full(len(matrix), count), extras(len(matrix))["counts"]
    assert metrics.accuracy_curve(matrix, counts=equal) == pytest.approx(metrics.accuracy_curve(matrix), abs=1e-12)
    assert metrics.average_incremental_accuracy(matrix, counts=uneven * factor) == pytest.approx(
        metrics.average_incremental_accuracy(matrix, counts=uneven), abs=1e-12
    )


def test_an_experience_without_records_does_not_hide_that_it_was_never_measured():
    assert np.isnan(metrics.average_accuracy([[0.5, 0.5], [np.nan, 0.5]], counts=[0, 10]))
    assert metrics.average_accuracy([[0.5, 0.5], [0.9, 0.5]], counts=[0, 10]) == 0.5
    assert np.isnan(metrics.average_accuracy([[0.5]], counts=[0]))


@given(matrix=squares(low=3), data=st.data())
def test_forgotten_experiences_count_nowhere(matrix, data):
    gone = data.draw(st.integers(0, len(matrix) - 1))
    event = data.draw(st.integers(gone, len(matrix) - 1))
    forgotten = matrix.copy()
    forgotten[event:, gone] = np.nan
    values = summary(forgotten, **extras(len(matrix)), forgotten=[gone])
    last = len(matrix) - 1
    old = [j for j in range(last) if j != gone]
    drops = [max(matrix[j:last, j]) - matrix[last, j] for j in old]
    assert values["continual/forgetting"] == pytest.approx(np.mean(drops), abs=1e-12)
    kept = [j for j in range(last + 1) if j != gone]
    assert values["continual/average_accuracy"] == pytest.approx(np.mean(matrix[last, kept]), abs=1e-12)
    rows = [[matrix[t, j] for j in kept if j <= t] for t in range(last + 1)]
    expected = np.mean([np.mean(row) for row in rows if row])
    assert values["continual/average_incremental_accuracy"] == pytest.approx(expected, abs=1e-12)
    others = {key for key, value in values.items() if np.isnan(value)}
    assert others <= {"continual/worst_case_accuracy", "continual/relative_forgetting"}  # its newest is gone; best is 0


def test_a_forgotten_experience_that_is_not_named_makes_values_nan():
    matrix = [[0.9, 0, 0], [np.nan, 0.8, 0], [np.nan, 0.7, 0.6]]
    assert np.isnan(summary(matrix)["continual/average_accuracy"])
    assert summary(matrix, forgotten=(0,))["continual/average_accuracy"] == pytest.approx(0.65)


def test_the_registry_is_sound():
    known = all_definitions()
    assert {definition.metric for definition in known} == set(metrics.metrics())
    assert len({definition.key for definition in known}) == len(known)
    assert all(re.fullmatch(r"continual/[a-z0-9_]+", definition.key) for definition in known), "MLflow refuses others"
    assert all(definition.formula and definition.source for definition in known)
    for metric in metrics.metrics():
        first, *others = (definition_of(metric, name) for name in definitions(metric))
        assert first.default
        assert definition_of(metric) is first
        assert not any(other.default for other in others)


@given(order=st.permutations(range(60)))
def test_the_order_of_test_records_changes_nothing(order):
    rng = np.random.default_rng(0)
    row, column, guess, truth = (rng.integers(0, high, 60) for high in (3, 3, 4, 4))
    every = np.arange(3)
    matrices = []
    for records in (np.arange(60), np.array(order)):
        counted = metrics.AccuracyMatrix(4)
        for t in every:
            for j in every:
                mine = records[(row[records] == t) & (column[records] == j)]
                counted.add(int(t), int(j), guess[mine], truth[mine])
        matrices.append(counted)
    first, second = (summary(m.accuracy(), counts=m.counts()) for m in matrices)
    np.testing.assert_equal(second, first)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_are_taken_as_they_are(kind):
    matrix = torch.tensor([[0.5, 0.25], [0.75, 1.0]], dtype=kind, requires_grad=True)
    assert forgetting(matrix) == -0.25
    assert summary(matrix, torch.tensor([1, 3]))["continual/average_accuracy_micro"] == 0.9375


def test_a_float32_mean_a_rounding_above_one_is_taken():
    assert metrics.average_accuracy([[1.0000001]]) == 1.0000001


def test_relative_forgetting_of_what_was_never_known_is_undefined():
    assert np.isnan(metrics.relative_forgetting([[0.0, 0.0], [0.5, 0.5]]))


def test_the_harmonic_mean_of_nothing_is_zero():
    assert metrics.harmonic_accuracy([[0.0, 0.0], [0.0, 0.0]]) == 0
    assert metrics.f_map(0.0, 0.0) == 0
    assert np.isnan(metrics.f_map(float("nan"), 0.5))


def test_deficits_against_a_joint_model_that_knows_nothing_are_undefined():
    assert np.isnan(metrics.relative_stability_deficit(0.0, 0.5))
    assert np.isnan(metrics.omega([0.5, 0.5], [0.5, 0.0]))


def test_absent_classes_are_left_out_of_miou():
    confusion = [[5, 0, 0], [0, 0, 0], [5, 0, 0]]  # 1 is absent, 2 is always mistaken
    np.testing.assert_array_equal(metrics.iou_per_class(confusion), [0.5, np.nan, 0.0])
    assert metrics.mean_iou(confusion) == 0.25
    assert np.isnan(metrics.mean_iou(confusion, [1]))
    values = metrics.segmentation_summary(confusion, old=[0], new=[2], background=None)
    assert values == {"miou_old": 0.5, "miou_new": 0.0, "miou_all": 0.25, "hiou": 0.0, "pixel_accuracy": 0.5}
    assert np.isnan(metrics.pixel_accuracy([[0, 0], [0, 0]]))


@given(hnp.arrays(np.int64, (4, 4), elements=st.integers(0, 9)), st.permutations(range(4)))
def test_miou_knows_no_order_of_classes(confusion, order):
    turned = confusion[np.ix_(order, order)]
    np.testing.assert_array_equal(metrics.iou_per_class(turned), metrics.iou_per_class(confusion)[list(order)])
    np.testing.assert_allclose(metrics.mean_iou(turned), metrics.mean_iou(confusion), atol=1e-12)


def test_an_online_evaluation_that_is_missing_makes_the_value_nan():
    evaluations = [[0.4, np.nan], [0.8, np.nan], [np.nan, 0.6], [0.7, 0.9]]
    assert metrics.anytime_average_accuracy(evaluations[:2], [0, 0]) == pytest.approx(0.6)
    assert np.isnan(metrics.anytime_average_accuracy(evaluations, [0, 0, 1, 1]))
    assert np.isnan(metrics.min_accuracy(evaluations, [0, 0, 1, 1]))
