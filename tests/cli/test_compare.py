"""`pvision compare RUN ...`: finds runs, groups them, says what is more than chance and what is not comparable."""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_runs import AA, FORGETTING, PRIVATE, rows, run, three, told
from hypothesis import given
from hypothesis import strategies as st

from pvision.cli.comparison.differences import Difference, _holm


def test_runs_of_one_name_are_one_row_with_mean_and_interval_and_the_best_is_marked(compare: Callable) -> None:
    folders = three("joint", 0.91, 0.92, 0.93) + three("replay", 0.81, 0.82, 0.83)
    code, out, err = compare(*folders)
    assert (code, err) == (0, "")
    # Student's t for two degrees of freedom 4.303, times .01, over the root of 3.
    assert " ".join(rows(out)["joint"]) == "3 0.9200 ± 0.0248 * 0.0800 ± 0.0248 *"
    assert " ".join(rows(out)["replay"]) == "3 0.8200 ± 0.0248 0.1800 ± 0.0248"
    assert "average_accuracy ↑" in out.splitlines()[0]
    assert "forgetting ↓" in out.splitlines()[0]


def test_a_single_run_has_no_interval_and_no_verdict(compare: Callable) -> None:
    out = compare(run("a", AA=0.5), run("b", AA=0.6))[1]
    assert rows(out) == {"a": ["1", "0.5000", "±", "–"], "b": ["1", "0.6000", "±", "–", "*"]}
    assert "a single run cannot tell" in out
    assert "noise" not in out


def test_one_group_is_a_table_without_a_best(compare: Callable) -> None:
    code, out, _ = compare(*three("a", 0.1, 0.2))
    assert code == 0
    assert "*" not in out
    assert "minus" not in out


def test_paired_runs_reveal_what_their_intervals_hide(compare: Callable) -> None:
    # Seeds differ by far more than methods do, but each seed says the same about the methods.
    first = three("first", 0.50, 0.70, 0.90)
    second = three("second", 0.48, 0.679, 0.881)
    third = three("third", 0.60, 0.50, 0.95)
    out = compare(*first, *second, *third, "--json", "--metric", AA)[1]
    found = {one["other"]: one for one in told(out)["differences"]}
    assert {one["group"] for one in found.values()} == {"first"}
    assert found["second"]["beyond_noise"] is True
    assert found["second"]["difference"]["mean"] == pytest.approx(0.02)
    assert found["third"]["beyond_noise"] is False
    text = compare(*first, *second, *third, "--metric", "average_accuracy")[1]
    assert "average_accuracy: first (best) minus" in text
    lines = {line.split()[0]: line for line in text.splitlines() if "pairs" in line}
    assert lines["second"].endswith("beyond noise")
    assert lines["third"].endswith("within noise")


def test_only_equal_seeds_and_class_orders_are_pairs(compare: Callable) -> None:
    def order(seed: int) -> dict:
        return {"data": {"init_args": {"scenario": {"init_args": {"class_order_seed": seed}}}}}

    same = [run("a", 1, AA=0.5, config=order(1)), run("b", 1, AA=0.4, config=order(1))]
    same += [run("a", 2, AA=0.6, config=order(1)), run("b", 2, AA=0.45, config=order(1))]
    other = [run("a", 3, AA=0.7, config=order(1)), run("b", 3, AA=0.9, config=order(2))]
    (one,) = told(compare(*same, *other, "--json")[1])["differences"]
    assert one["difference"]["n"] == 2


def test_without_pairs_it_says_so_and_tests_nothing(compare: Callable) -> None:
    a = [run("a", seed, AA=value) for seed, value in ((1, 0.90), (2, 0.91))]
    b = [run("b", seed, AA=value) for seed, value in ((8, 0.10), (9, 0.11))]
    out = compare(*a, *b)[1]
    assert "no two runs with equal seed and class order; the intervals do not overlap" in out
    assert "beyond noise" not in out


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), ((0.91, 0.92, 0.93), (0.81, 0.82, 0.83))],
    ids=["exactly", "up to rounding"],
)
def test_equal_differences_are_not_taken_for_certainty(mine: tuple, theirs: tuple, compare: Callable) -> None:
    a, b = three("a", *mine), three("b", *theirs)
    (one, *_) = told(compare(*a, *b, "--json")[1])["differences"]
    assert one["beyond_noise"] is None
    assert one["p"] is None
    assert "all pairs differ equally" in one["note"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_adjusted_p_values_are_holms(values: list[float]) -> None:
    found = [Difference("m", "a", str(place), p=value) for place, value in enumerate(values)]
    adjusted = [one.p for one in _holm(found)]
    ordered = np.argsort(values, kind="stable")
    steps = np.minimum(1, np.maximum.accumulate([(len(values) - k) * values[i] for k, i in enumerate(ordered)]))
    assert [adjusted[i] for i in ordered] == pytest.approx(list(steps))


# What stands beside the table


def test_json_csv_and_picture_say_the_same(compare: Callable) -> None:
    matrix = [[0.9, None], [0.7, 0.5]]
    folders = three("a", 0.5, 0.7, matrix=matrix) + three("b", 0.4, 0.3)
    out = compare(*folders, "--json", "--output", "there")[1]
    assert told(out) == json.loads(Path("there/compare.json").read_text(encoding="utf-8"))
    a, b = told(out)["groups"]
    assert a["average_accuracy_curves"] == [[0.9, 0.6], [0.9, 0.6]]
    assert b["average_accuracy_curves"] == []
    assert [one["seed"] for one in a["runs"]] == [1, 2]
    with Path("there/compare.csv").open(newline="") as file:
        table = {(row["group"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(table["a", AA]["mean"]) == a["metrics"][0]["mean"] == 0.6
    assert table["b", FORGETTING]["better"] == "lower"
    assert Path("there/compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_files_are_named_last(compare: Callable) -> None:
    out = compare(run("a", AA=0.5))[1]
    assert out.splitlines()[-1] == ", ".join(f"mlruns/compare/compare.{kind}" for kind in ("json", "csv", "png"))


def test_without_matplotlib_there_is_a_table_and_a_notice(compare: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = compare(run("a", AA=0.5))
    assert code == 0
    assert "0.5000" in out
    assert "no picture" in err
    assert "pip install 'pvision[plots]'" in err


def test_undefined_values_are_left_out_and_counted(compare: Callable) -> None:
    folders = [run("a", 1, AA=0.5, F="nan"), run("a", 2, AA=0.5, F=0.1), run("a", 3, AA=0.5, F=0.2)]
    cells = rows(compare(*folders)[1])["a"]
    assert cells[-2:] == ["(n", "2)"]


@pytest.mark.parametrize("matrix", [[["x"]], [[0.5, 0.5], [0.5]], [[80.0]], "none"])
def test_a_broken_matrix_is_one_message(matrix: object, compare: Callable) -> None:
    code, _, err = compare(run("a", AA=0.5, matrix=matrix))
    assert code == 2
    assert "accuracy_matrix.json holds no accuracy matrix" in err
    assert err.count("\n") == 1


def test_runs_that_did_not_finish_are_left_out_and_told(compare: Callable) -> None:
    code, out, _ = compare(run("a", 1, AA=0.5), run("a", 2, AA=0.1, status="KILLED"))
    assert code == 0
    assert rows(out)["a"] == ["1", "0.5000", "±", "–"]
    assert "left out, because they did not finish: mlruns/1/a2 (KILLED)" in out
    code, _, err = compare("mlruns/1/a2")
    assert code == 2
    assert "no run has finished: mlruns/1/a2 is KILLED" in err


def test_the_same_run_counts_once(compare: Callable) -> None:
    path = run("a", AA=0.5)
    assert rows(compare(path, path / "summary.json", path.name)[1])["a"][0] == "1"


def test_a_wrong_run_is_one_message(compare: Callable) -> None:
    code, out, err = compare("nowhere")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "there is no run 'nowhere'" in err


@pytest.mark.parametrize("args", [[], ["--jsn", "a"], ["--metric"]])
def test_wrong_words_are_one_message(args: list[str], compare: Callable) -> None:
    code, out, err = compare(*args)
    assert (code, out) == (2, "")
    assert "`pvision compare --help`" in err
    assert err.count("\n") == 1


def test_help_explains_what_a_run_is(compare: Callable) -> None:
    assert "RUN is a run's folder" in compare("--help")[1]


# Privacy


def private(zero_out: float, replace: float = math.inf, **changes: object) -> dict:
    claim = {"epsilon_zero_out": zero_out, "epsilon_replace": replace, "epsilon_add_remove": math.inf}
    return {**PRIVATE, **{name: "inf" if value == math.inf else value for name, value in claim.items()}, **changes}


def test_private_runs_show_epsilon_and_are_ranked_where_it_is_equal(compare: Callable) -> None:
    a = run("a", AA=0.5, privacy=private(1.0, 2.0))
    b = run("b", AA=0.6, privacy=private(0.9999, 5.0))
    out = compare(a, b)[1]
    assert "ε zero_out" in out.splitlines()[0]
    assert "add_remove" not in out.splitlines()[0]
    assert rows(out)["a"][-2:] == ["1", "2"]
    assert rows(out)["b"][-3:] == ["*", "1", "5"]
    assert "ranked at equal ε for zero_out" in out
    assert "add up if they are published together" in out


@pytest.mark.parametrize(
    "other",
    [
        private(8.0),
        private(1.0, unit="frame"),
        private(1.0, delta=1e-3),
        private(1.0, private=False),
        None,
    ],
)
def test_runs_that_promise_something_else_are_not_ranked_and_it_is_told(other: dict | None, compare: Callable) -> None:
    a, b = run("a", AA=0.5, privacy=private(1.0)), run("b", AA=0.6, privacy=other)
    out = compare(a, b)[1]
    assert "*" not in out
    assert "(best)" not in out
    assert "the groups do not promise the same" in out


def test_runs_without_privacy_are_ranked(compare: Callable) -> None:
    plain = {**private(math.inf), "private": False}
    out = compare(run("a", AA=0.5, privacy=plain), run("b", AA=0.6))[1]
    assert "*" in out
    assert "ε" not in out


def test_it_needs_neither_torch_nor_lightning() -> None:
    folders = three("a", 0.5, 0.6, matrix=[[0.9, None], [0.7, 0.5]]) + three("b", 0.5, 0.7)
    code = (
        f"import sys\nfrom pvision.cli import main\nmain({['compare', *map(str, folders)]!r})\n"
        "print(*{'torch', 'lightning', 'mlflow', 'pandas'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == "\n"
