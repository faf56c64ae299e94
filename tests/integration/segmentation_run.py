"""Runs of incremental segmentation on one or two processes, for a test that compares what they leave.

Run as ``python segmentation_run.py FOLDER DEVICES PART …``, where a part is ``MiB``, ``BARM`` or ``bypass``. Each
process saves what the parts ended with as ``FOLDER/outcome_RANK.pt``. The parts share their processes, which take
longer to start than to train.
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from small_streams_of_masks import SmallStream, segmenter, trainer_for

import pvision.segmentation.methods as methods
from pvision.callbacks import ExemplarFree
from pvision.training.streams import fit_stream
from pvision.weights_hash import weights_sha256


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


def run(part, folder, devices):
    pl.seed_everything(3)
    stream, gradients = SmallStream(), Gradients()
    module = segmenter(methods.BARM if part == "BARM" else methods.MiB)
    several = Bypass() if part == "bypass" else "ddp"
    trainer = trainer_for(
        folder,
        max_epochs=2,
        devices=devices,
        strategy=several if devices > 1 else "auto",
        limit_train_batches=2,  # without the last batch, which two processes cannot always divide
        precision="64-true",  # float32 sums of two parts would round otherwise, visibly after some steps
        callbacks=[gradients, ExemplarFree()],
    )
    fit_stream(trainer, module, stream)
    return trainer.global_rank, {
        "sha256": weights_sha256(module.method),
        "weights": {name: one for name, one in module.state_dict().items() if isinstance(one, torch.Tensor)},
        "gradients": gradients.steps,
        "confusion": module.test_confusion,
    }


def main():
    folder, devices, *parts = sys.argv[1:]
    outcomes = {}
    for part in parts:
        rank, outcomes[part] = run(part, Path(folder) / part, int(devices))
    torch.save(outcomes, Path(folder) / f"outcome_{rank}.pt")


if __name__ == "__main__":
    main()
