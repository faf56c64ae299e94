import math

import pytest
import torch

from pvision.errors import PrivacyError
from pvision.modules import DropOnly, NonPrivate


def quick(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def weights_after(fit, module, data):
    fit(module, data)
    return torch.cat([parameter.detach().flatten() for parameter in module.network.parameters()])


def test_drop_only_does_not_depend_on_masked_content(net, clips, fit):
    one, other = (
        weights_after(fit, DropOnly(net(), public_epochs=2), clips(hidden=hidden, colours=hidden == 0))
        for hidden in (0, 1)
    )
    assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_non_private_training_depends_on_it(net, clips, fit):
    """The negative control of the test before."""
    one, other = (weights_after(fit, NonPrivate(net(), public_epochs=2), clips(hidden=hidden)) for hidden in (0, 1))
    assert not torch.equal(one, other)


def test_drop_only_learns_what_is_public(net, clips, fit):
    data, module = clips(public_signal=True), DropOnly(net(), public_epochs=20, optimizer=quick)
    (result,) = fit(module, data).test(module, datamodule=data, verbose=False)
    assert result["test/accuracy_redacted"] >= 0.9


def test_non_private_training_learns_what_is_masked(net, clips, fit):
    data, module = clips(), NonPrivate(net(), public_epochs=20, optimizer=quick)
    (result,) = fit(module, data).test(module, datamodule=data, verbose=False)
    assert result["test/accuracy"] >= 0.9
    assert result["test/accuracy_redacted"] <= 0.7


def test_their_reports_say_what_they_are(net):
    report = DropOnly(net(), public_epochs=1).privacy_report()
    assert (report.epsilon_zero_out, report.epsilon_replace, report.private) == (0, 0, True)
    report = NonPrivate(net(), public_epochs=1).privacy_report()
    assert (report.epsilon_zero_out, report.epsilon_replace, report.private) == (math.inf, math.inf, False)


def test_both_log_the_loss_of_every_step(net, clips, fit, notes):
    for module in (DropOnly(net(), public_epochs=2), NonPrivate(net(), public_epochs=2)):
        notes.rows.clear()
        fit(module, clips(), logger=notes)
        losses = [loss for _, loss in notes.values("train/loss")]
        assert len(losses) == 6
        assert all(map(math.isfinite, losses))


def test_both_views_in_a_batch_of_drop_only_are_refused(net, clips, trainer):
    data = clips()
    data.setup()
    module = DropOnly(net(), public_epochs=1)
    module.public_loader = lambda data: data.full_loader()
    with pytest.raises(PrivacyError, match="DropOnly trains on the redacted view only, but a TwoViews came"):
        trainer().fit(module, datamodule=data)


def test_weights_made_with_masked_content_are_not_taken_for_drop_only(net, clips, fit, trainer, tmp_path):
    trained = fit(NonPrivate(net(), public_epochs=1), clips())
    trained.save_checkpoint(tmp_path / "leaky.ckpt")
    with pytest.raises(PrivacyError, match="made with privacy mechanism 'none', not 'drop_only'"):
        trainer().test(DropOnly(net(), public_epochs=1), datamodule=clips(), ckpt_path=tmp_path / "leaky.ckpt")


def test_drop_only_can_be_resumed(net, clips, fit, trainer, tmp_path):
    whole = DropOnly(net(), public_epochs=2)
    fit(whole, clips())
    first = DropOnly(net(), public_epochs=2)
    torch.manual_seed(0)
    stopped = trainer(max_steps=3)
    stopped.fit(first, datamodule=clips())
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    second = DropOnly(net(5), public_epochs=2)
    resumed = trainer()
    resumed.fit(second, datamodule=clips(), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.current_epoch == 2
    assert resumed.global_step == 6
