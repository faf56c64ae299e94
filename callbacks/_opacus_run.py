"""A run that trains by Opacus, seen as one that trains privately: its statement, its ledger, its releases."""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from pvision.callbacks._opacus_loader import PoissonLoader, draw_in_secret, read_loader
from pvision.callbacks._opacus_releases import NoisyReleases
from pvision.errors import PrivacyError
from pvision.privacy import PrivacyReport, PrivacySpec, Ranks
from pvision.privacy.spec import Unit
from pvision.training.run_ledger import RunLedger
from pvision.training.spent_weights import have_spent, note_spending

__all__ = ["OpacusRun", "Statement"]

# What a network trained in this process has spent: it goes on in the ledger that charges for what it holds.
_SPENT: "WeakKeyDictionary[nn.Module, dict[str, Any]]" = WeakKeyDictionary()


class Statement(NamedTuple):
    """What only the user can know of a run that trains by Opacus.

    Attributes:
        delta: δ.
        unit: what one record of the data set is.
        relation: the neighbouring relation in which a budget is meant.
        steps: noisy steps planned; None for those that the Trainer will take.
    """

    delta: float
    unit: Unit
    relation: Literal["add_remove", "replace"]
    steps: int | None


class OpacusRun:
    """One fit with an Opacus optimizer that `check_optimizer` accepted.

    Args:
        trainer: the Trainer, with its training loader.
        module: what it trains.
        optimizer: the Opacus optimizer.
        statement: what the user states.
        carried: what `state` gave to the checkpoint from which the run resumes.

    Attributes:
        privacy: the whole statement: the user's, with what optimizer and loader say.
        in_private_phase: True; every step is a noisy release.
        privacy_steps: releases charged to the ledger, those of earlier runs included.

    Raises:
        PrivacyError: if ε would not hold for what is about to run.
    """

    in_private_phase = True

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        optimizer: Any,
        *,
        statement: Statement,
        carried: dict[str, Any] | None,
    ) -> None:
        self._module, self._optimizer = module, optimizer
        self._resumes = trainer.ckpt_path is not None
        # Rank 0 alone knows of a ledger that this process wrote.
        self._carried = trainer.strategy.broadcast(carried if self._resumes else _SPENT.get(module))
        if self._carried is None and not self._resumes and have_spent(module):
            raise PrivacyError(
                "This network was trained privately already, by a module that this one was copied or made from, or in "
                "a fast_dev_run; a new ledger would not know of it. Train a new network, or resume from a checkpoint."
            )
        loader = self._loader(trainer)
        self.num_records, self._split = loader.num_records, loader.split
        planned = None if self._carried is None else int(self._carried["steps"])
        self.privacy = PrivacySpec(
            mechanism="dp_sgd",
            unit=statement.unit,
            mask="private",
            label="private",
            relation=statement.relation,
            delta=statement.delta,
            max_grad_norm=float(optimizer.max_grad_norm),
            sample_rate=loader.sample_rate,
            steps=_planned_steps(trainer, statement, loader, before=planned),
            noise_multiplier=float(optimizer.noise_multiplier),
        )
        self.privacy_steps = 0
        self._file = RunLedger()
        self._releases: NoisyReleases | None = None
        _check_delta(statement.delta, loader.num_records)
        _check_scale(optimizer, loader, trainer.world_size)

    def start(self, trainer: pl.Trainer) -> None:
        """Open the ledger, and stand between the optimizer and its noise; a collective.

        Raises:
            PrivacyError: if the ledger may not be continued, or has nothing left.
        """
        if self._carried is not None or self._resumes:
            checkpoint = None if trainer.ckpt_path is None else Path(trainer.ckpt_path)
            self._file.load(None if self._carried is None else self._carried["ledger"], checkpoint=checkpoint)
        self._file.open(trainer, self.privacy, num_units=self.num_records, fingerprint="")
        ledger = self._file.ledger
        self.privacy_steps = Ranks().count_of_first(0 if ledger is None else ledger.spent)
        if self.privacy_steps >= self.privacy.steps:
            raise PrivacyError(
                f"All {self.privacy.steps} planned steps are charged already, so there is nothing left to train. More "
                "steps need a new run, with PrivacyAccounting(steps=…) set to what it may take in all."
            )
        self._releases = NoisyReleases(self._optimizer, charge=self._charge, first=trainer.is_global_zero)
        self.check_loader(trainer)

    def privacy_report(self) -> PrivacyReport:
        """Return what may be claimed so far."""
        return self.privacy.report(steps=self.privacy_steps)

    def check_loader(self, trainer: pl.Trainer) -> None:
        """Refuse a loader that was exchanged for one with another rate, and let a new one draw in secret.

        Raises:
            PrivacyError: if ε would not hold for it.
        """
        loader = self._loader(trainer)
        if (loader.sample_rate, loader.num_records) != (self.privacy.sample_rate, self.num_records):
            raise PrivacyError(
                f"The training loader draws each of {loader.num_records} records with probability "
                f"{loader.sample_rate}, and drew each of {self.num_records} with {self.privacy.sample_rate} when "
                "training began. Keep one loader for the whole run."
            )
        if self._releases is not None:
            draw_in_secret(loader.sampler, self._releases)

    def expect_batch(self) -> None:
        """Allow one step, for the batch that comes now."""
        if self._releases is not None:
            self._releases.expect_batch()

    def state(self) -> dict[str, Any] | None:
        """Return what a checkpoint has to carry, as plain values; None where no ledger is kept."""
        ledger = self._file.state()
        if ledger is None or self._file.path is None:
            return None
        return {"ledger": ledger, "steps": self.privacy.steps}

    def tell_of_early_end(self, *, limit: int) -> None:
        """Warn if the Trainer came to its end before ``limit`` steps, and how many it took was not public before."""
        if self._split and self.privacy_steps < limit:
            rank_zero_warn(
                f"The Trainer ended after {self.privacy_steps} of {limit} noisy steps. Under BatchMemoryManager it "
                "counts physical batches, so this number depends on who was drawn, which ε does not cover. Raise "
                "trainer.max_epochs or lower PrivacyAccounting(steps=…), so that the steps end the run."
            )

    def end(self) -> None:
        """Refuse every further step, close the ledger, and tell of records that were left out."""
        self._file.close()
        if self._releases is None:
            return
        self._releases.expect_nothing()
        if self.privacy_steps:
            note_spending(self._module)
        if self.privacy_steps and (state := self.state()) is not None:
            _SPENT[self._module] = state
        if self._releases.non_finite:
            rank_zero_warn(
                f"{self._releases.non_finite} per-record gradients were not finite and counted as zero. This number is "
                "not noised: keep it to yourself."
            )
            self._releases.non_finite = 0

    def _loader(self, trainer: pl.Trainer) -> PoissonLoader:
        return read_loader(trainer.train_dataloader, self._optimizer, world_size=trainer.world_size)

    def _charge(self) -> None:
        # Every process counts, so that all of them stop at the same step.
        if self.privacy_steps >= self.privacy.steps:
            raise PrivacyError(
                f"All {self.privacy.steps} planned steps are charged; no further one is released. State more with "
                "PrivacyAccounting(steps=…) before a run begins."
            )
        if self._file.ledger is not None:
            self._file.ledger.charge()
        self.privacy_steps += 1


def _planned_steps(trainer: pl.Trainer, statement: Statement, loader: PoissonLoader, *, before: int | None) -> int:
    if statement.steps is not None:
        return statement.steps
    if loader.split and before is None:
        raise PrivacyError(
            "privacy_accounting.steps is missing. Under BatchMemoryManager the Trainer counts physical batches, whose "
            "number depends on who was drawn; state how many noisy steps to take, and training ends after so many."
        )
    estimate = trainer.estimated_stepping_batches
    if before is not None:
        if not loader.split and estimate > before:
            raise PrivacyError(
                f"The run was planned with {before} noisy steps, and this Trainer would take {estimate} in all. A plan "
                "cannot grow: begin a run with PrivacyAccounting(steps=…) set to all steps it may ever take."
            )
        return before
    if not math.isfinite(estimate) or estimate < 1:
        raise PrivacyError(
            f"The Trainer will take {estimate} steps, from which no plan can be made. Give trainer.max_epochs or "
            "trainer.max_steps, or PrivacyAccounting(steps=…)."
        )
    return int(estimate)


def _check_delta(delta: float, num_records: int) -> None:
    if delta >= 1 / num_records:
        raise PrivacyError(
            f"privacy_accounting.delta {delta} is not below 1/N = {1 / num_records:.2g} for {num_records} records: "
            "publishing one record at random would satisfy it. "
            f"Set it well below, for example {0.1 / num_records:.0e}."
        )


def _check_scale(optimizer: Any, loader: PoissonLoader, world_size: int) -> None:
    """Warn of a divisor that is far from the expected batch size: it scales the learning rate, and costs no privacy."""
    expected = loader.sample_rate * loader.num_records / world_size
    divisor = optimizer.expected_batch_size
    if optimizer.loss_reduction == "mean" and abs(divisor - expected) > max(1.0, 0.1 * expected):
        rank_zero_warn(
            f"The Opacus optimizer divides by expected_batch_size {divisor}, but {expected:.4g} records are drawn on "
            "average: the learning rate is off by that factor. Take optimizer and loader from one call of make_private."
        )
