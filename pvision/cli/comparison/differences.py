"""Which differences between groups are more than chance, and which groups may be ranked at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvision.cli.comparison.groups import Group, lower_is_better

if TYPE_CHECKING:
    from pvision.continual.statistics import Interval

__all__ = ["Difference", "best_of", "differences", "relation_of_ranking"]

_LEVEL = 0.05
_FEWEST_PAIRS = 2
_EQUAL_EPSILON = 0.01  # relative: calibration finds the noise for a target no more exactly


@dataclass(frozen=True)
class Difference:
    """How one group differs from another in a metric.

    Attributes:
        metric: the metric.
        group: the first group.
        other: the second group.
        difference: mean of first - second over pairs of equal seed and class order, with its confidence interval.
        p: of Student's paired t-test, adjusted by Holm for all differences of the metric; NaN without a test.
        wilcoxon_p: of Wilcoxon's signed-rank test, as it comes.
        note: why there is no test, empty if there is one.
    """

    metric: str
    group: str
    other: str
    difference: "Interval | None" = None
    p: float = math.nan
    wilcoxon_p: float = math.nan
    note: str = ""

    @property
    def beyond_noise(self) -> bool | None:
        """Whether chance explains it in less than one of twenty cases; None without a test."""
        return None if math.isnan(self.p) else self.p < _LEVEL


def best_of(groups: Sequence[Group], metric: str) -> Group | None:
    """Return the group with the best mean; None if there are fewer than two with one."""
    means = [(interval.mean, group) for group in groups if (interval := group.interval(metric))]
    if len(means) < 2:
        return None
    pick = min if lower_is_better(metric) else max
    return pick(means, key=lambda pair: pair[0])[1]


def differences(groups: Sequence[Group], metric: str, *, against: Group) -> list[Difference]:
    """Compare every other group with ``against``, paired by seed and class order."""
    found = [_difference(against, group, metric) for group in groups if group is not against and group.values(metric)]
    return _holm(found) if against.values(metric) else []


def relation_of_ranking(groups: Sequence[Group]) -> tuple[str | None, bool]:
    """Return the relation in which all groups have the same ε, and whether they may be ranked.

    Groups of which none is private may be, without a relation.
    """
    if len(_promises(groups)) > 1:
        return None, False
    spans = [group.epsilon for group in groups]
    if all(span is None or all(low == math.inf for low, _ in span.values()) for span in spans):
        return None, True
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None, False
    for relation in known[0]:
        lows, highs = [span[relation][0] for span in known], [span[relation][1] for span in known]
        if math.isfinite(max(highs)) and max(highs) <= min(lows) * (1 + _EQUAL_EPSILON):
            return relation, True
    return None, False


def _promises(groups: Sequence[Group]) -> set[tuple[object, ...]]:
    """Return what beside ε the private runs promise: ε of frames and ε of clips are different things."""
    reports = [run.summary.get("privacy") or {} for group in groups for run in group.runs]
    private = [report for report in reports if report.get("private")]
    return {tuple(report.get(name) for name in ("unit", "mask", "label", "delta")) for report in private}


def _difference(first: Group, second: Group, metric: str) -> Difference:
    from pvision.continual.statistics import paired_comparison

    mine, theirs = first.by_key(metric), second.by_key(metric)
    common = [key for key in mine if key in theirs]
    found = Difference(metric, first.name, second.name)
    if len(common) < _FEWEST_PAIRS:
        return replace(found, note=_unpaired(first, second, metric, pairs=len(common)))
    compared = paired_comparison([mine[key] for key in common], [theirs[key] for key in common])
    found = replace(found, difference=compared.difference, wilcoxon_p=compared.wilcoxon_p)
    if math.isnan(compared.t_p):
        return replace(found, note="all pairs differ equally, so nothing tells chance from effect")
    return replace(found, p=compared.t_p)


def _unpaired(first: Group, second: Group, metric: str, *, pairs: int) -> str:
    one, other = first.interval(metric), second.interval(metric)
    if one is None or other is None or min(one.n, other.n) < 2:
        return "a single run cannot tell"
    apart = one.low > other.high or one.high < other.low
    found = "one pair" if pairs else "no two runs"
    return f"{found} with equal seed and class order; the intervals {'do not overlap' if apart else 'overlap'}"


def _holm(found: Sequence[Difference]) -> list[Difference]:
    """Adjust the p values of a metric by Holm's step-down method: with many groups one looks different by chance."""
    tested = sorted((one for one in found if not math.isnan(one.p)), key=lambda one: one.p)
    adjusted, least = {}, 0.0
    for place, one in enumerate(tested):
        least = min(1.0, max(least, (len(tested) - place) * one.p))
        adjusted[one.other] = least
    return [replace(one, p=adjusted.get(one.other, math.nan)) for one in found]
