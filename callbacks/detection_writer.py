"""Detections as a file that other tools read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from pvision.continual._collectives import from_all
from pvision.detection.records import Prediction
from pvision.files import write_whole
from pvision.training.run_files import is_trial, run_folder

__all__ = ["DetectionWriter"]


class DetectionWriter(Callback):
    """Write ``detections.json`` into the run's folder: a list with one entry for each box that was found.

    Entries are those of COCO's results with names in place of numbers, image by image and the best first::

        {"image": "street_07", "category": "person", "bbox": [left, top, width, height], "score": 0.91}

    in pixels. It reads what ``predict_step`` returns: a mapping with ``names`` of the images and ``predictions``, each
    a `pvision.detection.records.Prediction`. The names of classes come from ``class_names`` of the data module, or of
    the module; without them, numbers stand there. In a module whose predictions look different it writes nothing.
    With several processes rank 0 writes the detections of all of them, every image once, in the order of the names.
    Nothing is written under ``fast_dev_run``.

    Example:
        >>> DetectionWriter().state_dict()
        {}
    """

    # Not a BasePredictionWriter, which makes Lightning look for batch indices that loaders of whole batches have not.
    def __init__(self) -> None:
        self._found: dict[tuple[int, str], list[dict[str, object]]] = {}
        self._seen = False

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._found, self._seen = {}, False

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
        if not isinstance(outputs, Mapping) or not {"names", "predictions"} <= outputs.keys():
            return  # no detections: another writer's business
        self._seen = True
        data = getattr(trainer, "datamodule", None)
        classes = getattr(data, "class_names", ()) or getattr(pl_module, "class_names", ())
        for name, prediction in zip(outputs["names"], outputs["predictions"], strict=True):
            self._found[dataloader_idx, name] = _entries(name, prediction, classes)

    @override
    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A meeting of all processes, also of those that have nothing to tell: so it comes before anything else.
        self._gather()
        if not trainer.is_global_zero or not self._seen or is_trial(trainer):
            return
        path = run_folder(trainer) / "detections.json"
        entries = [entry for _, found in sorted(self._found.items(), key=lambda one: one[0]) for entry in found]
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        write_whole(path, f"[\n{lines}\n]\n" if lines else "[]\n")
        print(f"Detections: {path}")

    def _gather(self) -> None:
        for seen, found in from_all((self._seen, self._found)):
            self._seen = self._seen or seen
            self._found = found | self._found


def _entries(name: str, prediction: Prediction, classes: Sequence[str]) -> list[dict[str, object]]:
    columns = (values.tolist() for values in (prediction["boxes"], prediction["scores"], prediction["labels"]))
    entries: list[dict[str, object]] = [
        {
            "image": name,
            "category": classes[label] if label < len(classes) else label,
            "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
            "score": round(score, 6),
        }
        for (left, top, right, bottom), score, label in zip(*columns, strict=True)
    ]
    return sorted(entries, key=lambda entry: -float(str(entry["score"])))
