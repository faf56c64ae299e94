"""What tests of segmentation methods share: a tiny network, batches, and a method in its second experience."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pvision.continual.experience import Experience
from pvision.continual.masks import VOID, SegmentationBatch
from pvision.segmentation.methods import SegmentationMethod

FIRST, SECOND, THIRD = (1, 2), (5, 3), (4,)


class TinyNetwork(nn.Module):
    """A stage at half size with BatchNorm, and a neck; in double precision, so that sums can be compared."""

    feature_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.neck = nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU())
        self.double()

    def levels(self, image: Tensor) -> list[Tensor]:
        stage = self.stage(image)
        return [stage, self.neck(stage)]

    def forward(self, image: Tensor) -> Tensor:
        return self.levels(image)[-1]


def experience(index: int, classes: Sequence[int]) -> Experience:
    return Experience(index, "learn", str(index), tuple(classes), tuple(classes))


def batch(*labels: int, seed: int = 1, images: int = 2, size: int = 8) -> SegmentationBatch:
    """Return images whose masks hold just these labels, in blocks of 2 x 2."""
    noise = torch.Generator().manual_seed(seed)
    blocks = torch.tensor(labels)[torch.randint(len(labels), (images, size // 2, size // 2), generator=noise)]
    mask = blocks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    image = torch.randn(images, 3, size, size, generator=noise, dtype=torch.float64)
    return SegmentationBatch(image, mask, torch.arange(images))


def total(method: SegmentationMethod, data: SegmentationBatch) -> Tensor:
    return torch.stack(list(method.losses(data).values())).sum()


def step(method: SegmentationMethod, data: SegmentationBatch, *, lr: float = 0.05) -> None:
    """Go down the gradient by hand: a process that makes its first optimizer imports a compiler, for seconds."""
    method.zero_grad()
    total(method, data).backward()
    with torch.no_grad():
        for group in method.parameter_groups():
            for parameter in group["params"]:
                parameter -= lr * group["lr_factor"] * parameter.grad


def begin(method: SegmentationMethod, index: int, classes: Sequence[int], *, upcoming: int = 0) -> None:
    """Prepare an experience as a module does, PLOP's thresholds included."""
    method.before_experience(experience(index, classes), upcoming=upcoming)
    method.look_through(iter([batch(0, *classes, VOID, seed=7)]))
    method.train()


def first_learned(kind: type[SegmentationMethod], **options: object) -> SegmentationMethod:
    """Return a method of that kind that has learned the first experience a little."""
    torch.manual_seed(0)
    method = kind(TinyNetwork(), **options)
    begin(method, 0, FIRST, upcoming=len(SECOND) + len(THIRD))
    for seed in range(4):
        step(method, batch(0, *FIRST, VOID, seed=seed))
    method.zero_grad()
    method.after_experience()
    return method


def in_second(kind: type[SegmentationMethod], **options: object) -> SegmentationMethod:
    """Return it at the start of the second experience."""
    method = first_learned(kind, **options)
    begin(method, 1, SECOND, upcoming=len(THIRD))
    return method
