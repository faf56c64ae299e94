"""Where in the stream a checkpoint was written, and how a run goes on from there."""

import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from pvision.errors import ConfigError, DataError
from pvision.training.streams.due_validation import begin_with_due_validation
from pvision.training.streams.parts import Stream
from pvision.training.streams.randomness import random_states, restore_random_states

__all__ = ["Place", "StreamState", "latest_checkpoint", "place_of", "read_stream_checkpoint", "take_stream"]

_KEY = "pvision_stream"


class Place(NamedTuple):
    """Where in a stream a checkpoint was written; the further one is the greater.

    Attributes:
        experience: the index of the experience.
        complete: whether it was learned, consolidated and evaluated.
        step: optimizer steps within the experience.
    """

    experience: int
    complete: bool
    step: int


class StreamState(Callback):
    """Keep in each checkpoint where in the stream it was written, and all that training on from there depends on.

    Args:
        stream: the stream.

    Attributes:
        complete: whether the current experience is learned, consolidated and evaluated.
    """

    def __init__(self, stream: Stream) -> None:
        self.complete = False
        self._stream = stream
        self._loaded: dict[str, Any] = {}

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        begin_with_due_validation(trainer, checkpoint)
        checkpoint[_KEY] = {
            "experience": self._stream.current,
            "complete": self.complete,
            "settings": self._stream.training_settings(),
            "should_stop": bool(trainer.should_stop),
            "random": random_states(),
        }

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = dict(checkpoint[_KEY])

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Early stopping had spoken when the checkpoint was written; Lightning forgets that.
        trainer.should_stop = trainer.should_stop or self._loaded.pop("should_stop", False)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.restore_randomness()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.restore_randomness()

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.restore_randomness()
        # An evaluation that was begun anew has begun once: else the next checkpoint would begin it again.
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def fit_ended(self) -> None:
        """Let go of what the loaded checkpoint says of its fit, also if nothing was left to train and no hook ran."""
        self.restore_randomness()
        self._loaded.clear()

    def restore_randomness(self) -> None:
        """Set the generators to what the loaded checkpoint holds, once: what Lightning drew since does not count."""
        states = self._loaded.pop("random", None)
        if states is not None:
            restore_random_states(states)


def read_stream_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds that was written on a stream; tensors are read when they are used.

    Raises:
        ConfigError: if it is broken, or no checkpoint of a stream.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist. Streams go on from a checkpoint, or from a run's folder.") from error
    except UnpicklingError as error:
        raise ConfigError(
            f"{path} is broken, or holds more than tensors and plain values, for example hyperparameters that "
            "save_hyperparameters kept; only running its code could restore those. Name their classes to "
            "torch.serialization.add_safe_globals, or use another one."
        ) from error
    except Exception as error:  # broken archives raise whatever their damage leads to
        raise ConfigError(f"{path} is broken or no checkpoint. Use another one.") from error
    if not isinstance(checkpoint, dict) or _KEY not in checkpoint:
        raise ConfigError(
            f"{path} does not say where in a stream it was written. Streams go on from checkpoints of fit_stream "
            "(`pvision fit` on a stream); weights alone are loaded by `pvision test`."
        )
    return checkpoint


def place_of(checkpoint: dict[str, Any]) -> Place:
    """Return where in its stream the run was that wrote a checkpoint."""
    state = checkpoint[_KEY]
    return Place(state["experience"], state["complete"], checkpoint["global_step"])


def take_stream(checkpoint: dict[str, Any], stream: Any, *, path: Path) -> None:
    """Bring ``stream`` to where it was when the checkpoint at ``path`` was written.

    Raises:
        DataError: if it was written on another stream.
        ConfigError: if one of the two streams has a replay memory and the other has none, or training was to see other
            batches.
    """
    state = checkpoint.get(type(stream).__qualname__)
    if state is None:
        raise DataError(
            f"{path} was written on another stream than {type(stream).__name__}. Use the configuration of that run "
            "(config.yaml among its artifacts)."
        )
    stream.load_state_dict(state)
    saved, asked = checkpoint[_KEY]["settings"], stream.training_settings()
    for name in saved.keys() & asked.keys():
        if saved[name] != asked[name]:
            raise ConfigError(
                f"{path} was written with data.{name} {saved[name]!r}, but {asked[name]!r} is asked for. A run goes "
                "on with the settings that it began with (config.yaml among its artifacts)."
            )


def latest_checkpoint(folder: Path) -> Path:
    """Return the checkpoint that is furthest in the stream of the run in ``folder``; broken ones are named and skipped.

    Raises:
        ConfigError: if there is none.
    """
    places: dict[Path, Place] = {}
    for path in sorted(Path(folder).rglob("*.ckpt")):
        try:
            places[path] = place_of(read_stream_checkpoint(path))
        except ConfigError as error:
            print(f"pvision: skipped: {error}", file=sys.stderr)
    if not places:
        raise ConfigError(f"{folder} holds no checkpoint of a stream to go on from. Start anew without one.")
    return max(places, key=lambda path: places[path])
