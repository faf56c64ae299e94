"""A small stream with all that could make a resumed run differ: dropout, augmentation, replay, a schedule."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from pvision.adapters.methods.fine_tuning import FineTuning
from pvision.callbacks import ForgettingMetrics
from pvision.continual.replay import ReservoirMemory
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import DigitsStream
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream


class Encoder(nn.Module):
    """Dropout draws from the global generator; batch normalisation keeps buffers."""

    feature_dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3))

    def forward(self, image):
        return self.layers(image)


class Noisy(DigitsStream):
    """Digits with an augmentation that draws from torch's global generator."""

    def default_preprocessing(self):
        plain = super().default_preprocessing()

        class Augmented:
            def train(self, image):
                return plain.eval(image) + 0.05 * torch.randn(image.shape)

            def eval(self, image):
                return plain.eval(image)

        return Augmented()


class Run:
    """One run of `fit_stream`, and what it ended with."""

    def __init__(
        self,
        folder: Path,
        *,
        callbacks=(),
        early=False,
        epochs=2,
        min_delta=0.0,
        every=3,
        restart=False,
        **stream: Any,
    ) -> None:
        pl.seed_everything(4)
        self.folder = folder
        self.module = ContinualClassifier(
            Encoder(),
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
            scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
            method=partial(FineTuning, restart=restart),
        )
        settings: dict[str, Any] = {
            "scenario": ClassIncremental(experiences=3, base_classes=4),
            "batch_size": 64,
            "replay_batch_size": 16,
            "replay": ReservoirMemory(40),
            "val_fraction": 0.2,
            "seed": 11,
        }
        self.stream = Noisy(**{**settings, **stream})
        self.metrics = ForgettingMetrics(verbose=False)
        stops = [EarlyStopping("val/accuracy", mode="max", patience=1, min_delta=min_delta)] if early else []
        self.trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[self.metrics, ModelCheckpoint(every_n_train_steps=every, save_top_k=-1), *stops, *callbacks],
        )

    def fit(self, ckpt_path: Path | None = None) -> "Run":
        fit_stream(self.trainer, self.module, self.stream, ckpt_path=ckpt_path)
        return self

    def outcome(self) -> dict[str, Any]:
        """All that must be equal bit for bit."""
        memory = self.stream.replay
        return {
            "weights": copy.deepcopy(dict(self.module.state_dict())),
            "matrix": torch.as_tensor(self.metrics.matrix),
            "memory": [*memory.images] if memory else [],
            "labels": torch.as_tensor(memory.labels) if memory else torch.empty(0),
            "generator": torch.get_rng_state(),
        }


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if not isinstance(one, torch.Tensor):
        return bool(one == other)
    return torch.equal(torch.nan_to_num(one.double(), nan=-7), torch.nan_to_num(other.double(), nan=-7))


@pytest.fixture
def make_run(tmp_path):
    """Make a run in a folder of the test's own."""
    return lambda name="run", **settings: Run(tmp_path / name, **settings)


@pytest.fixture(name="same")
def same_fixture():
    """Compare two outcomes bit for bit."""
    return same
