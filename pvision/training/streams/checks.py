"""What `fit_stream` refuses before anything is trained or written."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.model_helpers import is_overridden

from pvision.errors import ConfigError
from pvision.training.run_files import is_trial
from pvision.training.streams.parts import Forgets, Retrains
from pvision.training.trainer_parts import callbacks_of

__all__ = ["check_stream_fit"]


def check_stream_fit(trainer: pl.Trainer, module: pl.LightningModule, stream: Any) -> None:
    """Read the stream; refuse a Trainer or module that cannot go through it.

    Raises:
        ConfigError: naming the setting and the remedy.
    """
    if not all(hasattr(stream, name) for name in ("begin", "consolidate", "in_order_loader", "manifest")):
        raise ConfigError(
            f"fit_stream needs a stream, but {type(stream).__name__} came. Use a pvision.datamodules.TaskStream; other "
            "data is for trainer.fit."
        )
    _check_strategy(trainer)
    _check_evaluation(trainer, module)
    if trainer.local_rank == 0:
        stream.prepare_data()
    stream.setup("fit")
    _check_length(trainer, stream)
    _check_sharing(trainer, stream)
    _check_monitors(trainer, stream)
    _check_forgetting(module, stream)


def _check_strategy(trainer: pl.Trainer) -> None:
    strategy, name = trainer.strategy, type(trainer.strategy).__name__
    if isinstance(strategy.launcher, _MultiProcessingLauncher):
        raise ConfigError(
            "trainer.strategy starts new processes for every fit, so that nothing lives through the stream. Use 'ddp'."
        )
    known = isinstance(strategy, SingleDeviceStrategy | DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)
    if not known:
        raise ConfigError(f"trainer.strategy {name} was never tried on a stream. Use one device, or 'ddp'.")


def _check_evaluation(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    if not is_overridden("test_step", module):
        raise ConfigError(
            f"Each experience is followed by an evaluation, but {type(module).__name__} has no test_step. Give it one."
        )
    if trainer.limit_test_batches == 0:
        raise ConfigError(
            "trainer.limit_test_batches is 0, but what is learned is consolidated as its evaluation begins. Set it to "
            "at least 1."
        )


def _check_length(trainer: pl.Trainer, stream: Any) -> None:
    if trainer.overfit_batches:  # type: ignore[attr-defined]  # missing in its stubs
        raise ConfigError(
            "trainer.overfit_batches would replace the stream's batches. Use trainer.limit_train_batches instead."
        )
    if is_trial(trainer):
        return
    if trainer.max_epochs in (None, -1) and trainer.max_steps == -1:
        raise ConfigError(
            f"trainer.max_epochs must say how many epochs each experience takes, but {trainer.max_epochs} came."
        )
    if stream.online and trainer.max_epochs != 1:
        raise ConfigError(
            f"An online stream shows every record once, but trainer.max_epochs is {trainer.max_epochs}. Set it to 1."
        )


def _check_sharing(trainer: pl.Trainer, stream: Any) -> None:
    for name in ("batch_size", "replay_batch_size"):
        size = stream.training_settings().get(name) or 0
        if size % trainer.world_size:
            raise ConfigError(
                f"data.{name} counts the images of all processes together and must be a multiple of their number, "
                f"{trainer.world_size}, but {size} came. Change it, or trainer.devices."
            )


def _check_monitors(trainer: pl.Trainer, stream: Any) -> None:
    monitors = (getattr(callback, "monitor", None) for callback in callbacks_of(trainer))
    waiting = next((monitor for monitor in monitors if monitor and monitor.startswith("val")), None)
    if waiting is not None and not any(len(experience.val) for experience in stream.experiences):
        raise ConfigError(
            f"A callback waits for {waiting!r}, but no record is held out for validation. Set data.val_fraction, for "
            "example to 0.1, or drop the callback."
        )


def _check_forgetting(module: pl.LightningModule, stream: Any) -> None:
    wanted = [experience for experience in stream.experiences if experience.kind == "forget"]
    if not wanted or isinstance(module, Forgets) or getattr(module, "unlearns", False):
        return
    retrains = isinstance(module, Retrains) and module.restart and stream.training_set == "seen"
    if not retrains:
        raise ConfigError(
            f"The stream asks to forget ({wanted[0].name}), but {type(module).__name__} cannot: it has no method "
            "forget_experience. Use one that has it, or train anew on what remains: the method FineTuning with "
            "restart: true, and data.training_set: seen."
        )
