"""Report runs over seeds and class orders: mean with confidence interval, and paired comparison of two methods."""

import importlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pvision.checks import open_unit
from pvision.errors import ConfigError, MissingExtraError

__all__ = ["Interval", "PairedComparison", "mean_interval", "paired_comparison"]


class Interval(NamedTuple):
    """A mean and where it lies.

    Attributes:
        mean: the mean of the values.
        low: lower end of the confidence interval; NaN for one value, which says nothing about the spread.
        high: upper end.
        std: standard deviation of the values, with n - 1 below the sum; NaN for one value.
        n: how many values.
    """

    mean: float
    low: float
    high: float
    std: float
    n: int


class PairedComparison(NamedTuple):
    """How a differs from b on equal seeds and class orders.

    Attributes:
        difference: mean of a - b with its confidence interval.
        t: Student's paired t; NaN where all differences are equal, which leaves no spread to judge by.
        t_p: its two-sided p value.
        wilcoxon: the smaller of the two rank sums of Wilcoxon's signed-rank test, pairs without a difference left out.
        wilcoxon_p: its two-sided p value, exact, also with ties.
    """

    difference: Interval
    t: float
    t_p: float
    wilcoxon: float
    wilcoxon_p: float


def mean_interval(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean with its confidence interval by Student's t.

    Args:
        values: one value per run, ``(n,)``. A NaN makes everything NaN: a run without a value is not left out.
        confidence: how often such an interval holds the true mean, between 0 and 1.

    Raises:
        ConfigError: if there are no values.
        MissingExtraError: without scipy.
    """
    runs = _runs("values", values)
    level = open_unit("confidence", confidence)
    n = len(runs)
    mean = float(runs.mean())
    if n == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    std = float(runs.std(ddof=1))
    half = float(_scipy_stats().t.ppf((1 + level) / 2, n - 1)) * std / n**0.5
    return Interval(mean, mean - half, mean + half, std, n)


def paired_comparison(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> PairedComparison:
    """Compare two methods that ran on the same seeds and class orders.

    Args:
        a: one value per run of the first method, ``(n,)``.
        b: the same of the second, in the same order of seeds and class orders.
        confidence: of the interval of the mean difference, between 0 and 1.

    Raises:
        ConfigError: if the two are not equally long.
        MissingExtraError: without scipy.
    """
    first, second = _runs("a", a), _runs("b", b)
    if len(first) != len(second):
        raise ConfigError(
            f"a and b must hold the same runs, but {len(first)} and {len(second)} values came."
            " Give both methods' values for the seeds and class orders that both ran on, in the same order."
        )
    differences = _differences(first, second)
    difference = mean_interval(differences, confidence)
    no_spread = np.ptp(differences) == 0 or difference.std == 0
    t, t_p = (np.nan, np.nan) if no_spread else _paired_t(difference)
    smaller, wilcoxon_p = _wilcoxon(differences)
    return PairedComparison(difference, t, t_p, smaller, wilcoxon_p)


def _differences(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return first - second without the noise of float64, which would break ties and make zeros count."""
    step = 1e-12 * max(abs(first).max(), abs(second).max())
    return first - second if not step > 0 else np.rint((first - second) / step) * step


def _paired_t(difference: Interval) -> tuple[float, float]:
    t = difference.mean / (difference.std / difference.n**0.5)
    return t, float(2 * _scipy_stats().t.sf(abs(t), difference.n - 1))


def _wilcoxon(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    if np.isnan(differences).any():
        return np.nan, np.nan
    different = differences[differences != 0]
    if not different.size:
        return 0.0, 1.0
    ranks = _scipy_stats().rankdata(abs(different))
    positive = float(ranks[different > 0].sum())
    smaller = min(positive, float(ranks.sum()) - positive)
    return smaller, _exact_p(ranks, smaller)


def _exact_p(ranks: npt.NDArray[np.float64], smaller: float) -> float:
    """Return the two-sided p value: how often random signs make one of the rank sums this small."""
    doubled = np.rint(2 * ranks).astype(np.int64)  # ranks of ties are halves
    chance = np.ones(1)  # of each sum of doubled ranks with a positive sign
    for rank in doubled:
        longer = np.zeros(len(chance) + rank)
        longer[: len(chance)] += chance / 2
        longer[rank:] += chance / 2
        chance = longer
    return min(1.0, 2 * float(chance[: round(2 * smaller) + 1].sum()))


def _runs(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        runs = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be a list of numbers, one per run ({error}).") from error
    if runs.ndim != 1 or not runs.size or np.isinf(runs).any():
        raise ConfigError(f"{name} must be a list of finite numbers, one per run, but {values!r:.80} came.")
    return runs


def _scipy_stats() -> Any:
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise MissingExtraError("scipy", "continual", "Statistics over runs") from error
