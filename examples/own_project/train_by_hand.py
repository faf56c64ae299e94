"""Train a module with manual optimisation by DP-SGD: two lines here, and one in its training_step."""

import lightning.pytorch as pl
from project import ActionsByHand, Clips
from torch import Tensor
from torch.utils.data import DataLoader
from train_privately import SPEC

from pvision.callbacks import TrainPrivately

private = TrainPrivately(SPEC)


class PrivateActionsByHand(ActionsByHand):
    """The project's module, with one line changed."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Take one step."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        private.backward(self, batch, self.loss)  # was: self.manual_backward(self.loss(batch))
        optimizer.step()


if __name__ == "__main__":
    module = PrivateActionsByHand()
    loader = private.loader(Clips(512, seed=1))
    trainer = pl.Trainer(callbacks=[private], max_epochs=8, logger=False, enable_checkpointing=False)
    trainer.fit(module, loader, DataLoader(Clips(256, seed=2), batch_size=64))
    print(f"accuracy {trainer.callback_metrics['val/accuracy']:.2f}")
    print(private.report())
