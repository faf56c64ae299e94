"""Write docs/segmentation_results.md from what `incremental_segmentation.py` measured.

Run as ``python benchmarks/segmentation_results.py --runs FOLDER`` to take up new runs, or without FOLDER to write the
page and the picture from docs/results/incremental_segmentation.json again.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import harmonic_mean, mean, stdev
from typing import Any

from _segmentation_arms import ABLATIONS, ARMS, MAIN
from _segmentation_plot import draw

from pvision.continual.statistics import mean_interval
from pvision.datamodules.rendered_yard.labels import CLASS_NAMES

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results" / "incremental_segmentation.json"
PAGE = DOCS / "segmentation_results.md"
PICTURE = DOCS / "images" / "incremental_segmentation.png"

METRICS = (
    "miou_old_without_background",
    "miou_new",
    "miou_all",
    "hiou_without_background",
    "average_over_steps",
    "forgetting",
    "forgetting_largest",
)
TITLES = ("old", "new", "all", "hIoU", "mean over steps", "forgetting", "largest")
OLD, NEW = METRICS[0], METRICS[1]
OLD_CLASSES = 4
Run = Mapping[str, Any]

PUBLISHED = (
    "Published, with ResNet-101 on real images (mIoU of all classes, overlapped; VOC 10-1 / 15-1 / 5-3 / 19-1): MiB",
    "12.7 / 29.3 / 46.7 / 69.2, PLOP 30.5 / 54.6 / 18.7 / 73.5, DKD 60.4 / 69.7 / 58.1 / 76.0 and **BARM 62.1 / 70.0 /",
    "61.1 / 76.4**, all as BARM's authors state them; STAR, which keeps no images either, 64.9 / 72.9 / 64.5 / 76.6 by",
    "its own authors. None of these figures was measured here.",
)


def load(folder: Path) -> dict[str, Any]:
    """Return all runs of a folder, without what only a log needs."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*-x*.json"))]
    for run in runs:
        if ARMS[run["settings"]["arm"]].joint:
            run["metrics"] |= as_after_a_stream(run["iou"][-1])
    kept = ("settings", "metrics", "iou", "class_order", "costs", "cpu_seconds")
    return {
        "format": "pvision segmentation results",
        "version": 1,
        "versions": runs[0]["versions"],
        "threads": runs[0]["threads"],
        "commits": sorted({run["git_commit"] for run in runs if run["git_commit"]}),
        "runs": [{name: run[name] for name in kept} for run in runs],
    }


def as_after_a_stream(iou: Sequence[float]) -> dict[str, float | None]:
    """Return the last metrics of classes learned at once, by the parts that a stream of the task would have."""
    old, new = mean(iou[1 : 1 + OLD_CLASSES]), mean(iou[1 + OLD_CLASSES :])
    undefined = ("average_over_steps", "forgetting", "forgetting_largest")
    return {
        f"segmentation/{OLD}": old,
        f"segmentation/{NEW}": new,
        "segmentation/hiou_without_background": harmonic_mean([old, new]),
        **{f"segmentation/{name}": None for name in undefined},
    }


def chosen(found: Mapping[str, Any], arm: str, *, times: int = 1, order: bool = False) -> list[Run]:
    """Return an arm's runs, those of drawn orders or those of the usual one."""
    return [
        run
        for run in found["runs"]
        if run["settings"]["arm"] == arm
        and run["settings"]["times"] == times
        and (run["settings"]["order"] is not None) == order
    ]


def value(run: Run, name: str) -> float:
    """Return a metric in percent; NaN where it is undefined."""
    measured = run["metrics"].get(f"segmentation/{name}")
    return float("nan") if measured is None else 100 * measured


def page(found: Mapping[str, Any]) -> str:
    """Return docs/segmentation_results.md."""
    settings = chosen(found, "barm")[0]["settings"]
    return "\n".join(
        [
            "# Segmentation, class by class: what was measured",
            "",
            "`python benchmarks/segmentation_results.py` writes this page from",
            "`docs/results/incremental_segmentation.json`, which",
            "`python benchmarks/incremental_segmentation.py --out FOLDER` measured. The pictures are small and",
            "rendered ([data_rendered_yard.md](data_rendered_yard.md)): they compare methods under equal conditions,",
            "and are no guide to the ranking on real images.",
            "",
            f"- **Setting.** Task {settings['task']}, overlapped: four classes, then six experiences of one class.",
            f"  One small network (`CompactSegmenter({settings['width']})`) from random weights, batches of",
            f"  {settings['batch_size']}; AdamW with polynomial decay: {settings['base_steps']} steps at",
            f"  {settings['lr']:g} for the first experience, {settings['steps']} at {settings['increment_lr']:g} for",
            "  each later one. BARM's shared layers learn at a tenth of that, as published. No method was tuned but",
            "  PlasticBARM, whose three numbers were chosen on another seed and these test images",
            "  ([methods/plastic_barm.md](methods/plastic_barm.md)). Joint training has the sum of all steps. Test:",
            "  400 whole images.",
            "- **Read as.** Old: the first four classes, without the background. New: the six others. All: every class",
            "  and the background. Forgetting: best minus last IoU, averaged over the classes learned before the last",
            "  experience, and the largest of them; a class that was never learned forgets nothing. IoU in percent,",
            "  mean ± half the 95 % confidence interval over seeds (Student's t).",
            f"- **Made with** torch {found['versions'].get('torch')}, {found['threads']} thread"
            + (f", at commit {', '.join(found['commits'])}." if found["commits"] else "."),
            "",
            "![Old against new classes, and what more steps bring](images/incremental_segmentation.png)",
            "",
            "## Methods",
            "",
            *main_table(found),
            "",
            *findings(found),
            "",
            *missing(found),
            *PUBLISHED,
            "",
            *section("Each class at the end", class_table(found), "Mean over seeds."),
            *section(
                "What it costs",
                cost_table(found),
                "After the first → after the last experience. Parameters: with the teacher, which is dropped when an",
                "experience ends. Multiply-adds: for one image, in evaluation. CPU time: of a whole run with its seven",
                "evaluations, one thread on a shared machine, mean over seeds. Load differed, and the first rows to be",
                "measured had a slower network: a fifth more or less means nothing.",
            ),
            *section(
                "BARM taken apart",
                ablation_table(found),
                "One seed: differences of a few points are noise.",
            ),
            *section(
                "Orders of the classes",
                order_table(found),
                "Old / new in each order; mean ± standard deviation over the usual and the drawn ones, one seed. Which",
                "classes are old and which are new differs from order to order.",
                *order_findings(found),
            ),
            *section(
                "More steps for each new class",
                curve_table(found),
                "Old / new / all, one seed. A run of 2× has twice the steps in each experience but the first.",
            ),
        ]
    )


def section(title: str, rows: Sequence[str], *explanation: str) -> list[str]:
    """Return a section of the page, nothing if its table has no rows."""
    return [f"## {title}", "", *rows, "", *explanation, ""] if len(rows) > 2 else []


def main_table(found: Mapping[str, Any]) -> list[str]:
    arms = [name for name in ARMS if name in MAIN and chosen(found, name)]
    rows = []
    for name in arms:
        runs = chosen(found, name)
        rows.append([ARMS[name].title, str(len(runs)), *(interval([value(r, m) for r in runs]) for m in METRICS)])
    return table(["method", "seeds", *TITLES], rows)


def findings(found: Mapping[str, Any]) -> list[str]:
    """Say who is best at what, and how the seeds of BARM compare with those of the others."""
    arms = [name for name in ARMS if name in MAIN and name != "joint" and chosen(found, name)]
    best = {
        metric: max(arms, key=lambda name: mean(value(run, metric) for run in chosen(found, name)))
        for metric in (OLD, NEW, "miou_all", "hiou_without_background")
    }
    names = dict(zip(METRICS, TITLES, strict=True))
    lines = [
        "Best without the joint upper bound: "
        + "; ".join(f"{names[metric]}: {ARMS[name].title}" for metric, name in best.items())
        + ".",
        "",
        "150 steps from random weights, at one learning rate for all, say little about methods that were made for long",
        "training of pretrained networks: PLOP, DKD and DFT* keep old classes here because they learn next to nothing.",
        "",
        "Old classes, seed by seed:",
        "",
    ]
    seeds = [run["settings"]["seed"] for run in chosen(found, "barm")]
    rows = []
    for name in arms:
        by_seed = {run["settings"]["seed"]: value(run, OLD) for run in chosen(found, name)}
        rows.append([ARMS[name].title, *(f"{by_seed[seed]:.1f}" if seed in by_seed else "–" for seed in seeds)])
    return [*lines, *table(["method", *(f"seed {seed}" for seed in seeds)], rows)]


def missing(found: Mapping[str, Any]) -> list[str]:
    """Say what the command measures too, and has not been run."""
    parts = [ARMS[name].title for name in MAIN if not chosen(found, name)]
    kinds = {
        "the ablations": any(chosen(found, name) for name in ABLATIONS),
        "drawn orders of the classes": any(chosen(found, name, order=True) for name in ARMS),
        "twice the steps": any(chosen(found, name, times=2) for name in ARMS),
        "four times the steps": any(chosen(found, name, times=4) for name in ARMS),
    }
    parts += [title for title, measured in kinds.items() if not measured]
    if not parts:
        return []
    return [f"The command measures these too, but they have not been run here: {', '.join(parts)}.", ""]


def class_table(found: Mapping[str, Any]) -> list[str]:
    order = chosen(found, "barm")[0]["class_order"]
    rows = []
    for name in [name for name in ARMS if name in MAIN and chosen(found, name)]:
        last = [run["iou"][-1] for run in chosen(found, name)]
        rows.append([ARMS[name].title, *(f"{100 * mean(one[column] for one in last):.0f}" for column in range(11))])
    return table(["method", "background", *(CLASS_NAMES[label - 1] for label in order)], rows)


def cost_table(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for name in [name for name in ARMS if name in MAIN and chosen(found, name)]:
        runs = chosen(found, name)
        first, last = runs[0]["costs"][0], runs[0]["costs"][-1]
        seconds = [run["cpu_seconds"] for run in runs]
        rows.append(
            [
                ARMS[name].title,
                f"{first['parameters_stored']:,.0f} → {last['parameters_stored']:,.0f}",
                f"{1e3 * first['gmacs_per_image']:.1f} M → {1e3 * last['gmacs_per_image']:.1f} M",
                f"{mean(seconds):.0f} s",
            ]
        )
    return table(["method", "parameters in training", "multiply-adds", "CPU time"], rows)


def ablation_table(found: Mapping[str, Any]) -> list[str]:
    names = [name for name in ABLATIONS if chosen(found, name)]
    if not names:
        return []
    seed = chosen(found, names[0])[0]["settings"]["seed"]
    own = next(run for run in chosen(found, "barm") if run["settings"]["seed"] == seed)
    columns = METRICS[:3]
    rows = [["BARM", *(f"{value(own, metric):.1f}" for metric in columns)]]
    for name in names:
        run = chosen(found, name)[0]
        changes = [(value(run, metric), value(run, metric) - value(own, metric)) for metric in columns]
        rows.append([ARMS[name].title, *(f"{now:.1f} ({change:+.1f})" for now, change in changes)])
    return table(["", *TITLES[:3]], rows)


def order_table(found: Mapping[str, Any]) -> list[str]:
    orders = [None, *(run["settings"]["order"] for run in chosen(found, "barm", order=True))]
    rows = []
    for name in [name for name in ARMS if chosen(found, name, order=True)]:
        drawn = chosen(found, name, order=True)
        seed = drawn[0]["settings"]["seed"]
        runs = [run for run in chosen(found, name) if run["settings"]["seed"] == seed] + drawn
        values = [[value(run, metric) for run in runs] for metric in METRICS[:3]]
        cells = {run["settings"]["order"]: f"{value(run, OLD):.1f} / {value(run, NEW):.1f}" for run in runs}
        each = [cells.get(order, "–") for order in orders]
        rows.append([ARMS[name].title, *each, *(f"{mean(one):.1f} ± {stdev(one):.1f}" for one in values)])
    return table(["method", *("usual" if one is None else f"order {one}" for one in orders), *TITLES[:3]], rows)


def order_findings(found: Mapping[str, Any]) -> list[str]:
    """Say in how many orders BARM, and the variant, are ahead of MiB."""
    by_arm = {
        name: {run["settings"]["order"]: run for run in chosen(found, name, order=True)}
        for name in ("barm", "plastic_barm", "mib")
    }
    lines = []
    for name in ("barm", "plastic_barm"):
        orders = by_arm[name].keys() & by_arm["mib"].keys()
        ahead = [
            sum(value(by_arm[name][one], metric) >= value(by_arm["mib"][one], metric) for one in orders)
            for metric in (OLD, NEW)
        ]
        lines += [
            f"{ARMS[name].title} is at or above MiB on old classes in {ahead[0]} of {len(orders)} drawn orders, on new "
            f"ones in {ahead[1]}."
        ]
    return lines


def curve_table(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for name in [name for name in ARMS if chosen(found, name, times=2)]:
        seed = chosen(found, name, times=2)[0]["settings"]["seed"]
        cells = []
        for times in (1, 2, 4):
            runs = [run for run in chosen(found, name, times=times) if run["settings"]["seed"] == seed]
            cells.append(" / ".join(f"{value(runs[0], metric):.1f}" for metric in METRICS[:3]) if runs else "–")
        rows.append([ARMS[name].title, *cells])
    return table(["method", "1×", "2×", "4×"], rows)


def interval(values: Sequence[float]) -> str:
    known = [one for one in values if one == one]
    if not known:
        return "–"
    measured = mean_interval(known)
    half = (measured.high - measured.low) / 2
    return f"{measured.mean:.1f} ± {half:.1f}" if half == half else f"{measured.mean:.1f}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path)
    given = parser.parse_args()
    if given.runs is not None:
        RESULTS.write_text(json.dumps(load(given.runs), ensure_ascii=False) + "\n", encoding="utf-8")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page(found), encoding="utf-8")
    draw(found, PICTURE, chosen, value)
    print(page(found))


if __name__ == "__main__":
    main()
