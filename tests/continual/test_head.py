"""A head that grows: what was there stays, and labels find their columns in whatever order they came."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.head import IncrementalHead
from pvision.errors import ConfigError, DataError


def grown(*steps):
    head = IncrementalHead(4)
    for classes in steps:
        head.grow(classes)
    return head


def test_growing_leaves_the_logits_of_earlier_classes_as_they_were():
    head, features = grown([3, 1]), torch.randn(5, 4)
    before = head(features)
    head.grow([7])
    after = head(features)
    assert after.shape == (5, 3)
    assert torch.equal(after[:, :2], before)


def test_a_head_without_classes_gives_no_logits_and_predicts_none():
    head = IncrementalHead(4)
    logits = head(torch.randn(3, 4))
    assert logits.shape == (3, 0)
    assert head.predictions(logits).tolist() == [-1, -1, -1]


@given(st.permutations(range(6)), st.integers(1, 5))
def test_columns_and_labels_are_inverse_for_every_class_order(order, cut):
    head = grown(order[:cut], order[cut:])
    labels = torch.tensor(order)
    assert torch.equal(head.labels(head.columns(labels)), labels)
    # The logit of a class alone is largest in its own column.
    logits = torch.eye(6)[head.columns(labels)]
    assert torch.equal(head.predictions(logits), labels)


def test_predictions_among_some_classes_choose_the_largest_of_those():
    head = grown([5, 2], [9])
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 5.0]])
    assert head.predictions(logits).tolist() == [5, 9]
    assert head.predictions(logits, among=[2, 9]).tolist() == [9, 9]
    assert head.predictions(logits, among=[2]).tolist() == [2, 2]
    assert head.predictions(logits, among=[4]).tolist() == [-1, -1]


def test_a_new_head_takes_the_shape_and_the_weights_of_a_grown_one():
    old, new = grown([3, 1], [7]), IncrementalHead(4)
    new.grow_like(old.sizes, old.classes)
    new.load_state_dict(old.state_dict())
    features = torch.randn(2, 4)
    assert torch.equal(new(features), old(features))
    new.grow_like(old.sizes, old.classes)  # again: nothing left to do
    assert new.classes == [3, 1, 7]


def test_a_head_follows_its_module_to_another_type():
    head = IncrementalHead(4).double()
    head.grow([0])
    assert head(torch.randn(1, 4, dtype=torch.float64)).dtype == torch.float64


def test_a_label_that_never_came_is_named():
    with pytest.raises(DataError, match=r"Labels \[8\] came, but the head knows \[3, 1\] only"):
        grown([3, 1]).columns(torch.tensor([1, 8]))


def test_a_class_that_came_before_is_refused():
    with pytest.raises(ConfigError, match=r"\[1\] are known"):
        grown([3, 1]).grow([1, 2])
    with pytest.raises(ConfigError, match="must be new"):
        grown().grow([4, 4])


def test_a_head_that_grew_otherwise_takes_no_weights():
    with pytest.raises(ConfigError, match="Load them into a new one"):
        grown([3, 1]).grow_like([1, 2], [3, 1, 7])
