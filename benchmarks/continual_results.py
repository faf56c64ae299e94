"""What did the runs of `continual_adapters.py` find, and what did others publish?

Run as ``python benchmarks/continual_results.py [--runs FOLDER]``. With --runs it sums up what `continual_adapters.py`
wrote there in ``docs/results/continual_adapters.json``, and draws ``docs/images/continual_adapters.png``. In any case
it writes ``docs/continual_results.md``, and the table in ``docs/choosing_a_method.md``, from ``docs/results``.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _continual_methods import METHODS
from _continual_pages import choice, results
from _continual_plot import draw

from pvision.continual.statistics import mean_interval, paired_comparison

DOCS = Path(__file__).parents[1] / "docs"
TUNING_SEED = 99
LEAD = "dual_lora"  # which the others are compared with
COMPARED = "continual/average_accuracy"

Runs = Sequence[Mapping[str, Any]]


def aggregate(folder: Path) -> dict[str, Any]:
    """Return the means over seeds of all runs in a folder, and what they have in common.

    Raises:
        SystemExit: if there are none, or they do not belong together.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        by_method[run["method"]].append(run)
    if not by_method:
        raise SystemExit(f"There are no runs in {folder}. Let continual_adapters.py write some.")
    tried: dict[str, dict[str, float]] = defaultdict(dict)
    for path in sorted((folder / "tuning").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        tried[run["method"]][f"{run['settings']['lr']:g}"] = run["metrics"][COMPARED]
    names = [name for name in METHODS if name in by_method]
    first = by_method[names[0]][0]
    return {
        "format": "pvision continual benchmark, means",
        "version": 1,
        "interval": "95 % by Student's t over seeds",
        "common": _common([run for runs in by_method.values() for run in runs]),
        "machine": {"versions": first["versions"], "threads": first["threads"]},
        "tuning_seed": TUNING_SEED,
        "methods": {name: _summed(name, by_method[name], tried) for name in names},
        "compared": _compared(by_method, [name for name in names if name != LEAD]),
    }


_OWN = {
    "method",
    "optimizer",
    "lr",
    "training",
    "epochs",
    "seed",
    "code_sha256",
}  # settings that differ between methods


def _common(runs: Runs) -> dict[str, Any]:
    """Return the settings that all runs share."""
    shared = [{name: value for name, value in run["settings"].items() if name not in _OWN} for run in runs]
    for run, settings in zip(runs, shared, strict=True):
        if settings != shared[0]:
            differing = sorted(name for name in settings if settings[name] != shared[0].get(name))
            raise SystemExit(
                f"{run['method']}, seed {run['seed']}, has another {', '.join(differing)} than the others."
            )
    return shared[0]


def _summed(name: str, runs: Runs, tried: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    contender, settings = METHODS[name], runs[0]["settings"]
    for run in runs:
        for key in ("method", "optimizer", "lr", "epochs"):
            if run["settings"][key] != settings[key]:
                raise SystemExit(f"{name} has runs of different {key}. Repeat them with continual_adapters.py.")
    metrics = sorted({metric for run in runs for metric in run["metrics"]})
    costs = sorted({cost for run in runs for cost in run["cost"]})
    return {
        "label": contender.label,
        "family": contender.family,
        "unlike_published": contender.unlike,
        "settings": {key: settings[key] for key in ("method", "optimizer", "lr", "training", "epochs")},
        "code_sha256": [run["settings"]["code_sha256"] for run in runs],
        "rates_tried": tried.get(contender.rate_of or name, {}),
        "rate_chosen_for": contender.rate_of or name,
        "seeds": [run["seed"] for run in runs],
        "streams": [run["stream_sha256"] for run in runs],
        "commits": sorted({str(run["git_commit"]) for run in runs}),
        "steps": runs[0]["steps"],
        "values": {"average_accuracy": [run["metrics"][COMPARED] for run in runs]},
        "curve": _curve(runs),
        "metrics": {metric: _interval([run["metrics"].get(metric) for run in runs]) for metric in metrics},
        "cost": {cost: _interval([run["cost"].get(cost) for run in runs]) for cost in costs},
        "bytes_beside_backbone": max(run["bytes_beside_backbone"] for run in runs),
        "cpu_seconds": _interval([run["cpu_seconds"] for run in runs]),
    }


def _interval(values: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean, ends of the interval and standard deviation; None where a run has no value."""
    if any(value is None for value in values):
        return {"mean": None, "low": None, "high": None, "std": None}
    found = mean_interval([float(value) for value in values if value is not None])
    kept = {"mean": found.mean, "low": found.low, "high": found.high, "std": found.std}
    return {name: round(value, 6) if value == value else None for name, value in kept.items()}


def _curve(runs: Runs) -> list[float]:
    """Return the mean accuracy on what was learned so far after each experience."""
    rows = [[sum(row[: place + 1]) / (place + 1) for place, row in enumerate(run["accuracy_matrix"])] for run in runs]
    return [round(sum(values) / len(values), 4) for values in zip(*rows, strict=True)]


def _compared(by_method: Mapping[str, Runs], others: Sequence[str]) -> dict[str, Any]:
    """Return how the method that leads the page differs from each other one on equal seeds."""
    if LEAD not in by_method:
        return {}
    lead = {run["seed"]: run["metrics"][COMPARED] for run in by_method[LEAD]}
    found = {}
    for name in others:
        other = {run["seed"]: run["metrics"][COMPARED] for run in by_method[name]}
        seeds = sorted(lead.keys() & other.keys())
        if len(seeds) < 2:
            continue
        compared = paired_comparison([lead[seed] for seed in seeds], [other[seed] for seed in seeds])
        ends = (compared.difference.mean, compared.difference.low, compared.difference.high, compared.t_p)
        difference, low, high, p = (round(value, 6) if value == value else None for value in ends)
        found[name] = {"difference": difference, "low": low, "high": high, "p": p, "pairs": len(seeds)}
    return found


def read(name: str) -> Any:
    return json.loads((DOCS / "results" / name).read_text(encoding="utf-8"))


def pages() -> dict[Path, str]:
    """Return what the pages have to hold."""
    ours, published = read("continual_adapters.json"), read("published_continual.json")
    chosen = DOCS / "choosing_a_method.md"
    return {
        DOCS / "continual_results.md": results(ours, published),
        chosen: choice(chosen.read_text(encoding="utf-8"), ours),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path)
    given = parser.parse_args()
    if given.runs is not None:
        found = aggregate(given.runs)
        (DOCS / "results" / "continual_adapters.json").write_text(
            json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        )
        draw(found, DOCS / "images" / "continual_adapters.png")
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
