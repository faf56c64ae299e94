"""A whole run along a stream on one or several processes, for tests that start it, kill it and look at what it leaves.

Run as ``python stream_run.py FOLDER [--devices N] [--kill EXPERIENCE:STEP] [--early] [--accumulate N] …``. It goes on
where FOLDER holds a checkpoint, and saves what it ended with as ``FOLDER/outcome_RANK.pt``.
"""

import argparse
import os
import random
import signal
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from pvision.callbacks import ForgettingMetrics
from pvision.continual.replay import ReservoirMemory
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import DigitsStream
from pvision.models import ConvEncoder
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream


class Kill(Callback):
    """Ends the process as a power cut does."""

    def __init__(self, at: str) -> None:
        self.experience, self.step = map(int, at.split(":"))

    def on_train_batch_end(self, trainer, *args):
        if (trainer.datamodule.current, trainer.global_step) == (self.experience, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--kill")
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    pl.seed_everything(3)
    stream = DigitsStream(
        scenario=ClassIncremental(experiences=5),
        batch_size=20,
        num_workers=given.workers,
        val_fraction=0.1,
        replay=ReservoirMemory(60),
        replay_batch_size=10,
        eval_batch_size=13,
        seed=8,
    )
    module = ContinualClassifier(ConvEncoder(width=4), optimizer=lambda p: torch.optim.AdamW(p, lr=5e-3))
    metrics = ForgettingMetrics(verbose=False)
    callbacks = [metrics, ModelCheckpoint(every_n_train_steps=5)]
    callbacks += [EarlyStopping("val/accuracy", mode="max", patience=1)] if given.early else []
    callbacks += [Kill(given.kill)] if given.kill else []
    trainer = pl.Trainer(
        max_epochs=4 if given.early else 2,
        accelerator="cpu",
        devices=given.devices,
        strategy="ddp" if given.devices > 1 else "auto",
        limit_train_batches=10,  # without the last batch, which two processes cannot always divide
        accumulate_grad_batches=given.accumulate,
        precision=given.precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=given.folder,
        callbacks=callbacks,
    )
    fit_stream(trainer, module, stream, ckpt_path=given.folder if any(given.folder.rglob("*.ckpt")) else None)
    outcome = {
        "weights": module.state_dict(),
        "accuracy": torch.as_tensor(metrics.matrix),
        "per_class": torch.as_tensor(metrics.counted.per_class()),
        "memory": torch.stack(stream.replay.images),
        "memory_positions": torch.as_tensor(stream.replay.positions),
        "torch": torch.get_rng_state(),
        "numpy": torch.as_tensor(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002  # the global one
        "python": torch.tensor(random.getstate()[1]),
    }
    torch.save(outcome, given.folder / f"outcome_{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
