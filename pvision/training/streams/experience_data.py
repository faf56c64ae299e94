"""The training records of an experience, as methods in plain PyTorch ask for them."""

from collections.abc import Iterator
from math import isfinite
from typing import Any

import lightning.pytorch as pl
from tqdm import tqdm

from pvision.continual.experience import Experience, ImageBatch
from pvision.training.trainer_parts import on_device

__all__ = ["StreamData"]


class StreamData:
    """Reads one experience of a stream on a Trainer's device; a `pvision.adapters.methods.ExperienceData`.

    Args:
        trainer: knows the device, the precision and the processes.
        stream: a `pvision.datamodules.TaskStream`.
        experience: one of its experiences.

    Attributes:
        experiences: how many experiences the stream has to learn.
        task_aware: whether the stream tells the experience of a test image.
    """

    def __init__(self, trainer: pl.Trainer, stream: Any, experience: Experience) -> None:
        self.experiences = sum(one.kind == "learn" for one in stream.experiences)
        self.task_aware = bool(getattr(getattr(stream, "scenario", None), "task_aware", False))
        self._trainer, self._stream, self._experience = trainer, stream, experience

    @property
    def steps(self) -> int | None:
        """How many steps the optimizer takes, early stopping apart; None where only time limits them.

        While a fit is set up or goes on: epochs, ``limit_train_batches`` and ``accumulate_grad_batches`` count. It
        makes the training batches' loader, so it is not worked out unless asked for.
        """
        estimated = self._trainer.estimated_stepping_batches
        return int(estimated) if isfinite(estimated) and estimated >= 0 else None

    def batches(self, purpose: str) -> Iterator[ImageBatch]:
        """Yield this process' share of the records, once, in order and without augmentation."""
        trainer = self._trainer
        loader = self._stream.in_order_loader(self._experience.train[trainer.global_rank :: trainer.world_size])
        hidden = not (trainer.is_global_zero and getattr(trainer.progress_bar_callback, "is_enabled", False))
        for batch in tqdm(loader, desc=purpose, total=len(loader.sampler), leave=False, delay=2, disable=hidden):
            yield on_device(trainer, batch)
