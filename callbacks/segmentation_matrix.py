"""The IoU of every class after every experience."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from pvision.callbacks._figures import save
from pvision.callbacks._forgetting_history import Floats
from pvision.callbacks._iou_history import IouHistory, Terms
from pvision.callbacks._matrix_plots import class_table
from pvision.callbacks._runs import copy_to_mlflow
from pvision.errors import ConfigError, MissingExtraError
from pvision.files import write_whole
from pvision.training.run_files import is_trial, run_folder, run_loggers

__all__ = ["SegmentationMatrix"]


class SegmentationMatrix(Callback):
    """Keep the step × class matrix of IoUs, and log what is learned, kept and forgotten.

    After each test along a stream a row is taken from the logged metrics ``test/iou_LABEL``, ``test_crop/iou_LABEL``
    where crops are evaluated, as `pvision.modules.IncrementalSegmenter` logs them. ``segmentation_iou.csv``, ``.json``
    and ``.png`` go into the run's folder, and to MLflow. The matrix travels with checkpoints; a row that is measured
    again replaces the former.

    The run's summary gets, after the last experience, ``segmentation/miou_old``, ``miou_new``, ``miou_all``, ``hiou``
    and their forms without the background, ``average_over_steps`` (mean over experiences of ``miou_all``), and over the
    classes learned before the last experience, without the background, ``forgetting`` (mean of best minus last IoU),
    ``forgetting_largest`` and ``learned_minus_final`` (mean of first minus last IoU). With crops the names begin with
    ``segmentation_crop/``.

    Args:
        plots: whether to draw the picture; it needs the extra ``plots``.

    Raises:
        ConfigError: when a test starts, if the data module is no stream, or a matrix of full images is to be continued
            with crops, or the other way round; when it ends, if a class has no such metric.

    Example:
        >>> SegmentationMatrix(plots=False).matrix.shape
        (0, 0)
    """

    def __init__(self, *, plots: bool = True) -> None:
        self.plots = plots
        self._history: IouHistory | None = None
        self._stage: str | None = None

    @property
    def matrix(self) -> Floats:
        """IoU per experience (row) and label (column): the background, if there is one, then classes as they came."""
        return IouHistory(Terms("full", "skip", False)).matrix() if self._history is None else self._history.matrix()

    def summary_metrics(self) -> Mapping[str, float]:
        """Return what stands in the run's summary, without what is undefined."""
        if self._history is None:
            return {}
        group = f"segmentation{_suffix(self._history.terms.evaluation)}"
        values = self._history.summary()
        return {f"{group}/{name}": value for name, value in values.items() if value == value}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"history": None if self._history is None else self._history.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._stage not in (None, "fit") and self._history is not None:
            return  # a checkpoint that is evaluated may be older than what this object has measured since
        state = state_dict["history"]
        self._history = None if state is None else IouHistory.from_state(state)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stage = stage

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stage = None

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stream: Any = getattr(trainer, "datamodule", None)
        if not all(hasattr(stream, name) for name in ("experiences", "current", "class_names")):
            raise ConfigError(
                f"SegmentationMatrix needs a stream of experiences, but {type(stream).__name__} came. Use a "
                "SegmentationStream, or leave the callback out."
            )
        terms = _terms(stream, pl_module)
        if self._history is not None and self._history.rows and self._history.terms != terms:
            raise ConfigError(
                f"The matrix was measured with {self._history.terms._asdict()}, but {terms._asdict()} is asked for. "
                "Go on with the settings that it began with: such numbers cannot stand in one table."
            )
        self._history = self._history or IouHistory(terms)

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._history is None or is_trial(trainer):
            return
        self._measure(trainer, self._history)
        if not trainer.is_global_zero:
            return
        added = {name: value for name, value in self.summary_metrics().items() if name not in trainer.callback_metrics}
        for logger in run_loggers(trainer):
            logger.log_metrics(added, step=max(self._history.rows))
            logger.save()
        for path in self._write(run_folder(trainer), self._history):
            copy_to_mlflow(trainer, path, tags={})

    def _measure(self, trainer: pl.Trainer, history: IouHistory) -> None:
        stream: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector, not in __init__
        learned = [one for one in stream.experiences if one.kind == "learn"]
        step = sum(one.index <= stream.current for one in learned) - 1
        shown = learned[: max(step, *history.rows, 0) + 1]  # an earlier row may be measured again
        history.names, history.titles = tuple(stream.class_names), [one.name for one in shown]
        history.groups = [tuple(one.new_classes) for one in shown]
        suffix = _suffix(history.terms.evaluation)
        names = {label: f"test{suffix}/iou_{label}" for label in history.labels_after(step)}
        if missing := [name for name in names.values() if name not in trainer.callback_metrics]:
            raise ConfigError(
                f"SegmentationMatrix reads the metric {missing[0]!r}, but nobody logged it. Log one for each class "
                "learned so far, as IncrementalSegmenter does."
            )
        history.rows[step] = {label: float(trainer.callback_metrics[name]) for label, name in names.items()}

    def _write(self, folder: Path, history: IouHistory) -> list[Path]:
        table, record = folder / "segmentation_iou.csv", folder / "segmentation_iou.json"
        write_whole(table, history.table())
        write_whole(record, history.record())
        if not self.plots:
            return [table, record]
        what = "whole images" if history.terms.evaluation == "full" else f"{history.terms.evaluation}s"
        columns = [history.class_name(label) for label in history.labels]
        try:
            figure = class_table(history.matrix(), history.titles, columns, title=f"IoU in percent, {what}")
        except MissingExtraError as error:
            rank_zero_info(f"No picture of the IoU matrix: {error}")
            return [table, record]
        return [table, record, save(figure, folder / "segmentation_iou.png")]


def _suffix(evaluation: str) -> str:
    """Return what tells metrics of crops from those of whole images."""
    return "" if evaluation == "full" else f"_{evaluation}"


def _terms(stream: Any, module: pl.LightningModule) -> Terms:
    absent = str(getattr(module, "absent", "skip"))
    return Terms(
        str(getattr(stream, "evaluation", "full")), absent, has_background=bool(getattr(stream, "has_background", True))
    )
