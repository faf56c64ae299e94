"""Whenever a run along a stream is interrupted, what goes on from its latest checkpoint ends as an unbroken run."""

import lightning.pytorch as pl
import pytest
import torch

from pvision.callbacks import TrainingCost
from pvision.continual.scenarios import ForgetRequest
from pvision.training.streams import latest_checkpoint

HOOKS = [
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_test_start",
    "on_test_end",
]


class Interrupted(BaseException):
    """The machine is switched off."""


class Interruption(pl.Callback):
    """Stops a run the n-th time that a hook of an experience is reached."""

    def __init__(self, hook: str, *, experience: int = 1, time: int = 1) -> None:
        self.left = time

        def stop(trainer, *_):
            if trainer.datamodule.current == experience and not trainer.sanity_checking:
                self.left -= 1
                if self.left == 0:
                    raise Interrupted

        setattr(self, hook, stop)


def interrupted(make_run, hook, *, time=1, **settings):
    """Return a run that went on after an interruption, and the checkpoint it went on from."""
    first = make_run(callbacks=[Interruption(hook, time=time)], **settings)
    with pytest.raises(Interrupted):
        first.fit()
    path = latest_checkpoint(first.folder)
    return make_run(**settings).fit(path), path


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What runs end with that nobody interrupts, by their settings."""
    return {}


def outcome(unbroken, make_run, **settings):
    key = str(settings)
    if key not in unbroken:
        unbroken[key] = make_run("unbroken", **settings).fit().outcome()
    return unbroken[key]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_run_goes_on_from_wherever_it_was_cut_off(hook, make_run, unbroken, same):
    resumed, _ = interrupted(make_run, hook)
    assert same(resumed.outcome(), outcome(unbroken, make_run))


@pytest.mark.parametrize("time", [2, 3, 4, 7, 8])
def test_a_run_goes_on_in_the_middle_of_an_epoch(time, make_run, unbroken, same):
    resumed, path = interrupted(make_run, "on_train_batch_end", time=time)
    assert same(resumed.outcome(), outcome(unbroken, make_run))
    if time > 3:
        assert path.parent.name == "experience_2"
        assert path.name != "end.ckpt"


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end", "on_train_end", "on_test_start"])
@pytest.mark.parametrize("time", [1, 2])
def test_early_stopping_goes_on_too(hook, time, make_run, unbroken, same):
    if hook in ("on_train_end", "on_test_start") and time == 2:
        return
    settings = {"early": True, "epochs": 6}
    resumed, _ = interrupted(make_run, hook, time=time, **settings)
    assert same(resumed.outcome(), outcome(unbroken, make_run, **settings))


def test_a_run_that_was_cut_off_twice_goes_on_twice(make_run, unbroken, same):
    for hook, experience in (("on_train_batch_end", 1), ("on_test_start", 2)):
        run = make_run(callbacks=[Interruption(hook, experience=experience, time=1)])
        with pytest.raises(Interrupted):
            run.fit(run.folder if run.folder.exists() else None)
    assert same(make_run().fit(run.folder).outcome(), outcome(unbroken, make_run))


def test_a_finished_run_has_nothing_left_to_do(make_run, same):
    run = make_run().fit()
    again = make_run().fit(run.folder)
    assert same(again.outcome()["weights"], run.outcome()["weights"])
    assert same(again.outcome()["matrix"], run.outcome()["matrix"])


def test_without_the_saved_generators_the_outcome_is_another(make_run, unbroken, same, monkeypatch):
    # The safeguard switched off: dropout draws what it likes.
    monkeypatch.setattr("pvision.training.streams.checkpoints.restore_random_states", lambda states: None)
    resumed, _ = interrupted(make_run, "on_train_batch_end", time=4)
    assert not same(resumed.outcome()["weights"], outcome(unbroken, make_run)["weights"])


def test_stopping_early_at_the_last_epoch_does_not_stop_the_next_experience(make_run, unbroken, same):
    # Both the limit and early stopping end the fit: after a resumption no hook of it runs.
    settings = {"early": True, "epochs": 2, "min_delta": 1.0}
    resumed, _ = interrupted(make_run, "on_test_start", **settings)
    assert same(resumed.outcome(), outcome(unbroken, make_run, **settings))


@pytest.mark.parametrize("every", [4, 8])
def test_a_checkpoint_before_a_validation_goes_on_with_that_validation(every, make_run, unbroken, same):
    # Four steps are an epoch here: the checkpoint is written at its end, and early stopping has not looked yet.
    settings = {"early": True, "epochs": 6, "min_delta": 1.0, "every": every, "batch_size": 96}
    first = make_run(callbacks=[Interruption("on_validation_start", time=every // 4)], **settings)
    with pytest.raises(Interrupted):
        first.fit()
    path = latest_checkpoint(first.folder)
    assert path.name.endswith(f"step={every}.ckpt")
    assert same(make_run(**settings).fit(path).outcome(), outcome(unbroken, make_run, **settings))


def test_a_restart_goes_back_to_the_initial_weights_of_the_run_not_of_the_process(make_run, unbroken, same):
    settings = {"restart": True, "training_set": "seen", "replay": None, "replay_batch_size": None}
    first = make_run(callbacks=[Interruption("on_test_start")], **settings)
    with pytest.raises(Interrupted):
        first.fit()
    again = make_run(**settings)
    method = again.module.method
    method._initial = {name: tensor + 1 for name, tensor in method._initial.items()}
    assert same(again.fit(first.folder).outcome(), outcome(unbroken, make_run, **settings))


def test_retraining_that_forgets_is_validated_and_may_stop_early(make_run):
    run = make_run(
        early=True,
        restart=True,
        training_set="seen",
        replay=None,
        replay_batch_size=None,
        forget=[ForgetRequest(after=1, classes=[1])],
    ).fit()
    assert [event.kind for event in run.stream.experiences] == ["learn", "learn", "forget", "learn"]
    assert run.stream.current == 3


def test_the_generators_of_a_finished_run_are_those_it_ended_with(make_run, same):
    run = make_run().fit()
    ended = run.outcome()
    torch.manual_seed(0)
    assert same(make_run().fit(run.folder).outcome(), ended)


def test_what_it_cost_so_far_is_known_after_an_interruption(make_run):
    first = make_run(callbacks=[TrainingCost(), Interruption("on_train_start")])
    with pytest.raises(Interrupted):
        first.fit()
    run = make_run(callbacks=[cost := TrainingCost()]).fit(first.folder)
    assert (run.folder / "cost.csv").read_text().splitlines()[1].startswith("0,")
    values = cost.summary_metrics()
    assert values["cost/total_fit_seconds"] > values["cost/fit_seconds"]
    assert len((run.folder / "cost.csv").read_text().splitlines()) == 4
