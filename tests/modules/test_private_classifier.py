"""What all private modules refuse, and how the count of releases travels."""

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from pvision.callbacks import PrivacyAccounting
from pvision.errors import ConfigError, PrivacyError
from pvision.modules import DropOnly, MaskDP, NonPrivate, PrivateTraining


@pytest.fixture(params=["head", "residual", "dp_sgd", "redact_then_dp_sgd"])
def kind(request):
    return request.param


@pytest.fixture
def build(net, statement):
    """Make a private module of a kind: the additive head, or a mechanism for the whole network."""

    def make(kind, seed=0, **changes):
        if kind == "head":
            return MaskDP(net(seed), net(50), statement(**changes), public_epochs=1, projection_dim=6)
        return PrivateTraining(net(seed), statement(kind, **changes), public_epochs=int(kind != "dp_sgd"))

    return make


def checkpoint_of(module, clips, fit, path):
    fit(module, clips()).save_checkpoint(path)
    return path


def test_a_checkpoint_carries_steps_and_epsilon(kind, build, clips, fit, trainer, tmp_path):
    module, fresh = build(kind), build(kind, seed=9)
    path = checkpoint_of(module, clips, fit, tmp_path / "trained.ckpt")
    (expected,) = trainer().test(module, datamodule=clips(), verbose=False)
    (result,) = trainer().test(fresh, datamodule=clips(), ckpt_path=path, verbose=False)
    assert result == expected
    assert fresh.privacy_report() == module.privacy_report()
    assert fresh.privacy_steps == 6


def test_a_checkpoint_holds_tensors_and_plain_values_only(kind, build, clips, fit, tmp_path):
    path = checkpoint_of(build(kind), clips, fit, tmp_path / "trained.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["privacy_progress"]["steps"] == 6
    assert set(checkpoint["privacy_progress"]["ledger"]) == {"id", "length", "hash", "path"}
    assert checkpoint["privacy_statement"]["noise_multiplier"] == 8.0


@pytest.mark.parametrize(
    "other", [{"noise_multiplier": 80.0}, {"delta": 1e-3}, {"sample_rate": 0.5}, {"max_grad_norm": 1.0}], ids=str
)
def test_weights_made_under_another_statement_are_refused(build, clips, fit, trainer, tmp_path, other):
    path = checkpoint_of(build("head"), clips, fit, tmp_path / "trained.ckpt")
    (name,) = other
    with pytest.raises(PrivacyError, match=f"made with privacy {name} .*, not {next(iter(other.values()))}"):
        trainer().test(build("head", **other), datamodule=clips(), ckpt_path=path)


def test_weights_without_a_statement_are_refused(build, clips, fit, trainer, net, tmp_path):
    path = checkpoint_of(build("residual"), clips, fit, tmp_path / "trained.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["privacy_statement"]
    torch.save(checkpoint, path)
    with pytest.raises(PrivacyError, match="holds no privacy statement"):
        trainer().test(build("residual"), datamodule=clips(), ckpt_path=path)


@pytest.mark.parametrize("baseline", [NonPrivate, DropOnly])
def test_a_baselines_weights_are_refused(build, clips, fit, trainer, net, tmp_path, baseline):
    path = checkpoint_of(baseline(net(), public_epochs=1), clips, fit, tmp_path / "trained.ckpt")
    with pytest.raises(PrivacyError, match="their ε is another"):
        trainer().test(build("residual"), datamodule=clips(), ckpt_path=path)


def test_training_twice_is_refused(kind, build, clips, fit):
    module = build(kind)
    fit(module, clips())
    with pytest.raises(PrivacyError, match="come from 6 private steps, which a second training would not count"):
        fit(module, clips())
    assert module.privacy_steps == 6


def test_training_on_from_loaded_weights_is_refused(build, clips, fit, trainer, tmp_path):
    path = checkpoint_of(build("residual"), clips, fit, tmp_path / "trained.ckpt")
    loaded = build("residual")
    trainer().test(loaded, datamodule=clips(), ckpt_path=path, verbose=False)
    with pytest.raises(PrivacyError, match="come from 6 private steps"):
        fit(loaded, clips())


def test_half_precision_with_a_gradient_scaler_is_refused(kind, build, clips, fit):
    scaled = MixedPrecision("16-mixed", device="cpu")
    with pytest.raises(PrivacyError, match=r"16-mixed.* bf16-mixed"):
        fit(build(kind), clips(), plugins=[scaled])


def test_pure_half_precision_is_refused(build, clips, fit):
    with pytest.raises(PrivacyError, match="16-true"):
        fit(build("residual"), clips(), precision="16-true")


@pytest.mark.parametrize("delta", [1 / 48, 0.5])
def test_a_delta_too_large_for_the_data_is_refused_before_training(kind, build, clips, fit, delta):
    module = build(kind, delta=delta)
    with pytest.raises(PrivacyError, match=r"privacy\.delta .* is not below 1/N"):
        fit(module, clips())
    assert module.trainer.global_step == 0


def test_a_loader_from_elsewhere_is_refused(build, clips, trainer):
    data, module = clips(), build("dp_sgd")
    data.setup()
    everyone = DataLoader(data.train_set, sampler=[[0, 1, 2]], batch_size=None)
    with pytest.raises(ConfigError, match=r"Call trainer\.fit\(module, datamodule=…\)"):
        trainer().fit(module, train_dataloaders=everyone, val_dataloaders=everyone)
    assert module.privacy_steps == 0


def test_a_batch_before_the_private_epoch_is_refused(kind, build, clips):
    data, module = clips(), build(kind)
    data.setup()
    with pytest.raises(PrivacyError, match="A private batch came before the private epoch began"):
        module.training_step(data.train_set[[0, 1]], 0)
    assert module.privacy_steps == 0


@pytest.mark.parametrize("kind", ["head", "residual", "dp_sgd"])
def test_another_sampler_is_refused(kind, build, clips, fit):
    """As a strategy, a callback or a user's own data module might put it in."""
    module = build(kind)
    original = module.private_loader

    def shuffled(data):
        outer = original(data)
        holder, name = (outer._loader, "_private") if hasattr(outer._loader, "_private") else (outer, "_loader")
        replaced = DataLoader(getattr(holder, name).dataset, sampler=[[3, 1, 2]] * 6, batch_size=None)
        setattr(holder, name, replaced)
        return outer

    module.private_loader = shuffled
    with pytest.raises(PrivacyError, match="that the privacy mechanism did not draw"):
        fit(module, clips())
    assert module.privacy_steps == 0


def test_a_run_that_is_cut_short_charges_what_it_released(kind, build, clips, fit):
    module = build(kind)
    fit(module, clips(), limit_train_batches=2)
    assert module.privacy_steps == 2
    assert 0 < module.privacy_report().epsilon_replace < module.privacy.epsilon("replace")


def test_a_budget_ends_training(kind, build, clips, fit):
    module = build(kind)
    budget = module.privacy.epsilon("zero_out", steps=4)
    trained = fit(module, clips(), callbacks=[PrivacyAccounting(budget=budget)])
    assert module.privacy_steps == 4
    assert trained.callback_metrics["privacy/epsilon_zero_out"].item() == pytest.approx(budget)


def test_an_error_in_the_middle_keeps_the_count(kind, build, clips, fit):
    module = build(kind)
    original, calls = module.private_step, []

    def fail_third(batch):
        calls.append(batch)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        original(batch)

    module.private_step = fail_third
    with pytest.raises(RuntimeError, match="power cut"):
        fit(module, clips())
    assert module.privacy_steps == 2


def test_a_trial_run_of_one_batch_is_possible(kind, build, clips, fit):
    module = build(kind)
    fit(module, clips(), fast_dev_run=True)
    assert module.privacy_steps == (1 if kind == "dp_sgd" else 0)


def test_loader_workers_may_read_ahead(build, clips, fit):
    class Parallel(clips):
        def _loader(self, records, batches):
            return DataLoader(records, sampler=batches, batch_size=None, num_workers=1, multiprocessing_context="fork")

    module = build("residual", sample_rate=0.2)
    fit(module, Parallel())
    assert module.privacy_steps == 6
