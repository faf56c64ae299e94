"""Unsafe settings and callbacks of the Trainer are refused; their safe siblings are not."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.spike import SpikeDetection as FabricSpikeDetection
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    Callback,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
)
from lightning.pytorch.callbacks.spike import SpikeDetection
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.profilers import PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader

from pvision.errors import PrivacyError
from pvision.training import GUARDS, refuse_unsafe_trainer

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
TWO = {"devices": 2, "use_distributed_sampler": False}


class Module(pl.LightningModule):
    def __init__(self, augment: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.augment = augment

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class MixUp(nn.Module):
    """Stands for the classes of that name in torchvision, timm and others."""


class OwnMixing(MixUp):
    """Its own name says nothing."""


class Sharded(DDPStrategy):
    """Stands for strategies with a way of their own with gradients."""


class Watcher(Callback):
    def __init__(self, monitor: str) -> None:
        self.monitor = monitor


def trainer(*, schedule: Any = None, **settings: Any) -> pl.Trainer:
    if any(isinstance(one, Checkpoint) for one in settings.get("callbacks", [])):
        settings["enable_checkpointing"] = True
    made = pl.Trainer(**{**QUIET, "devices": 1, **settings})
    if schedule is not None:
        made.strategy.lr_scheduler_configs = [schedule]
    return made


def schedule(kind: Callable[..., Any], monitor: str | None = None) -> LRSchedulerConfig:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    return LRSchedulerConfig(kind(optimizer), monitor=monitor)


def plateau(monitor: str | None) -> LRSchedulerConfig:
    return schedule(ReduceLROnPlateau, monitor)


def calls(callback: Any) -> dict[str, Any]:
    return {"callbacks": [callback]}


UNSAFE: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [
    ("precision", "GradScaler", lambda: {"plugins": [MixedPrecision("16-mixed", "cpu")]}),
    ("precision", "'16-true'", lambda: {"precision": "16-true"}),
    ("gradient_clip_val", "is 0.5", lambda: {"gradient_clip_val": 0.5}),
    ("accumulate_grad_batches", "is 4", lambda: {"accumulate_grad_batches": 4}),
    ("sync_batchnorm", "is True", lambda: {"sync_batchnorm": True, "strategy": "ddp", **TWO}),
    ("strategy", "is Sharded", lambda: {"strategy": Sharded(), **TWO}),
    ("gradient_communication", "hook", lambda: {"strategy": DDPStrategy(ddp_comm_hook=fp16_compress_hook), **TWO}),
    ("gradient_communication", "period", lambda: {"strategy": DDPStrategy(model_averaging_period=2), **TWO}),
    ("overfit_batches", "is 2", lambda: {"overfit_batches": 2}),
    ("use_distributed_sampler", "2 processes", lambda: {"strategy": "ddp", "devices": 2}),
    ("profiler", "record_shapes", lambda: {"profiler": PyTorchProfiler(record_shapes=True)}),
    ("plateau_schedule", "'train/loss'", lambda: {"schedule": plateau("train/loss")}),
    ("plateau_schedule", "no metric", lambda: {"schedule": plateau(None)}),
    ("early_stopping", "'train_loss'", lambda: calls(EarlyStopping("train_loss"))),
    ("early_stopping", "'loss'", lambda: calls(EarlyStopping("loss"))),
    ("checkpoint_choice", "'train/loss'", lambda: calls(ModelCheckpoint(monitor="train/loss"))),
    ("checkpoint_choice", "'value_of_loss'", lambda: calls(ModelCheckpoint(monitor="value_of_loss"))),
    ("monitor", "'train/loss'", lambda: calls(Watcher("train/loss"))),
    ("learning_rate_finder", "LearningRateFinder", lambda: calls(LearningRateFinder())),
    ("batch_size_finder", "BatchSizeFinder", lambda: calls(BatchSizeFinder())),
    ("accumulation_schedule", "Scheduler", lambda: calls(GradientAccumulationScheduler({0: 2}))),
    ("spike_detection", "SpikeDetection", lambda: calls(SpikeDetection())),
    ("throughput_monitor", "ThroughputMonitor", lambda: calls(ThroughputMonitor(batch_size_fn=len))),
    ("finetuning", "BackboneFinetuning", lambda: calls(BackboneFinetuning())),
    ("weight_averaging", "with BatchNorm", lambda: calls(StochasticWeightAveraging(swa_lrs=0.1))),
    ("pruning", "ModelPruning", lambda: calls(ModelPruning("l1_unstructured", amount=0.5))),
]

SAFE_SIBLINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "nothing set": dict,
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "bf16-true": lambda: {"precision": "bf16-true"},
    "64-true": lambda: {"precision": "64-true"},
    "gradient_clip_val 0 clips nothing": lambda: {"gradient_clip_val": 0},
    "accumulate_grad_batches 1": lambda: {"accumulate_grad_batches": 1},
    "plain ddp": lambda: {"strategy": "ddp", **TWO},
    "ddp_spawn": lambda: {"strategy": "ddp_spawn", **TWO},
    "ddp_notebook": lambda: {"strategy": "ddp_notebook", **TWO},
    "use_distributed_sampler on one process": lambda: {"use_distributed_sampler": True},
    "limit_train_batches": lambda: {"limit_train_batches": 3},
    "fast_dev_run": lambda: {"fast_dev_run": True},
    "detect_anomaly": lambda: {"detect_anomaly": True},
    "inference_mode": lambda: {"inference_mode": False},
    "profiler without shapes": lambda: {"profiler": PyTorchProfiler()},
    "simple profiler": lambda: {"profiler": SimpleProfiler()},
    "plateau of validation": lambda: {"schedule": plateau("val/loss")},
    "another schedule": lambda: {"schedule": schedule(lambda optimizer: StepLR(optimizer, 1))},
    "early stopping by validation": lambda: calls(EarlyStopping("val/loss")),
    "early stopping by ε": lambda: calls(EarlyStopping("privacy/epsilon")),
    "last weights": lambda: calls(ModelCheckpoint()),
    "best weights by validation": lambda: calls(ModelCheckpoint(monitor="valid_loss")),
    "weights of the last step": lambda: calls(ModelCheckpoint(monitor="step", mode="max")),
    "a callback that monitors validation": lambda: calls(Watcher("validation-loss")),
    "averaged weights": lambda: calls(StochasticWeightAveraging(swa_lrs=0.1)),
    "moving average of weights": lambda: calls(EMAWeightAveraging()),
    "learning rate in the log": lambda: calls(LearningRateMonitor()),
    "other callbacks": lambda: {"callbacks": [Timer(), DeviceStatsMonitor(), OnExceptionCheckpoint(".")]},
}


@pytest.mark.parametrize(
    ("name", "came", "settings"), UNSAFE, ids=lambda value: value if isinstance(value, str) else ""
)
def test_an_unsafe_setting_is_refused(name: str, came: str, settings: Callable[[], dict[str, Any]]) -> None:
    guard = next(one for group in ("trainer", "callbacks") for one in GUARDS[group] if one.name == name)
    module = Module(nn.BatchNorm1d(2).eval() if name == "weight_averaging" else None)
    with pytest.raises(PrivacyError) as refused:
        refuse_unsafe_trainer(trainer(**settings()), module)
    for part in (came, guard.reason, guard.remedy):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value), "only this guard refuses"


@pytest.mark.parametrize("settings", SAFE_SIBLINGS.values(), ids=SAFE_SIBLINGS.keys())
def test_a_safe_setting_passes(settings: Callable[[], dict[str, Any]]) -> None:
    refuse_unsafe_trainer(trainer(**settings()), Module())


def test_every_guard_of_the_trainer_is_seen_to_refuse() -> None:
    tested = {name for name, _, _ in UNSAFE} | {"batch_augmentation"}
    assert tested == {guard.name for group in ("trainer", "callbacks") for guard in GUARDS[group]}


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(PrivacyError) as refused:
        refuse_unsafe_trainer(trainer(gradient_clip_val=1.0, accumulate_grad_batches=2), Module())
    assert str(refused.value).count("\n- ") == 2


def test_further_metrics_may_be_declared_public() -> None:
    unsafe = trainer(callbacks=[EarlyStopping("accuracy")])
    with pytest.raises(PrivacyError):
        refuse_unsafe_trainer(unsafe, Module())
    refuse_unsafe_trainer(unsafe, Module(), public_metrics=["accuracy"])


@pytest.mark.parametrize("augment", [MixUp(), OwnMixing(), [nn.Sequential(MixUp())]])
def test_an_augmentation_of_the_module_that_mixes_records_is_refused(augment: Any) -> None:
    with pytest.raises(PrivacyError, match="mixes records"):
        refuse_unsafe_trainer(trainer(), Module(augment))


def test_an_augmentation_of_each_record_by_itself_passes() -> None:
    refuse_unsafe_trainer(trainer(), Module([nn.Dropout(0.1)]))


def test_an_augmentation_of_the_data_module_that_mixes_records_is_refused() -> None:
    data = pl.LightningDataModule()
    data.augment = MixUp()
    one = trainer()
    one.datamodule = data
    with pytest.raises(PrivacyError, match="data module holds MixUp"):
        refuse_unsafe_trainer(one, Module())


class Guarded(Callback):
    """Where a module or callback of ours asks: before the run, and when optimizers exist."""

    def setup(self, trainer, pl_module, stage):
        refuse_unsafe_trainer(trainer, pl_module)

    def on_fit_start(self, trainer, pl_module):
        refuse_unsafe_trainer(trainer, pl_module)


def fit(module: pl.LightningModule, **settings: Any) -> None:
    trainer(callbacks=[Guarded()], max_steps=1, **settings).fit(module, DataLoader(torch.ones(2, 2)))


class Plateau(Module):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": ReduceLROnPlateau(optimizer), "monitor": "train/loss"}


class ManualPlateau(Module):
    """Manual optimisation needs no monitor: the module steps the schedule with whatever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [ReduceLROnPlateau(optimizer)]


@pytest.mark.parametrize("module", [Plateau, ManualPlateau])
def test_a_schedule_of_a_real_run_is_found(module: type[pl.LightningModule]) -> None:
    with pytest.raises(PrivacyError, match="ReduceLROnPlateau"):
        fit(module())


def test_a_safe_real_run_is_left_alone() -> None:
    module = Module()
    fit(module)
    assert module.trainer.global_step == 1


def test_the_tuner_is_found_as_the_callback_it_sets() -> None:
    module = Module()
    module.lr = 0.1
    with pytest.raises(PrivacyError, match="LearningRateFinder"):
        Tuner(trainer(callbacks=[Guarded()], max_steps=1)).lr_find(module, DataLoader(torch.ones(2, 2)))


def test_spike_detection_of_fabric_is_what_the_callback_is() -> None:
    assert issubclass(SpikeDetection, FabricSpikeDetection)
