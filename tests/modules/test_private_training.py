import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pvision.errors import ConfigError, PrivacyError
from pvision.models import TubeletViT
from pvision.modules import PrivateTraining
from pvision.modules.private_training import PairedBatch
from pvision.privacy import PublicView, TwoViews, as_floats, epsilon

MECHANISMS = ("residual", "dp_sgd", "redact_then_dp_sgd")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


@pytest.fixture
def build(net, statement):
    """Make a PrivateTraining module; every argument can be replaced."""

    def make(mechanism="residual", privacy=None, seed=0, network=None, **changes):
        values = {"public_epochs": 0 if mechanism == "dp_sgd" else 1}
        return PrivateTraining(network or net(seed), privacy or statement(mechanism), **{**values, **changes})

    return make


def flat(parameters):
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def mean_gradient(network, video, label):
    loss = F.cross_entropy(network(as_floats(video)), label)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, network.parameters())])


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_mechanism_trains_and_states_its_epsilon(build, clips, fit, mechanism):
    module = build(mechanism)
    before = flat(module.network.parameters())
    fit(module, clips())
    assert not torch.equal(before, flat(module.network.parameters()))
    report = module.privacy_report()
    assert (report.steps, report.mechanism) == (6, mechanism)
    accounted = {"residual": "zero_out"}.get(mechanism, "replace")
    for relation, proven in (("zero_out", accounted), ("replace", "replace")):
        expected = epsilon(noise_multiplier=8.0, sample_rate=1.0, steps=6, delta=1e-4, relation=proven)
        assert getattr(report, f"epsilon_{relation}") == expected
    assert (report.epsilon_add_remove == math.inf) is (mechanism != "dp_sgd")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_poisson_batches_may_be_empty(build, clips, fit, statement, mechanism):
    module = build(mechanism, statement(mechanism, sample_rate=0.01, steps=12))
    fit(module, clips())
    assert module.privacy_steps == 12


def test_a_network_that_ships_is_trained(build, clips, fit, statement):
    network = TubeletViT(3, clip=(2, 8, 8), tubelet=(1, 4, 4), width=16, depth=1)
    before = flat(network.parameters())
    fit(build(network=network), clips())
    assert not torch.equal(before, flat(network.parameters()))


def test_it_trains_in_bfloat16(build, clips, fit):
    module = build()
    fit(module, clips(), precision="bf16-mixed")
    assert module.privacy_steps == 6
    assert flat(module.network.parameters()).isfinite().all()


# One step, without noise to speak of, on all records: the sum must be the known gradient


def step_taken(module, data, fit):
    """What the last private step of SGD with learning rate 1 took off the parameters."""
    before = {}

    def remember(batch):
        before["flat"] = flat(module.network.parameters())
        return original(batch)

    original, module.private_step = module.private_step, remember
    fit(module, data)
    return before["flat"] - flat(module.network.parameters()), before["flat"]


@pytest.fixture
def noiseless(statement):
    def make(mechanism):
        return statement(mechanism, noise_multiplier=1e-9, max_grad_norm=1e3, steps=1)

    return make


def gradients_at(flat_parameters, network, data):
    nn.utils.vector_to_parameters(flat_parameters, network.parameters())
    views = data.train_set[list(range(len(data.train_set)))]
    return (
        mean_gradient(network, views.full, views.label),
        mean_gradient(network, views.public.video, views.label),
    )


@pytest.mark.parametrize("mechanism", ["dp_sgd", "redact_then_dp_sgd"])
def test_the_step_of_dp_sgd_is_the_gradient_of_the_full_view(build, clips, fit, noiseless, mechanism):
    data, module = clips(batch_size=48), build(mechanism, noiseless(mechanism), private_optimizer=sgd)
    step, before = step_taken(module, data, fit)
    full, public = gradients_at(before, module.network, data)
    torch.testing.assert_close(step, full, rtol=1e-4, atol=1e-5)
    assert (full - public).norm() > 0.1


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_step_of_the_residual_mechanism_is_public_gradient_plus_weighted_residual(
    build, clips, fit, noiseless, weight
):
    data = clips(batch_size=48)
    module = build(privacy=noiseless("residual"), private_optimizer=sgd, residual_weight=weight)
    step, before = step_taken(module, data, fit)
    full, public = gradients_at(before, module.network, data)
    torch.testing.assert_close(step, public + weight * (full - public), rtol=1e-4, atol=1e-5)


def test_the_residual_weight_scales_the_noise_too(build, clips, fit, statement):
    sizes = []
    for weight in (1.0, 0.01):
        spec = statement(noise_multiplier=1e5, steps=1, noise_seed=0)
        module = build(privacy=spec, private_optimizer=sgd, residual_weight=weight)
        step, _ = step_taken(module, clips(), fit)
        sizes.append(step.norm().item())
    assert sizes[1] == pytest.approx(sizes[0] / 100, rel=1e-3)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("microbatch", [1, 7, 100])
def test_the_step_does_not_depend_on_the_microbatch(build, clips, fit, statement, mechanism, microbatch):
    steps = []
    for size in (48, microbatch):
        spec = statement(mechanism, steps=1, noise_seed=0)
        module = build(mechanism, spec, private_optimizer=sgd, microbatch=size)
        steps.append(step_taken(module, clips(), fit)[0])
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_masked_content_changes_a_step_by_no_more_than_the_bound_allows(build, clips, fit, statement, mechanism):
    steps = []
    for hidden in (0, 1):  # the contents of all records change, so each moves the mean by its share
        spec = statement(mechanism, steps=1, noise_seed=0, max_grad_norm=1e-3)
        module = build(mechanism, spec, private_optimizer=sgd)
        steps.append(step_taken(module, clips(hidden=hidden, colours=hidden == 0), fit)[0])
    moved = (steps[0] - steps[1]).norm().item()
    assert 1e-5 < moved <= 2e-3 * (1 + 1e-4)


def test_frozen_parameters_stay(build, clips, fit, net):
    network = net()
    network.body.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fit(build(network=network), clips())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("body.")


# Batches


def private_batches(module, data, fit):
    seen = []
    original = module.private_step
    module.private_step = lambda batch: (seen.append(batch), original(batch))
    fit(module, data)
    return seen


def test_public_and_private_batches_of_the_residual_mechanism_are_independent(build, clips, fit, statement):
    module = build(privacy=statement(sample_rate=0.3, steps=40))
    batches = private_batches(module, clips(), fit)
    assert len(batches) == 40
    table = torch.zeros(2, 40, 48)
    for step, batch in enumerate(batches):
        assert isinstance(batch, PairedBatch)
        assert isinstance(batch.public, PublicView)
        assert len(batch.public.label) == 16
        table[0, step, batch.public.position] = 1
        table[1, step, batch.private.public.position] = 1
    assert abs(torch.corrcoef(table.flatten(1))[0, 1]) < 3.5 / math.sqrt(40 * 48)
    epochs = table[0][:39].view(13, 3, 48).sum(1)
    assert (epochs == 1).all()  # public epochs follow one another


@pytest.mark.parametrize("mechanism", ["dp_sgd", "redact_then_dp_sgd"])
def test_dp_sgd_sees_the_mechanisms_batches_alone(build, clips, fit, statement, mechanism):
    batches = private_batches(build(mechanism, statement(mechanism, sample_rate=0.3)), clips(), fit)
    assert len(batches) == 6
    assert all(isinstance(batch, TwoViews) for batch in batches)
    assert len({len(batch.label) for batch in batches}) > 1


def test_the_public_epochs_do_not_depend_on_masked_content(build, clips, fit):
    starts = []
    for hidden in (0, 1):
        module = build("redact_then_dp_sgd")
        starts.append(step_before_private(module, clips(hidden=hidden, colours=hidden == 0), fit))
    assert torch.equal(starts[0].view(torch.int32), starts[1].view(torch.int32))


def step_before_private(module, data, fit):
    first = []
    original = module.private_step
    module.private_step = lambda batch: (first.append(flat(module.network.parameters())), original(batch))
    fit(module, data)
    return first[0]


# What is logged


@pytest.mark.parametrize(("mechanism", "public_steps"), [("residual", 3), ("dp_sgd", 0), ("redact_then_dp_sgd", 3)])
def test_nothing_of_the_private_steps_is_logged(build, clips, fit, notes, mechanism, public_steps):
    fit(build(mechanism), clips(), logger=notes)
    assert len(notes.values("train/loss")) == public_steps
    assert {name for _, row in notes.rows for name in row} <= {
        "epoch",
        "train/loss",
        "val/accuracy",
        "val/accuracy_redacted",
    }


# Refusals


def test_unnoised_epochs_before_dp_sgd_are_refused(build):
    with pytest.raises(PrivacyError, match=r"model\.public_epochs is 2 under mechanism 'dp_sgd'"):
        build("dp_sgd", public_epochs=2)


def test_redact_then_dp_sgd_without_public_epochs_is_refused(build):
    with pytest.raises(ConfigError, match=r"model\.public_epochs must be above 0"):
        build("redact_then_dp_sgd", public_epochs=0)


@pytest.mark.parametrize(
    ("damage", "remedy"), [({"batch_norm": True}, "GroupNorm"), ({"dropout": 0.1}, "Set it to 0")], ids=str
)
def test_a_network_whose_records_meet_or_that_is_random_is_refused(build, net, damage, remedy):
    with pytest.raises(PrivacyError, match=f"(?s)has what private training does not allow.*{remedy}"):
        build(network=net(**damage))


def test_all_offenders_are_named_at_once(build, net):
    with pytest.raises(PrivacyError) as refused:
        build(network=net(batch_norm=True, dropout=0.1))
    assert "norm (BatchNorm1d)" in str(refused.value)
    assert "drop (Dropout)" in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("residual_weight", 0),
        ("residual_weight", 1.5),
        ("residual_weight", math.nan),
        ("microbatch", 0),
        ("microbatch", 2.5),
        ("public_epochs", -1),
        ("label_smoothing", -0.1),
    ],
)
def test_wrong_arguments_are_refused_by_name(build, argument, value):
    with pytest.raises(ConfigError, match=rf"model\.{argument} must be .* came"):
        build(**{argument: value})
