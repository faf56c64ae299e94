"""A project whose module is as accurate as a script says, and what it takes to train and test it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks.forgetting_metrics import ForgettingMetrics

R = [[0.90, 0.20, 0.15, 0.10], [0.80, 0.85, 0.25, 0.15], [0.94, 0.70, 0.95, 0.30], [0.75, 0.65, 0.97, 0.92]]
BASELINE, COUNTS = [0.10, 0.12, 0.08, 0.10], [100, 100, 200, 100]


class Scripted(pl.LightningModule):
    """Somebody's module that is as accurate as the script says: one row after each of its fits."""

    def __init__(self, script: Sequence[Sequence[float]] = R, *, by_hand: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = not by_hand
        self.layer, self.script, self.fits = nn.Linear(1, 1), script, 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = self.layer(batch[0]).square().mean()
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def evaluate(self, batch: Any, loader: int) -> tuple[Tensor, Tensor]:
        accuracy = (BASELINE if not self.fits else self.script[self.fits - 1])[loader]
        position = batch[0][:, 0].round().long()
        target = torch.full_like(position, loader)
        right = position < round(accuracy * COUNTS[loader])
        return torch.where(right, target, (target + 1) % 4), target

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        preds, target = self.evaluate(batch, dataloader_idx)
        self.log("test_acc", (preds == target).float().mean())
        self.log("test_percent", 100 * (preds == target).float().mean())
        return {"preds": preds, "target": target}

    def on_fit_end(self) -> None:
        self.fits += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Validated(Scripted):
    """Evaluates within its fits."""

    validation_step = Scripted.test_step


class Silent(Scripted):
    """Returns no predictions."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(batch, batch_idx, dataloader_idx)


def loader(size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(size, dtype=torch.float32)[:, None]), batch_size=64)


def loaders(count: int = 4) -> list[DataLoader[Any]]:
    return [loader(size) for size in COUNTS[:count]]


def trainer(*callbacks: pl.Callback, **changes: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "max_epochs": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": Path.cwd(),
    }
    return pl.Trainer(callbacks=list(callbacks), **{**settings, **changes})


def learn(callback: ForgettingMetrics, module: Scripted, fits: int, **changes: Any) -> None:
    """Fit and test as often as asked for, each time with a new Trainer."""
    for _ in range(fits):
        run = trainer(callback, **changes)
        run.fit(module, loader(4))
        run.test(module, loaders(), verbose=False)
