"""What a module logs while it trains privately: nothing that private records gave, unless the user names it."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from pvision.training import refuse_unnoised_logging
from pvision.training.trainer_parts import replaced

__all__ = ["PrivateLog"]


class PrivateLog:
    """Stands in for ``module.log`` during fit.

    What the module logs in training is withheld, with one warning for each name; validation logs as always, and so
    does the un-noised part of a step, which sees redacted records only. Other ways to the logs are refused.

    Args:
        trainer: in fit.
        module: what it trains.
        allowed: names that the user logs in spite of all, un-noised.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule, *, allowed: Sequence[str]) -> None:
        self._trainer, self._module, self._allowed = trainer, module, tuple(allowed)
        self._log = module.log
        self._public_records = 0  # above 0 while un-noised training runs
        self._told: set[str] = set()
        self._noted: dict[str, Tensor] | None = None
        self._options: dict[str, dict[str, Any]] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Stand in for the module's own ``log`` while the context lasts."""
        watched = refuse_unnoised_logging(
            self._trainer, log_unnoised=self._allowed, while_private=lambda: not self._public_records
        )
        with watched, replaced(self._module, "log", self._filtered):
            yield

    @contextmanager
    def public(self, records: int) -> Iterator[None]:
        """Let everything through: what is computed now depends on so many redacted records only."""
        self._public_records = records
        try:
            yield
        finally:
            self._public_records = 0

    def noting(self, loss: Callable[[Any], Tensor]) -> Callable[[Any], tuple[Tensor, dict[str, Tensor]]]:
        """Return a loss that also gives what was logged under an allowed name, instead of logging it."""

        def noted(batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            self._noted = {}
            try:
                return loss(batch), self._noted
            finally:
                self._noted = None

        return noted

    def replay(self, pieces: list[dict[str, Tensor]]) -> None:
        """Log the means over all records of what was noted."""
        for name, options in self._options.items():
            rows = [piece[name] for piece in pieces if name in piece]
            if rows:
                values = torch.cat(rows)
                self._log(name, values.float().mean(), **{**options, "batch_size": len(values), "sync_dist": False})

    def _filtered(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        if self._public_records:
            # Lightning would take the size of the private batch, which is secret.
            self._log(name, value, *args, **{"batch_size": self._public_records, **options})
        elif not self._trainer.training or name.startswith("privacy/"):
            self._log(name, value, *args, **options)
        elif name not in self._allowed:
            self._withhold(name)
        elif self._noted is None or not isinstance(value, Tensor | int | float):
            self._log(name, value, *args, **options)
        else:
            self._noted[name] = torch.as_tensor(value).detach()
            given = inspect.signature(self._log).bind(name, value, *args, **options).arguments
            self._options[name] = {key: one for key, one in given.items() if key not in ("name", "value")}

    def _withhold(self, name: str) -> None:
        if name not in self._told:
            self._told.add(name)
            rank_zero_warn(
                f"{name!r} is not logged: it comes from private records without noise, and ε would not cover it. Name "
                "it in TrainPrivately(log_unnoised=…) to log it all the same."
            )
