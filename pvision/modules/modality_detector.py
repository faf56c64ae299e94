"""Detection in a modality that the detector was not trained on."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from pvision.detection.adaptations.adaptation import Adaptation
from pvision.detection.adaptations.zero_shot import ZeroShot
from pvision.detection.detectors.detector import Detector
from pvision.detection.inputs import ImageInput
from pvision.detection.label_map import LabelMap
from pvision.detection.records import DetectionBatch, Prediction
from pvision.detection.router import RGB, ModalityRouter
from pvision.errors import ConfigError
from pvision.modules.detection_scores import DetectionScores
from pvision.training.average_precision import AveragePrecision
from pvision.weights_hash import weights_sha256

__all__ = ["ModalityDetector"]

_DETECTOR = "router.detector."
_KEY = "modality_detector"


class ModalityDetector(pl.LightningModule):
    """Make a detector of RGB images work on one other modality after another.

    With an adaptation that stands in front of the detector, such as `pvision.detection.ModalityTranslator` (ModTr), the
    detector is frozen: what it makes of RGB images cannot change. Adaptations that train the detector itself are
    there to be compared with.

    Validation logs ``val/map``; the test logs, for the modality (``new``) and for RGB images (``rgb``), the average
    precision now and of the detector as it was given (``before``), as ``detection/map_new``, ``detection/map_50_new``,
    ``detection/map_new_before`` and so on. Checkpoints hold the hash of a frozen detector in place of its weights.

    Args:
        detector: of RGB images, with its weights.
        modality: what is learned, as the data names it. ``"rgb"`` trains the detector itself.
        input: how raw values of that modality become an image.
        adaptation: how the detector is made to work on it.
        optimizer: builds the optimizer of what is trained.
        scheduler: builds its schedule, stepped once an epoch; None for a constant learning rate.

    Attributes:
        router: the detector and the way into it of each modality.
        modality: what is learned now.

    Raises:
        ConfigError: if detector, modality and adaptation do not fit each other.

    Source:
        Medeiros et al., "Modality Translation for Object Detection Adaptation Without Forgetting Prior Knowledge",
        ECCV 2024, arXiv 2404.01492.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        modality: str,
        input: ImageInput,
        adaptation: Adaptation,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.router = ModalityRouter(detector)
        # In a tuple, so that it is no part of this module: a checkpoint need not repeat what every run is given.
        self._given = (ModalityRouter(copy.deepcopy(detector).freeze()),)
        self._optimizer, self._scheduler = optimizer, scheduler
        self._labels = LabelMap(detector, None)
        self._val_score = AveragePrecision(self._labels.class_names)
        self._test_scores = DetectionScores((), self._labels.class_names)
        self.learn(modality, input, adaptation)

    @property
    def detector(self) -> Detector:
        """The detector, frozen or not."""
        return self.router.detector

    @property
    def adaptation(self) -> Adaptation:
        """What is learned now."""
        return self._adaptation[0]

    def learn(self, modality: str, input: ImageInput, adaptation: Adaptation) -> None:
        """Learn a modality from the next fit on, and leave those learned before as they are.

        Args:
            modality: its name, as the data says it.
            input: how its raw values become an image.
            adaptation: how the detector is made to work on it.

        Raises:
            ConfigError: if it is known already, or is ``"rgb"`` and the adaptation leaves the detector as it is or the
                input is another one than RGB's; then nothing has changed.
        """
        earlier = list(self.router.adaptations.values())
        if modality == RGB:
            self._check_rgb(input, adaptation)
            adaptation.attach(self.detector)
            self.of_rgb = adaptation
        else:
            self.router.add(modality, input, adaptation)
            self._given[0].add(modality, input, ZeroShot(input.channels))
        for learned in earlier:
            learned.requires_grad_(False)
        # Untrained, there is nothing to consolidate: LoRA would lose the updates that are to be trained.
        self.modality, self._adaptation, self._consolidated = modality, (adaptation,), True
        self.train()  # which a frozen detector does not follow

    def frozen_modules(self) -> Mapping[str, nn.Module]:
        """Return what `pvision.callbacks.FrozenGuard` watches."""
        return {"detector": self.detector} if self.detector.frozen else {}

    def check(self, data: pl.LightningDataModule) -> None:
        """Refuse data that do not fit.

        Raises:
            ConfigError: if the data serve another modality, or have a class that the detector does not know.
        """
        served = getattr(data, "modality", self.modality)
        if served != self.modality:
            raise ConfigError(
                f"model.modality is {self.modality!r}, but data.modality is {served!r}. Write the same into both."
            )
        LabelMap(self.detector, getattr(data, "class_names", None))

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that take gradients.

        Raises:
            ConfigError: if the adaptation has none.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trained:
            raise ConfigError(
                f"{type(self.adaptation).__name__} has nothing to train. Measure it with `pvision test` (trainer.test)."
            )
        return trained

    # What it computes

    def forward(self, images: Sequence[Tensor], modality: str | None = None) -> list[Prediction]:
        """Return the objects in raw images ``(C, H, W)``, with labels of the data."""
        return self._labels.to_data(self.router.predict(images, modality or self.modality))

    # Lightning

    @override
    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.check(data)
        self._labels = LabelMap(self.detector, getattr(data, "class_names", None))
        self._val_score = AveragePrecision(self._labels.class_names)

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Return the detector's loss on a batch, and log it with its parts."""
        targets = self._labels.to_detector(batch.targets)
        parts = self.router.loss(batch.images, targets, batch.modality)
        loss = torch.stack(list(parts.values())).sum()
        size = len(batch.images)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": value for name, value in parts.items()}, batch_size=size)
        return loss

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Take up the predictions of a batch."""
        self._val_score.update(self(batch.images, batch.modality), batch.targets)

    @override
    def on_validation_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.VALIDATING:  # not in the middle of training
            self._consolidate()

    @override
    def on_validation_epoch_end(self) -> None:
        values = self._val_score.compute()
        self._val_score.reset()
        self.log("val/map", values["map"], prog_bar=True, sync_dist=True)
        self.log("val/map_50", values["map_50"], sync_dist=True)

    @override
    def on_train_start(self) -> None:
        self._consolidated = False

    @override
    def on_train_end(self) -> None:
        self._consolidate()

    @override
    def on_test_start(self) -> None:
        self._consolidate()
        self._given[0].to(self.device)
        names = getattr(getattr(self.trainer, "datamodule", None), "test_modalities", None)
        loaders = len(self.trainer.num_test_batches)
        if names is None or len(names) != loaders:  # or they are of a data module that was given before
            names = tuple(f"loader_{place}" for place in range(loaders))
        named = ["new" if name == self.modality else name for name in names]
        self._test_scores = DetectionScores(named, self._labels.class_names).to(self.device)

    def test_step(self, batch: DetectionBatch, batch_idx: int, dataloader_idx: int = 0) -> Mapping[str, Any]:
        """Take up the predictions of a batch, now and before, and return them for callbacks to draw."""
        seen = self.router.images(batch.images, batch.modality)
        predictions = self._labels.to_data(self.detector.predict(seen))
        before = self._labels.to_data(self._given[0].predict(batch.images, batch.modality))
        self._test_scores.update(dataloader_idx, predictions, before, batch.targets)
        mean = self._test_scores.mean[dataloader_idx]
        self.log("test/map", mean, on_step=False, on_epoch=True, batch_size=len(batch.images))
        return {"predictions": predictions, "predictions_before": before, "seen": seen}

    @override
    def on_test_epoch_end(self) -> None:
        values = self._test_scores.values()
        self.log_dict({f"detection/{name}": value for name, value in values.items()}, sync_dist=True)

    @override
    def on_test_end(self) -> None:
        self._given[0].cpu()

    @override
    def on_predict_start(self) -> None:
        self._consolidate()

    def predict_step(self, batch: DetectionBatch, batch_idx: int, dataloader_idx: int = 0) -> Mapping[str, Any]:
        """Return the images' names and the objects found in them."""
        return {"names": batch.names, "predictions": self(batch.images, batch.modality)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of what takes gradients, with its schedule."""
        optimizer = self._optimizer(self.trained_parameters())
        if self._scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._scheduler(optimizer)}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_KEY] = {"modality": self.modality, "consolidated": self._consolidated}
        if self.detector.frozen:
            checkpoint[_KEY]["detector_sha256"] = weights_sha256(self.detector)
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith(_DETECTOR)}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if _KEY not in checkpoint:
            raise ConfigError(
                "The checkpoint is none of a ModalityDetector. Use one that `pvision fit` wrote for this kind of model."
            )
        held = checkpoint[_KEY]
        self._consolidated = held["consolidated"]
        if (wanted := held.get("detector_sha256")) is None:
            if self.detector.frozen:
                raise ConfigError(
                    f"The checkpoint holds a detector that was trained, but {type(self.adaptation).__name__} leaves "
                    "the detector frozen. Give the model.adaptation that it was trained with."
                )
            return
        if (found := weights_sha256(self.detector)) != wanted:
            raise ConfigError(
                f"The checkpoint belongs to a frozen detector with sha256 {wanted[:12]}…, but model.detector has "
                f"{found[:12]}…. Give the detector that it was trained with."
            )
        own = self.state_dict()
        checkpoint["state_dict"] |= {name: value for name, value in own.items() if name.startswith(_DETECTOR)}

    def _check_rgb(self, input: ImageInput, adaptation: Adaptation) -> None:
        if not adaptation.changes_detector:
            raise ConfigError(
                f"model.modality is 'rgb', which the detector sees unchanged: {type(adaptation).__name__} would have "
                "nothing to do. Name another modality, or train the detector itself with model.adaptation FineTuning."
            )
        own = self.router.inputs[RGB]
        if not isinstance(own, ImageInput) or input.describe() != own.describe():
            raise ConfigError(
                f"model.input of the modality 'rgb' is always {own}, but {input} came. Give that one, and images "
                "from 0 to 255."
            )

    def _consolidate(self) -> None:
        if not self._consolidated:
            self.adaptation.after_training(self.detector)
            self._consolidated = True
