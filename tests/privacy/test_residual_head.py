"""The additive head: exactly nothing on redacted records, and ordinary clipped gradients on the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pvision.errors import ConfigError
from pvision.models import MotionEncoder
from pvision.privacy import (
    GaussianMechanism,
    ResidualHead,
    TailAverage,
    as_floats,
    clip_rows,
    noisy_head_gradient,
    whitening,
)


def correlated(records, features, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator, dtype=dtype)
    return torch.randn(records, features, generator=generator, dtype=dtype) @ mixing * torch.logspace(-3, 2, features)


def slow_whitening(rows, dim):
    """PCA by singular values, row by row, in float64: standardise, rotate, divide by damped spreads, median norm 1."""
    rows = rows.double()
    deviation = torch.tensor([(sum(value**2 for value in column) / len(rows)) ** 0.5 for column in rows.T.tolist()])
    deviation = deviation.double() + 1e-3
    _, spreads, directions = torch.linalg.svd(rows / deviation / len(rows) ** 0.5, full_matrices=False)
    columns = [directions[k] / (spreads[k] + 0.05 * spreads[0]) / deviation for k in range(dim)]
    projection = torch.stack(columns, 1)
    norms = sorted(float((row @ projection).norm()) for row in rows)
    return projection / norms[(len(norms) - 1) // 2]


def test_whitening_equals_its_slow_twin_up_to_the_signs_of_directions():
    rows = correlated(60, 7)
    ours, slow = whitening(rows, 5).double(), slow_whitening(rows, 5)
    signs = (ours * slow).sum(0).sign()
    torch.testing.assert_close(ours * signs, slow, rtol=2e-3, atol=2e-3 * slow.abs().max().item())


@pytest.mark.parametrize("dim", [1, 4, 12])
def test_the_median_projected_row_has_norm_one(dim):
    rows = correlated(101, 12)
    norms = (rows @ whitening(rows, dim)).norm(dim=1)
    assert norms.median().item() == pytest.approx(1, rel=1e-5)


def test_projected_rows_are_decorrelated_and_about_equally_long():
    rows = correlated(400, 8, dtype=torch.float64)
    projected = rows @ whitening(rows, 8)
    gram = projected.T @ projected
    assert (gram - gram.diag().diag()).abs().max() < 1e-6 * gram.diag().max()
    assert (rows.T @ rows).diag().max() > 1e6 * (rows.T @ rows).diag().min()  # it had work to do
    assert gram.diag().max() < 20 * gram.diag()[:4].min()


def test_directions_of_hardly_any_variance_are_damped():
    rows = correlated(100, 3, dtype=torch.float64)
    rows = torch.cat([rows, 1e-9 * torch.randn(100, 1, dtype=torch.float64)], 1)
    projected = rows @ whitening(rows, 4)
    assert projected[:, 3].abs().max() < 0.1


def test_views_that_never_differ_are_refused():
    with pytest.raises(ConfigError, match="two views of the public clips have equal features"):
        whitening(torch.zeros(10, 4), 2)


@given(st.integers(0, 2**32), st.sampled_from([1e-20, 1e-3, 1.0, 1e3, 1e15]))
def test_clipped_rows_have_norm_one_at_most_and_short_ones_keep_their_bits(seed, scale):
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) * scale
    clipped, norms = clip_rows(rows), rows.double().norm(dim=1)
    assert clipped.double().norm(dim=1).max() <= 1 + 1e-6
    assert torch.equal(clipped[norms < 1], rows[norms < 1])
    long = norms > 1
    torch.testing.assert_close(
        clipped[long].double(), rows[long].double() / norms[long].unsqueeze(1), rtol=1e-5, atol=0
    )


@pytest.fixture
def head():
    head = ResidualHead(8, 3, projection_dim=4)
    head.fit_projection(correlated(50, 8))
    return head


def test_the_head_starts_by_adding_nothing(head):
    features = head.features(torch.randn(5, 8), torch.randn(5, 8), same=torch.zeros(5, dtype=torch.bool))
    assert features.any()
    assert not head(features).any()


def test_features_are_the_clipped_projected_difference(head):
    full, public = torch.randn(6, 8) * 100, torch.randn(6, 8)
    features = head.features(full, public, same=torch.zeros(6, dtype=torch.bool))
    assert torch.equal(features, clip_rows((full - public) @ head.projection))
    assert features.norm(dim=1).max() <= 1 + 1e-6


def test_features_are_zero_where_the_views_are_the_same_whatever_rounding_did(head):
    full = torch.randn(4, 8)
    public = full * (1 + 1e-7)  # the same clip through other kernels
    same = torch.tensor([True, False, True, False])
    features = head.features(full, public, same=same)
    assert (features[same].view(torch.int32) == 0).all()
    assert features[~same].any()


def test_only_the_weight_is_trained_and_the_projection_travels_with_the_state(head):
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert head.state_dict().keys() == {"weight", "projection"}
    assert head.weight.shape == (3, 4)


@pytest.mark.parametrize("dim", [0, 9, -1, 2.0, True])
def test_a_projection_that_does_not_fit_is_refused(dim):
    with pytest.raises(ConfigError, match=r"^projection_dim must be"):
        ResidualHead(8, 3, projection_dim=dim)


# The noisy gradient


def clipped_autograd(weight, features, base, label, bound):
    """Sum of one-by-one autograd gradients, each clipped to the bound."""
    total = torch.zeros_like(weight)
    for h, logits, target in zip(features, base, label, strict=True):
        trained = weight.detach().clone().requires_grad_()
        loss = F.cross_entropy(logits + h @ trained.T, target)
        (one,) = torch.autograd.grad(loss, trained)
        total += one * min(1.0, bound / one.norm().item()) if one.any() else one
    return total


@pytest.mark.parametrize("bound", [0.05, 0.3, 100.0])
def test_with_hardly_any_noise_the_gradient_is_that_of_the_clipped_loss(statement, bound):
    generator = torch.Generator().manual_seed(0)
    features = clip_rows(torch.randn(12, 4, generator=generator, dtype=torch.float64))
    features[5] = 0
    base = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    label = torch.arange(12) % 3
    spec = statement(max_grad_norm=bound, noise_multiplier=1e-12, sample_rate=1.0, steps=1)
    mechanism = GaussianMechanism(spec, num_records=12)
    index = torch.tensor(next(iter(mechanism.batches)))
    ours = noisy_head_gradient(weight, mechanism, features, base, label, index=index)
    torch.testing.assert_close(ours, clipped_autograd(weight, features, base, label, bound) / 12, rtol=1e-9, atol=1e-9)
    assert mechanism.steps == 1


def test_a_redacted_record_adds_exactly_nothing(statement):
    features, base, label = torch.randn(6, 4), torch.randn(6, 3), torch.arange(6) % 3
    features[4] = 0
    spec = statement(sample_rate=1.0, steps=1, noise_seed=0)
    gradients = []
    for changed in (base, base.index_fill(0, torch.tensor(4), 7.0)):  # the record's logits and label cannot matter
        mechanism = GaussianMechanism(spec, num_records=6)
        index = torch.tensor(next(iter(mechanism.batches)))
        gradients.append(noisy_head_gradient(torch.randn(3, 4) * 0, mechanism, features, changed, label, index=index))
    assert torch.equal(*gradients)


def test_an_empty_batch_has_a_noisy_gradient(statement):
    mechanism = GaussianMechanism(statement(sample_rate=1e-9), num_records=10)
    index = torch.tensor(next(iter(mechanism.batches)), dtype=torch.int64)
    nothing = torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    assert noisy_head_gradient(torch.zeros(3, 4), mechanism, *nothing, index=index).all()
    assert mechanism.steps == 1


def test_the_noisy_gradient_can_be_taken_of_a_parameter(statement):
    head = ResidualHead(8, 3, projection_dim=4)
    mechanism = GaussianMechanism(statement(sample_rate=1.0), num_records=2)
    index = torch.tensor(next(iter(mechanism.batches)))
    gradient = noisy_head_gradient(
        head.weight, mechanism, torch.randn(2, 4), torch.randn(2, 3), torch.tensor([0, 2]), index=index
    )
    assert not gradient.requires_grad
    assert gradient.shape == head.weight.shape


# With the shipped encoder


def test_the_encoders_features_of_a_redacted_clip_are_zero_beside_any_other():
    encoder = MotionEncoder.pretrained()
    head = ResidualHead(encoder.feature_dim, 3, projection_dim=8)
    head.fit_projection(correlated(40, encoder.feature_dim))
    clips = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8)
    redacted = clips.clone()
    redacted[[0, 3], :, :, 8:24, 8:24] = 128
    same = (clips == redacted).flatten(1).all(1)
    features = head.features(encoder(as_floats(clips)), encoder(as_floats(redacted)), same=same)
    assert same.tolist() == [False, True, True, False]
    assert (features[same].view(torch.int32) == 0).all()
    assert features[~same].any(1).all()


# The mean of the last iterates


@pytest.mark.parametrize(
    ("steps", "share", "averaged"),
    [(60, 0.5, 30), (10, 1.0, 10), (10, 0.7, 7), (10, 0.9, 9), (10, 0.1, 1), (3, 0.01, 1), (1, 0.5, 1), (7, 0.5, 4)],
)
def test_the_tail_is_averaged(steps, share, averaged):
    iterates = [torch.full((2, 3), float(step) ** 2) for step in range(steps)]
    average, weight = TailAverage(steps=steps, share=share), torch.nn.Parameter(torch.zeros(2, 3))
    for step, iterate in enumerate(iterates, start=1):
        with torch.no_grad():
            weight.copy_(iterate)  # the same tensor each time, as an optimizer does it
        average.update(weight, step=step)
    average.copy_to(weight)
    torch.testing.assert_close(weight.detach(), torch.stack(iterates[steps - averaged :]).mean(0))


def test_training_that_ends_before_the_tail_keeps_its_last_weights():
    average, weight = TailAverage(steps=10, share=0.5), torch.ones(2)
    for step in range(1, 6):
        average.update(weight, step=step)
    average.copy_to(weight)
    assert weight.tolist() == [1.0, 1.0]
    average.update(torch.full((2,), 3.0), step=6)
    average.copy_to(weight)
    assert weight.tolist() == [3.0, 3.0]


def test_an_average_goes_on_from_its_state():
    whole, first, second = (TailAverage(steps=6, share=0.5) for _ in range(3))
    iterates = [torch.full((2,), float(step)) for step in range(1, 7)]
    for step, iterate in enumerate(iterates, start=1):
        whole.update(iterate, step=step)
    for step in range(1, 5):
        first.update(iterates[step - 1], step=step)
    second.load_state_dict(first.state_dict(), like=torch.zeros(2))
    for step in (5, 6):
        second.update(iterates[step - 1], step=step)
    expected, came = torch.zeros(2), torch.zeros(2)
    whole.copy_to(expected)
    second.copy_to(came)
    assert expected.tolist() == came.tolist() == [5.0, 5.0]


@pytest.mark.parametrize(("steps", "share"), [(0, 0.5), (5, 0.0), (5, 1.1), (2.5, 0.5), (5, True)])
def test_wrong_arguments_of_the_average_are_refused(steps, share):
    with pytest.raises(ConfigError, match=r"^(steps|share) must be"):
        TailAverage(steps=steps, share=share)
