"""What every experience gets anew: the training loop, and the callbacks that decide when it stops and what it keeps."""

import copy
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    Callback,
    Checkpoint,
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from pvision.training.run_files import run_folder
from pvision.training.trainer_parts import callbacks_of

__all__ = ["PerFit", "experience_folder"]

# They count the epochs, steps or seconds of one fit, or hold a copy of its weights.
_OWN_STATE = (BaseFinetuning, Checkpoint, EarlyStopping, StochasticWeightAveraging, Timer, WeightAveraging)


class PerFit:
    """The parts of a Trainer that are made anew for each experience, as they were before the first one.

    Early stopping, timers, averages of weights and finetuning begin again, and the checkpoints of each experience lie
    in a folder of its own. All other callbacks live through the whole stream.

    Args:
        trainer: as the user made it.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._limits = (trainer.min_epochs, trainer.max_epochs, trainer.min_steps, trainer.max_steps)
        self._now = [callback for callback in callbacks_of(trainer) if self.owns(callback)]
        self._pristine = [copy.deepcopy(callback) for callback in self._now]

    def renew(self, trainer: pl.Trainer, experience: int) -> None:
        """Give the Trainer a new training loop and new callbacks."""
        min_epochs, max_epochs, min_steps, max_steps = self._limits
        trainer.fit_loop = _FitLoop(trainer, min_epochs=min_epochs, max_epochs=max_epochs)
        trainer.fit_loop.epoch_loop = _TrainingEpochLoop(trainer, min_steps=min_steps, max_steps=max_steps)
        callbacks = callbacks_of(trainer)
        for number, pristine in enumerate(self._pristine):
            fresh = _for_experience(pristine, trainer, experience)
            callbacks[callbacks.index(self._now[number])] = fresh
            self._now[number] = fresh

    def fit_ended(self, trainer: pl.Trainer) -> None:
        """Replace averages of weights by empty ones.

        Lightning saves an average for the module's weights as long as there is one, and it knows nothing of what
        happens to these once the fit is over.
        """
        callbacks = callbacks_of(trainer)
        for number, now in enumerate(self._now):
            if isinstance(now, WeightAveraging):
                empty = copy.deepcopy(self._pristine[number])
                callbacks[callbacks.index(now)] = empty
                self._now[number] = empty

    def owns(self, callback: Callback) -> bool:
        """Return whether ``callback`` is one that each experience gets anew."""
        return isinstance(callback, _OWN_STATE)

    def drop_superseded(self, trainer: pl.Trainer) -> None:
        """Remove the checkpoints that served only to resume the experience that has ended."""
        for pristine, now in zip(self._pristine, self._now, strict=True):
            if isinstance(now, ModelCheckpoint) and _serves_to_resume(pristine) and now.best_model_path:
                Path(now.best_model_path).unlink(missing_ok=True)


def experience_folder(trainer: pl.Trainer, experience: int) -> Path:
    """Return where the checkpoints of an experience lie, unless the user chose another place; people count from 1."""
    return run_folder(trainer) / "checkpoints" / f"experience_{experience + 1}"


def _serves_to_resume(pristine: Callback) -> bool:
    """Return whether nobody asked for a certain checkpoint: the latest one, under Lightning's name, in its place."""
    if not isinstance(pristine, ModelCheckpoint) or pristine.monitor is not None or pristine.save_top_k != 1:
        return False
    return pristine.dirpath is None and pristine.filename is None and not pristine.save_last


def _for_experience(pristine: Callback, trainer: pl.Trainer, experience: int) -> Callback:
    made = copy.deepcopy(pristine)
    if isinstance(made, ModelCheckpoint):
        # Else a second experience would overwrite, or number on, the files of the first.
        own = experience_folder(trainer, experience)
        made.dirpath = str(own) if made.dirpath is None else f"{made.dirpath}/{own.name}"
    return made
