"""What all private action-recognition modules share: the mechanism, its ledger, and what they refuse."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from typing_extensions import override

from pvision.errors import PrivacyError
from pvision.modules.video_classifier import TrainingData, VideoClassifier
from pvision.privacy import GaussianMechanism, PrivacyReport, PrivacySpec, Units, protected_units
from pvision.training import refuse_unnoised_logging, refuse_unsafe_optimizers, refuse_unsafe_trainer
from pvision.training.run_ledger import RunLedger
from pvision.training.spent_weights import have_spent, note_spending
from pvision.training.trainer_parts import callbacks_of

__all__ = ["PrivateClassifier"]

_STATE_KEY = "privacy_progress"


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
        log_unnoised: names of metrics that a subclass may log in noisy steps although they were computed without
            noise; ε does not cover them.

    Raises:
        PrivacyError: if the run could not keep its guarantee: an unsafe setting of the Trainer, private training
            repeated from weights that cost something already, a ledger that does not fit the checkpoint, a δ too large
            for the data, weights made under another privacy statement.
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
        self.log_unnoised: Sequence[str] = ()
        self._ledger = RunLedger()
        self._loaded_steps = 0
        self._taken = 0  # private batches so far, as Lightning counts them
        self._resumes = False

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
        return self.privacy.as_dict()

    @property
    def privacy_steps(self) -> int:
        """Noisy releases so far, lost ones included."""
        return self.mechanism.steps if self.mechanism else self._loaded_steps

    def privacy_report(self) -> PrivacyReport:
        """Return ε of the releases so far, under every relation."""
        return self.privacy.report(steps=self.privacy_steps)

    # Before anything runs

    def check(self, data: TrainingData) -> None:
        """Refuse data and networks with which the guarantee would not hold."""
        super().check(data)
        _check_polarity(self.privacy, data)
        self.protected_units(data)
        self.privacy.noise  # noqa: B018  # calibrated once, before anything else costs time

    def setup(self, stage: str) -> None:
        """Refuse settings of the Trainer that would void the guarantee."""
        super().setup(stage)
        if stage != "fit":
            return
        refuse_unsafe_trainer(self.trainer, self)
        if self.privacy_steps or (self.trainer.ckpt_path is None and have_spent(self)):
            source = f"{self.privacy_steps} private steps" if self.privacy_steps else "the private steps of another run"
            raise PrivacyError(
                f"These weights come from {source}, which a second training would not count. Start anew from a network "
                "that was not trained privately, or resume the run from its checkpoint."
            )

    def configure_callbacks(self) -> Sequence[Callback]:
        """Return what watches the logs of noisy steps, and closes the ledger however training ends."""
        # Once: Lightning asks at every stage, and would tell that the new one replaces the old one.
        known = any(isinstance(callback, _Watch) for callback in callbacks_of(self.trainer))
        return [] if known else [_Watch()]

    def on_fit_start(self) -> None:
        """Begin the ledger, or go on in the one that the checkpoint names."""
        refuse_unsafe_trainer(self.trainer, self)  # once more: now there are schedules too
        refuse_unsafe_optimizers(self._noisy_optimizers(), self)
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer.fit(datamodule=…)
        self._ledger.open(
            self.trainer,
            self.privacy,
            num_units=self.protected_units(data).count,
            fingerprint=data.fingerprint(names=self._names_are_public()),
        )

    def _names_are_public(self) -> bool:
        # Whoever knows all other names could confirm the last one, and in many data sets with it a label. Fixed batches
        # hide nobody's existence, and need the order of names: it decides whose turn it is.
        hides_existence = self.privacy.mechanism == "dp_sgd" and self.privacy.sampling != "deterministic"
        return self.privacy.label == "public" and not hides_existence

    def _noisy_optimizers(self) -> list[Any]:
        optimizers = self.optimizers()
        return list(optimizers[1:]) if isinstance(optimizers, list) else []

    def protected_units(self, data: TrainingData) -> Units:
        """Return the units that noisy steps draw from."""
        return protected_units(self.privacy, num_records=len(data.train_set), **self._who(data))

    @property
    def ledger_path(self) -> Path | None:
        """Where the ledger of the last fit lies; None on other ranks than 0, and if it left none."""
        return self._ledger.path

    def close_ledger(self) -> None:
        """Give back reserved steps that did not run; done when fit ends, by an exception too."""
        self._ledger.close()
        if self.privacy_steps:
            note_spending(self)

    # Noisy steps

    def start_mechanism(self, data: TrainingData) -> GaussianMechanism:
        """Return the mechanism of this run, made for the training records.

        Raises:
            PrivacyError: outside of fit, where no ledger would charge its releases, and its count would begin anew.
        """
        if not self._ledger.is_open:
            raise PrivacyError(
                "The private training loader exists during fit only, which counts what it releases. To look at the "
                "training clips, use data.two_view_loader()."
            )
        self.mechanism = GaussianMechanism(
            self.privacy,
            num_records=len(data.train_set),
            **self._who(data),
            ledger=self._ledger.ledger,
            taken=self._taken if self._resumes else 0,
        )
        self._taken = self._taken if self._resumes else 0
        self._resumes = False
        return self.mechanism

    def _who(self, data: TrainingData) -> dict[str, Any]:
        spec, records = self.privacy, data.train_set
        return {
            "units": None if spec.unit == "clip" else records.unit_names(spec.unit),
            "population": None if spec.population == "all" else records.sensitive.nonzero().flatten(),
        }

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Train on the redacted view without noise; `private_step` takes every other kind of batch."""
        super().training_step(batch, batch_idx)
        self._taken += self.in_private_phase

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

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was released with the weights that it made, and where in the ledger that stands."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_STATE_KEY] = {
            "steps": self.privacy_steps,
            "taken": self._taken,
            "ledger": self._ledger.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take from the checkpoint what was released, and the ledger in which to go on.

        Raises:
            PrivacyError: if the checkpoint was made under another statement, or names no ledger to go on in.
        """
        super().on_load_checkpoint(checkpoint)
        state = checkpoint[_STATE_KEY]
        self._loaded_steps = int(state["steps"])
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            path = self.trainer.ckpt_path
            self._ledger.load(state["ledger"], checkpoint=None if path is None else Path(path))
            self._taken = int(state["taken"])
            self._resumes = True


class PrivateLoader:
    """The loader of the private epoch. It draws anew wherever training goes on, so it has no state to restore.

    Args:
        loader: any loader whose batches a mechanism's sampler drew.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; that there is this method tells Lightning that a resumed epoch is no accident."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class _Watch(Callback):
    """From the first step on refuses to log what noisy steps computed without noise; at the end closes the ledger."""

    def __init__(self) -> None:
        self._watching = ExitStack()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, PrivateClassifier):
            names = pl_module.log_unnoised
            self._watching.enter_context(
                refuse_unnoised_logging(trainer, log_unnoised=names, while_private=lambda: pl_module.in_private_phase)
            )

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(pl_module)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end(pl_module)

    def _end(self, module: pl.LightningModule) -> None:
        self._watching.close()
        if isinstance(module, PrivateClassifier):
            module.close_ledger()


def _check_polarity(spec: PrivacySpec, data: TrainingData) -> None:
    redaction = getattr(data, "redaction", None)
    if spec.polarity is not None and redaction is not None and redaction.sensitive != spec.polarity:
        raise PrivacyError(
            f"privacy.polarity is {spec.polarity!r}, but data.redaction.sensitive is {redaction.sensitive!r}: the "
            "wrong side of the mask would be protected. Make them agree."
        )
