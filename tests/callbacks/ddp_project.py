"""Trains a module of its own in as many processes as asked for, and keeps the weights of each rank.

Run: python ddp_project.py FOLDER PROCESSES
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from pvision.callbacks import TrainPrivately
from pvision.privacy import PrivacySpec

RECORDS, STEPS = 30, 6
WAYS = {"dp_sgd": "private", "residual": "public", "residual_shared_batch": "public", "by_hand": "private"}


class Own(pl.LightningModule):
    def __init__(self, private: TrainPrivately, *, by_hand: bool) -> None:
        super().__init__()
        self.automatic_optimization = not by_hand
        self.private = [private]
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        self.unused = nn.Linear(2, 2)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if self.automatic_optimization:
            return self.loss(batch)
        self.private[0].backward(self, batch, self.loss)
        self.optimizers().step()
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def statement(way: str, publicity: str) -> PrivacySpec:
    return PrivacySpec(
        mechanism="dp_sgd" if way == "by_hand" else way,
        unit="clip",
        mask=publicity,
        label=publicity,
        polarity=None if publicity == "private" else "inside",
        relation="replace",
        delta=1e-4,
        max_grad_norm=0.5,
        sample_rate=0.1,
        steps=STEPS,
        noise_multiplier=1.0,
        noise_seed=None if way == "residual" else 4,  # the public batches differ with the number of ranks
    )


def redact(batch: Any) -> Any:
    batch[0][:, 4:] = 0
    return batch


def main(folder: Path, processes: int) -> None:
    pl.seed_everything(7, verbose=False)
    data = TensorDataset(torch.randn(RECORDS, 6), torch.randint(3, (RECORDS,)))
    for way, publicity in WAYS.items():
        private = TrainPrivately(statement(way, publicity), redact=redact if "residual" in way else None)
        module = Own(private, by_hand=way == "by_hand")
        trainer = pl.Trainer(
            callbacks=[private],
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            use_distributed_sampler=False,
            max_epochs=5,
            logger=False,
            default_root_dir=folder / way,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, private.loader(data))
        kept = {"weights": dict(module.state_dict()), "steps": private.privacy_steps}
        torch.save(kept, folder / f"{way}_{trainer.global_rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), int(sys.argv[2]))
