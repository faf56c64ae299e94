"""A foreign project with a frozen network, for the tests of FrozenGuard."""

from collections.abc import Callable, Mapping

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks.frozen_guard import FrozenGuard

__all__ = ["Foreign", "Knows", "Validates", "fit", "loader", "network", "past_the_counters", "trainer", "write"]


def network() -> nn.Sequential:
    """A frozen network with running statistics, the same each time."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)).requires_grad_(False)


class Foreign(pl.LightningModule):
    """Somebody's module: a trained layer before a frozen network, manual optimisation, hooks to misbehave in."""

    def __init__(self, **misdeeds: Callable[["Foreign"], object]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.before, self.net = nn.Linear(3, 3), network()
        self.misdeeds, self.batches = misdeeds, 0

    def do(self, when: str) -> None:
        if when in self.misdeeds:
            self.misdeeds[when](self)

    def on_fit_start(self) -> None:
        self.do("on_fit_start")

    def on_train_epoch_start(self) -> None:
        self.do("on_train_epoch_start")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.batches += 1
        self.do("training_step")
        optimizer = self.optimizers()
        loss = self.net(self.before(batch[0])).square().mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.do("after_backward")
        optimizer.step()

    def on_train_end(self) -> None:
        self.do("on_train_end")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.do("test_step")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.do("predict_step")
        return self.net(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([one for one in self.parameters() if one.requires_grad], 0.1)


class Validates(Foreign):
    """A module with a validation."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.do("validation_step")


class Knows(Foreign):
    """A module that says itself what must stay frozen."""

    def frozen_modules(self) -> Mapping[str, nn.Module]:
        return {"network": self.net}


def loader() -> DataLoader:
    return DataLoader(TensorDataset(torch.arange(24.0).reshape(8, 3)), batch_size=2)


def trainer(*callbacks: pl.Callback, **changes: object) -> pl.Trainer:
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
        "default_root_dir": "out",
    }
    return pl.Trainer(**{**settings, **changes})


def fit(module: pl.LightningModule, guard: FrozenGuard | None = None, **changes: object) -> FrozenGuard:
    guard = guard or FrozenGuard(["net"])
    trainer(guard, **changes).fit(module, loader())
    return guard


def write(module: Foreign, tensor: Callable[[nn.Sequential], Tensor]) -> None:
    with torch.no_grad():
        tensor(module.net).add_(1)


def past_the_counters(module: Foreign) -> None:
    module.net[0].weight.data.add_(1)
