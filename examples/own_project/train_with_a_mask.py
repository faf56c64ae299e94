"""Protect only what the mask covers: MaskDP's residual mechanism in somebody else's project."""

import dataclasses

import lightning.pytorch as pl
from project import Actions, Clips
from torch import Tensor
from torch.utils.data import DataLoader
from train_privately import SPEC

from pvision.callbacks import TrainPrivately


def redact(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch with grey where faces were."""
    return {**batch, "video": batch["video"].masked_fill(batch["face"], 0.5)}


MASKED = dataclasses.replace(
    SPEC, mechanism="residual", mask="public", label="public", polarity="inside", relation="zero_out"
)

if __name__ == "__main__":
    module = Actions()
    private = TrainPrivately(MASKED, redact=redact)
    loader = private.loader(Clips(512, seed=1))
    trainer = pl.Trainer(callbacks=[private], max_epochs=8, logger=False, enable_checkpointing=False)
    trainer.fit(module, loader, DataLoader(Clips(256, seed=2), batch_size=64))
    print(f"accuracy {trainer.callback_metrics['val/accuracy']:.2f}")
    print(private.report())
