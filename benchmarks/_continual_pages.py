"""The pages that `continual_results.py` writes, out of files with results."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["choice", "results"]

BEGIN, END = "<!-- written by benchmarks/continual_results.py: begin -->", "<!-- end -->"
CARDS = Path(__file__).parents[1] / "docs" / "methods"
SECTION_RULE = "Never compare figures of two sections: backbone, weights, split, class order and augmentation differ."

COLUMNS = {
    "accuracy at the end": "average_accuracy",
    "at the end, experience given": "task_aware/average_accuracy",
    "average over the stream": "average_incremental_accuracy",
    "forgetting": "forgetting",
    "backward transfer": "backward_transfer",
}


class Advice(NamedTuple):
    """What a reader who chooses wants to know of a method.

    Args:
        idea: in one line.
        identity: whether it has to know from which experience an image comes.
        good: what it is good for.
        bad: when to take another one.
        card: its page in docs/methods.
    """

    idea: str
    identity: str
    good: str
    bad: str
    card: str


ADVICE = {
    "finetune": Advice(
        "train everything on what comes", "no", "a lower bound", "old classes matter", "stream_baselines"
    ),
    "lora": Advice(
        "one low-rank update, trained on and on", "no", "a first try; few experiences", "many experiences", "lora"
    ),
    "lora_lines": Advice(
        "the same, and less of each change near the input", "no", "keeping general features", "many experiences", "lora"
    ),
    "wa": Advice(
        "distil from the last network, then level the lengths of the classes' weights",
        "no",
        "streams that keep images (`data.replay`)",
        "no image may be kept",
        "weight_aligning",
    ),
    "inf_lora": Advice(
        "updates in directions that earlier inputs do not use",
        "no",
        "a bound on what old images lose; no cost when predicting",
        "the memory of directions is full",
        "inf_lora",
    ),
    "sd_lora": Advice(
        "all updates as frozen directions, with magnitudes that go on learning",
        "no",
        "no memory of inputs at all; no cost when predicting",
        "training time matters: it grows with the experiences",
        "sd_lora",
    ),
    "codyra": Advice(
        "updates of as few ranks as the experience needs",
        "no",
        "long streams of small changes; no cost when predicting",
        "old classes compete with new ones in one head",
        "codyra",
    ),
    "l2p": Advice(
        "prompts chosen for each image from a shared pool",
        "no: chosen by a query",
        "a network whose weights must not be touched",
        "predictions have to be cheap",
        "l2p",
    ),
    "coda_prompt": Advice(
        "prompts as weighted sums of components, in several layers",
        "no: weighted by a query",
        "a network whose weights must not be touched",
        "predictions have to be cheap",
        "coda_prompt",
    ),
    "ranpac": Advice(
        "after the first experience, solve for the classifier on random features",
        "no",
        "good pretrained features; exact unlearning; nothing depends on the order",
        "later experiences need other features than the first",
        "ranpac",
    ),
    "dual_lora": Advice(
        "one update that old inputs cannot feel, and one for each experience that opens for its own images",
        "no: told from the image itself",
        "accuracy at one pass, with a bound on what old images lose",
        "the published method is wanted: parts of it are our reconstruction",
        "dual_lora",
    ),
}


def results(ours: Mapping[str, Any], published: Mapping[str, Any]) -> str:
    """Return the page ``docs/continual_results.md``."""
    return "\n\n".join(["# Continual learning: results", _INTRODUCTION, *_small(ours), *_published(published)]) + "\n"


def choice(page: str, ours: Mapping[str, Any]) -> str:
    """Return a page with the table of methods between its two marks.

    Raises:
        SystemExit: if the page has not both marks.
    """
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"docs/choosing_a_method.md must have the lines {BEGIN} and {END}.")
    return "\n".join([before + BEGIN, "", _choice_table(ours), "", END + after])


_INTRODUCTION = """\
Two kinds of figures: our own, of all methods on one small stream, and published ones on the field's protocols, with
ours beside them where we ran them. `python benchmarks/continual_results.py` writes this page from `docs/results/`.
[Choosing a method](choosing_a_method.md) says what follows, the methods' pages are in [methods/](methods/)."""


# Our own table


def _small(ours: Mapping[str, Any]) -> Iterable[str]:
    common, methods = ours["common"], ours["methods"]
    seeds = sorted({seed for one in methods.values() for seed in one["seeds"]})
    yield "## All methods on one small stream"
    yield _setting(common, methods, seeds, ours)
    yield (
        "![Accuracy on all classes at the end against multiplications for one image, with confidence intervals; one "
        "colour for each family of methods](images/continual_adapters.png)"
    )
    yield (
        "Percent: mean ± half the 95 % confidence interval over seeds (Student's t), each with its own class order. "
        "*Experience given*: chosen among the classes of the image's own experience, which no stream tells. "
        "*Average over the stream* is the mean of the accuracies after each experience."
    )
    ordered = sorted(methods, key=lambda name: -_mean(methods[name], "continual/average_accuracy"))
    yield _table(
        ["method", *COLUMNS],
        [[_link(name, methods[name]), *_accuracies(methods[name])] for name in ordered],
    )
    yield "What it costs: passes and multiplications for one image; what a checkpoint holds beside the network."
    yield _table(
        [
            "method",
            "passes",
            "GMACs",
            "kB beside the network",
            "trained numbers",
            "s of CPU for a run",
            "learning rate (tried)",
        ],
        [[methods[name]["label"], *_costs(methods[name])] for name in ordered],
    )
    if ours["compared"]:
        yield _differences(ours)
    if unlike := [
        f"- {one['label']}: {one['unlike_published']}" for one in methods.values() if one["unlike_published"]
    ]:
        yield "Settings are the published ones, but for learning rates and:\n\n" + "\n".join(unlike)


def _setting(
    common: Mapping[str, Any], methods: Mapping[str, Any], seeds: Sequence[int], ours: Mapping[str, Any]
) -> str:
    backbone, machine = common["backbone"], ours["machine"]
    steps = max(one["steps"] for one in methods.values() if one["settings"]["training"] == "stream")
    longest, each = max(one["steps"] for one in methods.values()), steps // common["experiences"]
    commits = sorted({commit[:7] for one in methods.values() for commit in one["commits"]})
    return (
        f"- **Stream**: `FashionDigitsAnimalsStream`, 30 classes in {common['experiences']} experiences, "
        f"{common['train_per_class']} training and {common['test_per_class']} test images of each class, "
        f"{backbone['image_size']} pixels, no augmentation. Seeds {', '.join(map(str, seeds))} draw class order, order "
        "of the images and initial weights.\n"
        f"- **Network**: DINOv2's ViT-S/14, its first {backbone['feature_block'] + 1} blocks, class token "
        f"(`python -m pvision.models.dinov2_weights` writes its file, SHA-256 `{common['backbone_sha256'][:12]}…`).\n"
        f"- **Training**: {each} steps of {common['batch_size']} images for each experience and method, at a constant "
        f"learning rate: {steps} in all. Joint training, for comparison, takes {longest}, with all classes at once. "
        "No image is kept. Optimizers are of the published kind; learning rates were tried on seed "
        f"{ours['tuning_seed']}.\n"
        f"- **Made by** `python benchmarks/continual_adapters.py --weights FILE --root FOLDER --out FOLDER`, torch "
        f"{machine['versions']['torch']}, {machine['threads']} thread, on top of commit {', '.join(commits)} "
        "(the JSON has a SHA-256 of each run's code). The level says nothing about other streams; equal steps "
        "favour methods that learn fast."
    )


def _accuracies(one: Mapping[str, Any]) -> list[str]:
    return [_percent(one["metrics"].get(f"continual/{name}")) for name in COLUMNS.values()]


def _percent(found: Mapping[str, Any] | None) -> str:
    if found is None or found["mean"] is None:
        return "–"
    spread = "" if found["high"] is None else f" ± {100 * (found['high'] - found['mean']):.1f}"
    return f"{100 * found['mean']:.1f}{spread}"


def _costs(one: Mapping[str, Any]) -> list[str]:
    cost, settings = one["cost"], one["settings"]
    tried = ", ".join(f"{float(rate):g}: {100 * accuracy:.1f}" for rate, accuracy in one["rates_tried"].items())
    return [
        _number(cost.get("cost/forwards_per_image"), ".0f"),
        _number(cost.get("cost/gmacs_per_image"), ".3f"),
        f"{one['bytes_beside_backbone'] / 1000:,.0f}",
        _number(cost.get("cost/parameters_trainable"), ",.0f"),
        _number(one["cpu_seconds"], ".0f"),
        f"{settings['lr']:g}" + (f" ({tried})" if tried else ""),
    ]


def _number(found: Mapping[str, Any] | None, layout: str) -> str:
    return "–" if found is None or found["mean"] is None else format(found["mean"], layout)


def _differences(ours: Mapping[str, Any]) -> str:
    methods = ours["methods"]
    rows = [
        [
            methods[name]["label"],
            f"{100 * one['difference']:+.1f}",
            "–" if one["low"] is None else f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}",
            "–" if one["p"] is None else f"{one['p']:.2g}",
        ]
        for name, one in sorted(ours["compared"].items(), key=lambda pair: pair[1]["difference"])
    ]
    return (
        "How much more accurate DualLoRA is at the end than each other method, in points, on equal seeds and class "
        "orders (paired t-test, not corrected for the number of comparisons):\n\n"
        + _table(["than", "difference", "95 % interval", "p"], rows)
    )


# The published ones


def _published(published: Mapping[str, Any]) -> Iterable[str]:
    words = "; ".join(f"*{word}*: {meaning}" for word, meaning in published["evidence"].items())
    yield "## Published figures"
    yield (
        f"Last accuracy / average over the stream, in percent, as published; below each method that pvision has, what "
        f"we measured with the recipe named there. {SECTION_RULE} How we know: {words}."
    )
    for block in published["blocks"]:
        yield f"### {block['title']}"
        source = block["source"][:1].upper() + block["source"][1:]
        yield f"{source}. Backbone: {block['backbone']}. Split: {block['split']}. {block['note']}"
        yield _block(block, [row for row in published["rows"] if row["block"] == block["id"]], published["implemented"])


def _block(block: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], implemented: Mapping[str, str]) -> str:
    settings = block["settings"]
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {row["setting"]: row for row in rows if row["method"] == method}
        words = ", ".join(dict.fromkeys(row["evidence"] for row in own.values()))
        lines.append([method, words, *(_cell(own.get(setting)) for setting in settings)])
        if method in implemented:
            lines.append(["– pvision", "", *(_our_cell(own.get(setting)) for setting in settings)])
    return _table(["method", "evidence", *settings.values()], lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{_figure(row, 'last')} / {_figure(row, 'average')}"


def _figure(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "–"
    if isinstance(value, list):
        return "–".join(f"{end:.2f}" for end in value)
    spread = f" ± {row[f'{name}_std']:.2f}" if f"{name}_std" in row else ""
    return f"{value:g}{spread}"


def _our_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    recipe = f" ([recipe](../recipes/{row['recipe']}.yaml))" if row["recipe"] else ""
    return (_cell(row["ours"]) if row["ours"] else "not run here") + recipe


# How to choose


def _choice_table(ours: Mapping[str, Any]) -> str:
    methods = ours["methods"]
    rows = []
    for name, advice in ADVICE.items():
        if name not in methods:
            continue
        cost = methods[name]["cost"]
        rows.append(
            [
                _link(name, methods[name]),
                advice.idea,
                _number(cost.get("cost/forwards_per_image"), ".0f"),
                f"{methods[name]['bytes_beside_backbone'] / 1000:,.0f}",
                advice.identity,
                advice.good,
                advice.bad,
            ]
        )
    titles = ["method", "idea", "passes for an image", "kB kept beside the network", "must know the experience?"]
    return _table([*titles, "good for", "not if"], rows)


def _link(name: str, method: Mapping[str, Any]) -> str:
    """Return the name of a method with a link to its page, if there is one."""
    known = next((advice for key, advice in ADVICE.items() if name == key or name.startswith(f"{key}_")), None)
    exists = known is not None and (CARDS / f"{known.card}.md").exists()
    return f"[{method['label']}](methods/{known.card}.md)" if known is not None and exists else str(method["label"])


def _mean(method: Mapping[str, Any], metric: str) -> float:
    return float(method["metrics"][metric]["mean"])


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
