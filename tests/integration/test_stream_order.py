"""Fine-tuning forgets, replay forgets less, joint training least: over three seeds, on digits and on garments."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch

from pvision.adapters.methods.fine_tuning import FineTuning
from pvision.callbacks import ForgettingMetrics
from pvision.continual.replay import ClassBalancedMemory
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import DigitsStream, FashionMNISTStream
from pvision.models import ConvEncoder
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream

METHODS = {
    "finetune": {},
    "replay": {"replay": (ClassBalancedMemory, 100), "replay_batch_size": 32},
    "joint": {"training_set": "seen"},
}


def values(stream_class, method, seed, folder):
    pl.seed_everything(seed)
    settings = dict(METHODS[method])
    if "replay" in settings:
        memory, size = settings["replay"]
        settings["replay"] = memory(size)
    stream = stream_class(scenario=ClassIncremental(experiences=5, class_order_seed=seed), batch_size=32, **settings)
    module = ContinualClassifier(
        ConvEncoder(width=8),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-3),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        method=partial(FineTuning, restart=method == "joint"),
    )
    metrics = ForgettingMetrics(verbose=False, plots=False)
    trainer = pl.Trainer(
        max_epochs=4 if stream_class is DigitsStream else 2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[metrics],
    )
    fit_stream(trainer, module, stream)
    return metrics.values()


@pytest.mark.slow
@pytest.mark.parametrize("stream", [DigitsStream, FashionMNISTStream])
def test_methods_order_as_theory_says(stream, tmp_path):
    found = {
        method: [values(stream, method, seed, tmp_path / f"{method}{seed}") for seed in (1, 2, 3)] for method in METHODS
    }
    accuracy = {method: [run["continual/average_accuracy"] for run in runs] for method, runs in found.items()}
    forgetting = {method: [run["continual/forgetting"] for run in runs] for method, runs in found.items()}
    for seed in range(3):
        # Only the last two classes are left to fine-tuning: a fifth of the mean.
        assert accuracy["finetune"][seed] < 0.3, accuracy
        assert accuracy["finetune"][seed] + 0.2 < accuracy["replay"][seed], accuracy
        assert accuracy["replay"][seed] < accuracy["joint"][seed] + 0.02, accuracy
        assert forgetting["finetune"][seed] > forgetting["replay"][seed] + 0.2, forgetting
        assert forgetting["replay"][seed] > forgetting["joint"][seed], forgetting
    assert sum(accuracy["replay"]) < sum(accuracy["joint"]), accuracy
