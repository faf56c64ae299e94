"""Test images with what was found in them."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from pvision.callbacks._detection_drawing import WHAT, DrawnImage, draw
from pvision.callbacks._figures import require_plots, save
from pvision.callbacks._runs import copy_to_mlflow
from pvision.checks import positive_int, unit_rate
from pvision.detection.records import DetectionBatch
from pvision.training.run_files import is_trial, run_folder

__all__ = ["DetectionPictures"]


class DetectionPictures(Callback):
    """Draw the first images of each test loader, with their objects and what was found, when the test ends.

    ``detections_MODALITY.png`` lies in the run's folder, and in MLflow: in a row what the sensor gave, scaled for the
    eye, the objects in it, what the detector saw, what it found before it was adapted, and what it finds.

    It reads the batches, if they are a `pvision.detection.records.DetectionBatch`, and what ``test_step`` returns: a
    mapping with ``predictions`` and, if known, ``predictions_before`` and ``seen``, the images that the detector got,
    ``(3, H, W)`` from 0 to 1. The names of classes come from ``class_names`` of the data module. With several processes
    the images are those of rank 0. Nothing is drawn under ``fast_dev_run``.

    Pictures of people are personal data: nobody gets this callback who does not list it. Leave it out where the folder
    or the MLflow server of the run may not hold test images.

    Args:
        images: of each test loader.
        score: below which a found box is not drawn, 0 to 1.

    Raises:
        ConfigError: if an argument is outside its range.
        MissingExtraError: if matplotlib is not installed, before the test begins.

    Example:
        >>> DetectionPictures(4, score=0.5).images
        4
    """

    def __init__(self, images: int = 8, *, score: float = 0.3) -> None:
        self.images = positive_int("detection_pictures.images", images)
        self.score = unit_rate("detection_pictures.score", score)
        self._drawn: dict[int, list[DrawnImage]] = {}
        self._modalities: dict[int, str] = {}

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        require_plots(WHAT)
        self._drawn, self._modalities = {}, {}

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
        if not isinstance(batch, DetectionBatch) or not isinstance(outputs, Mapping) or "predictions" not in outputs:
            if batch_idx == 0:
                rank_zero_warn("test_step returns no 'predictions' of a DetectionBatch: no detections are drawn.")
            return
        self._modalities[dataloader_idx] = batch.modality
        kept = self._drawn.setdefault(dataloader_idx, [])
        for place in range(min(len(batch.images), self.images - len(kept))):
            kept.append(_of(batch, outputs, place))

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or is_trial(trainer):
            return
        classes = getattr(getattr(trainer, "datamodule", None), "class_names", ())
        for loader, images in self._drawn.items():
            modality = self._modalities[loader]
            again = list(self._modalities.values()).count(modality) > 1
            name = f"detections_{modality}_{loader}.png" if again else f"detections_{modality}.png"
            figure = draw(images, classes, score=self.score, modality=modality)
            copy_to_mlflow(trainer, save(figure, run_folder(trainer) / name, dpi=130), tags={})
        self._drawn = {}


def _of(batch: DetectionBatch, outputs: Mapping[str, Any], place: int) -> DrawnImage:
    """Return one image on the CPU."""
    before, seen = outputs.get("predictions_before"), outputs.get("seen")
    return DrawnImage(
        name=batch.names[place],
        raw=batch.images[place].detach().cpu(),
        target=_on_cpu(batch.targets[place]),
        found=_on_cpu(outputs["predictions"][place]),
        seen=None if seen is None else seen[place].detach().cpu(),
        found_before=None if before is None else _on_cpu(before[place]),
    )


def _on_cpu(boxes: Any) -> Any:
    return {name: value.detach().cpu() for name, value in boxes.items()}
