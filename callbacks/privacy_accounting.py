"""ε, logged as it is spent, and a budget that ends training."""

from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from pvision.checks import positive, positive_int
from pvision.errors import PrivacyError
from pvision.privacy import PrivacyReport, PrivacySpec, affordable_steps

__all__ = ["PrivacyAccounting"]


@runtime_checkable
class TrainsPrivately(Protocol):
    """What this callback asks of a LightningModule."""

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
    """Log ε of both masked relations, and stop before a budget is exceeded.

    Modules that do not train privately are left alone.

    Args:
        budget: the ε allowed, in the relation of the module's privacy statement; None for no limit.
        every_n_steps: how many noisy steps lie between two logged values.

    Raises:
        ConfigError: if a value is outside its range.

    Guarantee:
        No step is taken that would carry ε above ``budget``.

    Example:
        >>> PrivacyAccounting(budget=3.0).budget
        3.0
    """

    def __init__(self, *, budget: float | None = None, every_n_steps: int = 10) -> None:
        self.budget = None if budget is None else positive("privacy_accounting.budget", budget)
        self.every_n_steps = positive_int("privacy_accounting.every_n_steps", every_n_steps)
        self._allowed: int | None = None
        self._logged = 0

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._allowed, self._logged = None, 0
        if not isinstance(pl_module, TrainsPrivately):
            return
        spec = pl_module.privacy
        if not spec.private:
            rank_zero_warn("NOT PRIVATE: privacy.noise_seed is set, so the noise can be subtracted. Leave it out.")
        if self.budget is not None:
            self._allowed = affordable_steps(
                budget=self.budget,
                noise_multiplier=spec.noise,
                sample_rate=spec.sample_rate,
                steps=spec.steps,
                delta=spec.delta,
                relation=spec.accounted_relation(spec.relation),
            )
            if not self._allowed:
                raise PrivacyError(
                    f"privacy_accounting.budget {self.budget} does not allow a single noisy step: one costs "
                    f"ε = {spec.epsilon(spec.relation, steps=1):.3g}. Raise the budget or privacy.noise_multiplier."
                )
            rank_zero_info(f"Privacy budget ε ≤ {self.budget}: {self._allowed} of {spec.steps} noisy steps.")

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(pl_module, TrainsPrivately) and pl_module.in_private_phase and self._spent(pl_module):
            raise PrivacyError(
                f"The privacy budget ε ≤ {self.budget} is spent, but the Trainer goes on. "
                "Leave out trainer.min_epochs and trainer.min_steps, which forbid it to stop."
            )

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(pl_module, TrainsPrivately):
            return
        if pl_module.in_private_phase and self._spent(pl_module):
            trainer.should_stop = True
        if pl_module.privacy_steps - self._logged >= self.every_n_steps:
            self._logged = pl_module.privacy_steps
            values = privacy_metrics(pl_module.privacy_report())
            for logger in trainer.loggers:
                # Past log_every_n_steps, which would drop most of so few steps.
                logger.log_metrics(values, step=self._logged)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(pl_module, TrainsPrivately):
            pl_module.log_dict(privacy_metrics(pl_module.privacy_report()))

    def _spent(self, module: TrainsPrivately) -> bool:
        return self._allowed is not None and module.privacy_steps >= self._allowed


def privacy_metrics(report: PrivacyReport) -> dict[str, float]:
    """Return a report's numbers under the names by which they are logged."""
    return {
        "privacy/epsilon_zero_out": report.epsilon_zero_out,
        "privacy/epsilon_replace": report.epsilon_replace,
        "privacy/steps": float(report.steps),
    }
