"""What all private action-recognition modules share: the mechanism, its count, and what they refuse."""

from abc import abstractmethod
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from pvision.errors import PrivacyError
from pvision.modules.video_classifier import TrainingData, VideoClassifier
from pvision.privacy import GaussianMechanism, PrivacyReport, PrivacySpec

__all__ = ["PrivateClassifier"]

_STEPS_KEY = "privacy_steps"


class PrivateClassifier(VideoClassifier):
    """Un-noised epochs on the redacted view, then one epoch of noisy steps.

    Args:
        network: as for `VideoClassifier`.
        privacy: everything that ε depends on.
        public_epochs: as for `VideoClassifier`.
        optimizer: as for `VideoClassifier`.
        label_smoothing: as for `VideoClassifier`.

    Attributes:
        mechanism: the one place that releases noisy gradients; None until the private epoch begins.

    Raises:
        PrivacyError: if the run could not keep its guarantee: half precision with a gradient scaler, resumed or
            repeated private training, a δ too large for the data, weights made under another privacy statement.
    """

    def __init__(
        self,
        network: nn.Module,
        privacy: PrivacySpec,
        *,
        public_epochs: int,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        label_smoothing: float = 0.05,
    ) -> None:
        super().__init__(network, public_epochs=public_epochs, optimizer=optimizer, label_smoothing=label_smoothing)
        self.privacy = privacy
        self.mechanism: GaussianMechanism | None = None
        self._loaded_steps = 0

    @property
    def private_epochs(self) -> int:
        """One: all noisy steps make one epoch."""
        return 1

    @property
    def in_private_phase(self) -> bool:
        """Whether the current epoch is the one of noisy steps."""
        return self.current_epoch >= self.public_epochs

    @property
    def privacy_statement(self) -> dict[str, Any]:
        """What the ε of a release depends on."""
        return asdict(self.privacy)

    @property
    def privacy_steps(self) -> int:
        """Noisy releases so far."""
        return self.mechanism.steps if self.mechanism else self._loaded_steps

    def privacy_report(self) -> PrivacyReport:
        """Return ε of the releases so far, under every relation."""
        return self.privacy.report(steps=self.privacy_steps)

    def check(self, data: TrainingData) -> None:
        """Refuse data and networks with which the guarantee would not hold."""
        super().check(data)
        GaussianMechanism(self.privacy, num_records=len(data.train_set))
        self.privacy.noise  # noqa: B018  # calibrated once, before anything else costs time

    def setup(self, stage: str) -> None:
        """Refuse settings of the Trainer that would void the guarantee."""
        super().setup(stage)
        if stage != "fit":
            return
        if self.trainer.precision in ("16-mixed", "16-true"):
            raise PrivacyError(
                f"trainer.precision {self.trainer.precision} is refused: the gradient scaler skips steps by looking at "
                "un-noised gradients. Use bf16-mixed or 32-true."
            )
        if self.privacy_steps:
            raise PrivacyError(
                f"These weights come from {self.privacy_steps} private steps, which a second training would not count. "
                "Start anew from a module that was not trained."
            )

    def start_mechanism(self, data: TrainingData) -> GaussianMechanism:
        """Return the mechanism of this run, made for the training records."""
        self.mechanism = GaussianMechanism(self.privacy, num_records=len(data.train_set))
        return self.mechanism

    @abstractmethod
    def private_step(self, batch: Any) -> None:
        """Take one noisy step on a batch that the mechanism's sampler drew."""

    def running_mechanism(self) -> GaussianMechanism:
        """Return the mechanism, once the private epoch has begun.

        Raises:
            PrivacyError: if it has not.
        """
        if self.mechanism is None:
            raise PrivacyError("A private batch came before the private epoch began; let the module choose its loader.")
        return self.mechanism

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the count of releases with the weights that they made, and what their ε depends on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_STEPS_KEY] = self.privacy_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the count of releases from the checkpoint.

        Raises:
            PrivacyError: if training is to go on from it.
        """
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            raise PrivacyError(
                "Resuming private training is refused: steps released after the checkpoint would be forgotten and ε "
                "reported too low. Start anew without --ckpt_path; what the interrupted run released stays spent."
            )
        super().on_load_checkpoint(checkpoint)
        self._loaded_steps = int(checkpoint[_STEPS_KEY])
