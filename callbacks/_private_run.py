"""One private fit of somebody else's module: mechanism, ledger, and what stands in for the module's own methods."""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from pvision.callbacks._private_loader import PublicBatches, TrainingData
from pvision.callbacks._private_log import PrivateLog
from pvision.callbacks._private_step import PrivateStep, carrier
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import GaussianMechanism, PrivacySpec, protected_units
from pvision.privacy.record_batches import BatchRedaction
from pvision.training import refuse_unsafe_loader, refuse_unsafe_network, refuse_unsafe_optimizers
from pvision.training.run_ledger import RunLedger
from pvision.training.trainer_parts import replaced

__all__ = ["PrivateRun", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `TrainPrivately` was given; see there."""

    privacy: PrivacySpec
    redact: Callable[[Any], Any] | None
    engine: str
    microbatch: int
    public_batch_size: int | None
    residual_weight: float
    log_unnoised: Sequence[str]


class PrivateRun:
    """One fit.

    Args:
        trainer: the Trainer in fit.
        module: the user's module.
        settings: what the user chose.

    Attributes:
        ledger: of this run; the checkpoint tells it where to go on.
        mechanism: from `start` on.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule, settings: Settings) -> None:
        self.trainer, self.module, self.settings = trainer, module, settings
        self.ledger = RunLedger()
        self.mechanism: GaussianMechanism | None = None
        self.step: PrivateStep | None = None
        self._replaced = ExitStack()

    def start(self, data: TrainingData) -> GaussianMechanism:
        """Return the mechanism; the first call opens the ledger, and is a collective."""
        if self.mechanism is None:
            spec = self.settings.privacy
            who: dict[str, Any] = {"units": data.units, "population": data.population}
            count = protected_units(spec, num_records=len(data.dataset), **who).count
            self.ledger.open(self.trainer, spec, num_units=count, fingerprint=_order_of_turns(spec, data))
            self.mechanism = GaussianMechanism(spec, num_records=len(data.dataset), **who, ledger=self.ledger.ledger)
        return self.mechanism

    def check_module(self) -> None:
        """Refuse networks and optimizers with which the guarantee would not hold."""
        # Engines here differentiate a record's whole loss, so all uses of a shared parameter are summed first.
        refuse_unsafe_network(self.module, allow_shared=True)
        refuse_unsafe_optimizers(self.trainer.optimizers, self.module)

    def replace_methods(self, data: TrainingData) -> None:
        """Put private training in the place of the module's own, until `finish`."""
        log = PrivateLog(self.trainer, self.module, allowed=self.settings.log_unnoised)
        self.step = self._make_step(data, log)
        self._replaced.enter_context(log.watch())
        if self.module.automatic_optimization:
            self._replaced.enter_context(replaced(self.module, "training_step", self._private_training_step(self.step)))
            return
        self._replaced.enter_context(replaced(self.module, "manual_backward", _refuse_backward))
        for optimizer in self.trainer.optimizers:
            handle = optimizer.register_step_pre_hook(lambda one, *_: self._check(one))
            self._replaced.callback(handle.remove)

    def resume(self, state: dict[str, Any] | None) -> None:
        """Take from a checkpoint which ledger to go on in, where fit begins from it."""
        if self.mechanism is None and self.trainer.state.fn == TrainerFn.FITTING:
            path = self.trainer.ckpt_path
            self.ledger.load(state, checkpoint=None if path is None else Path(path))

    def check_loader(self, data: TrainingData, *, collate: bool = False) -> None:
        """Refuse to train on another loader than the private one, or on one that mixes records.

        Args:
            data: what the user gave.
            collate: whether to run the collate function.
        """
        dataset = data.dataset
        refuse_unsafe_loader(
            self.trainer.train_dataloader,
            data.batches,
            num_records=len(dataset),
            items=[dataset[0], dataset[1]] if collate and len(dataset) > 1 else None,
        )

    def finish(self) -> None:
        """Give the module its methods back and close the ledger; may be called again."""
        self._replaced.close()
        self.ledger.close()
        if self.mechanism is not None and self.mechanism.nonfinite:
            rank_zero_warn(
                f"{self.mechanism.nonfinite} gradients were not finite and counted as zero. This number is not noised: "
                "keep it to yourself."
            )
            self.mechanism.nonfinite = 0

    @property
    def all_spent(self) -> bool:
        """Whether no step is left."""
        return self.mechanism is not None and self.mechanism.steps >= self.settings.privacy.steps

    def stop_if_spent(self) -> None:
        """Let the Trainer stop when no step is left."""
        if self.all_spent and not self.trainer.should_stop:
            rank_zero_info(f"All {self.settings.privacy.steps} private steps are spent; training ends.")
            self.trainer.should_stop = True

    def _make_step(self, data: TrainingData, log: PrivateLog) -> PrivateStep:
        settings, mechanism = self.settings, self.start(data)
        public = None
        if settings.privacy.mechanism == "residual":
            expected = round(settings.privacy.sample_rate * len(data.dataset))
            size = settings.public_batch_size or max(1, expected)
            public = PublicBatches(data, batch_size=-(-size // self.trainer.world_size), trainer=self.trainer)
        return PrivateStep(
            self.module,
            mechanism,
            log=log,
            redact=None if settings.redact is None else BatchRedaction(settings.redact),
            public=public,
            engine=settings.engine,
            microbatch=settings.microbatch,
            residual_weight=settings.residual_weight,
        )

    def _private_training_step(self, step: PrivateStep) -> Callable[[Any, int], Tensor]:
        original = self.module.training_step
        takes_index = _takes_index(original)

        def training_step(batch: Any, batch_idx: int) -> Tensor:
            def loss(records: Any) -> Any:
                return original(records, batch_idx) if takes_index else original(records)

            return carrier(self.module, step.gradients(loss, batch))

        return training_step

    def _check(self, optimizer: Any) -> None:
        if self.step is not None:
            self.step.check_gradients(optimizer)


def _order_of_turns(spec: PrivacySpec, data: TrainingData) -> str:
    """Return what must not change while units take turns: who they are, in order; nothing where lots are drawn.

    Under fixed batches the names are no secret, because nothing hides that a unit exists.
    """
    if spec.sampling != "deterministic":
        return ""
    names = None if data.units is None else list(map(str, data.units))
    population = None if data.population is None else list(map(int, data.population))
    return hashlib.sha256(json.dumps([names, population]).encode()).hexdigest()


def _takes_index(training_step: Callable[..., Any]) -> bool:
    names = list(inspect.signature(training_step).parameters)
    if "dataloader_iter" in names:
        raise ConfigError(
            "training_step takes dataloader_iter and draws batches by itself, which the mechanism must do. Let it take "
            "(batch, batch_idx)."
        )
    return len(names) > 1


def _refuse_backward(*_: Any, **__: Any) -> None:
    raise PrivacyError(
        "self.manual_backward would compute un-noised gradients of private records. Call "
        "private.backward(self, batch, loss) in its place, where loss takes a batch and returns its loss."
    )
