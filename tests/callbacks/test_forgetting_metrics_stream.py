"""ForgettingMetrics where the data module goes through a stream, with requests to forget; and after a resumption."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from scripted_project import R, Scripted, learn, loader, loaders, trainer
from torch.utils.data import DataLoader

from pvision.callbacks.forgetting_metrics import ForgettingMetrics
from pvision.continual.experience import Experience
from pvision.errors import ConfigError

EVENTS = (
    Experience(0, "learn", "cats", (0,)),
    Experience(1, "learn", "dogs", (1,)),
    Experience(2, "forget", "forget class 0", (0,), train=np.arange(5)),
    Experience(3, "learn", "birds", (2,)),
)


class Stream(pl.LightningDataModule):
    """A data module that goes through a stream."""

    def __init__(self, evaluated: Sequence[Sequence[int]] = ((0,), (1, 0), (0, 1), (0, 1, 3))) -> None:
        super().__init__()
        self.experiences, self.current, self._evaluated = EVENTS, 0, evaluated

    @property
    def evaluated(self) -> Sequence[int]:
        return self._evaluated[self.current]

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(4)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        return loaders(len(self.evaluated))


def test_a_stream_says_where_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    script = [[0.9], [0.8, 0.7], [0.1, 0.6], [0.2, 0.5, 0.95]]
    callback, module, data = ForgettingMetrics(plots=False), Scripted(script), Stream()
    for event in EVENTS:
        data.current = event.index
        run = trainer(callback)
        run.fit(module, datamodule=data)
        run.test(module, datamodule=data, verbose=False)
    nan = math.nan
    np.testing.assert_allclose(callback.matrix, [[0.9, nan, nan], [0.7, 0.8, nan], [0.2, 0.5, 0.95]])
    values = callback.values()
    assert values["continual/average_accuracy"] == pytest.approx((0.5 + 0.95) / 2), "what was to be forgotten is out"
    assert values["continual/forgetting"] == pytest.approx(0.8 - 0.5)
    assert values["continual/forgotten_accuracy"] == pytest.approx(0.2)
    assert values["continual/retained_accuracy"] == pytest.approx(0.6), "right after the request"
    told = [line.partition(". ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("After ")]
    assert told[2] == "After the event 'forget class 0': accuracy 0.100 on what was forgotten, 0.600 on the rest"
    assert told[3].startswith("After experience 3 (birds): average accuracy 0.725")
    (event,) = callback.state_dict()["history"]["events"]
    assert event["accuracy"] == {"agnostic": {"0": 0.1, "1": 0.6}}
    assert (event["name"], event["after_row"], event["records"], event["forgotten"]) == ("forget class 0", 1, 5, [0])
    assert (Path.cwd() / "accuracy_matrix.csv").read_text().startswith("after,cats,dogs,birds\ncats,0.9")


def test_a_stream_that_does_not_give_a_loader_for_each_experience_is_refused() -> None:
    data = Stream()
    data.test_dataloader = lambda: loaders(3)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"one loader for each of the 1 experiences in data.evaluated, but 3 came"):
        trainer(ForgettingMetrics()).test(Scripted(), datamodule=data, verbose=False)


class Crash(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("power cut")


def test_after_a_resumption_the_whole_history_is_there_and_the_fit_counts_once() -> None:
    module = Scripted()
    before = ForgettingMetrics(plots=False)
    trainer(before).test(module, loaders(), verbose=False)
    learn(before, module, 2)
    keep = ModelCheckpoint(Path.cwd(), filename="half", every_n_epochs=1)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(before, keep, Crash(), max_epochs=3, enable_checkpointing=True).fit(module, loader(4))
    saved = torch.load(Path.cwd() / "half.ckpt", weights_only=True)
    assert before.state_key in saved["callbacks"]

    after = ForgettingMetrics(plots=False)
    run = trainer(after, ModelCheckpoint(Path.cwd(), every_n_epochs=1), max_epochs=3, enable_checkpointing=True)
    run.fit(module, loader(4), ckpt_path=Path.cwd() / "half.ckpt")
    run.test(module, loaders(), verbose=False)
    learn(after, module, 1)
    np.testing.assert_allclose(after.matrix, R)
    assert after.values()["continual/forward_transfer"] == pytest.approx(0.15), "the baseline came along"


def test_an_evaluation_from_a_checkpoint_does_not_go_back() -> None:
    """`test(ckpt_path="best")`, the usual last line: the checkpoint was saved before its fit counted as ended."""
    callback, module = ForgettingMetrics(plots=False), Scripted()
    learn(callback, module, 1)
    keep = ModelCheckpoint(Path.cwd(), filename="best")
    run = trainer(callback, keep, enable_checkpointing=True)
    run.fit(module, loader(4))
    run.test(module, loaders(), ckpt_path="best", verbose=False)
    np.testing.assert_allclose(callback.matrix, np.array(R)[:2, :2])

    elsewhere = ForgettingMetrics(plots=False)  # in a process that has only the checkpoint
    run = trainer(elsewhere, ModelCheckpoint(Path.cwd()), enable_checkpointing=True)
    run.test(module, loaders(), ckpt_path=Path.cwd() / "best.ckpt", verbose=False)
    np.testing.assert_allclose(elsewhere.matrix, np.array(R)[:2, :2])
