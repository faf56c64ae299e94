"""A comparison as people read it on a terminal."""

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from pvision.cli.comparison.differences import Difference
from pvision.cli.comparison.groups import Group, lower_is_better, titles
from pvision.cli.comparison.tables import MEANING, aligned, number, plus_minus

__all__ = ["as_text"]

_TEST = (
    "Mean difference and its 95 % interval over runs of equal seed and class order; p: paired t-test, adjusted for the "
    "number of groups (Holm)."
)
_STARRED = re.compile(r"\S+ ± \S+ \*")


def as_text(
    groups: Sequence[Group],
    metrics: Sequence[str],
    best: Mapping[str, Group | None],
    found: Sequence[Difference],
    notes: Sequence[str],
) -> list[str]:
    """Return the lines: a table of groups, what its signs mean, the differences, the notes."""
    lines = aligned(_rows(groups, metrics, best))
    if sys.stdout.isatty():
        lines = [_STARRED.sub("\033[1m\\g<0>\033[0m", line) for line in lines]
    starred = "*: the best mean. " if any(best.values()) else ""
    lines += ["", f"{starred}{MEANING}"]
    if found:
        lines += ["", *_told_differences(found, best), "", _TEST]
    if notes:
        lines += ["", *(f"Note: {note}" for note in notes)]
    return lines


def _rows(groups: Sequence[Group], metrics: Sequence[str], best: Mapping[str, Group | None]) -> list[list[str]]:
    relations = _told_relations(groups)
    heads = [f"{title} {'↓' if lower_is_better(metric) else '↑'}  " for metric, title in titles(metrics).items()]
    rows = [["", "runs", *heads, *(f"ε {relation}" for relation in relations)]]
    for group in groups:
        cells = [_cell(group, metric) + (" *" if _as_good(group, best[metric], metric) else "  ") for metric in metrics]
        spans = [_span((group.epsilon or {}).get(relation)) for relation in relations]
        rows.append([group.name, str(len(group.runs)), *cells, *spans])
    return rows


def _cell(group: Group, metric: str) -> str:
    interval = group.interval(metric)
    few = interval is not None and interval.n < len(group.runs)
    return plus_minus(interval) + (f" (n {interval.n})" if interval and few else "")


def _as_good(group: Group, best: Group | None, metric: str) -> bool:
    mine, most = group.interval(metric), best.interval(metric) if best else None
    return mine is not None and most is not None and math.isclose(mine.mean, most.mean, rel_tol=1e-12, abs_tol=1e-12)


def _told_relations(groups: Sequence[Group]) -> list[str]:
    """Return the relations in which some run has a finite ε: others would be columns of infinities."""
    spans = [group.epsilon for group in groups if group.epsilon]
    return [name for name in (spans[0] if spans else ()) if any(math.isfinite(span[name][0]) for span in spans)]


def _span(span: tuple[float, float] | None) -> str:
    if span is None:
        return "–"
    low, high = (f"{value:.3g}" for value in span)
    return low if low == high else f"{low} to {high}"


def _told_differences(found: Sequence[Difference], best: Mapping[str, Group | None]) -> Iterator[str]:
    for metric, title in titles(list(best)).items():
        mine = [one for one in found if one.metric == metric]
        if not mine:
            continue
        role = " (best)" if best[metric] else ""
        yield f"{title}: {mine[0].group}{role} minus"
        yield from (f"  {line}" for line in aligned([_said(one) for one in mine], left=(0, 5)))


def _said(one: Difference) -> tuple[str, ...]:
    if one.difference is None:
        return (one.other, "", "", "", "", one.note)
    found = one.difference
    p = "" if one.beyond_noise is None else f"p = {one.p:.2g}"
    verdict = one.note if one.beyond_noise is None else "beyond noise" if one.beyond_noise else "within noise"
    return (
        one.other,
        f"{found.mean:+.4f}",
        f"[{number(found.low)}, {number(found.high)}]",
        f"{found.n} pairs",
        p,
        verdict,
    )
