"""`fit_stream`: one plain Lightning fit for each experience, an evaluation after each, on one persistent module."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities.compile import _maybe_unwrap_optimized

from pvision.continual.experience import Experience
from pvision.training.run_files import is_trial, one_run, run_folder
from pvision.training.streams.checkpoints import (
    StreamState,
    latest_checkpoint,
    place_of,
    read_stream_checkpoint,
    take_stream,
)
from pvision.training.streams.checks import check_stream_fit
from pvision.training.streams.consolidation import Consolidation
from pvision.training.streams.loggers import finalize_run, keep_running, loggers_of_experience
from pvision.training.streams.parts import Forgets, HearsOfStreamEnd, MaySkipTraining
from pvision.training.streams.per_fit import PerFit, experience_folder
from pvision.training.streams.preparation import Preparation
from pvision.training.streams.progress import announce, announce_the_end, shown_in_progress_bar
from pvision.training.streams.randomness import seed_experience
from pvision.training.trainer_parts import callbacks_of

__all__ = ["fit_stream"]


def fit_stream(
    trainer: pl.Trainer, module: pl.LightningModule, stream: Any, *, ckpt_path: str | Path | None = None
) -> None:
    """Train ``module`` on each experience of ``stream`` in turn, and evaluate it after each.

    An experience is one ``trainer.fit`` with an optimizer, a training loop, early stopping and checkpoints of its own,
    then one ``trainer.test`` over the experiences that the stream evaluates. Other callbacks live through the whole
    stream; `pvision.callbacks.ForgettingMetrics` makes the accuracy matrix. Every experience starts from seeds that
    depend on ``stream.seed`` and its index alone.

    A module may have the methods ``before_experience(experience, stream)``, ``after_experience(experience, stream)``
    (both optional) and, for streams with requests to forget, ``forget_experience(experience, stream)``.

    Args:
        trainer: says how long and how each experience is trained; ``max_epochs`` counts for each of them.
        module: any LightningModule.
        stream: a `pvision.datamodules.TaskStream`.
        ckpt_path: a checkpoint of an earlier, interrupted call to go on from, or the run's folder for its latest. On
            the CPU the result is bit for bit that of a run that was not interrupted.

    Raises:
        ConfigError: if a setting of the Trainer does not fit a stream, or the module cannot do what the stream asks.
        DataError: if the checkpoint was written on another stream.

    Example:
        ``fit_stream(Trainer(max_epochs=3, callbacks=[ForgettingMetrics()]), module, DigitsStream(scenario=…))``
    """
    module = _maybe_unwrap_optimized(module)  # what torch.compile returns names its weights otherwise
    check_stream_fit(trainer, module, stream)
    with one_run(trainer), _telling_how_it_ended(trainer, module):
        _StreamRun(trainer, module, stream).run(ckpt_path)


@contextmanager
def _telling_how_it_ended(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Tell callbacks and the run's loggers; Lightning knows of single fits, and of an experience's loggers, only."""
    try:
        yield
    except BaseException as error:
        _tell_callbacks(trainer, module, error)
        finalize_run(trainer, "failed")
        raise
    _tell_callbacks(trainer, module, None)
    finalize_run(trainer, "success")


def _tell_callbacks(trainer: pl.Trainer, module: pl.LightningModule, error: BaseException | None) -> None:
    for callback in callbacks_of(trainer):
        if isinstance(callback, HearsOfStreamEnd):
            callback.on_stream_end(trainer, module, error)


class _StreamRun:
    """One call of `fit_stream`."""

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule, stream: Any) -> None:
        self._trainer, self._module, self._stream = trainer, module, stream
        self._state, self._preparation, self._consolidation = (
            StreamState(stream),
            Preparation(stream),
            Consolidation(stream),
        )

    def run(self, ckpt_path: str | Path | None) -> None:
        path = None if ckpt_path is None else Path(ckpt_path)
        if path is not None and path.is_dir():
            path = latest_checkpoint(path)
        with self._callbacks() as per_fit:
            start, resume = 0, None
            if path is not None:
                checkpoint = read_stream_checkpoint(path)
                take_stream(checkpoint, self._stream, path=path)
                start, resume = self._stream.current, path
                if place_of(checkpoint).complete:
                    self._take_over(checkpoint, per_fit)
                    start, resume = start + 1, None
            if self._trainer.is_global_zero and not is_trial(self._trainer):
                self._stream.manifest().save(run_folder(self._trainer) / "stream.json")
            if start == len(self._stream.experiences):
                announce_the_end(self._trainer, path)
            for experience in self._stream.experiences[start:]:
                self._learn(experience, per_fit, resume)
                resume = None
                _summarise_no_more(self._trainer)

    @contextmanager
    def _callbacks(self) -> Iterator[PerFit]:
        """Add our own callbacks for the time of the run; first, so that others see the generators restored."""
        callbacks = callbacks_of(self._trainer)
        before = list(callbacks)
        callbacks[:0] = [self._state, self._preparation, self._consolidation]
        try:
            yield PerFit(self._trainer)
        finally:
            callbacks[:] = before

    def _take_over(self, checkpoint: dict[str, Any], per_fit: PerFit) -> None:
        """Take over what a finished experience left."""
        self._module.configure_model()  # as a fit would before it loads; it may have made no layers yet
        self._module.on_load_checkpoint(checkpoint)
        self._module.load_state_dict(checkpoint["state_dict"], strict=self._module.strict_loading)
        states = checkpoint["callbacks"]
        for callback in callbacks_of(self._trainer):
            if callback is self._state or per_fit.owns(callback):
                continue
            callback.on_load_checkpoint(self._trainer, self._module, checkpoint)
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])
        self._state.on_load_checkpoint(self._trainer, self._module, checkpoint)
        self._state.fit_ended()

    def _learn(self, experience: Experience, per_fit: PerFit, resume: Path | None) -> None:
        trainer, module, stream = self._trainer, self._module, self._stream
        stream.begin(experience.index)
        seed_experience(stream.seed, experience.index)
        per_fit.renew(trainer, experience.index)
        self._state.complete = self._consolidation.done = False
        self._preparation.pending = resume is None
        keep_running(trainer)
        announce(trainer, experience, stream)
        if _is_trained(module, experience):
            with (
                loggers_of_experience(trainer, experience),
                shown_in_progress_bar(trainer, experience, stream),
                _validating_if_possible(trainer, stream),
            ):
                trainer.fit(module, datamodule=stream, ckpt_path=resume, weights_only=True if resume else None)
            self._state.fit_ended()
            per_fit.fit_ended(trainer)
        _release_optimizers(trainer)
        trainer.test(module, datamodule=stream, verbose=False)
        self._complete(experience, per_fit)

    def _complete(self, experience: Experience, per_fit: PerFit) -> None:
        self._state.complete = True
        trainer = self._trainer
        if is_trial(trainer) or not trainer.checkpoint_callbacks:
            return
        trainer.save_checkpoint(experience_folder(trainer, experience.index) / "end.ckpt", weights_only=False)
        if trainer.is_global_zero:
            per_fit.drop_superseded(trainer)


def _is_trained(module: pl.LightningModule, experience: Experience) -> bool:
    if experience.kind == "forget" and isinstance(module, Forgets):
        return False
    return not isinstance(module, MaySkipTraining) or module.learns_by_gradient(experience)


@contextmanager
def _validating_if_possible(trainer: pl.Trainer, stream: Any) -> Iterator[None]:
    """Leave validation out, without Lightning's warnings, where nothing is held out or the module has no such step."""
    limit = trainer.limit_val_batches
    trainer.limit_val_batches = 0 if stream.val_dataloader() == [] else limit
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You passed in a `val_dataloader` but have no")
            yield
    finally:
        trainer.limit_val_batches = limit


def _summarise_no_more(trainer: pl.Trainer) -> None:
    """Print the table of layers for the first experience only."""
    callbacks = callbacks_of(trainer)
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, ModelSummary)]


def _release_optimizers(trainer: pl.Trainer) -> None:
    """Let go of the optimizers of the fit that has ended; the next experience makes its own."""
    trainer.strategy.optimizers = []
    trainer.strategy.lr_scheduler_configs = []
