"""Weights that cost ε are not trained again under a ledger that does not know of it."""

import copy

import pytest
import torch

from pvision.errors import PrivacyError
from pvision.modules import DropOnly, MaskDP, PrivateTraining

STEPS = 4


@pytest.fixture
def trained(net, statement, fit, clips):
    """Make a trained module, its data and its network."""

    def make(kind):
        network, data = net(), clips()
        spec = statement("residual" if kind == "head" else kind, steps=STEPS, sample_rate=0.5)
        if kind == "head":
            module = MaskDP(network, net(50), spec, public_epochs=1, projection_dim=6)
        else:
            module = PrivateTraining(network, spec)
        return module, data, fit(module, data)

    return make


@pytest.mark.parametrize("kind", ["head", "residual", "dp_sgd"])
def test_looking_at_the_training_loader_after_fit_forgets_nothing(trained, kind, fit, clips, tmp_path):
    module, data, trainer = trained(kind)
    with pytest.raises(PrivacyError, match="during fit only"):
        data.train_dataloader()
    assert module.privacy_steps == module.privacy_report().steps == STEPS
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert torch.load(tmp_path / "after.ckpt", weights_only=False)["privacy_progress"]["steps"] == STEPS
    with pytest.raises(PrivacyError, match=f"{STEPS} private steps"):
        fit(module, clips())


def test_a_privately_trained_network_in_a_new_module_is_refused(trained, statement, fit, clips):
    module, *_ = trained("dp_sgd")
    for network in (module.network, copy.deepcopy(module.network)):
        again = PrivateTraining(network, statement("dp_sgd", steps=STEPS, sample_rate=0.5))
        with pytest.raises(PrivacyError, match="private steps of another run"):
            fit(again, clips())


def test_a_network_trained_without_noise_on_redacted_clips_may_be_trained_privately(net, statement, fit, clips):
    network = net()
    fit(DropOnly(network, public_epochs=1), clips())
    module = PrivateTraining(network, statement(steps=STEPS, sample_rate=0.5))
    fit(module, clips())
    assert module.privacy_steps == STEPS


def test_the_frozen_encoder_of_a_private_run_may_serve_another(net, statement, fit, clips):
    encoder = net(50)
    for seed in range(2):
        module = MaskDP(net(seed), encoder, statement(steps=STEPS), public_epochs=1, projection_dim=6)
        fit(module, clips())
        assert module.privacy_steps == STEPS
