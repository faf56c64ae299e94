"""Image classification along a stream: fine-tuning, and with the stream's settings replay and joint training."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from pvision.checks import at_least
from pvision.continual.experience import Experience, ImageBatch
from pvision.continual.head import IncrementalHead
from pvision.errors import ConfigError

__all__ = ["ContinualClassifier"]

_KEY = "continual_classifier"


class ContinualClassifier(pl.LightningModule):
    """Train an encoder and a growing head on whatever the stream serves, by cross entropy over all classes seen.

    What the stream serves makes the method: the current experience alone is fine-tuning; with ``data.replay`` it is
    experience replay; with ``data.training_set: seen`` it is joint training, from scratch where ``restart`` is set.

    Args:
        backbone: maps normalised images ``(B, C, H, W)`` to features ``(B, feature_dim)``; has ``feature_dim``.
        optimizer: builds the optimizer; each experience has a new one.
        scheduler: builds its schedule, stepped once an epoch; None for a constant learning rate.
        label_smoothing: of the cross entropy.
        restart: whether each experience starts from the initial weights. With ``data.training_set: seen`` this is
            training from scratch on all data so far: the reference of `intransigence`, and exact unlearning where the
            stream asks to forget.

    Raises:
        ConfigError: if a value is outside its range, or the backbone does not say its ``feature_dim``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        label_smoothing: float = 0.0,
        restart: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = IncrementalHead(_feature_dim(backbone))
        self.restart = restart
        self.classes_of: list[tuple[int, ...]] = []
        self.task_aware = False
        self.val_accuracy = MeanMetric()
        self._optimizer, self._scheduler = optimizer, scheduler
        if at_least("model.label_smoothing", label_smoothing, 0) >= 1:
            raise ConfigError(f"model.label_smoothing must be below 1, but {label_smoothing} came.")
        self._label_smoothing = label_smoothing
        self._initial = (
            {name: tensor.detach().clone() for name, tensor in backbone.state_dict().items()} if restart else {}
        )

    # The stream's events

    def before_experience(self, experience: Experience, stream: Any) -> None:
        """Grow the head by the new classes; with ``restart``, start from the initial weights."""
        self.classes_of += [()] * (experience.index + 1 - len(self.classes_of))
        self.classes_of[experience.index] = experience.classes
        self.task_aware = bool(getattr(getattr(stream, "scenario", None), "task_aware", False))
        self.head.grow(experience.new_classes)
        if self.restart:
            self.backbone.load_state_dict(self._initial)
            for layer in self.head.layers:
                layer.reset_parameters()  # type: ignore[operator]  # all of them are linear

    # What it computes

    def features(self, image: Tensor) -> Tensor:
        """Return features ``(B, feature_dim)`` of normalised images ``(B, C, H, W)``."""
        features: Tensor = self.backbone(image)
        return features

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, number of classes seen)``; `head.classes` names the columns."""
        logits: Tensor = self.head(self.features(image))
        return logits

    def loss(self, batch: ImageBatch) -> Tensor:
        """Return the mean cross entropy over all classes seen."""
        target = self.head.columns(batch.label)
        return F.cross_entropy(self(batch.image), target, label_smoothing=self._label_smoothing)

    # Lightning

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Return the loss, and log it."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.label))
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Log the accuracy among all classes seen."""
        correct = self.head.predictions(self(batch.image)) == batch.label
        self.val_accuracy.update(correct.float())
        self.log("val/accuracy", self.val_accuracy, on_epoch=True, on_step=False, prog_bar=True)

    def test_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Mapping[str, Tensor]:
        """Return predictions and targets, for `pvision.callbacks.ForgettingMetrics` to count.

        ``preds`` chooses among all classes seen, ``preds_task_aware`` among those of the image's own experience. In a
        task-incremental stream, which gives the experience away, the latter are the ones that count.
        """
        logits = self(batch.image)
        aware = self._task_aware(logits, batch.experience)
        if self.task_aware:
            return {"preds": aware, "target": batch.label}
        return {"preds": self.head.predictions(logits), "preds_task_aware": aware, "target": batch.label}

    def predict_step(self, batch: ImageBatch, batch_idx: int, dataloader_idx: int = 0) -> Mapping[str, Tensor]:
        """Return the images' positions and probabilities of labels from 0 to the largest seen, 0 for unseen ones."""
        probabilities = self(batch.image).softmax(1)
        known = self.head.classes
        wide = probabilities.new_zeros(len(probabilities), max(known, default=-1) + 1)
        wide[:, known] = probabilities
        return {"index": batch.position, "probabilities": wide}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return a new optimizer of all parameters that are trained, with its schedule."""
        optimizer = self._optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        if self._scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._scheduler(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep which classes the head's columns stand for, and what ``restart`` starts from."""
        checkpoint[_KEY] = {
            "sizes": list(self.head.sizes),
            "classes": list(self.head.classes),
            "classes_of": [list(classes) for classes in self.classes_of],
            "task_aware": self.task_aware,
            "initial": self._initial,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Grow the head as the checkpoint's.

        Raises:
            ConfigError: if the checkpoint is none of a continual classifier, or of another stream.
        """
        state = checkpoint.get(_KEY)
        if state is None:
            raise ConfigError(
                "The checkpoint holds no classes of a continual classifier. Use one that `pvision fit` wrote for "
                "this kind of model."
            )
        self.head.grow_like(state["sizes"], state["classes"])
        self.classes_of = [tuple(classes) for classes in state["classes_of"]]
        self.task_aware = state["task_aware"]
        if self.restart:
            # Those of the run that goes on: a new process may have drawn others.
            self._initial = {name: tensor.clone() for name, tensor in state["initial"].items()} or self._initial

    def _task_aware(self, logits: Tensor, experience: Tensor) -> Tensor:
        chosen = torch.full_like(experience, -1)
        for index in sorted(set(experience.tolist())):
            known = self.classes_of[index] if 0 <= index < len(self.classes_of) else ()
            rows = experience == index
            chosen[rows] = self.head.predictions(logits[rows], among=known)
        return chosen


def _feature_dim(backbone: nn.Module) -> int:
    size = getattr(backbone, "feature_dim", None)
    if not isinstance(size, int):
        raise ConfigError(
            f"model.backbone ({type(backbone).__name__}) must have an integer feature_dim, but {size!r} came. Use a "
            "backbone of pvision.models, or add the attribute to yours."
        )
    return size
