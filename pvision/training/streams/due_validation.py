"""Checkpoints that are written after a training batch and before the validation that follows it."""

from typing import Any

import lightning.pytorch as pl

__all__ = ["begin_with_due_validation"]


def begin_with_due_validation(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Let what goes on from ``checkpoint`` begin with the validation that is due.

    Lightning takes it for done, so that early stopping and whatever else looks at it would miss one. The progress is
    written as if the validation had been interrupted at its first batch: then Lightning begins it anew.
    """
    loops, progress = trainer.fit_loop, checkpoint["loops"]["fit_loop"]
    trained = progress["epoch_loop.batch_progress"]
    batch_ends = trained["total"]["completed"] == trained["total"]["processed"] - 1
    fetcher = loops._data_fetcher
    if not batch_ends or fetcher is None or not loops.epoch_loop._should_check_val_fx(fetcher):
        return
    for counts in (trained["total"], trained["current"]):
        counts["completed"] += 1
    validated = progress["epoch_loop.val_loop.batch_progress"]
    validated["current"] = dict.fromkeys(validated["current"], 0)
    for counts in (validated["total"], validated["current"]):
        counts["ready"] = counts["started"] = counts["completed"] + 1
