"""`pvision repeat`: one configuration, several seeds and class orders, and what may be said of all of them together."""

import sys
from dataclasses import asdict

from pvision.cli.comparison.files import draw, metric_row, write_tables
from pvision.cli.comparison.groups import Group, choose_metrics, lower_is_better
from pvision.cli.comparison.tables import MEANING, PRIVATE, aligned, number, plus_minus
from pvision.cli.repetition.display import Display
from pvision.cli.repetition.index import Index
from pvision.cli.repetition.plan import Plan
from pvision.cli.repetition.processes import Stop, hold, run_all
from pvision.cli.runs import find

__all__ = ["HELP", "repeat"]

HELP = """\
usage: pvision repeat [--seeds N|LIST] [--class_orders N|LIST] [--jobs N] [--name NAME] [--folder DIR] FLAGS-OF-FIT ...

Run `pvision fit` once for each seed and class order, each in a process of its own, and print mean ± confidence interval
of every metric over the runs. Called again in the same words it goes on where it stopped.

  --seeds 3          how many seeds (1, 2, 3), or which: 1,5,7 or [1993]; 3 without the flag
  --class_orders 2   how many orders of the classes, or the seeds that draw them; as configured without the flag
  --jobs 1           how many runs at once, after the first, which goes alone
  --name NAME        what the runs are called, and their folder; the configuration's name without the flag
  --folder DIR       where all is kept; mlruns/repeats/NAME without the flag

  pvision repeat --config NAME --seeds 3 --class_orders 2 --trainer.max_epochs=5
"""


def repeat(argv: list[str]) -> int:
    """Run the command with the words after ``pvision repeat``.

    Returns:
        The exit code: 0, or 1 if a run failed; 128 and the signal's number if the command was stopped.

    Raises:
        UserError: if what the user gave is wrong.
    """
    if not argv or {"--help", "-h"} & set(argv):
        print(HELP, end="")
        return 0
    plan, stop = Plan.of(argv), Stop()
    with hold(plan.folder) as held:
        index = Index.of(plan)
        done = sum(entry.status == "FINISHED" for entry in index.asked)
        print(f"pvision: {_begins(plan, done)}, in {plan.folder}", file=sys.stderr, flush=True)
        index.write()
        with stop.listening():
            run_all(index, held=held, stop=stop, watcher=Display(index))
        if stop.numbers:
            done = sum(entry.status == "FINISHED" for entry in index.asked)
            print(
                f"\npvision: stopped; {done} of {len(index.asked)} runs have finished. The same command goes on.",
                file=sys.stderr,
            )
            return 128 + stop.numbers[0]
        return _conclude(index)


def _begins(plan: Plan, done: int) -> str:
    orders = "" if plan.class_orders == (None,) else f" and {_counted(len(plan.class_orders), 'class order')}"
    before = f", {done} of which finished before" if done else ""
    runs = _counted(len(plan.entries), "run")
    return f"{runs} of {plan.name} over {_counted(len(plan.seeds), 'seed')}{orders}{before}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _conclude(index: Index) -> int:
    """Print the table, write the files, name what failed, and return the exit code."""
    folder, asked = index.plan.folder, {entry.key: entry for entry in index.asked}
    runs = [run for key, run in zip(index.entries, find(str(folder)), strict=True) if key in asked and run.finished]
    if runs:
        group = Group(index.plan.name, runs)
        print("\n".join(_table(group)))
        _write(index, group)
    failed = [entry for entry in asked.values() if entry.status != "FINISHED"]
    for entry in failed:
        print(f"pvision: {entry} failed; log: {folder / entry.key / 'log.txt'}", file=sys.stderr)
    if failed:
        print(
            f"pvision: {len(failed)} of {len(asked)} runs failed. The same command tries them again.", file=sys.stderr
        )
    if runs:
        print(folder / "repeat.json")
    return 1 if failed else 0


def _table(group: Group) -> list[str]:
    rows = [("metric", "mean ± 95 %", "std", "n")]
    for metric in choose_metrics([group], []):
        found = group.interval(metric)
        name = f"{metric} {'↓' if lower_is_better(metric) else '↑'}"
        rows.append((name, plus_minus(found), number(found.std), str(found.n)) if found else (name, "–", "–", "0"))
    return [*aligned(rows), "", MEANING, *_notes(group)]


def _notes(group: Group) -> list[str]:
    notes = [f"Note: {PRIVATE}"] if group.private else []
    seeds, orders = ({key[place] for run in group.runs if (key := run.key)} for place in (0, 1))
    if len(seeds) > 1 and len(orders) > 1:
        notes.append(
            "Note: runs that share a seed or a class order are not quite independent, so the true interval is wider."
        )
    return notes


def _write(index: Index, group: Group) -> None:
    plan = index.plan
    rows = [metric_row(group, metric) for metric in sorted({name for run in group.runs for name in run.metrics})]
    content = {
        "name": plan.name,
        "recipe": plan.recipe,
        "arguments": list(plan.fit),
        "confidence": 0.95,
        "runs": [asdict(entry) for entry in index.asked],
        "metrics": [{**row, "values": group.values(row["metric"])} for row in rows],
        "average_accuracy_curves": group.curves,
    }
    write_tables(plan.folder / "repeat", content, rows)
    draw([group], choose_metrics([group], []), plan.folder / "repeat.png", title=plan.name)
