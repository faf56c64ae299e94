"""Interrupted private training: what is charged, what goes on, what is refused."""

import json
import signal

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from pvision.errors import LedgerMismatch, LedgerTampered, PrivacyError
from pvision.modules import MaskDP, PrivateTraining
from pvision.privacy import ledger_report, read_ledger

STEPS = 8

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # the user moved the run


class PowerCutError(Exception):
    """What no code expects."""


class Stops(Callback):
    """Raises, or asks Lightning to stop, in the middle of the private epoch.

    Args:
        after: private steps before it.
        how: an exception, or a signal.
    """

    def __init__(self, after, how=PowerCutError):
        self.after, self.how = after, how

    def on_train_batch_end(self, trainer, pl_module, *args):
        if pl_module.in_private_phase and pl_module.privacy_steps == self.after:
            if isinstance(self.how, signal.Signals):
                signal.raise_signal(self.how)
            else:
                raise self.how


@pytest.fixture(params=["head", "residual", "residual_shared_batch", "dp_sgd", "redact_then_dp_sgd"])
def kind(request):
    return request.param


@pytest.fixture
def build(net, statement):
    def make(kind, seed=0, **changes):
        values = {"steps": STEPS, "sample_rate": 0.5} | changes
        if kind == "head":
            return MaskDP(net(seed), net(50), statement(**values), public_epochs=1, projection_dim=6)
        return PrivateTraining(net(seed), statement(kind, **values), public_epochs=int(kind != "dp_sgd"))

    return make


@pytest.fixture
def begin(clips, fit, tmp_path):
    """Train with a checkpoint after every second step until something stops it; return the folder."""

    def run(module, *, stops=None, **changes):
        keeps = ModelCheckpoint(
            dirpath=tmp_path / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1
        )
        callbacks = [keeps] if stops is None else [keeps, stops]
        fit(module, clips(), callbacks=callbacks, enable_checkpointing=True, **changes)
        return tmp_path

    return run


@pytest.fixture
def resume(clips, trainer, tmp_path):
    """Go on from the last checkpoint in another folder, on data that is the same unless it is changed."""

    def run(module, *, stops=None, folder=tmp_path, **changes):
        keeps = ModelCheckpoint(dirpath=folder / "again", every_n_train_steps=2, save_top_k=-1)
        callbacks = [keeps] if stops is None else [keeps, stops]
        made = trainer(callbacks=callbacks, enable_checkpointing=True, default_root_dir=folder / "again")
        made.fit(module, datamodule=clips(**changes), ckpt_path=last_checkpoint(folder))
        return module

    return run


@pytest.fixture
def attended():
    """Take Ctrl-C as a process at a terminal does; one in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def last_checkpoint(folder):
    return max((folder / "checkpoints").glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))


def progress_of(path):
    return torch.load(path, weights_only=True)["privacy_progress"]


def test_an_exception_settles_the_ledger_and_the_count_is_exact(kind, build, begin, tmp_path):
    with pytest.raises(PowerCutError):
        begin(build(kind), stops=Stops(5))
    record = read_ledger(tmp_path / "ledger.jsonl")
    assert (record.charged, record.crashes) == (5, 0)


@pytest.mark.parametrize(("how", "raised"), [(signal.SIGTERM, SIGTERMException), (signal.SIGINT, SystemExit)])
def test_a_signal_settles_the_ledger(build, begin, tmp_path, attended, how, raised):
    with pytest.raises(raised):
        begin(build("dp_sgd"), stops=Stops(3, how))
    assert 3 <= read_ledger(tmp_path / "ledger.jsonl").charged <= 4


def test_a_resumed_run_spends_what_an_unbroken_one_spends(kind, build, begin, resume, tmp_path):
    with pytest.raises(PowerCutError):
        begin(build(kind), stops=Stops(5))
    assert progress_of(last_checkpoint(tmp_path))["steps"] < 5
    resumed = resume(build(kind, seed=3))
    assert resumed.privacy_steps == STEPS
    unbroken = build(kind).privacy
    for relation in ("zero_out", "replace"):
        assert getattr(resumed.privacy_report(), f"epsilon_{relation}") == pytest.approx(
            unbroken.epsilon(relation), abs=1e-9
        )
    assert ledger_report(tmp_path / "ledger.jsonl").steps == STEPS
    assert not list((tmp_path / "again").glob("**/ledger*"))


def test_steps_after_the_checkpoint_stay_charged(build, begin, resume, tmp_path):
    """The control is what Lightning and Opacus do: go on with the count of the checkpoint."""
    with pytest.raises(PowerCutError):
        begin(build("dp_sgd"), stops=Stops(5))
    at_checkpoint = progress_of(last_checkpoint(tmp_path))["steps"]
    assert at_checkpoint == 4
    resumed, taken = build("dp_sgd"), []
    original = resumed.private_step
    resumed.private_step = lambda batch: (taken.append(batch), original(batch))
    resume(resumed)
    assert len(taken) == STEPS - 5
    assert (
        resumed.privacy.epsilon("add_remove", steps=at_checkpoint + len(taken))
        < ledger_report(tmp_path / "ledger.jsonl").epsilon_add_remove
    )


def test_resuming_twice_charges_both(build, begin, resume, tmp_path):
    with pytest.raises(PowerCutError):
        begin(build("dp_sgd"), stops=Stops(3))
    for charged in (5, 7):
        with pytest.raises(PowerCutError):
            resume(build("dp_sgd"), stops=Stops(charged))
        assert read_ledger(tmp_path / "ledger.jsonl").charged == charged


def test_a_resumed_run_is_resumed_from_its_own_checkpoint(build, begin, resume, tmp_path):
    """Its checkpoints lie in its own folder, its ledger where the first run began it."""
    with pytest.raises(PowerCutError):
        begin(build("dp_sgd"), stops=Stops(3))
    second = tmp_path / "second"
    with pytest.raises(PowerCutError):
        resume(build("dp_sgd"), stops=Stops(6))
    (second / "checkpoints").mkdir(parents=True)
    last = max((tmp_path / "again").glob("*.ckpt"), key=lambda path: progress_of(path)["steps"])
    last.rename(second / "checkpoints" / "step=6.ckpt")
    third = resume(build("dp_sgd"), folder=second)
    assert third.privacy_steps == read_ledger(tmp_path / "ledger.jsonl").charged == STEPS
    assert not list(second.glob("**/ledger*"))


def test_no_noise_is_used_twice(build, begin, resume, tmp_path):
    def noises(module, **arguments):
        seen = []
        original = module._release
        module._release = lambda views: (seen.append(original(views)), seen[-1])[1]
        with pytest.raises(PowerCutError):
            arguments["fit"](module)
        return [torch.cat([value.flatten() for value in one.values()]) for one in seen]

    first = noises(build("dp_sgd"), fit=lambda module: begin(module, stops=Stops(4)))
    again = noises(build("dp_sgd"), fit=lambda module: resume(module, stops=Stops(6)))
    vectors = torch.stack(first + again)
    correlation = torch.corrcoef(vectors) - torch.eye(len(vectors))
    assert len(vectors) == 6
    assert correlation.abs().max() < 5 / vectors.shape[1] ** 0.5


def test_resuming_in_the_public_epochs_goes_on_in_the_same_ledger(build, begin, resume, tmp_path):
    begin(build("residual"), max_steps=2)
    assert read_ledger(tmp_path / "ledger.jsonl").charged == 0
    resumed = build("residual")
    with pytest.warns(UserWarning, match="checkpoint that ended before the epoch ended"):
        resume(resumed)
    assert read_ledger(tmp_path / "ledger.jsonl").charged == resumed.privacy_steps == STEPS


def test_a_finished_run_is_not_trained_on(kind, build, begin, resume, tmp_path):
    begin(build(kind))
    resumed = build(kind)
    resume(resumed)
    assert resumed.privacy_steps == read_ledger(tmp_path / "ledger.jsonl").charged == STEPS


@pytest.mark.parametrize("damage", ["cut", "edited", "missing", "of another run"])
def test_a_ledger_that_does_not_fit_the_checkpoint_is_refused(build, begin, resume, clips, trainer, tmp_path, damage):
    with pytest.raises(PowerCutError):
        begin(build("dp_sgd"), stops=Stops(5))
    path = tmp_path / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "cut":
        path.write_bytes(b"".join(lines[:3]))
    elif damage == "edited":
        lines[2] = lines[2].replace(b'"steps":1', b'"steps":0')
        path.write_bytes(b"".join(lines))
        assert path.read_bytes() != b"".join(lines[:2])
    else:
        path.unlink()
        if damage == "of another run":
            with pytest.raises(PowerCutError):
                trainer(callbacks=[Stops(5)]).fit(build("dp_sgd"), datamodule=clips())
    module = build("dp_sgd")
    with pytest.raises((LedgerTampered, LedgerMismatch)):
        resume(module)
    assert module.trainer.global_step <= 4
    assert module.mechanism is None


@pytest.mark.parametrize("other", [{"records": 60}, {"hidden": 0, "batch_size": 8}])
def test_other_data_is_refused_and_other_batches_are_not(build, begin, resume, tmp_path, other):
    with pytest.raises(PowerCutError):
        begin(build("dp_sgd"), stops=Stops(5))
    module = build("dp_sgd")
    if "records" in other:
        with pytest.raises(LedgerMismatch):
            resume(module, **other)
        assert module.mechanism is None
    else:
        resume(module, **other)
        assert module.privacy_steps == STEPS


def test_a_trial_run_leaves_no_ledger_and_its_weights_cannot_be_resumed(build, clips, fit, trainer, tmp_path):
    module = build("dp_sgd")
    fit(module, clips(), fast_dev_run=True).save_checkpoint(tmp_path / "trial.ckpt")
    assert not list(tmp_path.glob("**/ledger*"))


def test_the_ledger_holds_no_private_value(build, clips, fit, tmp_path):
    """Two data sets that differ in what is masked have the same ledger, but for its random id and times."""
    texts = []
    for hidden in (0, 1):
        folder = tmp_path / str(hidden)
        fit(build("residual"), clips(hidden=hidden), default_root_dir=folder)
        header, *entries = map(json.loads, (folder / "ledger.jsonl").read_text().splitlines())
        texts.append((header["fingerprint"], header["spec"], header["num_records"], [(one["kind"]) for one in entries]))
    assert texts[0] == texts[1]


def test_a_second_run_without_a_logger_does_not_touch_the_first_ledger(build, clips, fit, tmp_path):
    for _ in range(2):
        fit(build("dp_sgd"), clips())
    ids = {read_ledger(path).header["id"] for path in tmp_path.glob("ledger*.jsonl")}
    assert len(ids) == 2


def test_a_ledger_that_cannot_be_written_stops_before_the_first_step(build, clips, fit, tmp_path):
    folder = tmp_path / "locked"
    (folder / "ledger.jsonl").mkdir(parents=True)
    (folder / "ledger_2.jsonl").mkdir()
    module = build("dp_sgd")
    fit(module, clips(), default_root_dir=folder)  # the next free name is taken
    assert read_ledger(folder / "ledger_3.jsonl").charged == STEPS


def test_refusing_leaves_no_lock(build, begin, resume, tmp_path):
    with pytest.raises(PowerCutError):
        begin(build("dp_sgd"), stops=Stops(5))
    other = build("dp_sgd", noise_multiplier=9.0)
    with pytest.raises(PrivacyError, match="noise_multiplier"):
        resume(other)
    resumed = build("dp_sgd")
    resume(resumed)
    assert resumed.privacy_steps == STEPS
