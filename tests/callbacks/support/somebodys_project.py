"""A project that knows nothing of privacy: its module, its data, and how it is trained by three changed lines."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from pvision.callbacks import TrainPrivately
from pvision.privacy import PrivacySpec

RECORDS, CLASSES = 24, 3
TINY = 1e-9  # a noise multiplier whose noise is below rounding


def statement(**changes: Any) -> PrivacySpec:
    values: dict[str, Any] = {
        "mechanism": "dp_sgd",
        "unit": "clip",
        "mask": "private",
        "label": "private",
        "relation": "replace",
        "delta": 1e-4,
        "max_grad_norm": 0.5,
        "sample_rate": 0.5,
        "steps": 4,
        "noise_multiplier": TINY,
    }
    if changes.get("mechanism", "dp_sgd") != "dp_sgd":
        values |= {"mask": "public", "label": "public", "polarity": "inside"}
    return PrivacySpec(**{**values, **changes})


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, CLASSES))


class Own(pl.LightningModule):
    """Somebody else's module; it keeps what its optimizer was given."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()
        self.batches: list[Any] = []
        self.gradients: list[dict[str, Tensor]] = []

    def loss(self, batch: Any) -> Tensor:
        video, label = batch[:2]
        return F.cross_entropy(self.network(video.flatten(1)), label)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients.append({name: one.grad.clone() for name, one in self.named_parameters()})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class OwnByHand(Own):
    def __init__(self, private: TrainPrivately) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.private = [private]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.private[0].backward(self, batch, self.loss)
        optimizer.step()


def records(count: int = RECORDS) -> TensorDataset:
    """Flat clips whose last two numbers are sensitive."""
    torch.manual_seed(1)
    return TensorDataset(torch.randn(count, 3, 2), torch.randint(CLASSES, (count,)))


def redact(batch: Any) -> Any:
    video, label = batch[:2]
    video[:, 2] = 0
    return [video, label]


def fit(
    private: TrainPrivately,
    module: pl.LightningModule,
    data: Dataset[Any] | None = None,
    *,
    loader: dict[str, Any] | None = None,
    ckpt_path: str | None = None,
    callbacks: list[Any] | None = None,
    **trainer: Any,
) -> pl.Trainer:
    options = {"accelerator": "cpu", "max_epochs": 100, "logger": False, "enable_checkpointing": False}
    made = pl.Trainer(
        callbacks=[private, *(callbacks or [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**options, **trainer},
    )
    made.fit(module, private.loader(records() if data is None else data, **(loader or {})), ckpt_path=ckpt_path)
    return made
