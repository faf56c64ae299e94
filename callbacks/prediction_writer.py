"""Predictions as a table that anyone can read."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from pvision.continual._collectives import from_all
from pvision.files import write_whole
from pvision.training.run_files import is_trial, run_folder

__all__ = ["PredictionWriter"]

_VIEWS = {"probabilities": "", "probabilities_redacted": "_redacted"}


class PredictionWriter(Callback):
    """Write ``predictions.csv`` into the run's folder: one line per record, the best class of each view.

    It reads what ``predict_step`` returns: a mapping with ``index`` (positions in the test set) and ``probabilities``
    and, optionally, ``probabilities_redacted``, each ``(B, classes)``. Names come from ``class_names`` and
    ``test_set.names`` (in a stream ``test_source.names``) of the data module; without them, numbers stand there. In a
    module whose predictions look different it writes nothing and says so, unless they are those that `DetectionWriter`
    or `MaskWriter` writes.

    With several processes rank 0 writes the table of all of them, every record once and in order, also where
    Lightning's sampler gave a record to two of them.
    """

    # Not a BasePredictionWriter, which makes Lightning look for batch indices that loaders of whole batches have not.
    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], list[object]] = {}
        self._columns: list[str] = []

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._rows, self._columns = {}, []

    @override
    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, Mapping) or not {"index", "probabilities"} <= outputs.keys():
            if batch_idx == 0 and not _are_detections(outputs) and not _are_masks(outputs):
                rank_zero_warn("predict_step returns no 'index' and 'probabilities': predictions.csv is not written.")
            return
        data = getattr(trainer, "datamodule", None)
        classes = getattr(data, "class_names", ())
        records = getattr(data, "test_set", None) or getattr(data, "test_source", None)
        names = getattr(records, "names", ())
        views = [(suffix, outputs[key].max(dim=1)) for key, suffix in _VIEWS.items() if key in outputs]
        self._columns = ["name", *(column + suffix for suffix, _ in views for column in ("predicted", "probability"))]
        for row, index in enumerate(outputs["index"].tolist()):
            cells: list[object] = [names[index] if index < len(names) else index]
            for _, best in views:
                label = int(best.indices[row])
                cells += [classes[label] if label < len(classes) else label, f"{float(best.values[row]):.6f}"]
            self._rows[dataloader_idx, index] = cells

    @override
    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A meeting of all processes, also of those that have nothing to tell: so it comes before anything else.
        self._gather()
        if not trainer.is_global_zero or not self._rows or is_trial(trainer):
            return
        path = run_folder(trainer) / "predictions.csv"
        write_whole(path, self._table())
        print(f"Predictions: {path}")

    def _gather(self) -> None:
        for columns, rows in from_all((self._columns, self._rows)):
            self._columns = self._columns or columns
            self._rows = rows | self._rows

    def _table(self) -> str:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(self._columns)
        writer.writerows(cells for _, cells in sorted(self._rows.items(), key=lambda row: row[0]))
        return table.getvalue()


def _are_detections(outputs: Any) -> bool:
    return isinstance(outputs, Mapping) and {"names", "predictions"} <= outputs.keys()


def _are_masks(outputs: Any) -> bool:
    return isinstance(outputs, Mapping) and {"index", "labels"} <= outputs.keys()
