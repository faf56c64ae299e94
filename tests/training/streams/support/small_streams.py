"""A stream, a Trainer and a module that need little time."""

import lightning.pytorch as pl
import torch

from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import DigitsStream
from pvision.models import ConvEncoder
from pvision.modules import ContinualClassifier


def stream_of(**settings):
    scenario = ClassIncremental(experiences=settings.pop("experiences", 2))
    return DigitsStream(**{"scenario": scenario, "batch_size": 128, "seed": 0, **settings})


def trainer_for(folder, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{"max_epochs": 1, "default_root_dir": folder, **quiet, **settings})


def classifier(**settings):
    torch.manual_seed(0)
    return ContinualClassifier(ConvEncoder(width=4), **settings)


class Watches(pl.Callback):
    """Notes what happens in which experience, in order."""

    def __init__(self):
        self.seen = []

    def on_fit_start(self, trainer, pl_module):
        self.seen.append(("fit", trainer.datamodule.current))

    def on_test_start(self, trainer, pl_module):
        self.seen.append(("test", trainer.datamodule.current))
