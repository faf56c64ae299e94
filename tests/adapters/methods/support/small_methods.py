"""What the tests of every method share: a small network, a small stream, and checks that all methods must pass."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pvision.adapters.methods import ContinualMethod
from pvision.continual.experience import Experience, ImageBatch
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import DigitsStream
from pvision.models.vision_transformer import VisionTransformer
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream

Make = Callable[[nn.Module], ContinualMethod]


def small_vit(*, seed: int = 0, dtype: torch.dtype = torch.float64, width: int = 64) -> VisionTransformer:
    """Return a frozen-able network of two blocks for 8×8 images of one channel: 5 tokens of 64 entries."""
    torch.manual_seed(seed)
    network = VisionTransformer(image_size=8, patch_size=4, channels=1, width=width, depth=2, heads=4)
    for module in network.modules():  # what an untrained network does is too tame to show interference
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 / module.in_features**0.5)
    nn.init.normal_(network.pos_embed, std=0.5)
    return network.to(dtype)


class SmallData:
    """The training records of one experience, shared out among processes; an `ExperienceData`.

    Images of a class lie around a template of its own.
    """

    def __init__(
        self,
        experience: Experience,
        *,
        rank: int = 0,
        world: int = 1,
        total: int = 3,
        size: int = 24,
        steps: int | None = None,
    ) -> None:
        self.experience, self.experiences, self.task_aware, self.steps = experience, total, False, steps
        self.rank, self.world = rank, world
        generator = torch.Generator().manual_seed(100 + experience.index)
        templates = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        self.label = torch.tensor([experience.classes[one % len(experience.classes)] for one in range(size)])
        noise = torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64)
        self.image = templates[self.label] + 0.3 * noise

    def batch(self, part: slice = slice(None)) -> ImageBatch:
        label = self.label[part]
        index = torch.full_like(label, self.experience.index)
        return ImageBatch(self.image[part], label, index, torch.arange(len(self.label))[part])

    def batches(self, purpose: str) -> Iterator[ImageBatch]:
        own = self.batch(slice(self.rank, None, self.world))
        for start in range(0, len(own.label), 8):
            yield ImageBatch(*(column[start : start + 8] for column in own))


def experience(index: int, *, classes: int = 2) -> Experience:
    """Return the experience at this place of a stream that brings so many new classes each time."""
    labels = tuple(range(index * classes, (index + 1) * classes))
    return Experience(index=index, kind="learn", name=f"experience {index}", classes=labels, new_classes=labels)


class _Loss(nn.Module):
    """Lets `DistributedDataParallel` see the loss as a forward pass."""

    def __init__(self, method: ContinualMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, *batch: Tensor) -> Tensor:
        return self.method.loss(ImageBatch(*batch))


def train(
    method: ContinualMethod, data: SmallData, *, steps: int = 6, lr: float = 3e-3, weight_decay: float = 1e-2
) -> float:
    """Take steps of AdamW on the whole experience, on as many processes as there are; return the last loss."""
    method.train()
    groups = method.parameter_groups()
    if not groups:
        return 0.0
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    model = DistributedDataParallel(_Loss(method)) if data.world > 1 else _Loss(method)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(*data.batch(slice(data.rank, None, data.world)))
        loss.backward()
        optimizer.step()
        method.after_step()
    return float(loss.detach())


def learn(method: ContinualMethod, index: int, *, rank: int = 0, world: int = 1, **training: Any) -> SmallData:
    """Let a method learn one experience, all of its events, and return the records."""
    event = experience(index)
    data = SmallData(event, rank=rank, world=world)
    method.before_experience(event, data)
    train(method, data, **training)
    method.after_experience(event, data)
    method.eval()
    return data


def images(count: int = 5) -> Tensor:
    """Return images that no experience has."""
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def on_one_of(make: Make, rank: int, world: int, *, experiences: int = 3) -> list[list[float]]:
    """Learn three experiences as one of several processes; return the logits of new images."""
    torch.manual_seed(5)
    method = make(small_vit())
    for index in range(experiences):
        learn(method, index, rank=rank, world=world)
    with torch.no_grad():
        return method(images()).tolist()


def check_two_ranks(ranks: Any, on_rank: Callable[..., Any], make: Make, *, tolerance: float = 1e-8) -> None:
    """Check that two processes learn what one does.

    Args:
        ranks: the fixture.
        on_rank: a function of the test's module, ``on_rank_learn(rank) = on_one_of(make, rank, 2)``.
        make: makes the method.
        tolerance: the largest difference of a logit.
    """
    alone = torch.tensor(on_one_of(make, 0, 1))
    answers = ranks(on_rank, 2)
    assert [answer[0] for answer in answers] == ["returned"] * 2, answers
    for _, logits in answers:
        assert (torch.tensor(logits) - alone).abs().max() <= tolerance


def check_state_round_trip(make: Make, *, experiences: int = 2) -> None:
    """Check that a state dict, loaded into a new method, gives bit by bit the same, and the same things to train."""
    torch.manual_seed(5)
    method = make(small_vit())
    for index in range(experiences):
        learn(method, index, steps=3)
    coming = experience(experiences)
    method.before_experience(coming, SmallData(coming))
    train(method, SmallData(coming), steps=2)
    state = copy.deepcopy(method.state_dict())
    torch.manual_seed(99)
    again = make(small_vit(seed=1))
    again.load_state_dict(state)
    method.eval(), again.eval()
    assert torch.equal(again(images()), method(images()))
    trained = [[(p.shape, p.requires_grad) for p in one.parameters()] for one in (method, again)]
    assert trained[0] == trained[1]
    assert [g["lr_factor"] for g in again.parameter_groups()] == [g["lr_factor"] for g in method.parameter_groups()]
    for one in (method, again):
        torch.manual_seed(6)
        one.before_experience(experience(experiences + 1), SmallData(experience(experiences + 1)))
        train(one, SmallData(experience(experiences + 1)), steps=2)
        one.after_experience(experience(experiences + 1), SmallData(experience(experiences + 1)))
        one.eval()
    assert torch.equal(again(images()), method(images()))


class CutError(Exception):
    """What stops a run."""


class _Cutting(pl.Callback):
    def __init__(self, experience: int, batch: int) -> None:
        self.experience, self.batch = experience, batch

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.datamodule.current == self.experience and trainer.global_step == self.batch:
            raise CutError


def _run(folder: Path, make: Make, *callbacks: pl.Callback, ckpt_path: Path | None = None) -> dict[str, Any]:
    pl.seed_everything(4, verbose=False)
    module = ContinualClassifier(
        small_vit(dtype=torch.float32, width=32), method=make, optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3)
    )
    stream = DigitsStream(scenario=ClassIncremental(experiences=3, base_classes=4), batch_size=128, seed=11)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[pl.callbacks.ModelCheckpoint(every_n_train_steps=3, save_top_k=-1), *callbacks],
    )
    fit_stream(trainer, module, stream, ckpt_path=ckpt_path)
    return copy.deepcopy(dict(module.state_dict()))


def check_resumes(make: Make, folder: Path, *, cutting: pl.Callback | None = None) -> None:
    """Check that a run along digits, cut off within the second experience, ends bit by bit as one that was not.

    Args:
        make: makes the method.
        folder: where the runs write.
        cutting: what cuts it off by raising `Cut`; None for an end in mid-training.
    """
    unbroken = _run(folder / "unbroken", make)
    try:
        _run(folder / "cut", make, cutting or _Cutting(1, 5))
    except CutError:
        resumed = _run(folder / "cut", make, ckpt_path=folder / "cut")
    else:
        raise AssertionError("the run was not cut off")
    assert unbroken.keys() == resumed.keys()
    differing = [name for name in unbroken if not _same(unbroken[name], resumed[name])]
    assert not differing, differing


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
