"""FrozenGuard in a project that knows nothing of pvision: each way in which a frozen network changes is found."""

from pathlib import Path

import pytest
import torch
from frozen_runs import Foreign, Validates, fit, loader, past_the_counters, trainer, write
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from pvision.callbacks.frozen_guard import FrozenGuard
from pvision.errors import ConfigError
from pvision.weights_hash import weights_sha256


def test_a_frozen_network_keeps_its_bits_and_mode_while_the_rest_learns() -> None:
    module = Foreign()
    expected, before = weights_sha256(module.net), module.before.weight.clone()
    guard = fit(module)
    assert not torch.equal(module.before.weight, before)
    assert guard.summary_metrics() == {"frozen/frozen_sha256_before": expected, "frozen/frozen_sha256": expected}
    assert not any(part.training for part in module.net.modules())
    assert module.before.training


def test_lightning_still_warns_of_other_modules_in_evaluation_mode() -> None:
    module = Foreign()
    module.before.eval()
    with pytest.warns(UserWarning, match="in eval mode"):
        fit(module)


def test_freezing_by_requires_grad_alone_lets_batchnorm_move() -> None:
    module = Foreign(training_step=lambda it: it.net.train())
    expected = weights_sha256(module.net)
    trainer().fit(module, loader())
    assert weights_sha256(module.net) != expected


@pytest.mark.parametrize("when", ["on_fit_start", "on_train_epoch_start", "training_step"])
def test_training_mode_is_refused_before_a_statistic_moves(when: str) -> None:
    module = Foreign(**{when: lambda it: it.net.train() if when == "on_train_epoch_start" or it.batches else None})
    if when == "on_fit_start":
        # The guard's own eval() at each epoch's start mends what was there before the epoch.
        module.misdeeds = {when: lambda it: it.train()}
        fit(module)
        return
    expected = weights_sha256(module.net)
    with pytest.raises(ConfigError, match=r"net.*is in training mode.*stays in eval"):
        fit(module)
    assert weights_sha256(module.net) == expected


def test_a_single_layer_in_training_mode_is_refused() -> None:
    module = Foreign(on_train_epoch_start=lambda it: it.net[1].train())
    with pytest.raises(ConfigError, match=r"^net\.1 must stay frozen, but is in training mode"):
        fit(module)


def test_gradients_are_refused() -> None:
    module = Foreign()
    module.configure_optimizers = lambda: torch.optim.SGD(module.before.parameters(), 0.1)
    module.net[3].requires_grad_(True)
    with pytest.raises(ConfigError, match=r"^net\.3\.weight, net\.3\.bias must stay frozen, but takes gradients"):
        fit(module)


def test_an_optimizer_that_has_frozen_parameters_is_refused() -> None:
    module = Foreign()
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), 0.1)
    with pytest.raises(ConfigError, match=r"An optimizer has net\.0\.weight, .* and 3 more.*weight decay"):
        fit(module)
    assert module.batches == 0


def test_an_optimizer_that_gets_frozen_parameters_later_is_refused() -> None:
    module = Foreign(on_train_epoch_start=lambda it: it.optimizers().optimizer.add_param_group(
        {"params": list(it.net.parameters())}))  # fmt: skip
    with pytest.raises(ConfigError, match="An optimizer has"):
        fit(module)
    assert module.batches == 0


def replace_parameter(module: Foreign) -> None:
    module.net[0].weight = nn.Parameter(torch.zeros(4, 3), requires_grad=False)


def replace_data(module: Foreign) -> None:
    module.net[0].weight.data = torch.zeros(4, 3)


def replace_layer(module: Foreign) -> None:
    module.net[2] = nn.Linear(4, 4).requires_grad_(False).eval()


def add_buffer(module: Foreign) -> None:
    module.net[0].register_buffer("late", torch.zeros(1))


MISDEEDS = {
    "weight": (lambda it: write(it, lambda net: net[0].weight), r"net\.0\.weight\. "),
    "buffer": (lambda it: write(it, lambda net: net[1].running_var), r"net\.1\.running_var\. "),
    "counter": (lambda it: write(it, lambda net: net[1].num_batches_tracked), r"num_batches_tracked\. "),
    "parameter": (replace_parameter, r"net\.0\.weight\. "),
    "data": (replace_data, r"net\.0\.weight\. "),
    "layer": (replace_layer, r"net\.2\.weight, net\.2\.bias\. "),
    "new buffer": (add_buffer, r"net\.0\.late\. "),
    "load": (lambda it: it.net.load_state_dict({k: v + 1 for k, v in it.net.state_dict().items()}), r"and 6 more\. "),
}


@pytest.mark.parametrize("name", list(MISDEEDS))
def test_a_change_is_found_in_the_step_that_made_it(name: str) -> None:
    change, named = MISDEEDS[name]
    module = Foreign(after_backward=change)
    guard = FrozenGuard(["net"], every_n_steps=10**6)
    with pytest.raises(ConfigError, match=rf"What must stay frozen has changed: .*{named}frozen_sha256 was "):
        fit(module, guard)
    assert module.batches == 1
    values = guard.summary_metrics()
    assert values["frozen/frozen_sha256"] == weights_sha256(module.net) != values["frozen/frozen_sha256_before"]


@pytest.mark.parametrize(("every", "batches"), [(1, 1), (3, 3), (1000, 8)])
def test_a_write_past_the_counters_is_found_by_the_next_hash(every: int, batches: int) -> None:
    module = Foreign(training_step=past_the_counters)
    with pytest.raises(ConfigError, match=r"has changed: net\.0\.weight\. "):
        fit(module, FrozenGuard(["net"], every_n_steps=every))
    assert module.batches == batches


def test_what_happens_after_the_last_step_is_found_too() -> None:
    with pytest.raises(ConfigError, match="has changed"):
        fit(Foreign(on_train_end=past_the_counters))


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_no_checkpoint_is_written_of_a_changed_network() -> None:
    module = Foreign(training_step=past_the_counters)
    saves = ModelCheckpoint("kept", every_n_train_steps=2, save_top_k=-1)
    with pytest.raises(ConfigError, match="has changed"):
        trainer(FrozenGuard(["net"]), saves, enable_checkpointing=True).fit(module, loader())
    assert not list(Path("kept").glob("*.ckpt"))


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_each_evaluation_is_guarded(stage: str) -> None:
    step = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}[stage]
    run = getattr(trainer(FrozenGuard(["net"])), stage)
    run(Validates(), dataloaders=loader())
    with pytest.raises(ConfigError, match="has changed"):
        run(Validates(**{step: past_the_counters}), dataloaders=loader())


def test_validation_within_fit_is_guarded() -> None:
    module = Validates(validation_step=past_the_counters)
    with pytest.raises(ConfigError, match="has changed"):
        trainer(FrozenGuard(["net"]), num_sanity_val_steps=0).fit(module, loader(), loader())
    assert module.batches == 4


def same_again(module: Foreign) -> None:
    weight = module.net[0].weight
    with torch.no_grad():
        weight.copy_(weight.clone())
    module.net[3].weight.data = module.net[3].weight.clone()


def test_the_same_bits_written_again_are_no_change() -> None:
    module = Foreign(after_backward=same_again)
    fit(module)
    assert module.batches == 8
