"""Train the same module by DP-SGD: three lines differ from train.py."""

import lightning.pytorch as pl
from project import Actions, Clips
from torch.utils.data import DataLoader

from pvision.callbacks import TrainPrivately
from pvision.privacy import PrivacySpec

SPEC = PrivacySpec(
    mechanism="dp_sgd",
    unit="clip",
    mask="private",
    label="private",
    relation="add_remove",
    delta=1e-4,
    max_grad_norm=1.0,
    sample_rate=64 / 512,
    steps=64,
    target_epsilon=8.0,
)

if __name__ == "__main__":
    module = Actions()
    private = TrainPrivately(SPEC)
    loader = private.loader(Clips(512, seed=1))
    trainer = pl.Trainer(callbacks=[private], max_epochs=8, logger=False, enable_checkpointing=False)
    trainer.fit(module, loader, DataLoader(Clips(256, seed=2), batch_size=64))
    print(f"accuracy {trainer.callback_metrics['val/accuracy']:.2f}")
    print(private.report())
