"""FrozenGuard: what it is told, runs that go on, summaries, several processes."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from frozen_runs import Foreign, Knows, fit, loader, network, past_the_counters, trainer, write
from torch import nn

from pvision.callbacks.frozen_guard import FrozenGuard
from pvision.callbacks.run_summary import RunSummary
from pvision.errors import ConfigError, UserError
from pvision.weights_hash import weights_sha256


def test_without_names_the_module_is_asked() -> None:
    module = Knows()
    assert fit(module, FrozenGuard()).summary_metrics()["frozen/frozen_sha256"] == weights_sha256(module.net)


def test_a_module_that_freezes_nothing_is_left_alone() -> None:
    module = Knows(training_step=past_the_counters)
    module.frozen_modules = dict
    assert fit(module, FrozenGuard()).summary_metrics() == {}


def test_who_does_not_say_what_is_frozen_gets_the_names() -> None:
    with pytest.raises(ConfigError, match=r"Foreign has no frozen_modules.*'before', 'net'"):
        fit(Foreign(), FrozenGuard())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nett", r"Foreign has no module 'nett'\. It has 'before', 'net'"),
        ("net.body", r"Sequential has no module 'body'\. It has '0', '1', '2', '3'"),
        ("batches", "Foreign has no module 'batches'"),
        ("net.2", "neither parameters nor buffers"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(Foreign(), FrozenGuard([path]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modules": "net"}, "list of attributes"),
        ({"modules": []}, "list of attributes"),
        ({"every_n_steps": 0}, "every_n_steps"),
        ({"name": "a b"}, "name"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FrozenGuard(**arguments)


def tie(module: Foreign) -> None:
    module.before.weight = module.net[0].weight
    module.net[0].weight.requires_grad_(True)


def view(module: Foreign) -> None:
    module.before.bias = nn.Parameter(module.net[1].running_mean[:3])


@pytest.mark.parametrize(("share", "named"), [(tie, "before.weight"), (view, "before.bias")], ids=["tied", "a view"])
def test_memory_shared_with_what_is_trained_is_refused(share: Callable[[Foreign], None], named: str) -> None:
    module = Foreign()
    share(module)
    with pytest.raises(ConfigError, match=f"{named} is trained and shares its memory with net"):
        fit(module)


def test_memory_shared_with_what_is_not_trained_is_nobodys_business() -> None:
    module = Foreign()
    module.again = nn.ModuleList([module.net])
    module.other = nn.Linear(3, 4).requires_grad_(False)
    module.other.weight = module.net[0].weight
    fit(module)


def test_several_modules_and_several_guards_live_side_by_side() -> None:
    module = Foreign()
    one, other = FrozenGuard(["net.0", "net.1"], name="first"), FrozenGuard(["net.3"], name="last")
    assert one.state_key != other.state_key
    trainer(one, other).fit(module, loader())
    assert other.summary_metrics()["last/frozen_sha256"] == weights_sha256(module.net[3])
    assert len(str(one.summary_metrics()["first/frozen_sha256"])) == 64
    write(module, lambda net: net[1].running_var)
    with pytest.raises(ConfigError, match="another frozen network"):
        trainer(one).test(module, loader(), verbose=False)
    trainer(other).test(module, loader(), verbose=False)


def saved(module: Foreign) -> str:
    run = trainer(FrozenGuard(["net"]), max_epochs=1)
    run.fit(module, loader())
    run.save_checkpoint("run.ckpt")
    return "run.ckpt"


def test_a_run_goes_on_with_the_same_network() -> None:
    path = saved(Foreign())
    guard = FrozenGuard(["net"], every_n_steps=7)  # how often it looks is not what it guards
    trainer(guard).fit(Foreign(), loader(), ckpt_path=path)
    assert guard.summary_metrics()["frozen/frozen_sha256_before"] == weights_sha256(network().eval())


class LeavesOut(Foreign):
    """Keeps the frozen network out of its checkpoints."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if "net" not in name}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state, strict=False, assign=assign)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_run_does_not_go_on_with_another_network(stage: str) -> None:
    path = saved(LeavesOut())
    other = LeavesOut()
    write(other, lambda net: net[1].running_mean)
    guard = FrozenGuard(["net"])
    with pytest.raises(ConfigError, match="began with another frozen network: frozen_sha256 was"):
        getattr(trainer(guard), stage)(other, loader(), ckpt_path=path)
    values = guard.summary_metrics()
    assert values["frozen/frozen_sha256_before"] == weights_sha256(network())
    assert values["frozen/frozen_sha256"] == weights_sha256(other.net)


def test_another_module_is_another_run() -> None:
    guard = fit(Foreign())
    other = Foreign()
    write(other, lambda net: net[0].weight)
    fit(other, guard)
    assert guard.summary_metrics()["frozen/frozen_sha256_before"] == weights_sha256(other.net)


def test_the_summary_holds_both_hashes_also_of_a_run_that_failed() -> None:
    module = Foreign(after_backward=past_the_counters)
    with pytest.raises(ConfigError):
        trainer(FrozenGuard(["net"], name="detection"), RunSummary()).fit(module, loader())
    content = json.loads(Path("out/summary.json").read_text())
    assert content["status"] == "FAILED"
    assert content["metrics"]["detection/frozen_sha256_before"] == weights_sha256(network())
    assert content["metrics"]["detection/frozen_sha256"] == weights_sha256(module.net)


def test_a_trial_run_is_guarded_too() -> None:
    fit(Foreign(), fast_dev_run=True)
    with pytest.raises(ConfigError, match="has changed"):
        fit(Foreign(training_step=past_the_counters), fast_dev_run=True)


def test_nothing_is_left_in_the_module_and_it_can_be_copied_meanwhile() -> None:
    copies: list[nn.Module] = []
    module = Foreign(training_step=lambda it: copies.append(copy.deepcopy(it.net)))
    fit(module)
    assert copies
    assert not any(part._forward_pre_hooks for part in module.modules())
    module.net.train()(torch.ones(2, 3))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo's own reading
def test_a_network_wrapped_by_torch_compile_has_the_hash_of_the_network() -> None:
    module = Foreign()
    expected = weights_sha256(module.net)
    module.net = torch.compile(module.net, backend="eager")
    assert fit(module, max_epochs=1).summary_metrics()["frozen/frozen_sha256"] == expected


def test_strategies_that_divide_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.strategies import SingleDeviceStrategy

    monkeypatch.setattr("pvision.callbacks.frozen_guard.FSDPStrategy", SingleDeviceStrategy)
    with pytest.raises(ConfigError, match=r"SingleDeviceStrategy divides them.*'ddp'"):
        fit(Foreign())


def run_of_one(rank: int, misdeed: str) -> str:
    """One of two processes whose runs meet in the guard; in the second something happens at the third batch."""
    misdeeds = {"mode": lambda it: it.net.eval(), "write": lambda it: None, "hash": lambda it: None}
    if rank == 1:
        misdeeds = {
            "mode": lambda it: it.net[2].train(it.batches == 3),
            "write": lambda it: write(it, lambda net: net[0].weight) if it.batches == 3 else None,
            "hash": lambda it: past_the_counters(it) if it.batches == 3 else None,
        }
    module = Foreign(training_step=misdeeds.get(misdeed, lambda it: None))
    if misdeed == "start" and rank == 1:
        write(module, lambda net: net[0].weight)
    try:
        fit(module, FrozenGuard(["net"], every_n_steps=4))
    except ConfigError as error:
        return f"{module.batches} {error}"
    dist.barrier()
    return "done"


@pytest.mark.parametrize(
    ("misdeed", "batches", "message"),
    [
        ("nothing", None, "done"),
        ("start", 0, "The processes hold different frozen weights: frozen_sha256 is"),
        ("mode", 3, "Process 1: net.2 must stay frozen, but is in training mode"),
        ("write", 3, "Process 1: What must stay frozen has changed: net.0.weight."),
        ("hash", 4, "Process 1: What must stay frozen has changed: net.0.weight."),
    ],
)
def test_two_processes_stop_together(ranks, misdeed: str, batches: int | None, message: str) -> None:
    answers = ranks(run_of_one, 2, misdeed=misdeed)
    assert answers[0] == answers[1]
    expected = message if batches is None else f"{batches} {message}"
    assert answers[0][0] == "returned"
    assert answers[0][1].startswith(expected)


def test_a_fit_that_freezes_nothing_reports_no_hash_of_the_fit_before_it() -> None:
    module, guard = Knows(), FrozenGuard()
    assert fit(module, guard).summary_metrics()
    module.frozen_modules = dict
    assert fit(module, guard).summary_metrics() == {}
