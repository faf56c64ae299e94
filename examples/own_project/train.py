"""Train without privacy: what the project did before."""

import lightning.pytorch as pl
from project import Actions, Clips
from torch.utils.data import DataLoader

if __name__ == "__main__":
    module = Actions()
    loader = DataLoader(Clips(512, seed=1), batch_size=64, shuffle=True)
    trainer = pl.Trainer(max_epochs=8, logger=False, enable_checkpointing=False)
    trainer.fit(module, loader, DataLoader(Clips(256, seed=2), batch_size=64))
    print(f"accuracy {trainer.callback_metrics['val/accuracy']:.2f}")
