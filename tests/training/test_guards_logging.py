"""Metrics of private steps are refused by name, whoever logs them; those of validation and releases are not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from pvision.errors import PrivacyError
from pvision.training import GUARDS, refuse_unnoised_logging

NAME = "train/loss"


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).sum()
        self.tell(loss)
        return loss

    def tell(self, loss) -> None:
        self.log(NAME, loss)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch).sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Manual(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


class ByDict(Module):
    def tell(self, loss):
        self.log_dict({"privacy/steps": 1.0, NAME: loss}, on_epoch=True, on_step=False)


class ByMetric(Module):
    """Gathers in the steps, logs at the end of the epoch."""

    def tell(self, loss):
        self.mean.update(loss.detach())

    def on_train_epoch_end(self):
        self.log(NAME, self.mean)


class ByLogger(Module):
    def tell(self, loss):
        self.logger.log_metrics({NAME: loss.item()}, step=0)


class ByProgressBar(Module):
    def tell(self, loss):
        self.log(NAME, loss, prog_bar=True, logger=False)


class BeforeTheStep(Module):
    def tell(self, loss): ...

    def on_before_optimizer_step(self, optimizer):
        self.log(NAME, self.layer.weight.grad.norm())


class Silent(Module):
    def tell(self, loss):
        self.log_dict({"privacy/epsilon": 0.5, "epoch": 0.0, "step": 1.0})


class LogsItself(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.log(NAME, outputs["loss"])


class Watch(Callback):
    """Where a callback of ours opens and closes the context."""

    def __init__(self, log_unnoised: Sequence[str] = (), private: bool = True) -> None:
        self.log_unnoised, self.private = log_unnoised, private

    def on_train_start(self, trainer, pl_module):
        self.context = refuse_unnoised_logging(
            trainer, log_unnoised=self.log_unnoised, while_private=lambda: self.private
        )
        self.context.__enter__()

    def teardown(self, trainer, pl_module, stage):
        self.context.__exit__(None, None, None)


def fit(module: pl.LightningModule, *callbacks: Callback) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger("logs"),
        log_every_n_steps=1,
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
    )
    loader = DataLoader(torch.ones(4, 2), batch_size=2)
    trainer.fit(module, loader, loader)
    return trainer


@pytest.mark.parametrize("module", [Module, Manual, ByDict, ByMetric, ByLogger, ByProgressBar, BeforeTheStep])
def test_an_unnoised_metric_is_refused(module: type[pl.LightningModule]) -> None:
    with pytest.raises(PrivacyError) as refused:
        fit(module(), Watch())
    (guard,) = GUARDS["logging"]
    for part in (repr(NAME), guard.reason, guard.remedy):
        assert part in str(refused.value)


def test_a_callback_that_logs_is_refused_too() -> None:
    with pytest.raises(PrivacyError, match="on_train_batch_end"):
        fit(Silent(), Watch(), LogsItself())


def test_nothing_reaches_the_log_before_it_is_refused() -> None:
    module = Module()
    with pytest.raises(PrivacyError):
        fit(module, Watch())
    assert NAME not in module.trainer.logged_metrics
    assert NAME not in module.trainer.callback_metrics


def test_releases_validation_and_learning_rates_are_free() -> None:
    trainer = fit(Silent(), Watch(), LearningRateMonitor(logging_interval="step"))
    assert {"privacy/epsilon", "val/loss"} <= trainer.callback_metrics.keys()


@pytest.mark.parametrize("module", [Module, Manual, ByDict, ByMetric, ByLogger])
def test_what_the_user_names_is_logged(module: type[pl.LightningModule]) -> None:
    fit(module(), Watch([NAME]))


def test_another_name_frees_nothing() -> None:
    with pytest.raises(PrivacyError):
        fit(Module(), Watch(["train/accuracy", "train"]))


def test_public_steps_log_what_they_like() -> None:
    assert NAME in fit(Module(), Watch(private=False)).callback_metrics


@contextmanager
def unchanged(*owners: Any) -> Iterator[None]:
    before = [dict(vars(owner)) for owner in owners]
    yield
    assert [vars(owner).keys() for owner in owners] == [old.keys() for old in before]


def test_afterwards_everything_is_as_it_was() -> None:
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=CSVLogger("logs"), enable_progress_bar=False)
    with unchanged(trainer.fit_loop.epoch_loop._results, trainer.logger), refuse_unnoised_logging(trainer):
        assert "log" in vars(trainer.fit_loop.epoch_loop._results)
    with (
        unchanged(trainer.fit_loop.epoch_loop._results, trainer.logger),
        pytest.raises(RuntimeError),
        refuse_unnoised_logging(trainer),
    ):
        raise RuntimeError


def test_two_contexts_may_be_nested() -> None:
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    results = trainer.fit_loop.epoch_loop._results
    with refuse_unnoised_logging(trainer, log_unnoised=["a"]):
        with refuse_unnoised_logging(trainer, log_unnoised=["a", "b"]), pytest.raises(PrivacyError):
            results.log("training_step", "b", torch.tensor(1.0))
        results.log("training_step", "a", torch.tensor(1.0))
    assert "log" not in vars(results)
