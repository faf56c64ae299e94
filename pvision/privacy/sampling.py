"""Which units take part in which noisy release: by lot, or in turn."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pvision.checks import positive_int, unit_rate
from pvision.errors import PrivacyError
from pvision.privacy.accounting import batches_per_cycle
from pvision.privacy.noise import SecretSource
from pvision.privacy.ranks import Ranks
from pvision.privacy.units import Units

__all__ = ["FixedBatches", "PoissonBatches", "PrivateBatches"]


class Draw(NamedTuple):
    """One batch over all ranks.

    Attributes:
        iteration: in which iteration of the sampler it was drawn, from 1.
        number: its place there, from 0.
        units: how many units it has.
    """

    iteration: int
    number: int
    units: int


class PrivateBatches(ABC):
    """The batches of ``steps`` noisy releases, to be given to a loader as its batch sampler.

    It remembers what it drew until `confirm` is told that the batch was used, so that batches from anywhere else
    are noticed. Iterating anew goes on after the releases that are spent already.

    Args:
        units: who can be drawn.
        steps: how many batches there are in all.
        ranks: the processes that share each batch; every one takes each ``world_size``-th of the units drawn.

    Attributes:
        spent: releases that are behind us; the mechanism keeps it.
        taken: those of them that the running loop counts as its own: where training was resumed, a loop that counts
            its batches expects them in ``len()`` too.
    """

    def __init__(self, units: Units, *, steps: int, ranks: Ranks) -> None:
        self.units = units
        self.steps = positive_int("steps", steps)
        self.spent = self.taken = self._spent_before = 0
        self._ranks = ranks
        self._iterations = 0
        self._drawn: deque[tuple[list[int], Draw]] = deque()

    @property
    def fixed_size(self) -> int:
        """Records to compute on in every batch of this rank, blank ones included; 0 where there is no such bound."""
        return 0

    def resume(self, *, spent: int, taken: int) -> None:
        """Go on after ``spent`` releases, ``taken`` of which the running loop has counted."""
        self.spent = self._spent_before = spent
        self.taken = taken

    def __len__(self) -> int:
        return self.steps - self._spent_before + self.taken

    def __iter__(self) -> Iterator[list[int]]:
        self._drawn.clear()
        self._iterations += 1
        for number, units in enumerate(self._draws()):
            mine = self.units.positions(units[self._ranks.rank :: self._ranks.world_size])
            self._drawn.append((mine, Draw(self._iterations, number, len(units))))
            yield mine

    @abstractmethod
    def _draws(self) -> Iterator[Tensor]:
        """Yield the units of each release that is not spent yet, the same on every rank."""

    def confirm(self, indices: Tensor | Sequence[int]) -> Draw:
        """Check that ``indices`` is the next batch that was drawn for this rank.

        Returns:
            What tells the whole batch, of all ranks, from any other.

        Raises:
            PrivacyError: if it is not: then ε, which assumes this sampler, would not hold.
        """
        came = torch.as_tensor(indices).tolist()
        if not self._drawn or self._drawn[0][0] != came:
            raise PrivacyError(
                f"A batch of {len(came)} records came that the privacy mechanism did not draw. Its ε assumes its own "
                "sampler: do not replace, shuffle, wrap or shard the loader of private training."
            )
        return self._drawn.popleft()[1]


class PoissonBatches(PrivateBatches):
    """Every unit joins every batch independently, with the same probability.

    Args:
        num_records: records in the data set, each of them a unit; give this or ``units``.
        sample_rate: probability of each unit to be in a batch; 1 puts every unit into every batch.
        steps: how many batches to draw.
        max_batch_size: units in a batch at most, over all ranks; of more, as many are chosen by lot.
        units: who can be drawn.
        ranks: as for `PrivateBatches`; torch's default process group if None.
        secure: draw from a generator that is cryptographic itself, not only its seed.
        seed: None seeds from the operating system; a number is for tests, and public.

    Raises:
        ConfigError: if a value is outside its range.

    Guarantee:
        Inclusions are independent across units and batches, drawn with 53-bit resolution from a key of 128 bits that
        rank 0 takes from the operating system: the global seed says nothing about them. All ranks draw the same
        batch from that key and share it out, so the number of ranks changes nothing. Batches may be empty; they are
        batches all the same. Each iteration has a key of its own.

    Example:
        >>> batches = PoissonBatches(num_records=1000, sample_rate=0.1, steps=3)
        >>> len(list(batches))
        3
    """

    def __init__(
        self,
        *,
        num_records: int | None = None,
        sample_rate: float,
        steps: int,
        max_batch_size: int | None = None,
        units: Units | None = None,
        ranks: Ranks | None = None,
        secure: bool = False,
        seed: int | None = None,
    ) -> None:
        ranks = ranks or Ranks()
        super().__init__(units or Units(positive_int("num_records", num_records)), steps=steps, ranks=ranks)
        self.sample_rate = unit_rate("sample_rate", sample_rate)
        self.max_batch_size = None if max_batch_size is None else positive_int("max_batch_size", max_batch_size)
        self._secure = secure
        self._key = ranks.from_first(os.urandom(16)) if seed is None else _digest(str(seed).encode())

    @property
    def fixed_size(self) -> int:
        """This rank's share of the largest batch; 0 without a maximum, or where units differ in size."""
        return -(-(self.max_batch_size or 0) // self._ranks.world_size) if self.units.one_each else 0

    def _draws(self) -> Iterator[Tensor]:
        # Ranks iterate equally often, though loaders may have looked ahead unequally far.
        source = SecretSource(key=_digest(self._key + self._iterations.to_bytes(8, "big")), secure=self._secure)
        for _ in range(self.spent, self.steps):
            yield self._draw(source)

    def _draw(self, source: SecretSource) -> Tensor:
        lots = source.uniform(self.units.count)
        chosen = (lots < self.sample_rate).nonzero().flatten()
        if self.max_batch_size is None or len(chosen) <= self.max_batch_size:
            return chosen
        # Given who is in, the order of their lots is uniform: the lowest are a uniformly random choice.
        return chosen[lots[chosen].argsort()[: self.max_batch_size]].sort().values


class FixedBatches(PrivateBatches):
    """The units take turns, in the order of their numbers; nothing is secret.

    Args:
        units: who takes part.
        sample_rate: share of the units in a batch; its inverse, the number of batches in a round, is whole.
        steps: how many batches there are.
        ranks: as for `PrivateBatches`; torch's default process group if None.

    Guarantee:
        After n releases, lost ones included, every unit took part in at most ⌈n / R⌉, R batches being a round.
    """

    def __init__(self, units: Units, *, sample_rate: float, steps: int, ranks: Ranks | None = None) -> None:
        super().__init__(units, steps=steps, ranks=ranks or Ranks())
        self._round = batches_per_cycle(sample_rate)

    def _draws(self) -> Iterator[Tensor]:
        everyone = torch.arange(self.units.count)
        for step in range(self.spent, self.steps):
            yield everyone[step % self._round :: self._round]


def _digest(secret: bytes) -> bytes:
    return hashlib.blake2b(secret, digest_size=16).digest()
