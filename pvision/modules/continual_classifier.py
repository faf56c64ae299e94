"""Image classification along a stream: runs any `ContinualMethod` under Lightning."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from pvision.adapters.methods.fine_tuning import FineTuning
from pvision.adapters.methods.method import ContinualMethod
from pvision.continual.experience import Experience, ImageBatch
from pvision.continual.head import IncrementalHead
from pvision.errors import ConfigError
from pvision.training.streams.experience_data import StreamData

__all__ = ["ContinualClassifier", "MethodCallable"]

MethodCallable = Callable[[nn.Module], ContinualMethod]

_KEY = "continual_classifier"


class ContinualClassifier(pl.LightningModule):
    """Train an encoder and a growing head on whatever the stream serves, in the way that ``method`` says.

    Args:
        backbone: maps normalised images ``(B, C, H, W)`` to features ``(B, feature_dim)``; has ``feature_dim``.
        method: builds the method on the backbone; by default everything is fine-tuned.
        optimizer: builds the optimizer; each experience has a new one.
        scheduler: builds its schedule, stepped once an epoch; None for a constant learning rate.

    Attributes:
        method: the method; its ``backbone``, ``head`` and ``classes_of`` are attributes here too.
        task_aware: whether the stream tells the experience of a test image.

    Raises:
        ConfigError: if the backbone does not say its ``feature_dim``, or the method refuses its settings.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        method: MethodCallable = FineTuning,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.method = method(backbone)
        self.task_aware = False
        self.val_accuracy = MeanMetric()
        self._optimizer, self._scheduler = optimizer, scheduler

    @property
    def backbone(self) -> nn.Module:
        """The network, as the method holds it."""
        return self.method.backbone

    @property
    def head(self) -> IncrementalHead:
        """The classifier; its ``classes`` name the columns of logits."""
        return self.method.head

    @property
    def classes_of(self) -> list[tuple[int, ...]]:
        """The classes of each event of the stream so far."""
        return self.method.classes_of

    @property
    def restart(self) -> bool:
        """Whether the method starts every experience from its initial weights."""
        return bool(getattr(self.method, "restart", False))

    @property
    def unlearns(self) -> bool:
        """Whether the method meets requests to forget as it consolidates."""
        return self.method.unlearns

    # The stream's events

    def learns_by_gradient(self, experience: Experience) -> bool:
        """Return whether the method trains in this experience."""
        return self.method.learns_by_gradient(experience)

    def before_experience(self, experience: Experience, stream: Any) -> None:
        """Let the method prepare."""
        data = StreamData(self.trainer, stream, experience)
        self.task_aware = data.task_aware
        self.method.before_experience(experience, data)

    def after_experience(self, experience: Experience, stream: Any) -> None:
        """Let the method consolidate."""
        self.method.after_experience(experience, StreamData(self.trainer, stream, experience))

    # What it computes

    def features(self, image: Tensor) -> Tensor:
        """Return features ``(B, feature_dim)`` of normalised images ``(B, C, H, W)``."""
        return self.method.features(image)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, number of classes seen)``; `head.classes` names the columns."""
        logits: Tensor = self.method(image)
        return logits

    # Lightning

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Return the method's loss, and log it."""
        loss = self.method.loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.label))
        return loss

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and do what the method does after it."""
        super().optimizer_step(*args, **kwargs)
        self.method.after_step()

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
        """Return a new optimizer of all parameters that the method trains, with its schedule."""
        groups = self.method.parameter_groups()
        optimizer = self._optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * group["lr_factor"]
        if self._scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._scheduler(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the stream said of itself."""
        checkpoint[_KEY] = {"task_aware": self.task_aware}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the stream said of itself, and make what the checkpoint's weights fill.

        Raises:
            ConfigError: if the checkpoint is none of a continual classifier, or of another method or stream.
        """
        if _KEY not in checkpoint:
            raise ConfigError(
                "The checkpoint holds no classes of a continual classifier. Use one that `pvision fit` wrote for "
                "this kind of model."
            )
        self.task_aware = checkpoint[_KEY]["task_aware"]
        for name, module in self.named_modules():
            if (state := checkpoint["state_dict"].get(f"{name}._extra_state")) is not None:
                module.set_extra_state(state)

    def _task_aware(self, logits: Tensor, experience: Tensor) -> Tensor:
        chosen = torch.full_like(experience, -1)
        for index in sorted(set(experience.tolist())):
            known = self.classes_of[index] if 0 <= index < len(self.classes_of) else ()
            rows = experience == index
            chosen[rows] = self.head.predictions(logits[rows], among=known)
        return chosen
