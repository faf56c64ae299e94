import copy
import math
from typing import ClassVar

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from pvision.errors import ConfigError, PrivacyError
from pvision.models import MotionEncoder, MotionNet
from pvision.modules import MaskDP, mask_dp
from pvision.privacy import TailAverage, as_floats, epsilon


@pytest.fixture
def build(net, statement):
    """Make a MaskDP module; every argument can be replaced."""

    def make(privacy=None, seed=0, **changes):
        values = {"public_epochs": 1, "projection_dim": 6, "learning_rate": 30.0}
        return MaskDP(net(seed), net(50), privacy or statement(), **{**values, **changes})

    return make


def bits(state):
    return {name: value.clone() for name, value in state.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def views_of(data, indices=(0, 1, 2, 3)):
    data.setup()
    return data.test_set[list(indices)]


def test_it_learns_what_only_the_full_view_shows(build, clips, fit, statement):
    module, data = build(statement(noise_multiplier=1e-2, steps=60, max_grad_norm=10.0)), clips()
    trainer = fit(module, data)
    (result,) = trainer.test(module, datamodule=data, verbose=False)
    assert result["test/accuracy"] >= 0.9
    assert result["test/accuracy_redacted"] <= 0.7


def test_with_much_noise_it_learns_nothing_of_it(build, clips, fit, statement):
    module, data = build(statement(noise_multiplier=300.0)), clips()
    fit(module, data)
    weight = module.head.weight.detach().clone()
    fit(again := build(statement(noise_multiplier=300.0)), clips())
    assert abs(torch.corrcoef(torch.stack([weight.flatten(), again.head.weight.flatten()]))[0, 1]) < 0.9
    assert not torch.equal(weight, again.head.weight)


@pytest.mark.parametrize("sample_rate", [1.0, 0.25])
def test_epsilon_is_that_of_the_steps_taken(build, clips, fit, statement, sample_rate):
    module = build(statement(sample_rate=sample_rate))
    assert module.privacy_report().epsilon_zero_out == 0
    fit(module, clips())
    report = module.privacy_report()
    assert report.steps == module.privacy_steps == 6
    for relation in ("zero_out", "replace"):
        expected = epsilon(noise_multiplier=8.0, sample_rate=sample_rate, steps=6, delta=1e-4, relation=relation)
        assert getattr(report, f"epsilon_{relation}") == expected
    assert report.epsilon_add_remove == math.inf


def test_the_networks_that_ship_are_trained(clips, fit, statement):
    module = MaskDP(
        MotionNet(3, init="random"), MotionEncoder(init="random"), statement(), public_epochs=1, projection_dim=4
    )
    before = bits(module.network.state_dict())
    fit(module, clips())
    assert not equal(before, module.network.state_dict())
    assert module.head.weight.any()
    assert module.privacy_steps == 6


# What never sees masked content


@pytest.mark.parametrize("pretraining", [True, False], ids=["pretraining clips", "surrogate views"])
def test_network_and_projection_do_not_depend_on_masked_content(build, clips, fit, pretraining):
    states, weights = [], []
    for hidden in (0, 1):
        module = build()
        fit(module, clips(hidden=hidden, colours=hidden == 0, pretraining=pretraining))
        states.append(bits({**module.network.state_dict(), "projection": module.head.projection}))
        weights.append(module.head.weight.detach().clone())
    assert equal(*states)
    assert states[0]["projection"].any()
    assert not torch.equal(*weights)


def test_the_public_part_is_reproducible_and_the_private_part_is_not(build, clips, fit):
    one, other, reseeded = build(), build(), build()
    for module, seed in ((one, 0), (other, 0), (reseeded, 1)):
        fit(module, clips(), seed=seed)
    assert equal(one.network.state_dict(), other.network.state_dict())
    assert not equal(one.network.state_dict(), reseeded.network.state_dict())
    assert not torch.equal(one.head.weight, other.head.weight)


def test_the_encoder_stays_as_it_was(build, clips, fit):
    module = build()
    before = bits(module.encoder.state_dict())
    fit(module, clips())
    assert equal(before, module.encoder.state_dict())
    assert not any(parameter.requires_grad for parameter in module.encoder.parameters())
    module.train()
    assert module.network.training
    assert not any(part.training for part in module.encoder.modules())


def test_the_network_stays_as_it_was_while_the_head_is_trained(build, clips, fit):
    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if module.in_private_phase:
                states.append(bits(module.network.state_dict()))

    states, module = [], build()
    fit(module, clips(), callbacks=[Watch()])
    assert len(states) == 6
    assert all(equal(states[0], state) for state in [*states, module.network.state_dict()])


# Logits


def test_redacted_logits_are_the_public_networks_bit_for_bit(build, clips, fit):
    module, data = build(), clips()
    fit(module, data)
    module.eval()
    views = views_of(data)
    with torch.no_grad():
        full, redacted = module.logits(views)
        public = module.network(as_floats(views.public.video))
        assert torch.equal(redacted.view(torch.int32), public.view(torch.int32))
        assert not torch.equal(full, redacted)
        already = views._replace(full=views.public.video)
        full, redacted = module.logits(already)
        assert torch.equal(full, redacted)
        assert torch.equal(redacted.view(torch.int32), public.view(torch.int32))


def test_head_features_are_bitwise_zero_for_redacted_records_beside_others(build, clips, fit):
    module, data = build(), clips()
    fit(module, data)
    views = views_of(data)
    full = views.full.clone()
    full[[0, 2]] = views.public.video[[0, 2]]
    features = module.head_features(views._replace(full=full))
    assert (features[[0, 2]].view(torch.int32) == 0).all()
    assert features[[1, 3]].any(1).all()
    assert features.norm(dim=1).max() <= 1 + 1e-6


def test_head_features_are_zero_though_the_encoder_rounds_differently_each_time(build, clips, fit):
    module, data = build(), clips()
    fit(module, data)
    exact, calls = module.encoder.features, []

    def rounding(video):
        calls.append(1)
        return exact(video) * (1 + 1e-6 * len(calls))

    module.encoder.features = rounding
    views = views_of(data)
    already = views._replace(full=views.public.video)
    full, public = module.encoder_features(already)
    assert not torch.equal(full, public)
    assert (module.head_features(already).view(torch.int32) == 0).all()


def test_cached_features_are_those_of_each_batch(build, clips, fit):
    module, data = build(), clips()
    fit(module, data)
    module.eval()
    cached = module.cached_features(data)
    assert len(cached.label) == len(data.train_set)
    views = data.train_set[[5, 9]]
    torch.testing.assert_close(cached.features[[5, 9]], module.head_features(views), rtol=1e-4, atol=1e-5)
    assert torch.equal(cached.position, torch.arange(len(data.train_set)))
    assert torch.equal(cached.label, data.train_set[list(range(len(data.train_set)))].label)


# The final weights


class Recording(TailAverage):
    """Keeps every iterate."""

    iterates: ClassVar[list] = []

    def update(self, weight, *, step):
        self.iterates.append(weight.detach().clone())
        super().update(weight, step=step)


@pytest.mark.parametrize(("average", "averaged"), [(0.5, 3), (1.0, 6), (0.01, 1)])
def test_the_final_weight_is_the_mean_of_the_last_ones(build, clips, fit, monkeypatch, average, averaged):
    monkeypatch.setattr(Recording, "iterates", [])
    monkeypatch.setattr(mask_dp, "TailAverage", Recording)
    module = build(average=average)
    fit(module, clips())
    assert len(Recording.iterates) == 6
    torch.testing.assert_close(module.head.weight.detach(), torch.stack(Recording.iterates[-averaged:]).mean(0))


def test_a_private_epoch_that_is_cut_short_averages_what_it_has(build, clips, fit, monkeypatch):
    monkeypatch.setattr(Recording, "iterates", [])
    monkeypatch.setattr(mask_dp, "TailAverage", Recording)
    module = build()
    fit(module, clips(), limit_train_batches=5)
    assert module.privacy_steps == len(Recording.iterates) == 5
    torch.testing.assert_close(module.head.weight.detach(), torch.stack(Recording.iterates[3:]).mean(0))


def test_the_checkpoint_holds_the_final_weights_and_the_steps(build, clips, fit, trainer, tmp_path):
    module, data = build(), clips()
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    trained = fit(module, data, callbacks=[checkpoint], enable_checkpointing=True)
    (expected,) = trained.test(module, datamodule=data, verbose=False)
    fresh = build(seed=9)
    tester = trainer(callbacks=[checkpoint], enable_checkpointing=True)
    (result,) = tester.test(fresh, datamodule=clips(), ckpt_path=checkpoint.last_model_path, verbose=False)
    assert result == expected
    assert torch.equal(fresh.head.weight, module.head.weight)
    assert torch.equal(fresh.head.projection, module.head.projection)
    assert fresh.privacy_report() == module.privacy_report()
    assert fresh.privacy_report().steps == 6


# What is logged


def test_nothing_of_the_private_steps_is_logged(build, clips, fit, notes):
    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if module.in_private_phase:
                private.append(trainer.logged_metrics["train/loss"].item())

    private = []
    fit(build(), clips(), logger=notes, callbacks=[Watch()])
    losses = [loss for _, loss in notes.values("train/loss")]
    assert len(losses) == 3  # the batches of the public epoch
    assert private == losses[-1:] * 6
    assert {name for _, row in notes.rows for name in row} <= {
        "epoch",
        "train/loss",
        "val/accuracy",
        "val/accuracy_redacted",
    }


# Refusals


@pytest.mark.parametrize("mechanism", ["dp_sgd", "redact_then_dp_sgd"])
def test_another_mechanism_is_refused(build, statement, mechanism):
    with pytest.raises(PrivacyError, match=rf"needs privacy\.mechanism 'residual', but '{mechanism}' came"):
        build(statement(mechanism))


@pytest.mark.parametrize("encoder", [nn.Linear(3, 3), nn.Identity()])
def test_an_encoder_without_features_is_refused(net, statement, encoder):
    with pytest.raises(ConfigError, match=r"model\.encoder \(\w+\) must have features\(video\) and an integer"):
        MaskDP(net(), encoder, statement())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("momentum", math.nan),
        ("average", 0),
        ("average", 1.5),
        ("public_epochs", -1),
        ("public_epochs", 1.5),
        ("label_smoothing", 1.0),
        ("label_smoothing", math.nan),
        ("projection_dim", 0),
        ("projection_dim", 13),
    ],
)
def test_wrong_arguments_are_refused_by_name(build, argument, value):
    with pytest.raises(ConfigError, match=rf"{argument} must be .* came"):
        build(**{argument: value})


def test_masks_that_hide_nothing_are_refused_before_anything_private_happens(build, clips, fit):
    class Unmasked(clips):
        def make(self, records, **arguments):
            made = super().make(records, **arguments)
            made._region = torch.zeros_like(made._region)
            return made

    module = build()
    with pytest.raises(ConfigError, match="two views of the public clips have equal features"):
        fit(module, Unmasked())
    assert module.privacy_steps == 0


def test_a_module_can_be_copied_after_training(build, clips, fit):
    module = build()
    fit(module, clips())
    assert equal(copy.deepcopy(module.state_dict()), module.state_dict())
