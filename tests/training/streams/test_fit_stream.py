"""`fit_stream` with modules that know of streams and with one that does not."""

import contextlib
import json
import time

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from small_streams import Watches, classifier, stream_of, trainer_for
from torch import nn
from torch.nn import functional as F

from pvision.callbacks import ForgettingMetrics, RunSummary
from pvision.continual.replay import HerdingMemory, ReservoirMemory
from pvision.continual.scenarios import ClassIncremental, ForgetRequest
from pvision.datamodules.streams import DigitsStream
from pvision.errors import ConfigError, DataError
from pvision.models import ConvEncoder
from pvision.modules import ContinualClassifier
from pvision.training.run_files import run_folder
from pvision.training.streams import fit_stream, latest_checkpoint


class Somebodys(pl.LightningModule):
    """Knows nothing of streams: ten outputs from the start, and an accuracy that it logs itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.events = []

    def training_step(self, batch, batch_idx):
        self.events.append(("step", self.trainer.datamodule.current, self.global_step))
        return F.cross_entropy(self.layer(batch.image.flatten(1)), batch.label)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        right = self.layer(batch.image.flatten(1)).argmax(1) == batch.label
        self.log("test_acc", right.float().mean(), batch_size=len(right))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        self.events.append(("optimizer", self.trainer.datamodule.current, len(optimizer.state)))
        return optimizer


def test_a_module_that_knows_nothing_of_streams_goes_through_one(tmp_path):
    module, metrics = Somebodys(), ForgettingMetrics("test_acc", verbose=False)
    fit_stream(trainer_for(tmp_path, callbacks=[metrics]), module, stream_of())
    # Each experience has an optimizer without a history, and counts its steps from 0.
    assert [event for event in module.events if event[0] == "optimizer"] == [("optimizer", 0, 0), ("optimizer", 1, 0)]
    steps = [event for event in module.events if event[0] == "step"]
    assert steps == [("step", experience, step) for experience in (0, 1) for step in range(5)]
    assert metrics.matrix.shape == (2, 2)
    assert metrics.values()["continual/forgetting"] > 0


class Hooked(ContinualClassifier):
    """Notes its events, and trains while it consolidates."""

    def before_experience(self, experience, stream):
        super().before_experience(experience, stream)
        self.watch.seen.append(("before", experience.index))

    def after_experience(self, experience, stream):
        assert not self.training
        with torch.no_grad():
            before = self.head.layers[0].weight.clone()
        batch = next(iter(stream.in_order_loader(experience.train[:8])))
        self.method.loss(batch).backward()
        torch.optim.SGD(self.head.parameters(), lr=0.1).step()
        assert not torch.equal(self.head.layers[0].weight, before)
        self.watch.seen.append(("after", experience.index))


def test_a_module_is_told_before_and_after_and_may_train_when_it_consolidates(tmp_path):
    module, watch = Hooked(ConvEncoder(width=4)), Watches()
    module.watch = watch
    fit_stream(trainer_for(tmp_path, callbacks=[watch]), module, stream_of())
    events = ["before", "fit", "after", "test"]
    assert watch.seen == [(event, experience) for experience in (0, 1) for event in events]


def test_early_stopping_starts_anew_and_other_callbacks_live_on(tmp_path):
    class Counts(pl.Callback):
        epochs = ()

        def on_train_end(self, trainer, pl_module):
            self.epochs = (*self.epochs, trainer.current_epoch)

    counts = Counts()
    # Never better than at first: each experience stops after its second epoch.
    stops = EarlyStopping("val/accuracy", mode="max", patience=1, min_delta=1.0)
    trainer = trainer_for(tmp_path, max_epochs=9, callbacks=[counts, stops])
    fit_stream(trainer, classifier(), stream_of(experiences=3, val_fraction=0.2))
    assert counts.epochs == (2, 2, 2)
    assert stops.wait_count == 0  # the user's own object stays as it was
    assert trainer.callbacks.count(stops) == 1


def test_each_experience_has_a_folder_and_only_its_end_is_kept(tmp_path):
    fit_stream(trainer_for(tmp_path), classifier(), stream_of())
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.ckpt"))
    assert kept == [f"checkpoints/experience_{number}/end.ckpt" for number in (1, 2)]
    end = torch.load(tmp_path / kept[0], weights_only=True)
    assert end["optimizer_states"] == []
    assert (tmp_path / "stream.json").is_file()


def test_checkpoints_that_the_user_asked_for_stay_and_do_not_overwrite_each_other(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path / "mine", filename="{epoch}", save_top_k=-1)
    fit_stream(trainer_for(tmp_path, callbacks=[keep]), classifier(), stream_of())
    assert sorted(path.parent.name for path in (tmp_path / "mine").rglob("epoch=0.ckpt")) == [
        "experience_1",
        "experience_2",
    ]


def test_a_csv_logger_has_a_subfolder_for_each_experience(tmp_path):
    logger = CSVLogger(tmp_path, name="logs")
    metrics = ForgettingMetrics(verbose=False, plots=False)
    trainer = trainer_for(tmp_path, logger=logger, log_every_n_steps=1, callbacks=[metrics])
    fit_stream(trainer, classifier(), stream_of())
    run = tmp_path / "logs" / "version_0"
    assert "continual/average_accuracy" in (run / "metrics.csv").read_text()
    for number in (1, 2):
        text = (run / f"experience_{number}" / "metrics.csv").read_text()
        assert "train/loss" in text.splitlines()[0]
        assert len(text.splitlines()) == 6  # its own five steps
    assert trainer.loggers == [logger]
    assert run_folder(trainer) == run


def test_fast_dev_run_goes_through_all_experiences_and_leaves_nothing(tmp_path):
    watch = Watches()
    fit_stream(trainer_for(tmp_path, fast_dev_run=True, callbacks=[watch]), classifier(), stream_of())
    assert watch.seen == [("fit", 0), ("test", 0), ("fit", 1), ("test", 1)]
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("wanted", [{"save_last": True}, {"filename": "final"}])
def test_a_checkpoint_that_was_asked_for_is_no_leftover(tmp_path, wanted):
    fit_stream(trainer_for(tmp_path, callbacks=[ModelCheckpoint(**wanted)]), classifier(), stream_of())
    name = f"{wanted.get('filename', 'last')}.ckpt"
    assert sorted(path.parent.name for path in tmp_path.rglob(name)) == ["experience_1", "experience_2"]


class Slow(pl.Callback):
    """Takes its time, and counts the steps of each experience."""

    def __init__(self):
        self.steps = {}

    def on_train_batch_end(self, trainer, *args):
        self.steps[trainer.datamodule.current] = trainer.global_step
        time.sleep(0.02)


def test_the_time_limit_is_one_of_each_experience(tmp_path):
    slow = Slow()
    trainer = trainer_for(tmp_path, max_epochs=-1, max_steps=500, max_time={"seconds": 1}, callbacks=[slow])
    fit_stream(trainer, classifier(), stream_of())
    assert 0 < slow.steps[0] < 500
    assert 0 < slow.steps[1] < 500


@pytest.mark.parametrize(
    "average", [EMAWeightAveraging(decay=0.5), StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)]
)
def test_averages_of_weights_begin_again(tmp_path, average):
    # An average that lived on would put the weights from before the experience back.
    metrics = ForgettingMetrics(verbose=False, plots=False)
    module = classifier(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-3))
    fit_stream(trainer_for(tmp_path, max_epochs=4, callbacks=[metrics, average]), module, stream_of(batch_size=32))
    assert metrics.matrix.diagonal().min() > 0.5


class Consolidating(ContinualClassifier):
    """Changes its weights once an experience is learned."""

    def after_experience(self, experience, stream):
        with torch.no_grad():
            self.head.layers[-1].weight.mul_(3)


@pytest.mark.parametrize("average", [EMAWeightAveraging(decay=0.5), StochasticWeightAveraging(swa_lrs=1e-2)])
def test_a_finished_experience_is_saved_as_it_was_consolidated_not_as_it_was_averaged(tmp_path, average):
    module = Consolidating(ConvEncoder(width=4))
    fit_stream(trainer_for(tmp_path, max_epochs=2, callbacks=[average]), module, stream_of())
    saved = torch.load(tmp_path / "checkpoints" / "experience_2" / "end.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(saved["method.head.layers.1.weight"], module.head.layers[1].weight)


class LateLayers(Somebodys):
    """Makes its layer when Lightning asks it to."""

    def __init__(self):
        super().__init__()
        self.layer = None

    def configure_model(self):
        if self.layer is None:
            self.layer = nn.Linear(64, 10)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler's own
@pytest.mark.parametrize("make", [LateLayers, lambda: torch.compile(classifier(), backend="eager")])
def test_modules_of_all_kinds_go_on_after_a_finished_experience(tmp_path, make):
    fit_stream(trainer_for(tmp_path), make(), stream_of())
    first = tmp_path / "checkpoints" / "experience_1" / "end.ckpt"
    watch = Watches()
    fit_stream(trainer_for(tmp_path, callbacks=[watch]), make(), stream_of(), ckpt_path=first)
    assert watch.seen == [("fit", 1), ("test", 1)]


def test_features_come_in_the_precision_of_the_run(tmp_path):
    stream = stream_of(replay=HerdingMemory(20))
    fit_stream(trainer_for(tmp_path, precision="64-true"), classifier(), stream)
    assert len(stream.replay) == 20


# What is refused


@pytest.mark.parametrize(
    ("trainer", "stream", "message"),
    [
        ({"max_epochs": None}, {}, r"trainer.max_epochs must say how many epochs each experience takes, but None came"),
        ({"max_epochs": -1}, {}, r"but -1 came"),
        ({"max_epochs": 2}, {"online": True}, r"shows every record once, but trainer.max_epochs is 2. Set it to 1"),
        ({"overfit_batches": 2}, {}, r"trainer.overfit_batches would replace"),
        ({"callbacks": [EarlyStopping("val/accuracy")]}, {}, r"waits for 'val/accuracy', but no record is held out"),
        ({"strategy": "ddp", "devices": 2}, {"batch_size": 31}, r"data.batch_size counts .* number, 2, but 31 came"),
        ({"strategy": "ddp_spawn", "devices": 2}, {}, r"Use 'ddp'"),
        ({"limit_test_batches": 0}, {}, r"trainer.limit_test_batches is 0, but what is learned is consolidated"),
        ({}, {"forget": [ForgetRequest(after=0, classes=[1])]}, r"ContinualClassifier cannot: it has no method"),
    ],
)
def test_what_does_not_fit_a_stream_is_refused_before_anything_is_written(tmp_path, trainer, stream, message):
    with pytest.raises(ConfigError, match=message):
        fit_stream(trainer_for(tmp_path, **trainer), classifier(), stream_of(**stream))
    assert list(tmp_path.rglob("*.*")) == []


def test_a_module_that_cannot_be_evaluated_and_data_that_are_no_stream_are_refused(tmp_path):
    class Untested(Somebodys):
        test_step = pl.LightningModule.test_step

    with pytest.raises(ConfigError, match="Untested has no test_step"):
        fit_stream(trainer_for(tmp_path), Untested(), stream_of())
    with pytest.raises(ConfigError, match="needs a stream, but LightningDataModule came"):
        fit_stream(trainer_for(tmp_path), classifier(), pl.LightningDataModule())


def test_a_checkpoint_that_cannot_be_read_is_refused_by_the_reason(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.ckpt does not exist"):
        fit_stream(trainer_for(tmp_path), classifier(), stream_of(), ckpt_path=tmp_path / "nowhere.ckpt")
    torch.save({"hyper_parameters": {"folder": tmp_path}}, tmp_path / "more.ckpt")
    with pytest.raises(ConfigError, match=r"more.ckpt is broken, or holds more than tensors and plain values"):
        fit_stream(trainer_for(tmp_path), classifier(), stream_of(), ckpt_path=tmp_path / "more.ckpt")


def test_a_checkpoint_of_another_stream_is_refused_by_what_differs(tmp_path):
    fit_stream(trainer_for(tmp_path / "a"), classifier(), stream_of())
    with pytest.raises(DataError, match=r"the seed is 1, not 0"):
        fit_stream(trainer_for(tmp_path / "b"), classifier(), stream_of(seed=1), ckpt_path=tmp_path / "a")
    other = stream_of(replay=ReservoirMemory(9))
    with pytest.raises(ConfigError, match=r"data.replay is set"):
        fit_stream(trainer_for(tmp_path / "b"), classifier(), other, ckpt_path=tmp_path / "a")


def test_a_checkpoint_that_knows_no_stream_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match=r"other.ckpt does not say where in a stream"):
        fit_stream(trainer_for(tmp_path), classifier(), stream_of(), ckpt_path=tmp_path / "other.ckpt")


def test_a_broken_checkpoint_is_named_and_the_last_whole_one_taken(tmp_path, capsys):
    fit_stream(trainer_for(tmp_path), classifier(), stream_of())
    first, last = (tmp_path / "checkpoints" / f"experience_{number}" / "end.ckpt" for number in (1, 2))
    last.write_bytes(last.read_bytes()[:2000])
    assert latest_checkpoint(tmp_path) == first
    assert f"{last} is broken" in capsys.readouterr().err
    first.unlink()
    with pytest.raises(ConfigError, match="holds no checkpoint of a stream"):
        latest_checkpoint(tmp_path)


def test_other_batches_than_the_run_began_with_are_refused(tmp_path):
    fit_stream(trainer_for(tmp_path / "a"), classifier(), stream_of())
    with pytest.raises(ConfigError, match=r"was written with data.batch_size 128, but 64 is asked for"):
        fit_stream(trainer_for(tmp_path / "b"), classifier(), stream_of(batch_size=64), ckpt_path=tmp_path / "a")


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_the_summary_says_finished_only_when_the_stream_is(tmp_path, error, status):
    class Broken(DigitsStream):
        def begin(self, index):
            super().begin(index)
            if index == 1:
                seen.append(json.loads((tmp_path / "summary.json").read_text())["status"])
                if error is not None:
                    raise error  # between two fits, where Lightning is not watching

    seen = []
    trainer = trainer_for(tmp_path, callbacks=[RunSummary()])
    with contextlib.nullcontext() if error is None else pytest.raises(error):
        stream = Broken(scenario=ClassIncremental(experiences=2), batch_size=128, seed=0)
        fit_stream(trainer, classifier(), stream)
    assert seen == ["RUNNING"]
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == status
