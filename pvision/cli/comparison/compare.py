"""`pvision compare RUN ...`: groups of runs side by side, with what chance explains and what it does not."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

from pvision.cli.comparison.differences import Difference, best_of, differences, relation_of_ranking
from pvision.cli.comparison.files import as_json, draw, metric_row, write_tables
from pvision.cli.comparison.groups import Group, choose_metrics, grouped
from pvision.cli.comparison.tables import PRIVATE
from pvision.cli.comparison.text import as_text
from pvision.cli.runs import ROOT, Key, Run, find, read_json, setting
from pvision.errors import ConfigError

__all__ = ["compare"]

_STREAM = "stream.json"
_LONGEST_TITLE = 80  # characters; more do not fit above the picture
_EPILOG = """\
RUN is a run's folder, its summary.json, the id or name of an MLflow run in mlruns, or a repeat's folder or name, which
stands for all its runs. Every name stands for all runs that are called so.
"""


def compare(argv: list[str]) -> int:
    """Run the command with the words after ``pvision compare``; return 0.

    Raises:
        UserError: if a run is not found or broken, or lacks a metric that was asked for.
    """
    options = _parser().parse_intermixed_args(argv)
    runs, notes = _runs(options.runs)
    groups = grouped(runs, by=options.by)
    metrics = choose_metrics(groups, [name for names in options.metric for name in names.split(",") if name])
    relation, ranked = relation_of_ranking(groups)
    notes += _notes(groups, relation=relation, ranked=ranked)
    best = {metric: best_of(groups, metric) if ranked else None for metric in metrics}
    found = [
        difference
        for metric in metrics
        for difference in differences(groups, metric, against=best[metric] or groups[0])
        if len(groups) > 1
    ]
    content = _content(groups, metrics, best, found, notes)
    if options.json:
        print(as_json(content))
    else:
        print("\n".join(as_text(groups, metrics, best, found, notes)))
    stem = Path(options.output) / "compare"
    rows = [{"group": group.name, **metric_row(group, metric)} for group in groups for metric in metrics]
    paths = write_tables(stem, content, rows)
    paths += draw(groups, metrics, stem.with_suffix(".png"), title=_title(groups))
    print(", ".join(map(str, paths)), file=sys.stderr if options.json else sys.stdout)
    return 0


def _title(groups: Sequence[Group]) -> str:
    names = " · ".join(group.name for group in groups)
    return names if len(names) <= _LONGEST_TITLE else f"{len(groups)} groups of runs"


def _runs(names: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Return the runs that ended well, each once, and what is to be said of the others."""
    found = {run.folder.resolve(): run for name in names for run in find(name)}
    runs = [run for run in found.values() if run.finished]
    if not runs:
        told = ", ".join(f"{run.folder} is {run.summary.get('status')}" for run in found.values())
        raise ConfigError(f"no run has finished: {told}. Wait for one, or run it again.")
    left = [run for run in found.values() if not run.finished]
    told = ", ".join(f"{run.folder} ({run.summary.get('status')})" for run in left)
    return runs, [f"left out, because they did not finish: {told}."] if left else []


def _notes(groups: Sequence[Group], *, relation: str | None, ranked: bool) -> list[str]:
    notes = []
    if not ranked:
        notes.append(
            "the groups do not promise the same: ε differs between them in every relation, so none is marked as the "
            "best. More ε buys accuracy."
        )
    elif relation is not None:
        notes.append(f"ranked at equal ε for {relation}; ε for other relations may differ.")
    if any(group.private for group in groups):
        notes.append(PRIVATE)
    if len(data := _data_sets(groups)) > 1:
        notes.append(f"the runs are on different data ({', '.join(data)}), which may be what tells the groups apart.")
    elif mixed := _keys_of_different_streams(groups):
        notes.append(
            f"runs of equal seed and class order went through different streams ({', '.join(mixed)}): their {_STREAM} "
            "differ, so what tells the groups apart may be the data."
        )
    for group in groups:
        twice = [key for key, count in Counter(run.key for run in group.runs if run.key).items() if count > 1]
        if twice:
            shown = " and of ".join(map(_shown, twice))
            notes.append(
                f"{group.name} holds more than one run of {shown}: they are no independent evidence, and its interval "
                "may be too narrow."
            )
    return notes


def _data_sets(groups: Sequence[Group]) -> list[str]:
    """Return the classes of the data that runs were on, as far as a run's stream or configuration names it."""
    found = set()
    for run in (run for group in groups for run in group.runs):
        path = run.folder / _STREAM
        named = read_json(path).get("data") if path.is_file() else setting(run.config or {}, "data.class_path")
        if isinstance(named, str):
            found.add(named.rpartition(".")[2])
    return sorted(found)


def _keys_of_different_streams(groups: Sequence[Group]) -> list[str]:
    streams: dict[Key, set[str]] = {}
    for run in (run for group in groups for run in group.runs):
        path = run.folder / _STREAM
        if run.key and path.is_file():
            streams.setdefault(run.key, set()).add(_records(path))
    return [_shown(key) for key, found in streams.items() if len(found) > 1]


def _records(path: Path) -> str:
    """Return which records a stream had in which order; what people call its experiences does not matter."""
    content = read_json(path)
    for experience in content.get("experiences", ()):
        if isinstance(experience, dict):
            experience.pop("name", None)
    return json.dumps([content.get("data"), content.get("experiences")], sort_keys=True)


def _shown(key: Key) -> str:
    seed, order = key
    return f"seed {seed}" + ("" if order is None else f", order {order}")


def _content(
    groups: Sequence[Group],
    metrics: Sequence[str],
    best: Mapping[str, Group | None],
    found: Sequence[Difference],
    notes: Sequence[str],
) -> dict[str, Any]:
    return {
        "confidence": 0.95,
        "metrics": list(metrics),
        "best": {metric: group.name if group else None for metric, group in best.items()},
        "groups": [
            {
                "name": group.name,
                "epsilon": group.epsilon,
                "metrics": [{**metric_row(group, metric), "values": group.values(metric)} for metric in metrics],
                "average_accuracy_curves": group.curves,
                "runs": [_described(run) for run in group.runs],
            }
            for group in groups
        ],
        "differences": [
            {
                **asdict(one),
                "difference": one.difference._asdict() if one.difference else None,
                "beyond_noise": one.beyond_noise,
            }
            for one in found
        ],
        "notes": list(notes),
    }


def _described(run: Run) -> dict[str, Any]:
    seed, order = run.key or (None, run.class_order)
    return {"folder": str(run.folder), "run_id": run.summary.get("run_id"), "seed": seed, "class_order": order}


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"`pvision compare`: {message}. `pvision compare --help` shows how it is written.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pvision compare",
        description="Compare runs: mean and 95 % confidence interval of each group, and which differences are more "
        "than chance.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="what to compare, see below")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="a metric to show; may stand several times, the group before the slash may be left out "
        "(default: the metrics of a stream, else of the test)",
    )
    parser.add_argument(
        "--by",
        default="name",
        metavar="KEY",
        help="what the runs of a group have in common: name, recipe, a key of summary.json, or a setting such as "
        "model.init_args.lr (default: name)",
    )
    parser.add_argument(
        "--output",
        default=str(ROOT / "compare"),
        metavar="DIR",
        help=f"where compare.json, compare.csv and compare.png go (default: {ROOT / 'compare'})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser
