"""What all action-recognition modules share: un-noised training on one view, and evaluation on both."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from pvision.checks import at_least, positive_int
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PrivacyReport, PublicView, TwoViews, as_floats

__all__ = ["TrainingData", "VideoClassifier"]

_STATEMENT_KEY = "privacy_statement"
_UNSET_MAX_EPOCHS = (None, -1, 1000)  # Lightning's three ways to say that nobody chose


class TrainingData(Protocol):
    """What a module asks of a data module; `pvision.datamodules.VideoDataModule` is one."""

    class_names: Sequence[str]
    train_set: Any
    eval_batch_size: int

    def fingerprint(self, *, names: bool = True) -> str:
        """Return what identifies the training set, without its private content."""

    def public_loader(self, positions: Sequence[int] | None = None) -> Iterable[PublicView]:
        """Return shuffled batches of the redacted view, of all records or of those at ``positions``."""

    def public_in_order_loader(self) -> Iterable[PublicView]:
        """Return the redacted view of all records, in order."""

    def full_loader(self) -> Iterable[TwoViews]:
        """Return shuffled batches of both views."""

    def two_view_loader(self, batches: Iterable[Sequence[int]] | None = None) -> Iterable[TwoViews]:
        """Return both views, in the given batches or in order."""

    def pretraining_loader(self) -> Iterable[TwoViews] | None:
        """Return both views of clips outside the guarantee, if there are any."""


class VideoClassifier(pl.LightningModule):
    """Train a video network without noise for some epochs; evaluate it on the full and on the redacted view.

    Subclasses choose the view, and may add private steps in one more epoch. The schedule belongs to the module:
    it sets ``trainer.max_epochs``.

    Args:
        network: maps float clips ``(B, 3, T, H, W)`` in [0, 1] to logits; has ``num_classes``.
        public_epochs: epochs of un-noised training.
        optimizer: builds the optimizer of un-noised training; its learning rate is the peak of a one-cycle schedule.
        label_smoothing: of the cross entropy in un-noised training.

    Raises:
        ConfigError: if a value is outside its range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        public_epochs: int,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        label_smoothing: float = 0.05,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.num_classes = _num_classes(network)
        self.public_epochs = positive_int("model.public_epochs", public_epochs, low=0)
        self._optimizer = optimizer
        if at_least("model.label_smoothing", label_smoothing, 0) >= 1:
            raise ConfigError(f"model.label_smoothing must be below 1, but {label_smoothing} came.")
        self._label_smoothing = label_smoothing
        self.accuracies = nn.ModuleDict(
            {
                f"{stage}_{view}": MulticlassAccuracy(self.num_classes, average="micro")
                for stage in ("val", "test")
                for view in ("full", "redacted")
            }
        )

    # What subclasses say

    @property
    def private_epochs(self) -> int:
        """Epochs after the un-noised ones: 1 where there are private steps."""
        return 0

    def privacy_report(self) -> PrivacyReport:
        """Return what may be claimed of the training so far."""
        raise NotImplementedError

    @property
    def privacy_statement(self) -> dict[str, Any]:
        """What the claim for the trained weights depends on; it travels with them."""
        return {"mechanism": self.privacy_report().mechanism}

    def logits(self, views: TwoViews) -> tuple[Tensor, Tensor]:
        """Return the logits of the full and of the redacted view, each ``(B, num_classes)``."""
        return self.network(as_floats(views.full)), self.network(as_floats(views.public.video))

    def public_loader(self, data: TrainingData) -> Iterable[Any]:
        """Return the batches of un-noised training."""
        return data.public_loader()

    # Before anything runs

    def check(self, data: TrainingData) -> None:
        """Refuse data that does not fit the network, before anything is trained or written.

        Raises:
            ConfigError: if classes differ, or the network cannot take a clip of this size.
        """
        classes = len(data.class_names)
        if classes != self.num_classes:
            raise ConfigError(
                f"model.network has num_classes {self.num_classes}, but the data has {classes} classes "
                f"({', '.join(data.class_names[:5])}{', …' if classes > 5 else ''}). Set num_classes to {classes}."
            )
        clip = data.train_set[[0]].public.video
        try:
            with torch.no_grad():
                self.network(as_floats(clip).to(self.device))
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"model.network cannot take the data's clips of shape {tuple(clip.shape[1:])} (3, T, H, W): {error}"
            ) from error

    def setup(self, stage: str) -> None:
        """Take the schedule into the Trainer; check the data.

        Raises:
            ConfigError: if ``trainer.max_epochs`` contradicts the schedule, a setting of the Trainer would replace
                the samplers, or there is no data module to train on.
        """
        # The data module's loaders are shared out already; Lightning would share them once more.
        self.trainer._accelerator_connector.use_distributed_sampler = False
        # Of checkpoints between steps; ours are to hold the weights after the step, as those at the end of an epoch do.
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
        if self.trainer.overfit_batches:  # type: ignore[attr-defined]  # missing in its stubs
            raise ConfigError(
                "trainer.overfit_batches would replace the samplers that this module chooses. "
                "Use trainer.limit_train_batches instead."
            )
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer.fit(datamodule=…)
        if data is not None:
            self.check(data)
        elif stage == "fit":
            raise ConfigError(
                f"{type(self).__name__} chooses its own training loaders from a data module, but loaders came. "
                "Call trainer.fit(module, datamodule=…) with a pvision.datamodules.VideoDataModule."
            )
        if stage == "fit" and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in its stubs
            self._set_schedule()

    def check_schedule(self, trainer: pl.Trainer) -> None:
        """Refuse a Trainer with a schedule of its own.

        Raises:
            ConfigError: if ``trainer.max_epochs`` contradicts the epochs of this module.
        """
        planned, chosen = self.public_epochs + self.private_epochs, trainer.max_epochs
        if chosen not in (*_UNSET_MAX_EPOCHS, planned):
            raise ConfigError(
                f"trainer.max_epochs is {chosen}, but the schedule has {self.public_epochs} public and "
                f"{self.private_epochs} private epochs. Leave max_epochs out and set model.public_epochs instead."
            )

    def _set_schedule(self) -> None:
        self.check_schedule(self.trainer)
        self.trainer.fit_loop.max_epochs = self.public_epochs + self.private_epochs
        # Each phase has its own loader, so Lightning must ask for one in every epoch.
        self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]  # missing in its stubs

    # Training

    def train_loader(self, data: TrainingData) -> Iterable[Any]:
        """Return the loader of the current epoch; the data module asks."""
        if self.current_epoch < self.public_epochs:
            return self.public_loader(data)
        return self.private_loader(data)

    def private_loader(self, data: TrainingData) -> Iterable[Any]:
        """Return the batches of the private steps."""
        raise PrivacyError(f"{type(self).__name__} has no private steps.")

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Train on the redacted view without noise; `private_step` takes every other kind of batch."""
        if isinstance(batch, PublicView):
            self.unnoised_step(self.public_loss(batch), len(batch.label))
        else:
            self.private_step(batch)

    def private_step(self, batch: Any) -> None:
        """Take one step on a batch that holds more than the redacted view."""
        raise PrivacyError(
            f"{type(self).__name__} trains on the redacted view only, but a {type(batch).__name__} came."
        )

    def public_loss(self, batch: PublicView) -> Tensor:
        """Return the loss of un-noised training on the redacted view."""
        return self.classification_loss(batch.video, batch.label)

    def classification_loss(self, video: Tensor, label: Tensor) -> Tensor:
        """Return the mean smoothed cross entropy of uint8 clips."""
        return F.cross_entropy(self.network(as_floats(video)), label, label_smoothing=self._label_smoothing)

    def unnoised_step(self, loss: Tensor, records: int) -> None:
        """Take one ordinary optimizer step and log its loss."""
        optimizer = _first(self.optimizers())
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        _first(self.lr_schedulers()).step()
        self.log("train/loss", loss, prog_bar=True, batch_size=records)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of un-noised training with its one-cycle schedule, and those of the private steps."""
        optimizer, schedule = self._unnoised_optimizer()
        return [optimizer, *self.private_optimizers()], [schedule]

    def private_optimizers(self) -> list[Optimizer]:
        """Return the optimizers of the private steps."""
        return []

    def publicly_trained(self) -> list[nn.Parameter]:
        """Return the parameters of un-noised training."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def _unnoised_optimizer(self) -> tuple[Optimizer, LRScheduler]:
        optimizer = self._optimizer(self.publicly_trained())
        batches = max(1, len(self.public_loader(self.trainer.datamodule)))  # type: ignore[arg-type,attr-defined]  # as in setup
        steps = max(1, self.public_epochs) * batches + 1
        schedule = OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=steps,
            pct_start=max(0.2, 1.5 / steps),  # of five steps, a fifth is a rise of length zero
        )
        return optimizer, schedule

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the privacy statement with the weights that were made under it."""
        checkpoint[_STATEMENT_KEY] = self.privacy_statement

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights for which this module would claim what does not hold.

        Raises:
            PrivacyError: if they were made under another privacy statement, or under none.
        """
        made = checkpoint.get(_STATEMENT_KEY)
        if made is None:
            raise PrivacyError("The checkpoint holds no privacy statement, so the ε of its weights is unknown.")
        stated = self.privacy_statement
        other = [
            f"{name} {made.get(name)!r}, not {stated.get(name)!r}"
            for name in sorted(made.keys() | stated.keys())
            if made.get(name) != stated.get(name)
        ]
        if other:
            raise PrivacyError(
                f"The checkpoint's weights were made with privacy {'; '.join(other)}: their ε is another. State what "
                "they were made with (config.yaml among the run's artifacts)."
            )

    # Evaluation

    def validation_step(self, batch: TwoViews, batch_idx: int) -> None:
        """Log the accuracy of both views."""
        self._evaluate("val", batch)

    def test_step(self, batch: TwoViews, batch_idx: int) -> None:
        """Log the accuracy of both views."""
        self._evaluate("test", batch)

    def predict_step(self, batch: TwoViews, batch_idx: int) -> dict[str, Tensor]:
        """Return the probabilities of both views and the records' positions."""
        full, redacted = self.logits(batch)
        return {
            "index": batch.public.position,
            "probabilities": full.softmax(1),
            "probabilities_redacted": redacted.softmax(1),
        }

    def _evaluate(self, stage: str, batch: TwoViews) -> None:
        for view, logits in zip(("full", "redacted"), self.logits(batch), strict=True):
            metric = cast(Metric, self.accuracies[f"{stage}_{view}"])
            metric.update(logits, batch.label)
            name = f"{stage}/accuracy" if view == "full" else f"{stage}/accuracy_redacted"
            self.log(name, metric, on_epoch=True, on_step=False, prog_bar=True, batch_size=len(batch.label))


def _num_classes(network: nn.Module) -> int:
    classes = getattr(network, "num_classes", None)
    if not isinstance(classes, int):
        raise ConfigError(
            f"model.network ({type(network).__name__}) must have an integer num_classes, but {classes!r} came. "
            "Use a network of pvision.models, or add the attribute to yours."
        )
    return classes


def _first(several: Any) -> Any:
    """Return the optimizer or schedule of un-noised training, which always comes first."""
    return several[0] if isinstance(several, list) else several
