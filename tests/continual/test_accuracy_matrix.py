"""AccuracyMatrix: integer counts that add up over batches and processes, and survive a checkpoint."""

import copy
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.metrics import AccuracyMatrix, iou_per_class, summary
from pvision.errors import ConfigError, DataError

CLASSES = 5


def records(seed, size):
    rng = np.random.default_rng(seed + 100)  # row -1 has a seed too
    return rng.integers(-1, CLASSES + 1, size), rng.integers(0, CLASSES, size)


def filled(*, rows=3, columns=4):
    matrix = AccuracyMatrix(CLASSES)
    for row in range(-1, rows):
        for column in range(columns):
            matrix.add(row, column, *records(100 * row + column, 40 + column))
    return matrix


def test_counts_are_those_of_a_loop():
    matrix = filled()
    for row in range(3):
        right, total = np.zeros(CLASSES), np.zeros(CLASSES)
        confusion = np.zeros((CLASSES, CLASSES), dtype=int)
        for column in range(4):
            hits = 0
            for guess, truth in zip(*records(100 * row + column, 40 + column), strict=True):
                hits += guess == truth
                right[truth] += guess == truth
                total[truth] += 1
                if 0 <= guess < CLASSES:
                    confusion[truth, guess] += 1
            assert matrix.accuracy()[row, column] == hits / (40 + column)
        np.testing.assert_array_equal(matrix.per_class()[row], right / total)
        np.testing.assert_array_equal(matrix.confusion(row), confusion)
    assert matrix.accuracy().shape == (3, 4)
    assert matrix.counts().tolist() == [40, 41, 42, 43]


def test_a_diagonal_of_right_answers():
    matrix = AccuracyMatrix(3)
    matrix.add(0, 0, [0, 1, 2, 2], [0, 1, 2, 1])
    assert matrix.accuracy().tolist() == [[0.75]]
    assert matrix.per_class().tolist() == [[1.0, 0.5, 1.0]]
    assert matrix.confusion(0).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert iou_per_class(matrix.confusion(0)).tolist() == [1.0, 0.5, 0.5]


def test_test_records_are_those_of_the_last_row():
    matrix = AccuracyMatrix(2)
    matrix.add(0, 0, [0, 1], [0, 1])
    matrix.add(2, 0, [0, 1, 1], [0, 1, 1])
    matrix.add(-1, 0, [0], [0])
    assert matrix.counts().tolist() == [3]


def test_no_class_is_wrong_and_stands_in_no_column():
    matrix = AccuracyMatrix(2)
    matrix.add(0, 0, [-1, 7, 1, -(2**40)], [0, 1, 1, 0])
    assert matrix.accuracy().item() == 0.25
    assert matrix.confusion(0).tolist() == [[0, 0], [0, 1]]
    assert matrix.counts().tolist() == [4]


def test_what_was_not_measured_is_nan():
    matrix = AccuracyMatrix(3)
    assert matrix.accuracy().shape == (0, 0)
    assert matrix.counts() is None
    assert matrix.confusion(0) is None
    matrix.add(1, 0, [0], [0])
    matrix.add(1, 2, [], [])  # this process has no record of the column
    assert np.isnan(matrix.accuracy()).tolist() == [[True] * 3, [False, True, True]]
    assert np.isnan(matrix.per_class()).tolist() == [[True] * 3, [False, True, True]]
    assert matrix.counts().tolist() == [1, 0, 0]
    assert np.isnan(matrix.baseline()).all()


def test_row_minus_one_is_the_baseline_and_no_row():
    matrix = AccuracyMatrix(2)
    matrix.add(-1, 1, [0, 1], [0, 0])
    np.testing.assert_array_equal(matrix.baseline(), [np.nan, 0.5])
    assert matrix.rows == 0
    assert matrix.columns == 2
    assert matrix.per_class().shape == (0, 2)


@given(order=st.permutations(range(7)), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_neither_order_nor_batches_matter(order, cuts):
    prediction, target = records(3, 60)
    whole, shuffled = AccuracyMatrix(CLASSES), AccuracyMatrix(CLASSES)
    whole.add(0, 0, prediction, target)
    batches = np.split(np.arange(60), sorted(cuts))
    for place in order:
        if place < len(batches):
            shuffled.add(0, 0, prediction[batches[place]], target[batches[place]])
    for place in range(7, len(batches)):
        shuffled.add(0, 0, prediction[batches[place]], target[batches[place]])
    assert shuffled.state_dict() == whole.state_dict()


@given(share=st.lists(st.integers(0, 2), min_size=50, max_size=50))
def test_processes_add_up_however_uneven_their_shares(share):
    prediction, target = records(1, 50)
    whole = AccuracyMatrix(CLASSES)
    whole.add(0, 1, prediction, target)
    parts = []
    for rank in range(3):
        mine = np.array(share) == rank
        part = AccuracyMatrix(CLASSES)
        if mine.any():
            part.add(0, 1, prediction[mine], target[mine])
        parts.append(part)

    merged = AccuracyMatrix(CLASSES)
    for part in parts:
        merged.merge(part)
    assert merged.state_dict() == whole.state_dict()

    summed = AccuracyMatrix(CLASSES)
    summed.load_counts(0, sum(part.counts_vector(0, columns=2) for part in parts), columns=2)
    assert summed.state_dict() == whole.state_dict()


def test_a_mean_of_shards_means_would_be_another_number():
    """The negative control of integer counts: averages of averages weigh small shards too much."""
    prediction, target = np.array([0, 0, 0, 1]), np.zeros(4, dtype=int)
    shards = []
    for mine in (slice(0, 3), slice(3, 4)):
        shard = AccuracyMatrix(2)
        shard.add(0, 0, prediction[mine], target[mine])
        shards.append(shard)
    mean_of_means = np.mean([shard.accuracy().item() for shard in shards])
    shards[0].merge(shards[1])
    assert shards[0].accuracy().item() == 0.75
    assert mean_of_means == 0.5


def sum_over_processes(*, rank):
    prediction, target = records(9, 997)
    mine = slice(0, 797) if rank == 0 else slice(797, None)
    matrix = AccuracyMatrix(CLASSES)
    matrix.add(2, 0, prediction[mine], target[mine])
    vector = torch.from_numpy(matrix.counts_vector(2, columns=1))
    torch.distributed.all_reduce(vector)
    matrix.load_counts(2, vector, columns=1)
    return matrix.state_dict()


def test_two_processes_with_uneven_shards_equal_one(ranks):
    whole = AccuracyMatrix(CLASSES)
    whole.add(2, 0, *records(9, 997))
    assert ranks(sum_over_processes, 2) == [("returned", whole.state_dict())] * 2


def test_loading_a_vector_replaces_the_row_and_no_other():
    matrix = filled()
    before = matrix.accuracy()
    matrix.load_counts(1, matrix.counts_vector(0, columns=4), columns=4)
    after = matrix.accuracy()
    np.testing.assert_array_equal(after[1], before[0])
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])


def test_what_the_vector_does_not_count_is_unmeasured_but_values_stay():
    matrix = AccuracyMatrix(2)
    matrix.set_value(0, 2, 0.5)
    matrix.add(0, 1, [0], [0])
    matrix.add(0, 0, [0], [0])
    matrix.load_counts(0, AccuracyMatrix(2).counts_vector(0, columns=2), columns=2)
    np.testing.assert_array_equal(matrix.accuracy(), [[np.nan, np.nan, 0.5]])


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_tensors_of_any_whole_type_are_taken(kind):
    matrix = AccuracyMatrix(3)
    matrix.add(0, 0, torch.tensor([[0, 1], [2, 2]]).ravel().to(kind), torch.tensor([0, 1, 2, 0], dtype=kind))
    assert matrix.accuracy().item() == 0.75


def test_counts_from_elsewhere_have_no_confusion_matrix():
    matrix = AccuracyMatrix(2)
    matrix.add_counts(0, 0, [3, 1], torch.tensor([4, 4]))
    assert matrix.accuracy().item() == 0.5
    assert matrix.counts().tolist() == [8]
    matrix.add(0, 1, [0], [0])
    assert matrix.confusion(0) is None


def test_values_without_counts_fill_the_matrix_too():
    matrix = AccuracyMatrix(2)
    matrix.set_value(0, 0, torch.tensor(0.25, dtype=torch.bfloat16))
    matrix.set_value(0, 1, float("nan"))
    np.testing.assert_array_equal(matrix.accuracy(), [[0.25, np.nan]])
    assert matrix.counts() is None
    matrix.set_value(0, 0, 0.75)
    assert matrix.accuracy()[0, 0] == 0.75


def test_a_matrix_that_grew_is_one_that_was_made_larger():
    small, large = AccuracyMatrix(2), AccuracyMatrix(CLASSES)
    for matrix in (small, large):
        matrix.add(0, 0, [0, 1, -1, 1], [0, 0, 1, 1])
        matrix.set_value(1, 0, 0.5)
    small.grow(4)
    small.grow(CLASSES)
    for matrix in (small, large):
        matrix.add(0, 1, [4, -1], [4, 3])
    assert small.state_dict() == large.state_dict()
    assert small.confusion(0).shape == (CLASSES, CLASSES)
    with pytest.raises(ConfigError, match="num_classes must be a whole number of at least 5, but 3 came"):
        small.grow(3)


def test_a_cleared_row_can_be_measured_again():
    matrix = filled()
    matrix.clear(1)
    assert np.isnan(matrix.accuracy()[1]).all()
    assert matrix.confusion(1) is None
    matrix.set_value(1, 0, 0.5)
    assert matrix.accuracy()[1, 0] == 0.5
    matrix.clear(1)
    matrix.add(1, 0, [2], [3])
    assert matrix.confusion(1).sum() == matrix.confusion(1)[3, 2] == 1


def test_what_is_returned_is_not_the_state():
    matrix = filled()
    before = copy.deepcopy(matrix.state_dict())
    for array in (matrix.accuracy(), matrix.counts(), matrix.per_class(), matrix.confusion(0), matrix.baseline()):
        array[...] = 0
    vector = matrix.counts_vector(0, columns=4)
    matrix.load_counts(0, vector, columns=4)
    vector[...] = 0
    assert matrix.state_dict() == before


def test_what_was_given_is_not_the_state():
    matrix, total = AccuracyMatrix(2), np.array([4, 4])
    matrix.add_counts(0, 0, total, total)
    total[:] = 0
    assert matrix.counts().tolist() == [8]


def test_the_whole_history_survives_a_checkpoint():
    matrix = filled()
    matrix.set_value(5, 1, 0.1)
    matrix.set_value(5, 2, float("nan"))
    file = io.BytesIO()
    torch.save(matrix.state_dict(), file)
    file.seek(0)
    again = AccuracyMatrix(CLASSES)
    again.add(9, 9, [0], [0])  # is replaced
    again.load_state_dict(torch.load(file, weights_only=True))
    for name in ("accuracy", "counts", "per_class", "baseline"):
        np.testing.assert_array_equal(getattr(again, name)(), getattr(matrix, name)())
    np.testing.assert_array_equal(again.confusion(2), matrix.confusion(2))
    again.add(2, 0, *records(5, 10))  # and counts on
    matrix.add(2, 0, *records(5, 10))
    assert str(again.state_dict()) == str(matrix.state_dict())


def test_the_state_is_plain():
    state = filled().state_dict()
    assert json.loads(json.dumps(state)) == state


def test_a_state_of_other_classes_is_refused():
    with pytest.raises(ConfigError, match=r"has 5 classes, but this one was made for 6\. Resume with the stream"):
        AccuracyMatrix(6).load_state_dict(filled().state_dict())


@pytest.mark.parametrize("damage", [{"counts": [[0, 0]]}, {"counts": 3}, {"confusion": [[0, [99], [1]]]}])
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    matrix = filled()
    before = matrix.state_dict()
    with pytest.raises(DataError, match="saved accuracy matrix is damaged"):
        matrix.load_state_dict({**before, **damage})
    assert matrix.state_dict() == before
    with pytest.raises(DataError, match="damaged"):
        matrix.load_state_dict({"num_classes": CLASSES})


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, 0], [0, 3], r"target must hold labels in 0\.\.2, but 3 came\. Give AccuracyMatrix the num_classes"),
        ([0], [-1], r"target must hold labels in 0\.\.2, but -1 came"),
        ([0, 1], [0], r"prediction must have the shape \(1\), but it has \(2,\)"),
        ([0.0], [0], "prediction must be an array of whole numbers, but its type is float64"),
        ([0], [True], "target must be an array of whole numbers, but its type is bool"),
        ([[0, 1]], [[0, 1]], r"target must have the shape \(any\), but it has \(1, 2\)"),
        ([[0, 1], [1]], [0, 1], "prediction must be an array of whole numbers, but it is ragged"),
        (torch.rand(2, 3), torch.tensor([0, 1]), "prediction must be an array of whole numbers, but its type is float"),
    ],
)
def test_wrong_labels_are_refused_and_not_counted(prediction, target, message):
    matrix = AccuracyMatrix(3)
    with pytest.raises(DataError, match=message):
        matrix.add(0, 0, prediction, target)
    assert matrix.rows == 0


def test_wrong_places_and_counts_are_refused():
    matrix = AccuracyMatrix(2)
    with pytest.raises(ConfigError, match="row must be a whole number of at least -1, but -2 came"):
        matrix.add(-2, 0, [0], [0])
    with pytest.raises(ConfigError, match="column must be a whole number of at least 0"):
        matrix.add(0, -1, [0], [0])
    with pytest.raises(ConfigError, match="correct must lie between 0 and total"):
        matrix.add_counts(0, 0, [2, 0], [1, 1])
    with pytest.raises(ConfigError, match=r"correct must have the shape \(2\), but it has \(3,\)"):
        matrix.add_counts(0, 0, [1, 1, 1], [1, 1, 1])
    with pytest.raises(ConfigError, match=r"value must hold fractions .* but 71\.5 came.*divide by 100"):
        matrix.set_value(0, 0, 71.5)
    with pytest.raises(ConfigError, match="num_classes must be a whole number of at least 1"):
        AccuracyMatrix(0)
    with pytest.raises(ConfigError, match=r"vector must have the shape \(10\)"):
        matrix.load_counts(0, [0] * 9, columns=1)
    with pytest.raises(ConfigError, match="vector must come from counts_vector"):
        matrix.load_counts(0, [1] + [0] * 9, columns=1)


def test_values_and_counts_do_not_mix_in_one_place():
    counted, valued, other = AccuracyMatrix(2), AccuracyMatrix(2), AccuracyMatrix(2)
    counted.add(0, 0, [0], [0])
    valued.set_value(0, 0, 0.5)
    other.set_value(0, 0, 0.75)
    with pytest.raises(ConfigError, match=r"Row 0, column 0 holds counts\. Call clear\(0\)"):
        counted.set_value(0, 0, 0.5)
    with pytest.raises(ConfigError, match="Row 0, column 0 holds a value without counts"):
        valued.add(0, 0, [0], [0])
    with pytest.raises(ConfigError, match="a value in one matrix and counts in the other"):
        valued.merge(counted)
    with pytest.raises(ConfigError, match="not the same value"):
        counted.merge(valued)
    with pytest.raises(ConfigError, match="not the same value"):
        valued.merge(other)
    with pytest.raises(ConfigError, match="A matrix of 3 classes cannot join one of 2"):
        counted.merge(AccuracyMatrix(3))
    empty = AccuracyMatrix(2)
    empty.merge(valued)
    empty.merge(valued)
    assert empty.accuracy().item() == 0.5


def test_micro_averages_come_out_of_the_integers():
    matrix = filled(rows=4)
    hits = sum(int((p == t).sum()) for p, t in (records(300 + column, 40 + column) for column in range(4)))
    values = summary(matrix.accuracy(), counts=matrix.counts(), baseline=matrix.baseline())
    assert values["continual/average_accuracy_micro"] == pytest.approx(hits / (40 + 41 + 42 + 43), abs=1e-15)
    assert not np.isnan(values["continual/forward_transfer"])
