"""The page about metrics: its table is the registry's, and every number on it is computed again here."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

from pvision.continual import metrics
from pvision.continual.metrics import all_definitions, forgetting
from pvision.continual.metrics.summaries import compatible, summary
from pvision.continual.statistics import paired_comparison

PAGE = Path(__file__).parents[2] / "docs" / "continual_metrics.md"
GOLDEN = np.array(
    [[0.90, 0.20, 0.15, 0.10], [0.80, 0.85, 0.25, 0.15], [0.94, 0.70, 0.95, 0.30], [0.75, 0.65, 0.97, 0.92]]
)
EXTRAS = {
    "counts": [100, 100, 200, 100],
    "baseline": [0.10, 0.12, 0.08, 0.10],
    "reference": [0.93, 0.90, 0.96, 0.97],
    "independent": [0.90, 0.91, 0.97, 0.95],
}
POSITIVE = [[0.5, 0, 0], [0.6, 0.5, 0], [0.7, 0.6, 0.5]]
# A model that knew the second experience before it learned it: what an unmasked maximum takes for forgetting.
ZERO_SHOT = np.array([[0.6, 0.9, 0.0], [0.5, 0.7, 0.0], [0.4, 0.6, 0.8]])


def text():
    return PAGE.read_text(encoding="utf-8")


def number(value):
    return f"{value + 0.0:.6f}".replace("-", "−")


def definition_table():
    """All definitions as the page shows them."""
    values = {**summary(GOLDEN, **EXTRAS), **compatible(GOLDEN)}
    lines = ["| metric | definition | formula | whose | value |", "|---|---|---|---|--:|"]
    for d in all_definitions():
        name = f"`{d.name}`" + (", default" if d.default and len(metrics.definitions(d.metric)) > 1 else "")
        lines.append(f"| `{d.metric}` | {name} | {d.formula} | {d.source} | {number(values[d.key])} |")
    return "\n".join(lines)


def sign_table():
    """Forgetting of two runs, by definition: the golden one, and one in which old experiences improve."""
    lines = ["| definition | this run | a run that improves |", "|---|--:|--:|"]
    for name in metrics.definitions("forgetting"):
        both = (number(forgetting(matrix, definition=name)) for matrix in (GOLDEN, POSITIVE))
        lines.append(f"| `{name}` | {' | '.join(both)} |")
    return "\n".join(lines)


def code_blocks():
    return re.findall(r"```pycon\n(.*?)```", text(), flags=re.DOTALL)


def prose():
    """The page without its code and its two computed tables."""
    plain = re.sub(r"```.*?```", "", text(), flags=re.DOTALL)
    return plain.replace(definition_table(), "").replace(sign_table(), "")


def test_the_table_of_definitions_is_the_registry():
    assert definition_table() in text(), f"put this table into {PAGE.name}:\n{definition_table()}"


def test_the_table_of_signs_is_computed():
    assert sign_table() in text(), f"put this table into {PAGE.name}:\n{sign_table()}"


def test_all_examples_print_what_the_page_says():
    blocks = "\n".join(code_blocks())
    example = doctest.DocTestParser().get_doctest(blocks, {}, PAGE.name, str(PAGE), 0)
    assert len(example.examples) > 20
    said = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_every_other_number_is_computed():
    unmasked = (ZERO_SHOT[:-1].max(axis=0) - ZERO_SHOT[-1])[:-1].mean()
    five_wins = paired_comparison([0.8, 0.7, 0.6, 0.5, 0.4], [0.7, 0.5, 0.3, 0.1, 0.0])
    computed = {number(forgetting(ZERO_SHOT)), number(unmasked), str(five_wins.wilcoxon_p)}
    computed |= {str(value) for value in ZERO_SHOT.flat}
    found = set(re.findall(r"(?<![\d.])−?\d+\.\d+(?![\d.]*\d)", prose()))
    assert found == computed, f"nobody computes {found - computed}, and the page lacks {computed - found}"


def test_there_are_as_many_values_of_forgetting_as_the_page_says():
    assert len({number(forgetting(GOLDEN, definition=name)) for name in metrics.definitions("forgetting")}) == 5
    assert "## One run, five values" in text()


def test_every_public_name_on_the_page_exists():
    known = {*metrics.__all__, *dir(metrics.AccuracyMatrix), "mean_interval", "paired_comparison", "definition"}
    called = set(re.findall(r"`([a-z_]+)\(", prose()))
    assert called <= known
    assert {"summary", "compatible", "forgetting_curve"} <= called


@pytest.mark.parametrize("name", sorted(metrics.__all__))
def test_every_public_name_is_explained(name):
    assert re.search(rf"\b{name}\b", text()), f"{PAGE.name} does not say what {name} is"
