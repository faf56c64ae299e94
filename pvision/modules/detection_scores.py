"""Average precision of several test sets, now and before."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from pvision.detection.records import Prediction, Target
from pvision.training.average_precision import AveragePrecision

__all__ = ["DetectionScores", "MeanValue"]


class DetectionScores(nn.Module):
    """Gather predictions for several test sets, and those of the detector as it was given beside them.

    Args:
        test_sets: their names, in the order of their loaders.
        class_names: of the data.
    """

    def __init__(self, test_sets: Sequence[str], class_names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(test_sets)
        self.now, self.before = (tuple(AveragePrecision(class_names) for _ in test_sets) for _ in range(2))
        self.mean = tuple(MeanValue(score) for score in self.now)
        self.all = nn.ModuleList([*self.now, *self.before, *self.mean])  # so that devices and Lightning find them

    def update(
        self, place: int, predictions: Sequence[Prediction], before: Sequence[Prediction], targets: Sequence[Target]
    ) -> None:
        """Take up a batch of the test set number ``place``."""
        self.now[place].update(predictions, targets)
        self.before[place].update(before, targets)
        self.mean[place].update()

    def values(self) -> dict[str, float]:
        """Return ``map_SET``, ``map_50_SET``, … and ``map_SET_before``, …; every process must ask."""
        values: dict[str, float] = {}
        for name, now, before in zip(self.names, self.now, self.before, strict=True):
            values |= _named(now.compute(), "{}_" + name)
            values |= _named(before.compute(), "{}_" + name + "_before")
        return values


class MeanValue(Metric):
    """The mean average precision of another metric, which Lightning can log for each loader under one name."""

    full_state_update = False

    def __init__(self, score: AveragePrecision) -> None:
        super().__init__()
        self._score = (score,)  # not a child: it is gathered and reset by itself

    def update(self) -> None:
        """Note that the other metric has been updated; torchmetrics warns otherwise."""

    def compute(self) -> Tensor:
        """Return the mean average precision, from 0 to 1; NaN where it is undefined."""
        return torch.tensor(self._score[0].compute()["map"], device=self.device)


def _named(values: Mapping[str, float], pattern: str) -> dict[str, float]:
    return {pattern.format(name): value for name, value in values.items()}
