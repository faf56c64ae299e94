"""A small project that knows nothing of privacy: its data, its network, its two LightningModules."""

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

CLASSES = 4


class Clips(Dataset[dict[str, Tensor]]):
    """Generated clips: a square moves in one of four directions; a "face" beside it shows its class, too.

    An item has ``video``, float ``(T, H, W)``; ``face``, bool ``(T, H, W)``, where the face is; and ``label``.

    Args:
        records: how many clips.
        seed: of the generator.
    """

    def __init__(self, records: int, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.label = torch.randint(CLASSES, (records,), generator=generator)
        start = torch.randint(3, 6, (records, 2), generator=generator)
        self.video = 0.1 * torch.randn(records, 4, 12, 12, generator=generator)
        self.face = torch.zeros(records, 4, 12, 12, dtype=torch.bool)
        self.face[:, :, 9:, :3] = True
        for index, (label, (row, column)) in enumerate(zip(self.label.tolist(), start.tolist(), strict=True)):
            for frame in range(4):
                down, right = [(frame, 0), (-frame, 0), (0, frame), (0, -frame)][label]
                top, left = max(0, row + down), max(0, column + right)
                self.video[index, frame, top : top + 3, left : left + 3] += 1
            self.video[index, :, 9:, :3] += label / CLASSES

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"video": self.video[index], "face": self.face[index], "label": self.label[index]}


def network() -> nn.Sequential:
    """Return a small network for clips of ``(T, H, W)``."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 4)),
        nn.Conv3d(1, 8, (2, 3, 3)),
        nn.GroupNorm(2, 8),
        nn.GELU(),
        nn.AdaptiveAvgPool3d((3, 4, 4)),
        nn.Flatten(),
        nn.Linear(8 * 48, CLASSES),
    )


class Actions(pl.LightningModule):
    """Classify clips; Lightning takes the optimizer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, video: Tensor) -> Tensor:
        """Return the logits of a batch of clips."""
        return self.network(video)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = F.cross_entropy(self(batch["video"]), batch["label"])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        logits = self(batch["video"])
        self.log("val/accuracy", (logits.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


class ActionsByHand(Actions):
    """The same, with optimizer steps of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of a batch."""
        return F.cross_entropy(self(batch["video"]), batch["label"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Take one step."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()
