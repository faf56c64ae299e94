"""What Lightning calls while somebody else's module trains privately."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from pvision.callbacks._private_loader import TrainingData
from pvision.callbacks._private_run import PrivateRun, Settings
from pvision.callbacks._private_statement import released_metrics
from pvision.callbacks.privacy_accounting import PrivacyAccounting
from pvision.errors import PrivacyError
from pvision.privacy import PrivacyReport
from pvision.training import refuse_unsafe_trainer
from pvision.training.spent_weights import have_spent, note_spending
from pvision.training.trainer_parts import callbacks_of

__all__ = ["PrivateHooks"]


class PrivateHooks(Callback):
    """The hooks of `TrainPrivately`, and what it can tell of its run.

    Args:
        settings: what the user chose.

    Attributes:
        privacy: the statement.
    """

    def __init__(self, settings: Settings) -> None:
        self.privacy = settings.privacy
        self._settings = settings
        self._data: TrainingData | None = None
        self._run: PrivateRun | None = None
        self._loaded_steps: int | None = None

    @property
    def privacy_steps(self) -> int:
        """Noisy releases so far, lost ones included."""
        if self._run is not None and self._run.mechanism is not None:
            return self._run.mechanism.steps
        return self._loaded_steps or 0

    @property
    def in_private_phase(self) -> bool:
        """True: every step is a noisy release."""
        return True

    def report(self) -> PrivacyReport:
        """Return what may be claimed of the releases so far.

        Raises:
            PrivacyError: if no fit ran in this process, as under a strategy that trains in child processes.
        """
        if self._run is None and self._loaded_steps is None:
            raise PrivacyError(
                "No private fit ran in this process, so it does not know what was released. The run's ledger does: "
                "pvision.privacy.ledger_report(path of its ledger.jsonl)."
            )
        return self.privacy.report(steps=self.privacy_steps)

    def privacy_report(self) -> PrivacyReport:
        """Return `report`, under the name by which `PrivacyAccounting` asks for it."""
        return self.report()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_unsafe_trainer(trainer, pl_module)
        if trainer.ckpt_path is None and (self.privacy_steps or have_spent(pl_module)):
            raise PrivacyError(
                "This module was trained privately already, and a second fit would not be added to its ε. Start from a "
                "new module with a new TrainPrivately, or resume the run from its checkpoint."
            )
        self._loaded_steps = None
        self._run = PrivateRun(trainer, pl_module, self._settings)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refuse_unsafe_trainer(trainer, pl_module)  # again, now that the schedules exist
        self._running().check_module()
        if trainer.ckpt_path is not None and self._loaded_steps is None:
            raise PrivacyError(
                f"The checkpoint {trainer.ckpt_path} was not made with TrainPrivately, so what its weights have cost "
                "is unknown. Resume a private run, or load public weights into the module before fit."
            )
        if not self.privacy.private:
            rank_zero_warn("NOT PRIVATE: privacy.noise_seed is set, so the noise can be subtracted. Leave it out.")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run, data = self._running(), self._training_data()
        run.check_loader(data, collate=True)
        run.replace_methods(data)
        run.stop_if_spent()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._running().check_loader(self._training_data())  # it may have been made anew

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        run = self._running()
        if run.step is not None:
            run.step.expect(self._training_data().batches.next_positions())

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        run = self._running()
        if run.step is not None and trainer.training:
            run.step.check_gradients(optimizer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = self._running()
        if run.step is not None:
            run.step.check_released()
        run.stop_if_spent()

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not any(isinstance(one, PrivacyAccounting) for one in callbacks_of(trainer)):  # which logs the same
            pl_module.log_dict(released_metrics(self.report()), sync_dist=True)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._finish()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._finish()

    @override
    def state_dict(self) -> dict[str, Any]:
        ledger = None if self._run is None else self._run.ledger.state()
        return {"steps": self.privacy_steps, "ledger": ledger}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded_steps = int(state_dict["steps"])
        if self._run is not None:
            self._run.resume(state_dict["ledger"])

    def _finish(self) -> None:
        if self._run is not None:
            self._run.finish()
            if self.privacy_steps:
                note_spending(self._run.module)

    def _running(self) -> PrivateRun:
        if self._run is None:
            raise PrivacyError(
                "The private loader can be iterated while Trainer(callbacks=[private]) fits, and not before. To look "
                "at the data, make a DataLoader of your own."
            )
        return self._run

    def _training_data(self) -> TrainingData:
        if self._data is None:
            raise PrivacyError(
                "TrainPrivately has no data. Let private.loader(dataset) make the training loader, in place of "
                "DataLoader."
            )
        return self._data
