"""As many images of one class as of another."""

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from pvision.continual.replay.memory import Candidates, Choice, ReplayMemory

__all__ = ["ClassBalancedMemory", "fair_shares"]


class ClassBalancedMemory(ReplayMemory):
    """Share the memory equally among the classes seen so far; within a class the choice is random.

    The greedy sampler of GDumb [1] in its offline form: the memory is always as full as it can be, and the counts of
    two classes differ by more than one only where the smaller class has no more records. A class that comes again is
    sampled uniformly from all of its records so far. With fewer places than classes, as many classes as there are
    places have one image each, drawn at random.

    References:
        [1] Prabhu, Torr and Dokania 2020, "GDumb: a simple approach that questions our progress in continual learning".

    Example:
        >>> ClassBalancedMemory(200)
        ClassBalancedMemory(size=200)
    """

    @override
    def _choose(self, candidates: Candidates) -> Choice:
        labels = np.concatenate([self.labels, candidates.labels])
        draws = np.concatenate([self._ranks, candidates.draws])
        order = np.argsort(draws, kind="stable")
        # Classes by their smallest number: which classes get one image more is then random, and stays as it was.
        groups = [order[labels[order] == label] for label in dict.fromkeys(labels[order].tolist())]
        shares = fair_shares(np.asarray([len(group) for group in groups], dtype=np.int64), self.size)
        kept = [group[:share] for group, share in zip(groups, shares, strict=True)]
        items = np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=np.int64)
        return Choice(items, draws[items])


def fair_shares(available: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Divide ``size`` places as evenly as ``available`` allows; what is left over goes to the first ones.

    Args:
        available: ``(n,)``, how many each could fill.
        size: how many places there are.

    Example:
        >>> fair_shares(np.array([9, 1, 9]), 10).tolist()
        [5, 1, 4]
    """
    shares = np.zeros_like(available)
    while (left := size - int(shares.sum())) > 0 and (hungry := np.flatnonzero(shares < available)).size:
        if left < hungry.size:
            shares[hungry[:left]] += 1
        else:
            shares[hungry] = np.minimum(available[hungry], shares[hungry] + left // hungry.size)
    return shares
