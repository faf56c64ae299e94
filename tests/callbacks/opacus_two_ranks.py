"""One of two processes that train with Opacus under Lightning's DDP; test_opacus_ranks.py starts both.

Prints, as JSON and for each case: how far the weights of the ranks are apart, and what else it shows.
"""

import json
import sys
import warnings

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from opacus import PrivacyEngine
from opacus.distributed import DifferentiallyPrivateDistributedDataParallel
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks import PrivacyAccounting
from pvision.errors import PrivacyError

RECORDS = 32
DATA = TensorDataset(torch.randn(RECORDS, 4, generator=torch.Generator().manual_seed(0)), torch.arange(RECORDS) % 2)


class Own(pl.LightningModule):
    """Makes itself private in configure_optimizers; ``wrapped`` as Opacus wants it under several processes."""

    def __init__(self, *, wrapped):
        super().__init__()
        self.network, self.wrapped = nn.Linear(4, 2), wrapped
        self.empty = 0

    def configure_optimizers(self):
        if self.wrapped:
            self.network = DifferentiallyPrivateDistributedDataParallel(self.network)
        self.network, optimizer, self.loader = PrivacyEngine(accountant="rdp").make_private(
            module=self.network,
            optimizer=torch.optim.SGD(self.network.parameters(), lr=0.1),
            data_loader=DataLoader(DATA, batch_size=2),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )
        return optimizer

    def train_dataloader(self):
        return self.loader

    def training_step(self, batch, batch_idx):
        video, label = batch
        self.empty += not len(video)
        return nn.functional.cross_entropy(self.network(video), label, reduction="sum") / 2


def gap(module):
    """Return the largest difference between the two ranks' weights."""
    own = torch.cat([parameter.detach().flatten() for parameter in module.network.parameters()])
    others = [torch.empty_like(own) for _ in range(2)]
    dist.all_gather(others, own)
    return (others[0] - others[1]).abs().max().item()


def train(case, folder):
    # A common seed would hide the peer's defect: both ranks would draw the same records and the same noise.
    pl.seed_everything(1 + (dist.get_rank() if case == "peer" else 0), verbose=False)
    module = Own(wrapped=case == "wrapped")
    callback = PrivacyAccounting(delta=1e-3, unit="clip", every_n_steps=100)
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[] if case == "peer" else [callback],
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    try:
        trainer.fit(module)
    except PrivacyError as error:
        return {"refused": str(error)}
    found = {"refused": None, "gap": gap(module), "steps": trainer.global_step, "empty": module.empty}
    return found if case == "peer" else {**found, "charged": callback.privacy_report().steps}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    print(json.dumps({case: train(case, sys.argv[1]) for case in ("peer", "wrapped", "bare")}), flush=True)
    dist.destroy_process_group()
