"""What one evaluation says of each of its test sets: counts of right predictions, or a logged metric."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from pvision.continual._collectives import from_all
from pvision.errors import ConfigError, DataError

__all__ = ["Evaluation", "Measured", "Metric", "Pairs", "choose", "per_class", "per_loader"]

Metric = str | Mapping[int, str] | None
Pairs = Counter[tuple[int, int]]  # how often a true label met a predicted one
_OUTPUTS = {"preds": "counted", "preds_task_aware": "task_aware"}


class Measured(NamedTuple):
    """What all processes found together.

    Attributes:
        counted: for each loader of which predictions came, how often each true label met each prediction.
        task_aware: the same for predictions among the classes of the record's own experience.
        logged: metrics of the evaluation by name, as Lightning names them.
        disputed: names of metrics of which processes hold different values.
    """

    counted: dict[int, Pairs]
    task_aware: dict[int, Pairs]
    logged: dict[str, float]
    disputed: frozenset[str] = frozenset()


class Evaluation:
    """Gather what one evaluation gives on this process; `together` joins all processes."""

    def __init__(self) -> None:
        self._pairs: dict[str, dict[int, Pairs]] = {name: {} for name in _OUTPUTS.values()}
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, trainer: pl.Trainer, outputs: object, *, loader: int, several: bool) -> None:
        """Take up a batch: what the step returned, and what it has logged so far."""
        if isinstance(outputs, Mapping) and {"preds", "target"} <= outputs.keys():
            target = _labels("target", outputs["target"])
            for key, name in _OUTPUTS.items():
                if key in outputs:
                    self._pairs[name].setdefault(loader, Counter()).update(_pairs(key, outputs[key], target))
        for logged in _means(trainer, loader if several else None):
            name = f"{logged.meta.name}/dataloader_idx_{loader}" if several else logged.meta.name
            # A clone, because Lightning reduces this one in place when the loader has ended.
            self._sums[name] = (logged.value, logged.cumulated_batch_size.clone())

    def together(self, trainer: pl.Trainer) -> Measured:
        """Meet all processes once, and return the same on each: integer counts summed, means weighted by records.

        Lightning's own ``sync_dist`` rounds the mean number of records down to a whole one, which is wrong for uneven
        shares; without it a logged mean is the process's own. So means are made anew here.
        """
        finished = {name: float(value) for name, value in trainer.callback_metrics.items() if name[:10] != "continual/"}
        sums = {name: (float(total), int(records)) for name, (total, records) in self._sums.items()}
        parts = from_all((self._pairs, sums, finished))
        pairs: dict[str, dict[int, Pairs]] = {name: {} for name in _OUTPUTS.values()}
        for mine, _, _ in parts:
            for name, loaders in mine.items():
                for loader, counter in loaders.items():
                    pairs[name].setdefault(loader, Counter()).update(counter)
        logged = _agreed([part[2] for part in parts])
        for name in set.intersection(*(set(part[1]) for part in parts)):
            total, records = (sum(part[1][name][place] for part in parts) for place in (0, 1))
            logged[name] = total / records if records else np.nan
        disputed = frozenset(set().union(*(part[2] for part in parts)) - logged.keys())
        return Measured(pairs["counted"], pairs["task_aware"], logged, disputed)


def choose(metric: Metric, measured: Measured, *, loaders: int) -> bool:
    """Return whether values come from counts.

    Raises:
        ConfigError: if no metric is named and the step returns no predictions, or not for every loader.
    """
    if metric is not None:
        return False
    if not measured.counted:
        raise ConfigError(
            "ForgettingMetrics has nothing to measure: the step of evaluation returns no mapping with int tensors "
            f"'preds' and 'target'. Return them, or name a logged metric, as ForgettingMetrics('{_first(measured)}'). "
            f"{_list(measured.logged)}"
        )
    if missing := [loader for loader in range(loaders) if loader not in measured.counted]:
        raise ConfigError(
            f"The step of evaluation returned 'preds' and 'target' for some loaders, but not for loader {missing[0]} "
            f"of {loaders}. Return them for every batch, or name a logged metric."
        )
    return True


def per_loader(name: str, measured: Measured, *, loaders: int, scale: float) -> list[float]:
    """Return the metric's value for each loader as a fraction.

    Raises:
        ConfigError: if it was not logged for each of them, or is no fraction.
    """
    keys = [name] if loaders == 1 else [f"{name}/dataloader_idx_{loader}" for loader in range(loaders)]
    return [_fraction(key, measured, scale=scale) for key in keys]


def per_class(
    metric: str | Mapping[int, str],
    measured: Measured,
    *,
    classes: Sequence[Sequence[int]],
    scale: float,
    learned: int | None = None,
) -> list[float]:
    """Return, for each experience, the mean over its classes of a metric per class; undefined classes are left out.

    Args:
        metric: names the metric of each class.
        measured: what was logged.
        classes: of each experience.
        scale: what values are divided by.
        learned: how many experiences are learned; of later ones nothing need be logged. None for all.

    Raises:
        ConfigError: if a class has no name or was not logged, or its value is no fraction.
    """
    values = []
    for place, labels in enumerate(classes):
        if isinstance(metric, Mapping) and (unnamed := [label for label in labels if label not in metric]):
            raise ConfigError(f"forgetting_metrics.metric names no metric for class {unnamed[0]} of classes={classes}.")
        names = [metric[label] if isinstance(metric, Mapping) else metric.format(label) for label in labels]
        if learned is not None and place >= learned and not measured.logged.keys() & set(names):
            values.append(np.nan)
            continue
        found = [_fraction(name, measured, scale=scale) for name in names]
        defined = [value for value in found if not np.isnan(value)]
        values.append(float(np.mean(defined)) if defined else np.nan)
    return values


def _fraction(name: str, measured: Measured, *, scale: float) -> float:
    if name in measured.disputed:
        raise ConfigError(
            f"The processes hold different values of the metric {name!r}. Log it with sync_dist=True, or as a "
            "torchmetrics metric, which counts over all processes."
        )
    if name not in measured.logged:
        raise ConfigError(
            f"ForgettingMetrics reads the metric {name!r}, but nobody logged it. {_list(measured.logged)}"
        )
    value = measured.logged[name] / scale
    if not (np.isnan(value) or -1e-6 <= value <= 1 + 1e-6):
        remedy = "If it is a percentage, say ForgettingMetrics(…, scale=100)."
        if scale != 1:
            remedy = f"It was divided by scale={scale:g}."
        raise ConfigError(f"{name} must be a fraction in [0, 1] to stand in the matrix, but {value:g} came. {remedy}")
    return float(min(max(value, 0.0), 1.0)) if not np.isnan(value) else np.nan


def _list(logged: Mapping[str, float]) -> str:
    names = sorted({name.partition("/dataloader_idx_")[0] for name in logged})
    return f"Logged were: {', '.join(names)}." if names else "Nothing was logged."


def _first(measured: Measured) -> str:
    return min((name.partition("/dataloader_idx_")[0] for name in measured.logged), default="test_acc")


def _labels(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
        came = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"{name!r} of a step of evaluation must be an int tensor of classes, but {came} came.")
    return value.detach().flatten().long()


def _pairs(name: str, value: object, target: Tensor) -> Pairs:
    predicted = _labels(name, value)
    if predicted.shape != target.shape:
        raise ConfigError(f"{name!r} holds {len(predicted)} classes, but 'target' holds {len(target)}: one for one.")
    if (target < 0).any():
        raise DataError(f"'target' holds the class {int(target.min())}; classes count from 0. Leave such records out.")
    both = torch.stack([target, predicted.clamp(min=-1)], 1).cpu().numpy()
    found, counts = np.unique(both, axis=0, return_counts=True)
    return Counter(
        {(truth, guess): count for (truth, guess), count in zip(found.tolist(), counts.tolist(), strict=True)}
    )


def _means(trainer: pl.Trainer, loader: int | None) -> list[Any]:
    """Return what Lightning accumulates of the means that the step logs for this loader."""
    results = getattr(trainer, "_results", None) or {}
    return [
        one
        for one in results.values()
        if one.is_tensor and not one.has_reset and one.meta.is_mean_reduction and one.meta.on_epoch
        if one.meta.dataloader_idx == loader
    ]


def _agreed(logged: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics on which all processes agree."""
    first = logged[0]
    return {
        name: value
        for name, value in first.items()
        if all(name in other and np.array_equal(value, other[name], equal_nan=True) for other in logged)
    }
