"""Runs of one kind, and what they say together: means with their uncertainty, ε, curves."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvision.cli.runs import Key, Run, read_json, setting
from pvision.cli.suggestions import did_you_mean, nearest
from pvision.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pvision.continual.statistics import Interval

__all__ = ["CURVE", "Group", "choose_metrics", "grouped", "lower_is_better", "short", "titles"]

CURVE = "accuracy_matrix.json"
_LOGGED = "logged metric "
_OF_A_STREAM = (
    "continual/average_accuracy",
    "continual/average_incremental_accuracy",
    "continual/forgetting",
    "continual/backward_transfer",
)
_OF_A_MODEL = ("test/", "segmentation/", "detection/")
# Words in the last part of a metric's name that make it a cost, unless it is an accuracy.
_COSTS = {"forgetting", "forgotten", "intransigence", "gap", "deficit", "epsilon"}
_COSTS |= {"loss", "error", "errors", "nll", "bce", "mae", "mse", "rmse", "ece", "brier", "perplexity"}
_COSTS |= {"wer", "cer", "fid", "fpr", "fnr", "eer"}
_COSTS |= {"seconds", "time", "latency", "bytes", "memory", "mb", "mib", "gb", "gib"}
_COSTS |= {"parameters", "macs", "gmacs", "flops", "forwards"}
_GAINS = {"accuracy", "acc"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but chance.

    Attributes:
        name: what they have in common.
        runs: all of them have finished.
    """

    name: str
    runs: Sequence[Run]

    def values(self, metric: str) -> list[float]:
        """Return the metric of every run that has it and where it is defined."""
        found = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        return [value for value in found if math.isfinite(value)]

    def interval(self, metric: str) -> "Interval | None":
        """Return mean, 95 % confidence interval, standard deviation and count; None if no run has the metric."""
        from pvision.continual.statistics import mean_interval

        values = self.values(metric)
        return mean_interval(values) if values else None

    def by_key(self, metric: str) -> dict[Key, float]:
        """Return the metric by seed and class order; nothing where two runs share both, since neither is the one."""
        keys = Counter(run.key for run in self.runs)
        return {
            run.key: run.metrics[metric]
            for run in self.runs
            if run.key is not None and keys[run.key] == 1 and math.isfinite(run.metrics.get(metric, math.nan))
        }

    @cached_property
    def epsilon(self) -> dict[str, tuple[float, float]] | None:
        """The least and the largest ε of the runs by relation; None if none of them says anything of privacy."""
        told = [run.epsilon for run in self.runs]
        known = [epsilon for epsilon in told if epsilon is not None]
        if not known:
            return None
        silent = dict.fromkeys(known[0], math.inf)
        every = [epsilon or silent for epsilon in told]
        return {name: (min(e[name] for e in every), max(e[name] for e in every)) for name in silent}

    @property
    def private(self) -> bool:
        """Whether a run promises a finite ε."""
        return any(math.isfinite(low) for low, _ in (self.epsilon or {}).values())

    @cached_property
    def curves(self) -> list[list[float]]:
        """The average accuracy after each experience, of every run that kept its accuracy matrix."""
        return [_curve(path) for path in self._matrices]

    @property
    def measure(self) -> str:
        """What the accuracy matrices hold: accuracy, or the logged metric that stands for it."""
        source = str(read_json(self._matrices[0]).get("source", "")) if self._matrices else ""
        return source.removeprefix(_LOGGED) if source.startswith(_LOGGED) else "accuracy"

    @property
    def _matrices(self) -> list[Path]:
        return [path for run in self.runs if (path := run.folder / CURVE).is_file()]


def grouped(runs: Iterable[Run], *, by: str) -> list[Group]:
    """Put runs together that have the same ``by``.

    Args:
        runs: as they were named.
        by: ``name``, ``recipe``, a key of ``summary.json`` such as ``git_commit``, or a setting such as ``model.lr``.

    Raises:
        ConfigError: if no run has such a setting.
    """
    groups: dict[str, list[Run]] = {}
    runs = list(runs)
    for run in runs:
        groups.setdefault(_label(run, by), []).append(run)
    if set(groups) == {_UNKNOWN}:
        known = sorted({key for run in runs for key in _keys(run.config or {})})
        raise ConfigError(
            f"--by {by}: no run has such a setting{did_you_mean(by, known)} It may be name, recipe, a key of "
            "summary.json, or a setting of the configuration."
        )
    return [Group(name if by in ("name", "recipe") else f"{by} = {name}", members) for name, members in groups.items()]


_UNKNOWN = "unknown"


def _label(run: Run, by: str) -> str:
    if by in ("name", "recipe"):
        return str(getattr(run, by))
    value = run.summary[by] if by in run.summary else setting(run.config or {}, by)
    return _UNKNOWN if value is None else value if isinstance(value, str) else json.dumps(value)


def _keys(level: Any, prefix: str = "") -> list[str]:
    if not isinstance(level, Mapping):
        return [prefix]
    return [key for name, value in level.items() for key in _keys(value, f"{prefix}.{name}".lstrip("."))]


def choose_metrics(groups: Sequence[Group], asked: Sequence[str]) -> list[str]:
    """Return the metrics to show: those asked for, else those of a stream, of a model's test, or any in common.

    Raises:
        ConfigError: if a run lacks one that was asked for, or the runs have none in common.
    """
    runs = [run for group in groups for run in group.runs]
    if asked:
        return [_full_name(name, runs) for name in asked]
    of_a_stream = [name for name in _OF_A_STREAM if any(name in run.metrics for run in runs)]
    common = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    chosen = of_a_stream or [name for name in common if name.startswith(_OF_A_MODEL)] or common
    if not chosen:
        raise ConfigError(f"the runs have no metric in common; the first one has {_listed(runs[0].metrics)}.")
    return chosen


def _full_name(name: str, runs: Sequence[Run]) -> str:
    """Return the metric called ``name``, whose group may be left out."""
    known = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    meant = sorted((metric for metric in known if short(metric) == name), key=lambda metric: metric.count("/"))
    clear = len(meant) == 1 or (len(meant) > 1 and meant[0].count("/") < meant[1].count("/"))
    found = meant[0] if clear and name not in known else name
    for run in runs:
        if found not in run.metrics:
            likely = nearest(name, list(run.metrics), count=3)
            has = f"did you mean {' or '.join(likely)}?" if likely else f"it has {_listed(run.metrics)}."
            raise ConfigError(f"--metric {name}: the run in {run.folder} has no such metric; {has}")
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def short(metric: str) -> str:
    """Return the last part of a metric's name, which Lightning's number of a loader is not."""
    name, _, loader = metric.partition("/dataloader_idx_")
    return name.rpartition("/")[2] + (f"/dataloader_idx_{loader}" if loader else "")


def titles(metrics: Sequence[str]) -> dict[str, str]:
    """Return what to call each metric beside the others: its last part, its whole name where that says too little."""
    parts = Counter(short(metric) for metric in metrics)
    return {metric: short(metric) if parts[short(metric)] == 1 else metric for metric in metrics}


def lower_is_better(metric: str) -> bool:
    """Return whether the metric is a cost, by the words of its name."""
    words = {word.lower() for word in _WORD.findall(short(metric).partition("/")[0])}
    return "forgotten" in words or not (_COSTS.isdisjoint(words) or words & _GAINS)


def _curve(path: Path) -> list[float]:
    import numpy as np

    from pvision.continual.metrics import accuracy_curve

    content = read_json(path)
    try:
        accuracy = np.asarray(content["accuracy"], dtype=np.float64)
        forgotten = [column for column in content.get("forgotten", ()) if column < len(accuracy)]
        return [float(value) for value in accuracy_curve(accuracy, forgotten=forgotten)]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} holds no accuracy matrix ({error}). Remove it, or run that run again.") from error
