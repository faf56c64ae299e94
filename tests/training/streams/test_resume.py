"""Whenever a run along a stream is interrupted, what goes on from its latest checkpoint ends as an unbroken run."""

import lightning.pytorch as pl
import pytest

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
