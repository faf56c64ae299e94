"""What all modules share, tried on the simplest of them."""

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from pvision.errors import ConfigError
from pvision.models import TubeletViT
from pvision.modules import DropOnly, MaskDP, PrivateTraining


@pytest.fixture
def build(net):
    def make(**changes):
        return DropOnly(net(**changes), public_epochs=2)

    return make


def test_the_module_sets_the_schedule(build, clips, fit):
    trained = fit(build(), clips())
    assert trained.max_epochs == trained.current_epoch == 2
    assert trained.global_step == 6


@pytest.mark.parametrize("max_epochs", [2, -1])
def test_a_schedule_that_agrees_is_taken(build, clips, fit, max_epochs):
    assert fit(build(), clips(), max_epochs=max_epochs).current_epoch == 2


@pytest.mark.parametrize("max_epochs", [1, 3, 1001])
def test_a_schedule_that_contradicts_is_refused(build, clips, fit, max_epochs):
    with pytest.raises(ConfigError, match=rf"trainer\.max_epochs is {max_epochs}, but the schedule has 2 public and 0"):
        fit(build(), clips(), max_epochs=max_epochs)


@pytest.mark.parametrize("batches", [1, 0.5])
def test_a_setting_that_replaces_samplers_is_refused(build, clips, fit, batches):
    with pytest.raises(ConfigError, match=r"trainer\.overfit_batches would replace .* trainer\.limit_train_batches"):
        fit(build(), clips(), overfit_batches=batches)


@pytest.mark.parametrize("setting", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}], ids=str)
def test_settings_for_automatic_optimisation_are_refused_by_lightning(build, clips, fit, setting):
    with pytest.raises(MisconfigurationException, match="not supported for manual optimization"):
        fit(build(), clips(), **setting)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_another_number_of_classes_is_refused(build, clips, trainer, classes, stage):
    with pytest.raises(ConfigError, match=rf"num_classes {classes}, but the data has 3 classes \(red, green, blue\)"):
        getattr(trainer(), stage)(build(num_classes=classes), datamodule=clips())


def test_clips_of_another_size_are_refused_with_the_networks_reason(clips, fit):
    network = TubeletViT(3, clip=(4, 16, 16), width=16, depth=1)
    with pytest.raises(ConfigError, match=r"cannot take the data's clips of shape \(3, 2, 8, 8\)"):
        fit(DropOnly(network, public_epochs=1), clips())


@pytest.mark.parametrize("network", [nn.Linear(3, 3), nn.Identity()])
def test_a_network_without_classes_is_refused(network):
    with pytest.raises(ConfigError, match=r"model\.network \(\w+\) must have an integer num_classes, but None came"):
        DropOnly(network, public_epochs=1)


def test_both_views_are_evaluated(build, clips, trainer):
    module, data = build(), clips()
    (result,) = trainer().test(module, datamodule=data, verbose=False)
    views = data.test_set[list(range(13))]
    module.eval()
    with torch.no_grad():
        full, redacted = module.logits(views)
    assert not torch.equal(full, redacted)
    for name, logits in (("test/accuracy", full), ("test/accuracy_redacted", redacted)):
        assert result[name] == pytest.approx((logits.argmax(1) == views.label).float().mean().item())


def test_validation_logs_under_its_own_name(build, clips, trainer):
    (result,) = trainer().validate(build(), datamodule=clips(), verbose=False)
    assert result.keys() == {"val/accuracy", "val/accuracy_redacted"}


def test_predictions_hold_positions_and_probabilities_of_both_views(build, clips, trainer, net, statement):
    head = MaskDP(net(), net(1), statement(), public_epochs=1, projection_dim=3)
    whole = PrivateTraining(net(), statement("dp_sgd"))
    for module in (build(), head, whole):
        (batch,) = trainer().predict(module, datamodule=clips())
        assert torch.equal(batch["index"], torch.arange(13))
        for name in ("probabilities", "probabilities_redacted"):
            torch.testing.assert_close(batch[name].sum(1), torch.ones(13))


def test_batches_are_of_the_size_asked_for_and_none_is_dropped(build, clips, fit, monkeypatch):
    sizes = []
    module = build()
    original = module.unnoised_step
    monkeypatch.setattr(module, "unnoised_step", lambda loss, records: (sizes.append(records), original(loss, records)))
    fit(module, clips(batch_size=20))
    assert sizes == [20, 20, 8] * 2


def test_the_learning_rate_follows_one_cycle(net, clips, fit):
    rates = []

    class Watched(DropOnly):
        def unnoised_step(self, loss, records):
            rates.append(self.optimizers().param_groups[0]["lr"])
            super().unnoised_step(loss, records)

    fit(Watched(net(), public_epochs=5, optimizer=lambda p: torch.optim.SGD(p, lr=0.5)), clips())
    assert len(rates) == 15
    assert 0.48 < max(rates) <= 0.5
    assert rates[0] < 0.1
    assert rates[-1] < 0.05
