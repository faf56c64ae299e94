"""A user's project that trains privately in a second, for the tests of the command; imported as `private_project`."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pvision.datamodules.records import TensorRecords
from pvision.datamodules.video import VideoDataModule
from pvision.privacy import Redaction


class Clips(VideoDataModule):
    """Noise with a mask in the middle."""

    def __init__(self, *, count: int = 24) -> None:
        super().__init__(batch_size=8)
        self.count, self.redaction = count, Redaction(sensitive="inside")

    def prepare_sets(self) -> None:
        self.class_names = ("left", "right")
        self.train_set, self.val_set, self.test_set = (self._make(count) for count in (self.count, 6, 6))

    def _make(self, count: int) -> TensorRecords:
        video = torch.randint(60, 190, (count, 2, 8, 8, 3), dtype=torch.uint8)
        mask = torch.zeros(count, 2, 8, 8, dtype=torch.bool)
        mask[:, :, 2:6, 2:6] = True
        return TensorRecords(video, mask, torch.arange(count) % 2, self.redaction)


class Net(nn.Module):
    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 2 * 8 * 8, 2)

    def forward(self, video: Tensor) -> Tensor:
        return self.linear(video.flatten(1))


class Stops(Callback):
    """Ends the run by an exception that nobody expects, after so many noisy steps."""

    def __init__(self, *, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: object) -> None:
        if pl_module.privacy_steps == self.after:
            raise ZeroDivisionError("a power cut")
