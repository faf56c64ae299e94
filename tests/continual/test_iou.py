"""IoU along a stream, against a slow reference that goes through pixels one by one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.metrics.iou import class_forgetting, group_iou, iou_of_learned, learned_minus_final
from pvision.errors import ConfigError

VOID, LABELS = 5, 6  # the last label is never learned
PIXELS = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, VOID]), st.sampled_from([0, 1, 2])), max_size=60)


def counted(pixels):
    matrix = np.zeros((LABELS, LABELS), dtype=np.int64)
    for truth, guess in pixels:
        matrix[truth, guess] += 1
    return matrix


def slow_iou(pixels, label, counting):
    """Return the IoU over the pixels whose truth is one of ``counting``."""
    kept = [(truth, guess) for truth, guess in pixels if truth in counting]
    both = sum(truth == guess == label for truth, guess in kept)
    either = sum(label in pair for pair in kept)
    return both / either if either else math.nan


def same(one, other):
    return one == other or (math.isnan(one) and math.isnan(other))


@given(PIXELS)
def test_iou_is_that_of_counting_pixel_by_pixel_without_void_and_later_classes(pixels):
    found = iou_of_learned(counted(pixels), [2, 1])
    assert list(found) == [0, 2, 1]
    assert all(same(value, slow_iou(pixels, label, {0, 1, 2})) for label, value in found.items())


@given(PIXELS)
def test_without_a_background_its_pixels_have_no_truth_but_a_class_can_be_missed_for_it(pixels):
    found = iou_of_learned(counted(pixels), [1, 2], background=None)
    assert list(found) == [1, 2]
    assert all(same(value, slow_iou(pixels, label, {1, 2})) for label, value in found.items())


@given(PIXELS, st.lists(st.tuples(st.sampled_from([3, 4, VOID]), st.sampled_from([0, 1, 2])), max_size=20))
def test_what_is_predicted_on_void_and_on_later_classes_changes_nothing(pixels, further):
    before, after = (iou_of_learned(counted(some), [1, 2]) for some in (pixels, pixels + further))
    assert all(same(before[label], after[label]) for label in before)


def test_an_absent_class_is_skipped_or_counts_as_zero():
    pixels = [(0, 0)] * 6 + [(1, 1)] * 3 + [(1, 0)]
    skipped = iou_of_learned(counted(pixels), [1, 2])
    assert math.isnan(skipped[2])
    zero = iou_of_learned(counted(pixels), [1, 2], absent="zero")
    assert zero == {0: 6 / (7 + 1e-6), 1: 3 / (4 + 1e-6), 2: 0.0}
    groups = {"old": [1], "new": [2]}
    assert group_iou(skipped, **groups)["miou_all"] == pytest.approx((6 / 7 + 3 / 4) / 2)
    assert math.isnan(group_iou(skipped, **groups)["hiou"])
    assert group_iou(zero, **groups)["miou_all"] == pytest.approx((6 / 7 + 3 / 4) / 3, abs=1e-6)
    assert group_iou(zero, **groups)["hiou"] == 0.0


def test_groups_with_and_without_the_background():
    iou = {0: 0.9, 1: 0.5, 2: 0.1, 3: 0.3}
    assert group_iou(iou, old=[1], new=[2, 3]) == pytest.approx(
        {
            "miou_new": 0.2,
            "miou_old": 0.7,
            "miou_all": 0.45,
            "hiou": 2 * 0.7 * 0.2 / 0.9,
            "miou_old_without_background": 0.5,
            "miou_all_without_background": 0.3,
            "hiou_without_background": 2 * 0.5 * 0.2 / 0.7,
        }
    )
    without = group_iou(iou, old=[1], new=[2, 3], background=None)
    assert without == pytest.approx({"miou_new": 0.2, "miou_old": 0.5, "miou_all": 0.3, "hiou": 2 * 0.5 * 0.2 / 0.7})


def test_after_the_first_experience_nothing_is_new():
    found = group_iou({0: 0.8, 1: 0.6}, old=[1], new=[])
    assert found["miou_old"] == found["miou_all"] == pytest.approx(0.7)
    assert math.isnan(found["miou_new"])
    assert math.isnan(found["hiou"])


STEPS = st.integers(1, 4).flatmap(
    lambda columns: st.lists(
        st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), min_size=columns, max_size=columns),
        min_size=1,
        max_size=5,
    )
)


@given(STEPS)
def test_forgetting_of_a_class_is_its_best_or_its_first_value_minus_its_last(steps):
    lost, difference = class_forgetting(steps), learned_minus_final(steps)
    for column in range(len(steps[0])):
        measured = [row[column] for row in steps if not math.isnan(row[column])]
        last = steps[-1][column]
        if math.isnan(last):
            assert math.isnan(lost[column])
            assert math.isnan(difference[column])
            continue
        assert lost[column] == max(measured) - last >= 0
        assert difference[column] == measured[0] - last <= lost[column]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: iou_of_learned(np.zeros((2, 3), int), [1]), "square"),
        (lambda: iou_of_learned(-np.eye(3, dtype=int), [1]), "negative"),
        (lambda: iou_of_learned(np.eye(3, dtype=int), [1, 1]), "each once"),
        (lambda: iou_of_learned(np.eye(3, dtype=int), [0]), "each once"),
        (lambda: iou_of_learned(np.eye(3, dtype=int), [3]), "0..2"),
        (lambda: iou_of_learned(np.eye(3, dtype=int), [1], absent="nan"), "'skip', 'zero'"),
        (lambda: class_forgetting(np.zeros((0, 2))), "at least one step"),
        (lambda: class_forgetting([[55.0]]), "percentages"),
    ],
)
def test_what_is_no_matrix_of_counts_or_fractions_is_refused(call, told):
    with pytest.raises(ConfigError, match=told):
        call()
