"""A whole private training run on one or several processes, for tests that start it and look at what it leaves.

Run as ``python private_run.py KIND FOLDER DEVICES [--ckpt_path PATH] [--slow]``. Each rank saves its final weights as
``FOLDER/weights_RANK.pt``.
"""

import argparse
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.nn import functional as F

from pvision.callbacks import PrivacyAccounting
from pvision.datamodules.records import TensorRecords
from pvision.datamodules.video import VideoDataModule
from pvision.modules import MaskDP, PrivateTraining
from pvision.privacy import PrivacySpec, Redaction

CLIP = (2, 8, 8)


class Clips(VideoDataModule):
    """Noise with a class-coloured square behind the mask; every tenth clip has an empty mask."""

    def prepare_sets(self):
        self.class_names = ("red", "green", "blue")
        self.train_set, self.val_set, self.test_set = (
            self.make(count, seed) for seed, count in enumerate((63, 13, 13))
        )

    def make(self, records, seed):
        generator = torch.Generator().manual_seed(seed)
        video = torch.randint(60, 190, (records, *CLIP, 3), dtype=torch.uint8, generator=generator)
        label = torch.arange(records) % 3
        video[:, :, 2:7, 2:7] = (200 * F.one_hot(label, 3)).to(torch.uint8).view(-1, 1, 1, 1, 3)
        mask = torch.zeros(records, *CLIP, dtype=torch.bool)
        mask[:, :, 2:7, 2:7] = (torch.arange(records) % 10 != 0).view(-1, 1, 1, 1)
        people = [f"person{record // 3}" for record in range(records)]
        return TensorRecords(video, mask, label, Redaction(sensitive="inside"), subjects=people)


class Net(nn.Module):
    feature_dim, num_classes = 12, 3

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3 * CLIP[0] * CLIP[1] * CLIP[2], 12), nn.Linear(12, 3)

    def features(self, video):
        return F.gelu(self.body(2 * video.flatten(1) - 1))

    def forward(self, video):
        return self.head(self.features(video))


class Slowly(Callback):
    """Gives a test the time to interrupt."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        time.sleep(0.05)


def module_of(kind, **changes):
    torch.manual_seed(0)
    values = {
        "mechanism": "residual" if kind == "head" else kind,
        "unit": "clip",
        "mask": "public",
        "label": "public",
        "polarity": "inside",
        "relation": "zero_out",
        "delta": 1e-4,
        "max_grad_norm": 0.5,
        "sample_rate": 0.3,
        "steps": 40,
        "noise_multiplier": 2.0,
        **changes,
    }
    spec = PrivacySpec(**values)
    if kind == "head":
        return MaskDP(Net(), Net(), spec, public_epochs=1, projection_dim=6)
    return PrivateTraining(Net(), spec, public_epochs=int(kind != "dp_sgd"), microbatch=8)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("folder", type=Path)
    parser.add_argument("devices", type=int)
    parser.add_argument("--ckpt_path")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--noise_seed", type=int)
    parser.add_argument("--unit", default="clip")
    options = parser.parse_args()
    module = module_of(options.kind, noise_seed=options.noise_seed, unit=options.unit)
    folder = options.folder
    keeps = ModelCheckpoint(dirpath=folder / "checkpoints", every_n_train_steps=5, save_top_k=-1, save_last=True)
    pl.seed_everything(1)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        max_epochs=-1,
        default_root_dir=folder,
        logger=False,
        callbacks=[keeps, PrivacyAccounting(), *([Slowly()] if options.slow else [])],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=Clips(batch_size=16), ckpt_path=options.ckpt_path)
    weights = {name: value for name, value in module.state_dict().items() if not name.startswith("accuracies")}
    torch.save({"weights": weights, "steps": module.privacy_steps}, folder / f"weights_{trainer.global_rank}.pt")
    trainer.test(module, datamodule=Clips(batch_size=16), verbose=False)
    if trainer.is_global_zero:
        print({name: float(value) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
