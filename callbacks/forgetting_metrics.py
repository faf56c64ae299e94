"""What a model keeps of everything it learned, in any Lightning project."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from typing_extensions import override

from pvision.callbacks._forgetting_batches import each_record_once, refuse_lost_processes
from pvision.callbacks._forgetting_history import Floats, History
from pvision.callbacks._forgetting_report import Extras, line, metrics_of, scalars, write_files, write_plots
from pvision.callbacks._forgetting_stream import (
    Place,
    learning_stream,
    place_in_stream,
    refuse_spent_trainer,
    stream_of,
)
from pvision.callbacks._forgetting_values import Evaluation, Measured, Metric, choose, per_class, per_loader
from pvision.callbacks._runs import copy_to_mlflow
from pvision.checks import one_of, positive
from pvision.continual.metrics import AccuracyMatrix
from pvision.errors import ConfigError
from pvision.training.run_files import is_trial, run_folder, run_loggers

__all__ = ["ForgettingMetrics"]

_STAGES = {"test": RunningStage.TESTING, "validation": RunningStage.VALIDATING}


class ForgettingMetrics(Callback):
    """Measure the accuracy on every experience after each fit, and log what is learned, kept and forgotten.

    One ``trainer.fit`` is one experience. The evaluation after it, with one loader per experience, is one row of the
    accuracy matrix R: ``trainer.test(model, [loader_0, loader_1, …])``. A second evaluation after the same fit replaces
    the row; one before the first fit is the baseline that forward transfer needs. The same object may serve several
    Trainers one after the other. A data module that goes through a stream says itself where it stands.

    After each row the metrics of `pvision.continual.metrics` go to all loggers as ``continual/…``, the row being the
    step, and into ``trainer.callback_metrics``; ``accuracy_matrix.csv``, ``.json`` and ``.png`` and
    ``accuracy_curves.png`` go into the run's folder, and to MLflow. Evaluations within a fit, which
    ``stage="validation"`` sees, measure the row of that fit. The whole history travels with checkpoints.

    In a run of several processes each record counts once, also where Lightning's sampler would repeat some.

    Args:
        metric: a metric that the step of evaluation logs for every loader, as ``"test_acc"``; with ``{}``, or as a
            mapping from class to name, a metric per class of one evaluation over all classes, as ``"test/iou_{}"``.
            None counts right predictions: the step returns a mapping with the int tensors ``preds`` and ``target``, and
            where it likes ``preds_task_aware``, predictions among the classes of the record's own experience.
        stage: whether ``test`` or ``validation`` measures rows.
        classes: of each experience, for a metric per class; None for those of the stream.
        scale: what the logged metric is divided by; 100 for percentages.
        definition: of forgetting, one of ``pvision.continual.metrics.definitions("forgetting")``.
        compatible: whether to log the values that other frameworks compute, too.
        baseline: accuracy before any training, per experience, if it is not measured.
        reference: accuracy of a model trained jointly on experiences up to each, for intransigence.
        independent: accuracy of models trained on one experience alone, for the learning accuracy's gap.
        names: of the experiences, where no stream gives them.
        plots: whether to draw the pictures; they need the extra ``plots``.
        verbose: whether to print a line after each row.

    Raises:
        ConfigError: if an argument is outside its range, or an evaluation does not give what was asked for.

    Example:
        >>> callback = ForgettingMetrics("test_acc")
        >>> callback.values()
        {}
    """

    def __init__(
        self,
        metric: Metric = None,
        *,
        stage: Literal["test", "validation"] = "test",
        classes: Sequence[Sequence[int]] | None = None,
        scale: float = 1.0,
        definition: str = "chaudhry",
        compatible: bool = False,
        baseline: Sequence[float] | None = None,
        reference: Sequence[float] | None = None,
        independent: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        plots: bool = True,
        verbose: bool = True,
    ) -> None:
        self.metric = metric
        self.stage = one_of("forgetting_metrics.stage", stage, _STAGES)
        self.classes = None if classes is None else tuple(tuple(labels) for labels in classes)
        self.scale = positive("forgetting_metrics.scale", scale)
        self._by_class = isinstance(metric, Mapping) or (metric is not None and "{}" in metric)
        if classes is not None and not self._by_class:
            raise ConfigError(
                f"forgetting_metrics.classes belongs to a metric per class, but metric={metric!r} came. Put '{{}}' "
                "where its name has the class, as in 'test/iou_{}', or leave classes out."
            )
        self._extras = Extras(definition, compatible, baseline, reference, independent)
        self.names = None if names is None else tuple(names)
        self.plots, self.verbose = plots, verbose
        self._history = History()
        self._fits = 0  # that have ended
        self._fitting = False
        self._trained = False  # in this fit, or in the one that it resumes
        self._phase: str | None = None
        self._evaluation: Evaluation | None = None
        self._sharing = ExitStack()

    @property
    def matrix(self) -> Floats:
        """R, float64 ``(T, T)``: row t was measured after experience t; NaN where nothing was."""
        return self._history.accuracy()

    @property
    def counted(self) -> AccuracyMatrix:
        """R with its counts, per class too, and its baseline."""
        return self._history.matrix()

    def values(self) -> dict[str, float]:
        """Return all metrics after the last row by the names under which they are logged, NaN where undefined."""
        return metrics_of(self._history, self._extras)

    def summary_metrics(self) -> dict[str, float]:
        """Return what stands in the run's summary."""
        return self.values()

    @property
    @override
    def state_key(self) -> str:
        classes = None if self.classes is None else [list(labels) for labels in self.classes]
        return self._generate_state_key(metric=self.metric, stage=self.stage, classes=classes, scale=self.scale)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"fits": self._fits, "fitting": self._fitting, "history": self._history.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        evaluates = self._phase not in (None, "fit")
        if evaluates and (self._fits or not self._history.empty):
            return  # `test(ckpt_path="best")` after fit: what was measured since that checkpoint is known here
        self._trained = True
        # A checkpoint from within a fit holds a model of that fit's experience.
        self._fits = state_dict["fits"] + int(evaluates and state_dict["fitting"])
        self._history.load_state_dict(state_dict["history"])

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end()
        refuse_lost_processes(trainer)
        self._phase, self._trained = stage, False
        self._sharing.enter_context(each_record_once(trainer, _STAGES[self.stage]))

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._fitting = not is_trial(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trained = True

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._fitting:
            return
        if not self._trained:
            refuse_spent_trainer(trainer)
        self._fits, self._fitting = self._fits + 1, False
        if self._history.during:
            self._publish(trainer)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end()
        self._phase = None

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end()
        self._phase = None

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, "test")

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(trainer, "validation")

    @override
    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._evaluation is not None:
            self._evaluation.add(trainer, outputs, loader=dataloader_idx, several=self._loaders(trainer) > 1)

    on_validation_batch_end = on_test_batch_end

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._evaluation is not None:
            self._measure(trainer, self._evaluation)

    on_validation_end = on_test_end

    def _begin(self, trainer: pl.Trainer, stage: str) -> None:
        if stage == self.stage and not trainer.sanity_checking and not is_trial(trainer):
            self._evaluation = Evaluation()

    def _measure(self, trainer: pl.Trainer, evaluation: Evaluation) -> None:
        self._evaluation = None
        measured = evaluation.together(trainer)
        place = self._place(trainer)
        self._record(place, measured, loaders=self._loaders(trainer))
        if trainer.state.fn == TrainerFn.FITTING:
            self._history.note(row=place.row, step=trainer.global_step)
            self._show(trainer)
        else:
            self._publish(trainer)

    def _record(self, place: Place, measured: Measured, *, loaders: int) -> None:
        if choose(self.metric, measured, loaders=loaders):
            self._history.record(place, "agnostic", measured.counted)
            if measured.task_aware:
                self._history.record(place, "task_aware", measured.task_aware)
            return
        if self._by_class:
            classes = place.classes if self.classes is None else self.classes
            learned = place.row + 1 if self.classes is None else None  # a stream names the classes to come, too
            values = per_class(self.metric or "", measured, classes=classes, scale=self.scale, learned=learned)
        else:
            values = per_loader(str(self.metric), measured, loaders=loaders, scale=self.scale)
        self._history.record(place, "agnostic", values)

    def _place(self, trainer: pl.Trainer) -> Place:
        loaders = self._loaders(trainer)
        if self._by_class and loaders != 1:
            raise ConfigError(
                f"forgetting_metrics.metric={self.metric!r} is a metric per class, which one loader over all classes "
                f"gives, but {loaders} loaders came. Join them, or name a metric that each of them has."
            )
        stream = stream_of(trainer)
        fitting = trainer.state.fn == TrainerFn.FITTING
        if stream is not None:
            known = None if self._by_class else loaders
            untrained = not (self._fits or fitting or learning_stream(trainer))
            return place_in_stream(stream, loaders=known, untrained=untrained)
        columns = loaders
        if self._by_class:
            if self.classes is None:
                raise ConfigError(
                    f"forgetting_metrics.classes is missing: metric={self.metric!r} is a metric per class, so say "
                    "which classes each experience brings, as classes=[[0, 1], [2, 3]]."
                )
            columns = len(self.classes)
        return Place(row=self._fits - (not fitting), columns=tuple(range(columns)), names=self.names or ())

    def _publish(self, trainer: pl.Trainer) -> None:
        values = self._show(trainer)
        if not trainer.is_global_zero:
            return
        folder = run_folder(trainer)
        if values:
            self._log(trainer, values)
            self._write(trainer, folder)
        if self.verbose:
            print(line(self._history, values, folder=folder))

    def _log(self, trainer: pl.Trainer, values: Mapping[str, float]) -> None:
        row = len(self.matrix) - 1
        logged = {name: value for name, value in {**values, **scalars(self._history, row)}.items() if value == value}
        for logger in run_loggers(trainer):
            logger.log_metrics(logged, step=row)
            logger.save()

    def _write(self, trainer: pl.Trainer, folder: Path) -> None:
        source = "counted predictions" if self.metric is None else f"logged metric {self.metric}"
        paths = write_files(self._history, self._extras, folder=folder, source=source)
        if self.plots:
            paths += write_plots(self._history, folder=folder, measure="accuracy" if self.metric is None else "value")
        for path in paths:
            copy_to_mlflow(trainer, path, tags={})

    def _show(self, trainer: pl.Trainer) -> dict[str, float]:
        """Put the metrics where checkpoints and early stopping read them; all processes hold the same."""
        values = self.values()
        finite = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items() if value == value}
        trainer.callback_metrics.update(finite)
        return values

    def _loaders(self, trainer: pl.Trainer) -> int:
        batches = trainer.num_test_batches if self.stage == "test" else trainer.num_val_batches
        return len(batches) if isinstance(batches, list) else 1

    def _end(self) -> None:
        self._evaluation = None
        self._sharing.close()
