"""A tiny data module whose classes show only behind the mask, tiny networks, and a Trainer that writes nothing."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.nn import functional as F

from pvision.datamodules.records import TensorRecords
from pvision.datamodules.video import VideoDataModule
from pvision.privacy import PrivacySpec, Redaction

CLASSES = ("red", "green", "blue")
CLIP = (2, 8, 8)


class FakeClips(VideoDataModule):
    """Noise with a class-coloured square behind the mask.

    Args:
        hidden: seed of everything behind the mask.
        public_signal: whether public pixels show the class too.
        pretraining: whether there are clips outside the guarantee.
        colours: whether the square's colour depends on the class.
    """

    def __init__(self, *, hidden=0, public_signal=False, pretraining=True, colours=True, records=48, batch_size=16):
        super().__init__(batch_size=batch_size)
        self.hidden, self.public_signal, self.pretraining, self.colours = hidden, public_signal, pretraining, colours
        self.records = records

    def prepare_sets(self):
        self.class_names = CLASSES
        self.train_set = self.make(self.records, seed=1)
        self.val_set, self.test_set = self.make(12, seed=2), self.make(13, seed=3)
        if self.pretraining:
            self.pretraining_set = self.make(20, seed=4, outside=True)

    def make(self, records, *, seed, outside=False):
        hidden, colours = (0, True) if outside else (self.hidden, self.colours)
        generator = torch.Generator().manual_seed(seed)
        video = torch.randint(90, 166, (records, *CLIP, 3), dtype=torch.uint8, generator=generator)
        label = torch.arange(records) % len(CLASSES)
        colour = (200 * F.one_hot(label, 3)).to(torch.uint8).view(-1, 1, 1, 1, 3)
        if self.public_signal:
            video[:, :, :2] = colour
        mask = torch.zeros(records, *CLIP, dtype=torch.bool)
        mask[:, :, 2:7, 2:7] = True
        secret = torch.Generator().manual_seed(100 * seed + hidden)
        square = torch.randint(0, 40, (records, CLIP[0], 5, 5, 3), dtype=torch.uint8, generator=secret)
        if colours:
            square += colour
        video[:, :, 2:7, 2:7] = square
        return TensorRecords(video, mask, label, Redaction(sensitive="inside"))


class TinyNet(nn.Module):
    """Two layers on all pixels; its head is not zero."""

    feature_dim = 12

    def __init__(self, num_classes=3, dropout=0.0, batch_norm=False):
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Linear(3 * CLIP[0] * CLIP[1] * CLIP[2], self.feature_dim)
        self.norm = nn.BatchNorm1d(self.feature_dim) if batch_norm else nn.LayerNorm(self.feature_dim)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(self.feature_dim, num_classes)

    def features(self, video):
        return F.gelu(self.norm(self.body(2 * video.flatten(1) - 1)))

    def forward(self, video):
        return self.head(self.drop(self.features(video)))


class Notes(Logger):
    """Keeps every metric that is logged, with its step."""

    def __init__(self):
        super().__init__()
        self.rows = []

    name, version = "notes", 0

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass

    def values(self, name):
        return [(step, row[name]) for step, row in self.rows if name in row]


@pytest.fixture
def clips():
    return FakeClips


@pytest.fixture
def net():
    """Make a tiny network from a seed."""

    def make(seed=0, **arguments):
        torch.manual_seed(seed)
        return TinyNet(**arguments)

    return make


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def statement():
    """Make a privacy statement; every argument can be replaced."""

    def make(mechanism="residual", **changes):
        values = {
            "unit": "clip",
            "mask": "public",
            "polarity": "inside",
            "label": "public",
            "relation": "zero_out",
            "delta": 1e-4,
            "max_grad_norm": 0.5,
            "sample_rate": 1.0,
            "steps": 6,
            "noise_multiplier": 8.0,
        }
        return PrivacySpec(mechanism, **{**values, **changes})

    return make


@pytest.fixture
def trainer(tmp_path):
    """Make a quiet Trainer."""

    def make(**changes):
        values = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            "log_every_n_steps": 1,
            "max_epochs": -1,  # the module decides
        }
        return pl.Trainer(**{**values, **changes})

    return make


@pytest.fixture
def fit(trainer):
    """Train a module on data, the un-noised part from a seed; return the Trainer."""

    def run(module, data, *, seed=0, **changes):
        torch.manual_seed(seed)
        made = trainer(**changes)
        made.fit(module, datamodule=data)
        return made

    return run
