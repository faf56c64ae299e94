"""What a method may ask about an experience, beside its training batches."""

from collections.abc import Iterator
from typing import Protocol

from pvision.continual.experience import ImageBatch

__all__ = ["ExperienceData"]


class ExperienceData(Protocol):
    """The training records of one experience, as evaluation sees them.

    Attributes:
        experiences: how many experiences the stream has to learn.
        task_aware: whether the stream tells the experience of a test image.
    """

    experiences: int
    task_aware: bool

    @property
    def steps(self) -> int | None:
        """How many steps the optimizer takes, early stopping apart; None where only time limits it, or nobody knows."""

    def batches(self, purpose: str) -> Iterator[ImageBatch]:
        """Yield the records once, in order and without augmentation, on the method's device.

        Each process has its own share, and together they have each record once: what is computed from them needs a
        collective, as `Features.together` is one. A share can be empty.

        Args:
            purpose: what it is read for, in two or three words; shown beside the progress.
        """
