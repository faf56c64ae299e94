"""The images of each class whose mean is nearest to the mean of the class."""

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import override

from pvision.continual.replay.class_balanced import fair_shares
from pvision.continual.replay.memory import Candidates, Choice, ReplayMemory
from pvision.errors import ConfigError, DataError

__all__ = ["HerdingMemory", "herding_order"]


class HerdingMemory(ReplayMemory):
    """Keep ``size // classes`` exemplars of each class seen so far, chosen by herding as iCaRL does [1].

    The exemplars of a class stand in the order in which herding chose them, so the first ones stay when further classes
    make the lists shorter. Old images are never chosen anew: their features are not asked for again. A class that comes
    again gets a second list, and its places are divided evenly among its lists.

    Features are L2-normalised, all arithmetic is float64, and of equally near images the first is taken.

    References:
        [1] Rebuffi et al. 2017, "iCaRL: incremental classifier and representation learning", algorithms 4 and 5.

    Example:
        >>> HerdingMemory(200)
        HerdingMemory(size=200)
    """

    @override
    def _choose(self, candidates: Candidates) -> Choice:
        classes = list(dict.fromkeys([*self.labels.tolist(), *np.unique(candidates.labels).tolist()]))
        share = self.size // len(classes) if classes else 0
        if classes and not share:
            raise ConfigError(
                f"{self} cannot hold one exemplar of each of {len(classes)} classes. Give it size={len(classes)} or "
                "more."
            )
        features = self._features(candidates)
        items, ranks = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for label in classes:
            for group in self._lists(label, share, candidates, features):
                items.append(group)
                ranks.append(np.arange(len(group)))
        return Choice(np.concatenate(items), np.concatenate(ranks).astype(np.float64))

    def _lists(
        self, label: int, share: int, candidates: Candidates, features: npt.NDArray[np.float64]
    ) -> list[npt.NDArray[np.int64]]:
        """Return the lists of one class, one for each experience that brought it, cut to ``share`` places together."""
        held = np.flatnonzero(self.labels == label)
        lists = [held[self.experiences[held] == index] for index in dict.fromkeys(self.experiences[held].tolist())]
        new = np.flatnonzero(candidates.labels == label)
        available = [len(one) for one in lists] + [len(new)] * bool(len(new))
        shares = fair_shares(np.asarray(available, dtype=np.int64), share)
        if len(new):
            order = herding_order(features[new], int(shares[-1]))
            lists.append(new[order] + len(self))
        return [one[:places] for one, places in zip(lists, shares, strict=True)]

    def _features(self, candidates: Candidates) -> npt.NDArray[np.float64]:
        if not len(candidates):
            return np.empty((0, 1))
        found = candidates.features(candidates.positions) if candidates.features is not None else None
        if not isinstance(found, Tensor):
            raise ConfigError(
                f"{self} chooses by features, but the module gives none (features(positions) came to "
                f"{type(found).__name__}). Use ReservoirMemory or ClassBalancedMemory, or a module with features."
            )
        if found.ndim != 2 or len(found) != len(candidates):
            raise DataError(
                f"features(positions) must be ({len(candidates)}, d), one row for each position, but its shape is "
                f"{tuple(found.shape)}."
            )
        values: npt.NDArray[np.float64] = found.detach().cpu().double().numpy()
        if not np.isfinite(values).all():
            raise DataError("features(positions) holds NaN or infinity: the module has diverged. Lower its lr.")
        return values


def herding_order(features: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Return the first ``count`` rows in herding order.

    Each step takes the row that brings the mean of the chosen rows nearest to the mean of all (iCaRL, algorithm 4).

    Args:
        features: ``(n, d)``; rows are L2-normalised first, rows of zeros stay.
        count: how many, at most n.

    Example:
        >>> herding_order(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), 2).tolist()
        [1, 0]
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    rows = features / np.where(lengths > 0, lengths, 1.0)
    squares = (rows * rows).sum(axis=1)
    mean, total = rows.mean(axis=0), np.zeros(rows.shape[1])
    free = np.ones(len(rows), dtype=bool)
    chosen = np.empty(min(count, len(rows)), dtype=np.int64)
    for step in range(len(chosen)):
        # k² ‖mean − (total + row)/k‖² without what is the same for all rows, k = step + 1
        distance = squares + 2 * (rows @ (total - (step + 1) * mean))
        distance = np.where(free, distance, np.inf)
        # Equally near up to rounding, which differs between processors: the first one.
        chosen[step] = np.argmax(distance <= distance.min() + 1e-11 * (step + 1))
        free[chosen[step]] = False
        total += rows[chosen[step]]
    return chosen
