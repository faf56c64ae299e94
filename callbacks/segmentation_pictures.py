"""Test images with their true and their predicted labels."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from pvision.callbacks._figures import require_plots, save
from pvision.callbacks._runs import copy_to_mlflow
from pvision.callbacks._segmentation_drawing import WHAT, DrawnMask, draw_masks
from pvision.checks import positive_int
from pvision.continual.masks import SegmentationBatch
from pvision.training.run_files import is_trial, run_folder

__all__ = ["SegmentationPictures"]


class SegmentationPictures(Callback):
    """Draw the first test images, the truth and what was predicted, each time a test ends.

    ``segmentation_EXPERIENCE.png`` lies in the run's folder, and in MLflow, numbered from 1; without a stream it is
    ``segmentation.png``. The truth shows classes that are still to be learned too, and the legend says so.

    It reads the batches, if they are a `pvision.continual.masks.SegmentationBatch`, and what ``test_step`` returns: a
    mapping with ``labels``, whole numbers ``(B, H, W)``. The data module's ``class_names`` name the classes from 1 on,
    and its ``preprocessing`` with ``mean`` and ``std`` says how images were normalised; without it each is stretched to
    its own range. With several processes the images are those of rank 0. Nothing is drawn under ``fast_dev_run``.

    Pictures of people are personal data: nobody gets this callback who does not list it. Leave it out where the folder
    or the MLflow server of the run may not hold test images.

    Args:
        images: how many.

    Raises:
        ConfigError: if the number is below 1.
        MissingExtraError: if matplotlib is not installed, before the test begins.

    Example:
        >>> SegmentationPictures(4).images
        4
    """

    def __init__(self, images: int = 8) -> None:
        self.images = positive_int("segmentation_pictures.images", images)
        self._drawn: list[DrawnMask] = []

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        require_plots(WHAT)
        self._drawn = []

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
        if not isinstance(batch, SegmentationBatch) or not isinstance(outputs, Mapping) or "labels" not in outputs:
            if batch_idx == 0:
                rank_zero_warn("test_step returns no 'labels' of a SegmentationBatch: no masks are drawn.")
            return
        data: Any = getattr(trainer, "datamodule", None)
        names = getattr(getattr(data, "test_source", None), "names", ())
        for place in range(min(len(batch.image), self.images - len(self._drawn))):
            position = int(batch.position[place])
            name = names[position] if position < len(names) else str(position)
            image = _for_the_eye(batch.image[place].detach().cpu(), getattr(data, "preprocessing", None))
            self._drawn.append(DrawnMask(name, image, batch.mask[place].cpu(), outputs["labels"][place].cpu()))

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or is_trial(trainer) or not self._drawn:
            return
        data: Any = getattr(trainer, "datamodule", None)
        experiences = getattr(data, "experiences", ())
        done = experiences[: data.current + 1] if experiences else ()
        learned = {label for experience in done for label in experience.classes}
        title = f"After experience {len(done)}: {done[-1].name}" if done else "Test"
        figure = draw_masks(self._drawn, getattr(data, "class_names", ()), learned=learned, title=title)
        path = run_folder(trainer) / (f"segmentation_{len(done)}.png" if done else "segmentation.png")
        copy_to_mlflow(trainer, save(figure, path, dpi=130), tags={})
        self._drawn = []


def _for_the_eye(image: Tensor, preprocessing: Any) -> Tensor:
    """Return a normalised image from 0 to 1, with three channels: the first one thrice, if there are not three."""
    mean, std = getattr(preprocessing, "mean", None), getattr(preprocessing, "std", None)
    if mean is not None and std is not None:
        image = image * torch.as_tensor(std).view(-1, 1, 1) + torch.as_tensor(mean).view(-1, 1, 1)
    else:
        low, high = image.amin(), image.amax()
        image = (image - low) / (high - low).clamp(min=1e-6)
    return image if len(image) == 3 else image[:1].expand(3, -1, -1)
