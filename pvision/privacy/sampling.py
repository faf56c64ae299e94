"""Poisson sampling: every record joins every batch independently, with the same probability."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pvision.checks import positive_int, unit_rate
from pvision.errors import PrivacyError
from pvision.privacy.noise import SecretSource

__all__ = ["PoissonBatches"]


class PoissonBatches:
    """The batches of ``steps`` noisy releases, to be given to a loader as its batch sampler.

    It remembers what it drew until `confirm` is told that the batch was used, so that batches from anywhere else
    are noticed.

    Args:
        num_records: records in the data set.
        sample_rate: probability of each record to be in a batch; 1 puts every record into every batch.
        steps: how many batches to draw.
        seed: None seeds from the operating system; a number is for tests, and public.

    Raises:
        ConfigError: if a value is outside its range.

    Guarantee:
        Inclusions are independent across records and batches, drawn with 53-bit resolution from an own generator:
        the global seed says nothing about them. Batches may be empty; they are batches all the same.
    """

    def __init__(self, *, num_records: int, sample_rate: float, steps: int, seed: int | None = None) -> None:
        self.num_records = positive_int("num_records", num_records)
        self.sample_rate = unit_rate("sample_rate", sample_rate)
        self.steps = positive_int("steps", steps)
        self._source = SecretSource(seed=seed)
        self._drawn: deque[list[int]] = deque()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        self._drawn.clear()
        for _ in range(self.steps):
            batch = (self._source.uniform(self.num_records) < self.sample_rate).nonzero().flatten().tolist()
            self._drawn.append(batch)
            yield batch

    def confirm(self, indices: Tensor | Sequence[int]) -> None:
        """Check that ``indices`` is the next batch that was drawn.

        Raises:
            PrivacyError: if it is not: then ε, which assumes this sampler, would not hold.
        """
        came = torch.as_tensor(indices).tolist()
        if not self._drawn or self._drawn[0] != came:
            raise PrivacyError(
                f"A batch of {len(came)} records came that the privacy mechanism did not draw. Its ε assumes Poisson "
                "sampling: do not replace, shuffle, wrap or shard the loader of private training."
            )
        self._drawn.popleft()
