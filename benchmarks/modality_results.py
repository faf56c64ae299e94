"""Write docs/modality_results.md from what `modality_translation.py` measured.

Run as ``python benchmarks/modality_results.py --runs FOLDER`` to take up new runs, or without FOLDER to write the page
and the picture from docs/results/modality_translation.json again.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _modality_arms import ARMS
from _modality_plot import draw

from pvision.continual.statistics import mean_interval

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results" / "modality_translation.json"
PAGE = DOCS / "modality_results.md"
PICTURE = DOCS / "images" / "modality_translation.png"

METRICS = ("map_new", "map_50_new", "map_75_new", "map_rgb", "map_new_before", "map_rgb_before")
Run = Mapping[str, Any]


def aggregate(folder: Path) -> dict[str, Any]:
    """Return all runs of a folder, by what they share but for the seed."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for path in sorted(folder.glob("*-*.json")):
        run = json.loads(path.read_text())
        settings = run["settings"]
        kind = "sequence" if settings["sequence"] else f"{settings['modality']}-{settings['budget']:g}"
        groups[f"{settings['arm']}/{kind}"].append(run)
    tried: dict[str, dict[str, float]] = defaultdict(dict)
    for path in sorted((folder / "tuning").glob("*.json")):
        run = json.loads(path.read_text())
        tried[run["settings"]["arm"]][f"{run['settings']['lr']:g}"] = round(run["val_map"], 4)
    first = next(iter(groups.values()))[0]
    costs = json.loads((folder / "costs.json").read_text()) if (folder / "costs.json").exists() else {}
    return {
        "format": "pvision modality results",
        "version": 1,
        "common": {
            "steps": first["settings"]["steps"],
            "batch_size": first["settings"]["batch_size"],
            "detector_sha256": first["settings"]["detector_sha256"],
            "data_sha256": first["settings"]["data_sha256"],
            "versions": first["versions"],
            "threads": first["threads"],
            "commits": sorted({str(run["git_commit"]) for runs in groups.values() for run in runs}),
        },
        "groups": {name: summed(runs) for name, runs in groups.items()},
        "tuning": tried,
        "costs": costs,
    }


def summed(runs: Sequence[Run]) -> dict[str, Any]:
    """Return means and intervals over seeds, and what must hold in every run."""
    found: dict[str, Any] = {
        "seeds": [run["settings"]["seed"] for run in runs],
        "lr": runs[0]["settings"]["lr"],
        "detector_unchanged": all(run["detector_sha256"] == run["detector_sha256_before"] for run in runs),
        "rgb_predictions_equal": all(run["rgb_predictions_equal"] for run in runs),
        "cpu_seconds": interval([run["cpu_seconds"] for run in runs]),
    }
    if "metrics" in runs[0]:
        found["metrics"] = {name: interval([run["metrics"][f"detection/{name}"] for run in runs]) for name in METRICS}
        found["values"] = {
            name: [run["metrics"][f"detection/{name}"] for run in runs] for name in ("map_new", "map_rgb")
        }
    if "corrupted" in runs[0]:
        names = runs[0]["corrupted"]
        found["corrupted"] = {name: interval([run["corrupted"][name] for run in runs]) for name in names}
    if "sequence" in runs[0]:
        found["sequence"] = sequence([run["sequence"] for run in runs])
    return found


def sequence(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what two modalities in sequence ended with."""
    return {
        "first_after_first": interval([run["matrix"][0][0] for run in runs]),
        "first_after_second": interval([run["matrix"][1][0] for run in runs]),
        "second": interval([run["matrix"][1][1] for run in runs]),
        "rgb": interval([run["map_rgb"][1] for run in runs]),
        "forgetting": interval([run["metrics"]["continual/forgetting"] for run in runs]),
        "first_unchanged": all(run["first_adaptation_unchanged"] for run in runs),
    }


def interval(values: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean, 95 % confidence interval (Student's t) and number of values."""
    if any(value is None for value in values):
        return {"mean": None, "low": None, "high": None}
    found = mean_interval([float(value) for value in values if value is not None])
    ends = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: round(value, 6) if value == value else None for name, value in ends.items()}


def page(found: Mapping[str, Any]) -> str:
    """Return docs/modality_results.md."""
    groups, common = found["groups"], found["common"]
    return "\n".join(
        [
            "# Detection in another modality: what was measured",
            "",
            "`python benchmarks/modality_results.py` writes this page from",
            "`docs/results/modality_translation.json`, which",
            "`python benchmarks/modality_translation.py --out FOLDER` measured. All images are rendered, infrared and",
            "depth are simulated ([data_rendered.md](data_rendered.md)): the figures compare ways, and predict",
            "nothing about your images.",
            "",
            "- **Setting.** One detector (CompactFCOS, trained on RGB images of other scenes), the same for all seeds;",
            f"  {common['steps']} steps of {common['batch_size']} images, half of them mirrored, AdamW, cosine. Where",
            "  several learning rates were tried, on seed 99 and for 300 steps, the average precision on 200",
            "  validation images chose. Test: 400 scenes, every image scored. Average precision (COCO, AP@[.5:.95])",
            "  in percent: mean ± half the 95 % confidence interval over seeds (Student's t).",
            "- **Pilots.** ModTr's fusion and rate, mirrored images and the number of steps, which is equal for all,",
            "  were chosen in runs of seed 0 whose validation and test scores were seen. After 800 steps without",
            "  mirroring ModTr with the product had 30.7 ± 2.0 and full fine-tuning 38.2 ± 0.7: the translator needs",
            "  more steps.",
            f"- **Made with** torch {common['versions'].get('torch')}, {common['threads']} thread, "
            f"at commit {', '.join(common['commits'])}.",
            "",
            *summary(groups, (found.get("shorter") or {}).get("groups", {})),
            "",
            "![Average precision on infrared against that on RGB images afterwards](images/modality_translation.png)",
            "",
            *section(
                "Simulated infrared",
                main_table(groups, "lwir-1", found["costs"]),
                "Identical: the detector's SHA-256 before and after, and boxes, scores and labels of 50 RGB images,",
                "bit for bit, in every run of the row. Added: multiply-adds per image beside the detector's own,",
                f"{found['costs'].get('detector', {}).get('multiply_adds', 0) / 1e6:.0f} M; ms: a whole prediction.",
            ),
            *section("Simulated depth (two channels: distance and amplitude)", main_table(groups, "depth-1", {})),
            *shorter(found.get("shorter")),
            *section("Few labels", budget_table(groups)),
            *section(
                "Spoilt images",
                corrupted_table(groups),
                "CIFAR-10-C's severity 3 on the image's own range (`pvision.datamodules.detection.corruptions`).",
            ),
            *section("Two modalities, one after the other", sequence_table(groups)),
            "## Learning rates tried",
            "",
            *table(
                ["way", "validation AP by learning rate"],
                [
                    [ARMS[name].title, ", ".join(f"{rate}: {100 * value:.1f}" for rate, value in tried.items())]
                    for name, tried in found["tuning"].items()
                ],
            ),
            "",
        ]
    )


def summary(groups: Mapping[str, Any], measured_shorter: Mapping[str, Any]) -> list[str]:
    """Return what the main rows say, and what has not been measured."""
    zero_shot, tuned, translated = (
        {name: 100 * groups[f"{arm}/lwir-1"]["metrics"][name]["mean"] for name in ("map_new", "map_rgb")}
        for arm in ("zero_shot", "fine_tuning", "modtr")
    )
    kinds = {"depth-1": "depth", "lwir-0.01": "few labels", "sequence": "two modalities in sequence"}
    missing = [text for kind, text in kinds.items() if not any(name.endswith(f"/{kind}") for name in groups)]
    missing += [arm.title for name, arm in ARMS.items() if f"{name}/lwir-1" not in groups | measured_shorter]
    lines = [
        f"ModTr ends {translated['map_new'] - zero_shot['map_new']:.1f} AP above zero-shot and "
        f"{tuned['map_new'] - translated['map_new']:.1f} below full fine-tuning; RGB images lose nothing by it, and "
        f"{zero_shot['map_rgb'] - tuned['map_rgb']:.1f} AP by fine-tuning.",
    ]
    if missing:
        lines += ["", f"The command measures these too, but they have not been run here: {', '.join(missing)}."]
    return lines


def section(title: str, rows: Sequence[str], *explanation: str) -> list[str]:
    """Return a section of the page, nothing if its table has no rows."""
    if len(rows) <= 2:
        return []
    return [f"## {title}", "", *rows, "", *explanation, *([""] if explanation else [])]


def shorter(found: Mapping[str, Any] | None) -> list[str]:
    """Return the section of ways that were measured with fewer steps."""
    if found is None:
        return []
    common = found["common"]
    return section(
        f"Simulated infrared, {common['steps']} steps, no image mirrored",
        main_table(found["groups"], "lwir-1", {}),
        "Everything else as above. Learning rates of fine-tuning, the head and LoRA were tried for 120 steps, the",
        "others not. Compare these rows with each other only.",
    )


def main_table(groups: Mapping[str, Any], kind: str, costs: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, arm in ARMS.items():
        group = groups.get(f"{name}/{kind}")
        if group is None:
            continue
        values = group["metrics"]
        row = [
            arm.title,
            str(len(group["seeds"])),
            *(percent(values[metric]) for metric in ("map_new", "map_50_new", "map_75_new", "map_rgb")),
            "yes" if group["detector_unchanged"] and group["rgb_predictions_equal"] else "no",
        ]
        if cost := costs.get(name):
            row += [f"{cost['trainable_parameters']:,}", f"{cost['added_bytes'] / 1e6:.2f} MB"]
            row += [f"{cost['multiply_adds'] / 1e6:.0f} M", f"{cost['ms']:.1f}"]
        rows.append(row)
    titles = ["way", "seeds", "AP", "AP50", "AP75", "AP on RGB after", "identical"]
    return table(titles + (["trained", "kept", "added", "ms"] if costs else []), rows)


def budget_table(groups: Mapping[str, Any]) -> list[str]:
    shares = {"1": "100 %", "0.1": "10 %", "0.01": "1 %"}
    arms = [name for name in ARMS if f"{name}/lwir-0.01" in groups]
    return table(
        ["way", *(f"{text} of the labels" for text in shares.values())],
        [
            [ARMS[name].title, *(percent(groups[f"{name}/lwir-{share}"]["metrics"]["map_new"]) for share in shares)]
            for name in arms
        ],
    )


def corrupted_table(groups: Mapping[str, Any]) -> list[str]:
    arms = [name for name in ARMS if "corrupted" in groups.get(f"{name}/lwir-1", {})]
    names = list(groups[f"{arms[0]}/lwir-1"]["corrupted"]) if arms else []
    return table(
        ["way", "as they are", *names],
        [
            [
                ARMS[name].title,
                percent(groups[f"{name}/lwir-1"]["metrics"]["map_new"]),
                *(percent(groups[f"{name}/lwir-1"]["corrupted"][one]) for one in names),
            ]
            for name in arms
        ],
    )


def sequence_table(groups: Mapping[str, Any]) -> list[str]:
    arms = [name for name in ARMS if f"{name}/sequence" in groups]
    titles = ["way", "infrared", "infrared after depth", "forgetting", "depth", "RGB after both", "first unchanged"]
    rows = []
    for name in arms:
        found = groups[f"{name}/sequence"]["sequence"]
        keys = ("first_after_first", "first_after_second", "forgetting", "second", "rgb")
        rows.append(
            [ARMS[name].title, *(percent(found[key]) for key in keys), "yes" if found["first_unchanged"] else "no"]
        )
    return table(titles, rows)


def percent(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "–"
    if found["low"] is None:
        return f"{100 * found['mean']:.1f}"
    return f"{100 * found['mean']:.1f} ± {50 * (found['high'] - found['low']):.1f}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--shorter", type=Path, help="runs of fewer steps, for a table of their own")
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    if given.runs is not None:
        found = aggregate(given.runs) | {"shorter": found.get("shorter")}
    if given.shorter is not None:
        found["shorter"] = aggregate(given.shorter)
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    draw(found, PICTURE)
    print(page(found))


if __name__ == "__main__":
    main()
