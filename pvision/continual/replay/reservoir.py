"""A uniform sample of everything seen so far."""

import numpy as np
from typing_extensions import override

from pvision.continual.replay.memory import Candidates, Choice, ReplayMemory

__all__ = ["ReservoirMemory"]


class ReservoirMemory(ReplayMemory):
    """Keep a uniform sample of all records seen so far, whatever their class.

    After each experience every record of it and of all before is held with the same probability, as by the reservoir
    sampling of [1] that [2] uses for replay. It is drawn in its offline form [3]: each record has a uniform number of
    its own, and the ``size`` smallest are held. Nothing depends on the order of records within an experience, and the
    sample stays uniform when records are forgotten; free places then fill as new records come.

    References:
        [1] Vitter 1985, "Random sampling with a reservoir", Algorithm R.
        [2] Chaudhry et al. 2019, "On tiny episodic memories in continual learning", arXiv:1902.10486.
        [3] Cohen and Kaplan 2007, "Summarizing data using bottom-k sketches".

    Example:
        >>> len(ReservoirMemory(200))
        0
    """

    @override
    def _choose(self, candidates: Candidates) -> Choice:
        draws = np.concatenate([self._ranks, candidates.draws])
        order = np.argsort(draws, kind="stable")
        # Places that forgetting freed go only to numbers below all that were ever turned away: otherwise records that
        # come later would be held more often than those that were turned away.
        order = order[draws[order] < self._bound]
        bound = float(draws[order[self.size]]) if len(order) > self.size else self._bound
        items = np.sort(order[: self.size])
        return Choice(items, draws[items], bound)
