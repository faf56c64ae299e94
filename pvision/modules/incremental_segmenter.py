"""Segmentation along a stream: runs any `SegmentationMethod` under Lightning."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from pvision.checks import one_of, positive, positive_int
from pvision.continual.experience import Experience
from pvision.continual.masks import BACKGROUND, SegmentationBatch
from pvision.continual.metrics.iou import ABSENT, Absent, group_iou, iou_of_learned
from pvision.errors import ConfigError
from pvision.segmentation.methods.fine_tuning import FineTuning
from pvision.segmentation.methods.method import SegmentationMethod
from pvision.training.confusion import ConfusionMatrix
from pvision.training.streams.experience_data import StreamData

__all__ = ["IncrementalSegmenter", "SegmentationMethodCallable"]

SegmentationMethodCallable = Callable[[nn.Module], SegmentationMethod]

_KEY = "incremental_segmenter"


class IncrementalSegmenter(pl.LightningModule):
    """Train a network and a growing pixel classifier on whatever a stream shows, in the way that ``method`` says.

    The test logs ``test/iou_LABEL`` of each class learned so far, and of the background where the data has one, and
    ``segmentation/miou_old``, ``miou_new``, ``miou_all`` and ``hiou`` with their forms ``…_without_background``; see
    `pvision.continual.metrics.iou`. Old are the classes of the first experience. Where the stream evaluates crops, the
    names begin with ``test_crop/`` and ``segmentation_crop/``, so that no table can mix the two.

    Validation logs ``val/miou``: the mean IoU over the classes whose pixels the held-out masks show, and over the
    background too in the first experience. Later masks call earlier classes background, so it has no IoU there.

    Args:
        network: maps normalised images ``(B, C, H, W)`` to a feature map; see `pvision.segmentation.networks`.
        method: builds the method on the network; by default everything is fine-tuned.
        optimizer: builds the optimizer; each experience has a new one. By default SGD as MiB, SSUL and BARM use it.
        poly_power: the learning rate falls as ``(1 − step / steps) ** poly_power`` over an experience; None keeps it.
        increment_lr: the learning rate from the second experience on; None for the optimizer's own.
        base_epochs: epochs of the first experience, if they are not ``trainer.max_epochs``.
        absent: what a class counts that is absent in truth and prediction: ``"skip"``, or ``"zero"`` as in the code of
            SSUL and BARM.

    Attributes:
        method: the method; it holds network and head.
        class_names: of the classes from 1 on, as the stream said; empty before the first experience.
        test_confusion: pixels per true label (row) and predicted label (column) of the last test, of all processes
            together, int64 ``(256, 256)``; None before a test.

    Raises:
        ConfigError: if an argument is outside its range, or the method refuses its settings.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        method: SegmentationMethodCallable = FineTuning,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-4
        ),
        poly_power: float | None = 0.9,
        increment_lr: float | None = None,
        base_epochs: int | None = None,
        absent: Absent = "skip",
    ) -> None:
        super().__init__()
        self.method = method(network)
        self.class_names: tuple[str, ...] = ()
        self._optimizer = optimizer
        self._poly_power = None if poly_power is None else positive("model.poly_power", poly_power)
        self._increment_lr = None if increment_lr is None else positive("model.increment_lr", increment_lr)
        self._base_epochs = None if base_epochs is None else positive_int("model.base_epochs", base_epochs)
        self.absent: Absent = "zero" if one_of("model.absent", absent, ABSENT) == "zero" else "skip"
        self._val_confusion, self._test_confusion = ConfusionMatrix(), ConfusionMatrix()
        self.test_confusion: Tensor | None = None

    @property
    def backbone(self) -> nn.Module:
        """The network, without the method's head; what `pvision.callbacks.TrainingCost` counts passes of."""
        return self.method.network

    @property
    def learned(self) -> list[tuple[int, ...]]:
        """The classes of each experience so far."""
        return [tuple(group) for group in self.method.head.groups]

    # The stream's events

    def before_experience(self, experience: Experience, stream: Any) -> None:
        """Let the method prepare."""
        later = [one for one in stream.experiences if one.index > experience.index and one.kind == "learn"]
        self.class_names = tuple(getattr(stream, "class_names", ()))
        self.method.before_experience(experience, upcoming=sum(len(one.new_classes) for one in later))
        self.method.train()  # which layers learn can depend on the experience
        records = StreamData(self.trainer, stream, experience).batches("looking through")
        self.method.look_through(cast(Iterator[SegmentationBatch], records))

    def after_experience(self, experience: Experience, stream: Any) -> None:
        """Let the method consolidate."""
        self.method.after_experience()

    # What it computes

    def forward(self, image: Tensor) -> Tensor:
        """Return the label of each pixel of normalised images, int64 ``(B, H, W)``."""
        labels: Tensor = self.method(image)
        return labels

    # Lightning

    @override
    def setup(self, stage: str) -> None:
        # Also where an interrupted run goes on within the first experience: a Trainer's epochs are in no checkpoint.
        first = getattr(getattr(self.trainer, "datamodule", None), "current", 0) == 0
        if stage == "fit" and first and self._base_epochs is not None:
            self.trainer.fit_loop.max_epochs = self._base_epochs

    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> Tensor:
        """Return the sum of the method's loss terms, and log it and each of them."""
        terms = self.method.losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        size = len(batch.image)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, batch_size=size)
        return loss

    @override
    def on_validation_epoch_start(self) -> None:
        self._val_confusion.reset()

    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Count the pixels of a batch."""
        self._val_confusion.update(self(batch.image), batch.mask)

    @override
    def on_validation_epoch_end(self) -> None:
        confusion = self._val_confusion.compute().cpu()
        shown = [label for group in self.learned for label in group if confusion[label].any()]
        first = self._has_background and len(self.learned) == 1
        iou = iou_of_learned(confusion, shown, background=BACKGROUND if first else None, absent=self.absent)
        if iou:
            self.log("val/miou", sum(iou.values()) / len(iou), prog_bar=True, sync_dist=True)

    @override
    def on_test_epoch_start(self) -> None:
        self._test_confusion.reset()

    def test_step(self, batch: SegmentationBatch, batch_idx: int, dataloader_idx: int = 0) -> Mapping[str, Tensor]:
        """Count the pixels of a batch; return what was found, for callbacks to draw."""
        found = self.predict_step(batch, batch_idx)
        self._test_confusion.update(found["labels"], batch.mask)
        return found

    @override
    def on_test_epoch_end(self) -> None:
        confusion = self.test_confusion = self._test_confusion.compute().cpu()
        background = BACKGROUND if self._has_background else None
        old, *later = self.learned or [()]
        new = [label for group in later for label in group]
        iou = iou_of_learned(confusion, [*old, *new], background=background, absent=self.absent)
        means = group_iou(iou, old=old, new=new, background=background)
        evaluated = getattr(getattr(self.trainer, "datamodule", None), "evaluation", "full")
        suffix = "" if evaluated == "full" else f"_{evaluated}"
        values = {f"test{suffix}/iou_{label}": value for label, value in iou.items()}
        values |= {f"segmentation{suffix}/{name}": value for name, value in means.items() if value == value}
        values["segmentation/parameters"] = float(sum(one.numel() for one in self.method.parameters()))
        self.log_dict(values, sync_dist=True, logger=False)
        for logger in self.trainer.loggers:  # with the experience as the step; each fit counts its own from 0
            logger.log_metrics(values, step=max(self.method.current, 0))

    def predict_step(self, batch: SegmentationBatch, batch_idx: int, dataloader_idx: int = 0) -> Mapping[str, Tensor]:
        """Return the images' positions and the label of each of their pixels, int64 ``(B, H, W)``."""
        return {"index": batch.position, "labels": self(batch.image)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return a new optimizer of all parameters that the method trains, with its schedule over the experience."""
        optimizer = self._optimizer(self.method.parameter_groups())
        later = self._increment_lr is not None and self.method.current > 0
        for group in optimizer.param_groups:
            group["lr"] = (self._increment_lr if later else group["lr"]) * group["lr_factor"]
        if self._poly_power is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=self._poly_power)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_KEY] = {"class_names": list(self.class_names)}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if _KEY not in checkpoint:
            raise ConfigError(
                "The checkpoint is none of an IncrementalSegmenter. Use one that `pvision fit` wrote for this kind of "
                "model."
            )
        self.class_names = tuple(checkpoint[_KEY]["class_names"])
        for name, module in self.named_modules():
            if (state := checkpoint["state_dict"].get(f"{name}._extra_state")) is not None:
                module.set_extra_state(state)

    @property
    def _has_background(self) -> bool:
        return bool(getattr(getattr(self.trainer, "datamodule", None), "has_background", True))
