"""A user's project with its own LightningModule and data, for the tests of the command; imported as `toy_project`."""

import os
import signal
from typing import Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pvision.errors import ConfigError, CorruptVideoError, DataError, PrivacyError

Fault = Literal["none", "user", "bug", "interrupt", "terminate"]


class Net(nn.Module):
    """A nested class, for keys two levels down."""

    def __init__(self, *, width: int = 4, classes: int = 2, activation: Literal["relu", "gelu"] = "relu") -> None:
        super().__init__()
        if width > 64:
            raise ValueError(f"width {width} is too much for this test")
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class ToyModule(pl.LightningModule):
    def __init__(
        self,
        network: Net,
        *,
        lr: float = 0.1,
        scales: list[float] | None = None,
        epsilon: float | None = None,
        fault: Fault = "none",
    ) -> None:
        super().__init__()
        if lr <= 0:
            raise ConfigError(f"model.lr must be above 0, but {lr} came.")
        self.save_hyperparameters(ignore="network")
        self.network, self.lr, self.epsilon, self.fault = network, lr, epsilon, fault

    def check(self, data: "ToyData") -> None:
        classes = self.network.linear.out_features
        if classes != len(data.class_names):
            raise ConfigError(f"model.network.classes is {classes}, but the data has {len(data.class_names)}.")

    def privacy_report(self) -> dict[str, float]:
        if self.epsilon is None:
            return {"epsilon_zero_out": float("inf"), "epsilon_replace": float("inf"), "private": False}
        return {"epsilon_zero_out": self.epsilon, "epsilon_replace": 2 * self.epsilon, "private": True}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.fault == "user":
            raise PrivacyError("the budget is spent. Raise privacy_accounting.budget.")
        if self.fault == "bug":
            raise ZeroDivisionError("a bug")
        if self.fault == "interrupt":
            raise KeyboardInterrupt
        if self.fault == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/accuracy", self._accuracy(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log_dict({"test/accuracy": self._accuracy(batch), "test/accuracy_redacted": 0.5})

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        probabilities = self.network(batch[0]).softmax(1)
        return {"index": batch[2], "probabilities": probabilities, "probabilities_redacted": probabilities.flip(1)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)

    def _accuracy(self, batch: list[Tensor]) -> Tensor:
        return (self.network(batch[0]).argmax(1) == batch[1]).float().mean()


class Points(Dataset[tuple[Tensor, int, int]]):
    def __init__(self, points: Tensor, *, corrupt: bool = False) -> None:
        self.points, self.corrupt = points, corrupt
        self.names = [f"clip_{index}.mp4" for index in range(len(points))]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        if self.corrupt:
            raise CorruptVideoError("clips/a.mp4", "no video stream")
        return self.points[index], int(self.points[index, 0] > 0), index


class ToyData(pl.LightningDataModule):
    def __init__(
        self, *, root: str | None = None, batch_size: int = 4, num_workers: int = 0, corrupt: bool = False
    ) -> None:
        super().__init__()
        self.root, self.batch_size, self.num_workers, self.corrupt = root, batch_size, num_workers, corrupt
        self.class_names = ("left", "right")

    def prepare_data(self) -> None:
        if self.root is not None and not os.path.isdir(self.root):  # noqa: PTH112  # a user writes as he likes
            raise DataError(f"data.root: {self.root} does not exist. Give the folder that holds the clips.")

    def setup(self, stage: str | None = None) -> None:
        self.test_set = Points(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), corrupt=self.corrupt)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int, int]]:
        return DataLoader(self.test_set, batch_size=self.batch_size, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int, int]]:
        return DataLoader(Points(self.test_set.points), batch_size=self.batch_size)

    test_dataloader = predict_dataloader = val_dataloader


class FilesData(ToyData):
    """Data of someone who never heard of `UserError`."""

    def setup(self, stage: str | None = None) -> None:
        with open("missing.csv") as file:  # noqa: PTH123  # as above
            file.read()


class TrainOnly(ToyData):
    """Data without a test set."""

    test_dataloader = pl.LightningDataModule.test_dataloader
