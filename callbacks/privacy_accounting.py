"""ε, logged as it is spent, and a budget that ends training."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, Protocol, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from pvision.callbacks._opacus import check_optimizer, find_optimizer
from pvision.callbacks._opacus_run import OpacusRun, Statement
from pvision.checks import one_of, open_unit, positive, positive_int
from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PrivacyReport, PrivacySpec
from pvision.privacy.accounting import Relation
from pvision.privacy.spec import UNITS, Unit
from pvision.training import refuse_unnoised_logging, refuse_unsafe_trainer
from pvision.training.trainer_parts import callbacks_of

__all__ = ["PrivacyAccounting"]


@runtime_checkable
class TrainsPrivately(Protocol):
    """What this callback asks of a LightningModule, or of another callback, that trains privately."""

    privacy: PrivacySpec

    @property
    def in_private_phase(self) -> bool:
        """Whether the steps taken now are noisy releases."""

    @property
    def privacy_steps(self) -> int:
        """Noisy releases so far."""

    def privacy_report(self) -> PrivacyReport:
        """What may be claimed of them."""


class PrivacyAccounting(Callback):
    """Log ε, and stop before a budget is exceeded.

    It serves two kinds of runs. A module that trains privately itself, and `TrainPrivately`, carry their own statement:
    say nothing but the budget. A run that trains with an Opacus optimizer needs ``delta`` and ``unit``; the rest is
    read from the optimizer and from the loader that the Trainer really uses, a ledger is kept, and what would void the
    guarantee is refused or corrected (docs/opacus.md). Other runs are left alone.

    Args:
        budget: the ε allowed, in the relation of the privacy statement; None for no limit.
        every_n_steps: how many noisy steps lie between two logged values; None for a fiftieth of the planned ones, but
            at least 10, because computing ε takes up to a second or two.
        delta: δ, for Opacus; below 1 / (number of records).
        unit: what one record of the data set is, for Opacus: ``"clip"``, ``"video"`` or ``"subject"``.
        relation: the neighbouring relation of a budget, for Opacus: ``"add_remove"`` (if None) or ``"replace"``.
        steps: noisy steps that the run may take in all, resumptions included, for Opacus; None for those that the
            Trainer is set to take.
        public_metrics: for Opacus, metrics that may be monitored although their names do not say that they come from
            validation.
        log_unnoised: for Opacus, metrics of training that are logged all the same; ε says nothing of them.

    Raises:
        ConfigError: if a value is outside its range, or given to a module that states it itself.
        PrivacyError: if ε would not hold for the run, or the budget does not allow one step.

    Guarantee:
        No step is taken that would carry ε above ``budget``. With Opacus, every noisy step is charged to the run's
        ``ledger.jsonl`` before it happens, and a resumed run goes on in the ledger of its checkpoint.

    Example:
        >>> PrivacyAccounting(budget=3.0).budget
        3.0
    """

    def __init__(
        self,
        *,
        budget: float | None = None,
        every_n_steps: int | None = None,
        delta: float | None = None,
        unit: Unit | None = None,
        relation: Literal["add_remove", "replace"] | None = None,
        steps: int | None = None,
        public_metrics: Sequence[str] = (),
        log_unnoised: Sequence[str] = (),
    ) -> None:
        self.budget = None if budget is None else positive("privacy_accounting.budget", budget)
        if every_n_steps is not None:
            positive_int("privacy_accounting.every_n_steps", every_n_steps)
        self.every_n_steps = every_n_steps
        self.delta = None if delta is None else open_unit("privacy_accounting.delta", delta)
        self.unit, self.relation = unit, relation
        if unit is not None:
            one_of("privacy_accounting.unit", unit, UNITS)
        if relation is not None:
            one_of("privacy_accounting.relation", relation, ("add_remove", "replace"))
        self.steps = None if steps is None else positive_int("privacy_accounting.steps", steps)
        self.public_metrics, self.log_unnoised = tuple(public_metrics), tuple(log_unnoised)
        self._allowed: int | None = None
        self._logged = 0
        self._optimizer: Any | None = None  # Opacus's, for as long as fit lasts
        self._run: TrainsPrivately | None = None
        self._opacus: OpacusRun | None = None  # the same, if it trains by Opacus
        self._carried: dict[str, Any] | None = None
        self._watching = ExitStack()

    def check(self, pl_module: pl.LightningModule) -> None:
        """Refuse, before a run begins, what `fit` would refuse of a module that trains privately itself.

        Raises:
            ConfigError: if a value is given that the module states itself.
            PrivacyError: if the budget does not allow one step.
        """
        if isinstance(pl_module, TrainsPrivately):
            self._refuse_statement(type(pl_module).__name__)
            self._affordable(pl_module.privacy)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._allowed, self._logged, self._opacus = None, 0, None
        self._run = _private_part(trainer, pl_module)
        if self._run is not None:
            self._refuse_statement(type(self._run).__name__)
            self._begin(self._run.privacy)
            return
        self._optimizer = find_optimizer(trainer)
        if self._optimizer is not None:
            self._statement()
            check_optimizer(self._optimizer, pl_module, world_size=trainer.world_size)
            refuse_unsafe_trainer(trainer, pl_module, public_metrics=self.public_metrics)
        elif self.delta is not None:
            raise PrivacyError(
                f"PrivacyAccounting was told delta={self.delta}, but {type(pl_module).__name__} trains without noise: "
                "configure_optimizers gives no Opacus optimizer. Return the one that make_private gave."
            )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._optimizer is None:
            return
        carried, self._carried = self._carried, None
        run = OpacusRun(trainer, pl_module, self._optimizer, statement=self._statement(), carried=carried)
        self._begin(run.privacy)
        self._allowed = self._allowed or run.privacy.steps
        self._run = self._opacus = run
        run.start(trainer)
        self._watching.enter_context(refuse_unnoised_logging(trainer, log_unnoised=self.log_unnoised))
        # The Trainer has an iterator already, which would go on drawing as before. It offers no public way to renew it.
        fetcher = trainer.fit_loop._data_fetcher
        if fetcher is not None:
            iter(fetcher)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._opacus is not None:
            self._opacus.check_loader(trainer)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        run = self._run
        if run is not None and run.in_private_phase and self._spent(run):
            limit = "All planned noisy steps are" if self.budget is None else f"The privacy budget ε ≤ {self.budget} is"
            raise PrivacyError(
                f"{limit} spent, but the Trainer goes on. "
                "Leave out trainer.min_epochs and trainer.min_steps, which forbid it to stop."
            )
        if self._opacus is not None:
            self._opacus.expect_batch()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = self._run
        if run is None:
            return
        if run.in_private_phase and self._spent(run):
            trainer.should_stop = True
        if trainer.is_global_zero and run.privacy_steps - self._logged >= self._stride(run):
            self._logged = run.privacy_steps
            values = self._metrics(run)
            for logger in trainer.loggers:
                # Past log_every_n_steps, which would drop most of so few steps.
                logger.log_metrics(values, step=self._logged)

    def _stride(self, run: TrainsPrivately) -> int:
        return self.every_n_steps or max(10, run.privacy.steps // 50)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._run is not None:
            # All processes hold the same numbers; unless they are reduced, Lightning warns that they may not.
            pl_module.log_dict(self._metrics(self._run), sync_dist=True)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._opacus is not None and self._allowed is not None:
            self._opacus.tell_of_early_end(limit=self._allowed)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._end()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end()

    @override
    def state_dict(self) -> dict[str, Any]:
        state = None if self._opacus is None else self._opacus.state()
        return state or {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._carried = state_dict or None

    def privacy_report(self) -> PrivacyReport | None:
        """Return what may be claimed of the run that trains, or trained last, by Opacus; None if there was none."""
        return None if self._opacus is None else self._opacus.privacy_report()

    def _begin(self, spec: PrivacySpec) -> None:
        if not spec.private:
            rank_zero_warn("NOT PRIVATE: privacy.noise_seed is set, so the noise can be subtracted. Leave it out.")
        self._allowed = self._affordable(spec)
        if self._allowed is not None:
            rank_zero_info(f"Privacy budget ε ≤ {self.budget}: {self._allowed} of {spec.steps} noisy steps.")

    def _affordable(self, spec: PrivacySpec) -> int | None:
        if self.budget is None:
            return None
        allowed = spec.affordable_steps(self.budget)
        if not allowed:
            raise PrivacyError(
                f"privacy_accounting.budget {self.budget} does not allow a single noisy step: one costs "
                f"ε = {spec.epsilon(spec.relation, steps=1):.3g}. Raise the budget or privacy.noise_multiplier."
            )
        return allowed

    def _end(self) -> None:
        self._optimizer = None
        self._watching.close()
        if self._opacus is not None:
            self._opacus.end()

    def _spent(self, run: TrainsPrivately) -> bool:
        return self._allowed is not None and run.privacy_steps >= self._allowed

    def _metrics(self, run: TrainsPrivately) -> dict[str, float]:
        if run is not self._opacus:
            return privacy_metrics(run.privacy_report())
        relations: set[Relation] = {"add_remove", run.privacy.relation}
        values = {f"privacy/epsilon_{one}": run.privacy.epsilon(one, steps=run.privacy_steps) for one in relations}
        return {**values, "privacy/steps": float(run.privacy_steps)}

    def _statement(self) -> Statement:
        if self.delta is None or self.unit is None:
            missing = "delta" if self.delta is None else "unit"
            raise ConfigError(
                f"privacy_accounting.{missing} is missing: this run trains with an Opacus optimizer, and only you know "
                "it. Say for example PrivacyAccounting(delta=1e-5, unit='clip') if one record is one clip."
            )
        return Statement(self.delta, self.unit, self.relation or "add_remove", self.steps)

    def _refuse_statement(self, module: str) -> None:
        given = [name for name in ("delta", "unit", "relation", "steps") if getattr(self, name) is not None]
        if given:
            raise ConfigError(
                f"privacy_accounting.{given[0]} was given, but {module} states its own privacy. Leave it out here, and "
                f"set privacy.{given[0]} of the module."
            )


def _private_part(trainer: pl.Trainer, module: pl.LightningModule) -> TrainsPrivately | None:
    """Return what trains privately by a statement of its own: the module, or one of the callbacks."""
    return next((part for part in (module, *callbacks_of(trainer)) if isinstance(part, TrainsPrivately)), None)


def privacy_metrics(report: PrivacyReport) -> dict[str, float]:
    """Return a report's numbers under the names by which they are logged."""
    return {
        "privacy/epsilon_zero_out": report.epsilon_zero_out,
        "privacy/epsilon_replace": report.epsilon_replace,
        "privacy/steps": float(report.steps),
    }
