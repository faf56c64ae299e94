"""Streams whose classes have very different numbers of training records.

[0] Liu, Hu, Cao, van de Weijer, Cheng, et al., Long-Tailed Class Incremental Learning, ECCV 2022, arXiv:2210.00266.
"""

from typing import Literal

import numpy as np

from pvision.checks import one_of, unit_rate
from pvision.continual.scenarios.labels import StreamLabels
from pvision.continual.scenarios.scenario import Part, Scenario, checked_seed

__all__ = ["LongTailed"]


class LongTailed(Scenario):
    """Another scenario, with its training records thinned out so that class sizes fall exponentially [0].

    The k-th of K classes keeps ``largest * imbalance ** (k / (K - 1))`` training records, rounded down, one at least;
    ``largest`` is the size of the largest class. Test records stay as they are.

    Args:
        scenario: how the records come.
        imbalance: size of the smallest class divided by that of the largest, above 0 and at most 1; 0.01 in the paper.
        order: ``ordered``: the sizes fall along the stream; ``shuffled``: they fall along a random order of classes.
        seed: draws the order of classes and the records that stay.

    Raises:
        ConfigError: if an argument is out of range.
    """

    def __init__(
        self,
        *,
        scenario: Scenario,
        imbalance: float = 0.01,
        order: Literal["ordered", "shuffled"] = "shuffled",
        seed: int = 0,
    ) -> None:
        self.scenario = scenario
        self.imbalance = unit_rate("LongTailed.imbalance", imbalance)
        self.order = one_of("LongTailed.order", order, ("ordered", "shuffled"))
        self.seed = checked_seed("LongTailed.seed", seed)
        self.task_aware, self.evaluates = scenario.task_aware, scenario.evaluates
        self.repeats_classes = scenario.repeats_classes

    def parts(self, labels: StreamLabels) -> list[Part]:
        """Return the scenario's parts, of whose training records some are left out."""
        parts = self.scenario.parts(labels)
        random = np.random.RandomState(self.seed)
        order = list(dict.fromkeys(label for part in parts for label in part.classes))
        if self.order == "shuffled":
            order = [order[place] for place in random.permutation(len(order))]
        available = np.bincount(labels.train, minlength=labels.num_classes)
        stays = np.zeros(len(labels.train), dtype=bool)
        for place, label in enumerate(order):
            share = self.imbalance ** (place / max(len(order) - 1, 1))
            count = max(1, int(available.max() * share))
            stays[random.permutation(np.flatnonzero(labels.train == label))[:count]] = True
        return [_thinned(part, labels, stays[part.train]) for part in parts]

    def settings(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {
            "scenario": {"class": type(self.scenario).__name__, **self.scenario.settings()},
            "imbalance": self.imbalance,
            "order": self.order,
            "seed": self.seed,
        }


def _thinned(part: Part, labels: StreamLabels, stays: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> Part:
    train = part.train[stays]
    # A class that comes in several experiences may have lost all its records of one of them.
    left = set(labels.train[train].tolist())
    return Part(part.name, tuple(label for label in part.classes if label in left), train, part.test, part.domain)
