"""Per-record gradients against one-by-one autograd, for every network that ships."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pvision.privacy import (
    DenseGradients,
    OuterGradients,
    PublicView,
    Redaction,
    TwoViews,
    full_view_loss,
    record_gradients,
    residual_loss,
)

RECORDS = 4

# In float32 one-by-one autograd itself is off by more than 1e-6 in these: their group norms see very few values.
COARSE = {"x3d_tiny", "slowfast_tiny"}


def views_of(clip, dtype=torch.float32):
    """Four records in both views, as floats; the second has nothing to hide."""
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (RECORDS, *clip, 3), dtype=torch.uint8, generator=generator)
    mask = torch.rand(RECORDS, *clip, generator=generator) < 0.3
    mask[1] = False
    redacted = Redaction(sensitive="inside").redact(video, mask)
    full, public = (clips.permute(0, 4, 1, 2, 3).to(dtype) / 255 for clips in (video, redacted))
    return TwoViews(full, PublicView(public, mask, torch.tensor([0, 1, 2, 1]), torch.arange(RECORDS)))


def parameters_of(network):
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def rows_of(loss, network, views, microbatch=3):
    """The engine's gradients, all pieces together."""
    frozen = dict(network.named_buffers())
    pieces = list(record_gradients(loss(network, frozen), parameters_of(network), views, microbatch=microbatch))
    eye = torch.eye(microbatch, dtype=torch.float64)
    rows = []
    for piece in pieces:
        rows += [piece.weighted_sum(eye[i][: len(piece.norms())]) for i in range(len(piece.norms()))]
    return rows


def one_by_one(network, video, label):
    loss = F.cross_entropy(network(video.unsqueeze(0)), label.unsqueeze(0))
    return dict(zip(dict(network.named_parameters()), torch.autograd.grad(loss, network.parameters()), strict=True))


def residual_one_by_one(network, views, index):
    full, public = (one_by_one(network, view[index], views.label[index]) for view in (views.full, views.public.video))
    return {name: full[name] - public[name] for name in full}


def deviation(ours, theirs, scale):
    """The largest difference of two gradients, relative to the largest entry of ``scale``."""
    largest = max(value.abs().max().item() for value in scale.values())
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs) / largest


def test_every_network_that_ships_is_tried(shipped_names):
    expected, tried = shipped_names
    assert tried == expected


def test_residual_gradients_equal_one_by_one_autograd(shipped):
    network, clip = shipped
    network, views = network.double(), views_of(clip, torch.float64)
    rows = rows_of(residual_loss, network, views)
    assert len(rows) == RECORDS
    for index, ours in enumerate(rows):
        whole = one_by_one(network, views.full[index], views.label[index])
        assert deviation(ours, residual_one_by_one(network, views, index), whole) < 1e-12


def test_residual_gradients_equal_one_by_one_autograd_in_float32(shipped, shipped_name):
    network, clip = shipped
    rows = rows_of(residual_loss, network, views_of(clip))
    single = [residual_one_by_one(network, views_of(clip), index) for index in range(RECORDS)]
    network, views = network.double(), views_of(clip, torch.float64)
    whole = [one_by_one(network, views.full[index], views.label[index]) for index in range(RECORDS)]
    if shipped_name in COARSE:
        exact = [residual_one_by_one(network, views, index) for index in range(RECORDS)]
        autograds_own = max(map(deviation, single, exact, whole))
        assert max(map(deviation, rows, exact, whole)) < 1e-6 + 2 * autograds_own < 2e-5
    else:
        assert max(map(deviation, rows, single, whole)) < 1e-6


def test_full_view_gradients_equal_one_by_one_autograd(shipped):
    network, clip = shipped
    network, views = network.double(), views_of(clip, torch.float64)
    for index, ours in enumerate(rows_of(full_view_loss, network, views)):
        theirs = one_by_one(network, views.full[index], views.label[index])
        assert deviation(ours, theirs, theirs) < 1e-12


def test_the_comparison_can_fail(shipped):
    network, clip = shipped
    views = views_of(clip)
    ours = rows_of(residual_loss, network, views)[0]
    whole = one_by_one(network, views.full[0], views.label[0])
    assert deviation(ours, residual_one_by_one(network, views, 2), whole) > 1e-3
    assert deviation(ours, whole, whole) > 1e-3


def test_the_residual_of_a_redacted_record_is_zero_bit_for_bit(shipped):
    network, clip = shipped
    views = views_of(clip)
    redacted = views._replace(full=views.public.video)
    for row in rows_of(residual_loss, network, redacted, microbatch=2):
        assert not any(value.any() for value in row.values())
    assert any(value.any() for value in rows_of(residual_loss, network, views)[0].values())


def test_the_residual_of_a_record_with_an_empty_mask_is_zero_beside_others(shipped):
    network, clip = shipped
    rows = rows_of(residual_loss, network, views_of(clip), microbatch=4)
    zero = [not any(value.any() for value in row.values()) for row in rows]
    assert zero == [False, True, False, False]


def test_a_random_layer_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 4 * 4, 3), nn.Dropout(0.5))
    with pytest.raises(RuntimeError, match="randomness"):
        rows_of(residual_loss, network, views_of((2, 4, 4)))


def test_pieces_have_the_size_asked_for_and_an_empty_batch_has_none():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 4 * 4, 3))
    views = views_of((2, 4, 4))

    def sizes(views, microbatch):
        pieces = record_gradients(residual_loss(network, {}), parameters_of(network), views, microbatch=microbatch)
        return [len(piece.norms()) for piece in pieces]

    assert sizes(views, 3) == [3, 1]
    assert sizes(views, 100) == [4]
    nobody = TwoViews(views.full[:0], PublicView(*(column[:0] for column in views.public)))
    assert sizes(nobody, 3) == []


def test_autocast_changes_no_bit():
    network = nn.Sequential(nn.Flatten(), nn.Linear(96, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    views = views_of((2, 4, 4))
    expected = rows_of(residual_loss, network, views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = rows_of(residual_loss, network, views)
    assert all(torch.equal(one[name], other[name]) for one, other in zip(rows, expected, strict=True) for name in one)


def test_frozen_parameters_have_no_gradient():
    network = nn.Sequential(nn.Flatten(), nn.Linear(96, 4), nn.Linear(4, 3))
    every = parameters_of(network)
    trained = {name: value for name, value in every.items() if name.startswith("2.")}
    frozen = {name: value for name, value in every.items() if name not in trained}
    (piece,) = record_gradients(full_view_loss(network, frozen), trained, views_of((2, 4, 4)), microbatch=9)
    assert piece.weighted_sum(torch.ones(4)).keys() == trained.keys()


def dense_of(error, features):
    return DenseGradients({"weight": error.unsqueeze(2) * features.unsqueeze(1)})


@given(st.integers(0, 6), st.integers(1, 5), st.integers(1, 7), st.integers(0, 2**32))
def test_outer_gradients_equal_dense_ones(records, classes, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    error, features, weights = (
        torch.randn(records, *size, generator=generator, dtype=torch.float64) for size in ((classes,), (dim,), ())
    )
    outer, dense = OuterGradients("weight", error, features), dense_of(error, features)
    torch.testing.assert_close(outer.norms(), dense.norms(), rtol=1e-12, atol=0)
    ours, theirs = outer.weighted_sum(weights)["weight"], dense.weighted_sum(weights)["weight"]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_outer_gradients_equal_autograd_of_a_linear_head():
    base, features = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    label, weight = torch.tensor([0, 2, 1, 1, 0]), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rows = [
        torch.autograd.grad(F.cross_entropy(base[i] + features[i] @ weight.T, label[i]), weight)[0] for i in range(5)
    ]
    error = torch.softmax(base + features @ weight.detach().T, 1) - F.one_hot(label, 3)
    outer = OuterGradients("weight", error, features)
    torch.testing.assert_close(outer.norms(), torch.stack(rows).flatten(1).norm(dim=1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(outer.weighted_sum(torch.ones(5))["weight"], sum(rows), rtol=1e-12, atol=1e-14)


def test_the_norm_is_over_all_parameters_together():
    rows = {"matrix": torch.full((2, 2, 2), 2.0), "scalar": torch.tensor([3.0, 0.0])}
    assert DenseGradients(rows).norms().tolist() == [5.0, 4.0]


@pytest.mark.parametrize("kind", ["dense", "outer"])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e18])
def test_norms_neither_vanish_nor_overflow(kind, scale):
    error, features = torch.tensor([[3.0, 4.0]]) * scale, torch.tensor([[1.0, 0.0]])
    gradients = dense_of(error, features) if kind == "dense" else OuterGradients("weight", error, features)
    assert gradients.norms().item() == pytest.approx(5 * scale, rel=1e-6)


@pytest.mark.parametrize("kind", ["dense", "outer"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_record_with_weight_zero_leaves_the_others_their_bits(kind, bad):
    error, features = torch.randn(4, 3), torch.randn(4, 5)
    make = dense_of if kind == "dense" else lambda error, features: OuterGradients("weight", error, features)
    weights = torch.tensor([0.5, 0.0, 1.0, 0.25])
    expected = make(error.index_fill(0, torch.tensor(1), 0.0), features).weighted_sum(weights)["weight"]
    error[1, 2] = bad
    assert torch.equal(make(error, features).weighted_sum(weights)["weight"], expected)
