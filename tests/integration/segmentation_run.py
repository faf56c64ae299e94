"""A whole run of incremental segmentation on one or two processes, for tests that start it and look at what it leaves.

Run as ``python segmentation_run.py FOLDER [--devices N] [--method NAME] [--kill EXPERIENCE:STEP] [--bypass]``. It goes
on where FOLDER holds a checkpoint, and saves what it ended with as ``FOLDER/outcome_RANK.pt``.
"""

import argparse
import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from small_streams_of_masks import SmallStream, segmenter, trainer_for

import pvision.segmentation.methods as methods
from pvision.callbacks import ExemplarFree, SegmentationMatrix
from pvision.training.streams import fit_stream
from pvision.weights_hash import weights_sha256


class Kill(pl.Callback):
    """Ends the process as a power cut does."""

    def __init__(self, at):
        self.experience, self.step = map(int, at.split(":"))

    def on_train_batch_end(self, trainer, *args):
        if (trainer.datamodule.current, trainer.global_step) == (self.experience, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


class Gradients(pl.Callback):
    """Keeps all gradients of each step, as the optimizer gets them."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        found = [one.grad.flatten() for one in pl_module.method.parameters() if one.grad is not None]
        self.steps.append(torch.cat(found).clone())


class Bypass(DDPStrategy):
    """Calls the module past its DDP wrapper, as the released code of BARM does: nothing joins the gradients."""

    def _setup_model(self, model):
        return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--method", default="MiB")
    parser.add_argument("--kill")
    parser.add_argument("--bypass", action="store_true")
    given = parser.parse_args()
    pl.seed_everything(3)
    stream, module = SmallStream(train=48), segmenter(getattr(methods, given.method), base_epochs=3)
    gradients, matrix = Gradients(), SegmentationMatrix(plots=False)
    callbacks = [gradients, matrix, ExemplarFree(), ModelCheckpoint(every_n_train_steps=2)]
    callbacks += [Kill(given.kill)] if given.kill else []
    several = Bypass() if given.bypass else "ddp"
    trainer = trainer_for(
        given.folder,
        max_epochs=2,
        devices=given.devices,
        strategy=several if given.devices > 1 else "auto",
        limit_train_batches=2,  # without the last batch, which two processes cannot always divide
        precision="64-true",  # float32 sums of two parts would round otherwise, visibly after some steps
        callbacks=callbacks,
    )
    fit_stream(trainer, module, stream, ckpt_path=given.folder if any(given.folder.rglob("*.ckpt")) else None)
    outcome = {
        "sha256": weights_sha256(module.method),
        "weights": {name: one for name, one in module.state_dict().items() if isinstance(one, torch.Tensor)},
        "gradients": gradients.steps,
        "confusion": module.test_confusion,
        "matrix": torch.as_tensor(matrix.matrix),
    }
    torch.save(outcome, given.folder / f"outcome_{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
