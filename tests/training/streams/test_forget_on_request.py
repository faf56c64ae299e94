"""Streams that ask to forget: who can, how the numbers tell it, and what leaves the replay memory."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from small_streams import Watches, classifier, stream_of, trainer_for

from pvision.adapters.methods.fine_tuning import FineTuning
from pvision.callbacks import ForgettingMetrics
from pvision.continual.replay import ReservoirMemory
from pvision.continual.scenarios import ForgetRequest, TaskIncremental
from pvision.models import ConvEncoder
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream


def test_retraining_forgets_a_class_and_keeps_the_rest(tmp_path):
    stream = stream_of(forget=[ForgetRequest(after=0, classes=[1])], training_set="seen", batch_size=32)
    trained = {}

    class Notes(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trained.setdefault(stream.current, set()).update(batch.label.tolist())

    metrics = ForgettingMetrics(verbose=False)
    trainer = trainer_for(tmp_path, max_epochs=3, callbacks=[Notes(), metrics])
    module = classifier(method=partial(FineTuning, restart=True), optimizer=lambda p: torch.optim.AdamW(p, lr=5e-3))
    fit_stream(trainer, module, stream)
    assert [event.kind for event in stream.experiences] == ["learn", "forget", "learn"]
    assert trained == {0: {0, 1, 2, 3, 4}, 1: {0, 2, 3, 4}, 2: {0, *range(2, 10)}}
    per_class = metrics.counted.per_class()
    assert per_class[0][1] > 0.5
    assert per_class[1][1] == 0
    assert per_class[1][0] > 0.5


def test_a_module_that_can_forget_is_asked_to_instead_of_being_trained(tmp_path):
    class Forgetful(ContinualClassifier):
        asked = ()

        def forget_experience(self, experience, stream):
            self.asked = (*self.asked, experience.classes)

    watch, module = Watches(), Forgetful(ConvEncoder(width=4))
    stream = stream_of(forget=[ForgetRequest(after=1, classes=[1, 3])])
    fit_stream(trainer_for(tmp_path, callbacks=[watch]), module, stream)
    assert module.asked == ((1, 3),)
    assert watch.seen == [("fit", 0), ("test", 0), ("fit", 1), ("test", 1), ("test", 2)]


def test_a_replay_memory_loses_what_is_to_be_forgotten(tmp_path):
    class Forgetful(ContinualClassifier):
        def forget_experience(self, experience, stream):
            pass

    stream = stream_of(forget=[ForgetRequest(after=0, classes=[1])], replay=ReservoirMemory(200))
    fit_stream(trainer_for(tmp_path), Forgetful(ConvEncoder(width=4)), stream)
    assert set(stream.replay.labels.tolist()) == {0, *range(2, 10)}


def test_what_was_forgotten_on_request_is_not_what_the_model_forgot(tmp_path):
    # One class of two goes: the experience's other class counts on, in all rows.
    forget = [ForgetRequest(after=3, classes=[7])]
    stream = stream_of(forget=forget, training_set="seen", experiences=5, batch_size=32)
    metrics = ForgettingMetrics(verbose=False)
    module = classifier(method=partial(FineTuning, restart=True), optimizer=lambda p: torch.optim.AdamW(p, lr=5e-3))
    fit_stream(trainer_for(tmp_path, max_epochs=4, callbacks=[metrics]), module, stream)
    values, per_class = metrics.values(), metrics.counted.per_class()
    assert per_class[3][7] > 0.5
    assert per_class[4][7] == 0
    assert values["continual/forgotten_accuracy"] == 0
    assert metrics.matrix[4, 3] == pytest.approx(per_class[4][6])
    assert metrics.matrix[3, 3] == pytest.approx(per_class[3][6])
    assert values["continual/forgetting"] < 0.2


def test_a_task_incremental_stream_gives_the_experience_away(tmp_path):
    metrics = ForgettingMetrics(verbose=False)
    stream = stream_of(scenario=TaskIncremental(experiences=2), batch_size=32)
    module = classifier(optimizer=lambda p: torch.optim.AdamW(p, lr=5e-3))
    fit_stream(trainer_for(tmp_path, max_epochs=2, callbacks=[metrics]), module, stream)
    # Among ten classes nothing of the first five would be left.
    assert metrics.values()["continual/average_accuracy"] > 0.4
    assert metrics.matrix[1, 0] > 0.2
