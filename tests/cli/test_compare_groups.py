"""`pvision compare`: which metrics, which groups, and what is told beside them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_runs import AA, FORGETTING, rows, run, three, told

from pvision.cli.comparison.groups import lower_is_better

# Metrics and groups


def test_metrics_of_a_stream_go_before_those_of_a_test_and_these_before_any(compare: Callable) -> None:
    of_test, of_stream = {"test/accuracy": 0.4, "val/accuracy": 0.5, "train/loss": 1.0}, {"AA": 0.6}
    a, b, c = run("a", **of_test, **of_stream), run("b", **of_test), run("c", **{"train/loss": 1.0})
    assert told(compare(a, "--json")[1])["metrics"] == [AA]
    assert told(compare(b, "--json")[1])["metrics"] == ["test/accuracy"]
    assert told(compare(b, c, "--json")[1])["metrics"] == ["train/loss"]
    code, _, err = compare(run("d", x=1.0), c)
    assert code == 2
    assert "no metric in common" in err


def test_metrics_can_be_named_by_their_last_part_together_or_apart(compare: Callable) -> None:
    a = run("a", AA=0.5, F=0.25, **{"test/accuracy": 0.4})
    assert told(compare(a, "--metric", "accuracy", "--metric=forgetting", "--json")[1])["metrics"] == [
        "test/accuracy",
        FORGETTING,
    ]
    assert told(compare("--metric", f"{AA},test/accuracy", "--json", a)[1])["metrics"] == [AA, "test/accuracy"]


def test_of_two_metrics_with_one_last_part_the_plainer_is_meant_and_whole_names_tell_them_apart(
    compare: Callable,
) -> None:
    aware = "continual/task_aware/average_accuracy"
    a = run("a", **{aware: 0.75}, AA=0.5)
    assert told(compare(a, "--metric", "average_accuracy", "--json")[1])["metrics"] == [AA]
    head = compare(a, "--metric", f"average_accuracy,{aware}")[1].splitlines()[0]
    assert head.split() == ["runs", AA, "↑", aware, "↑"]


def test_a_metric_that_a_run_lacks_is_one_message_with_those_it_has(compare: Callable) -> None:
    a, b = run("a", AA=0.5, F=0.1), run("b", **{"test/accuracy": 0.1})
    code, _, err = compare(a, "--metric", "continual/forgeting")
    assert code == 2
    assert f"has no such metric; did you mean {FORGETTING}" in err
    code, _, err = compare(a, b, "--metric", "forgetting")
    assert code == 2
    assert "the run in mlruns/1/b1 has no such metric; it has test/accuracy." in err


@pytest.mark.parametrize(
    "name",
    [
        "continual/forgetting",
        "train/loss",
        "cost/seconds",
        "continual/forgetting_micro",
        "continual/forgotten_accuracy",
        "test_loss/dataloader_idx_1",
        "test/loss/dataloader_idx_0",
        "test-loss",
        "valLoss",
        "MSE",
        "test/nll",
        "cost/peak_memory_mib",
    ],
)
def test_costs_are_known_by_their_words(name: str) -> None:
    assert lower_is_better(name)


@pytest.mark.parametrize(
    "name",
    [
        "continual/average_accuracy",
        "continual/backward_transfer",
        "test/miou",
        "a/lossy",
        "test/memory_accuracy",
        "test_acc/dataloader_idx_0",
        "cost/train_images_per_second",
    ],
)
def test_gains_are_not_costs(name: str) -> None:
    assert not lower_is_better(name)


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("model.init_args.lr", ["model.init_args.lr = 0.1", "model.init_args.lr = 0.2"]),
        ("model.lr", ["model.lr = 0.1", "model.lr = 0.2"]),
        ("seed", ["seed = 1", "seed = 2"]),
        ("name", ["a"]),
    ],
)
def test_groups_can_be_made_by_anything_that_runs_keep(by: str, names: list[str], compare: Callable) -> None:
    folders = [
        run("a", seed, AA=0.5, config={"model": {"class_path": "M", "init_args": {"lr": seed / 10}}}) for seed in (1, 2)
    ]
    assert [group["name"] for group in told(compare(*folders, "--by", by, "--json")[1])["groups"]] == names


def test_a_setting_that_no_run_has_is_one_message_with_the_likest(compare: Callable) -> None:
    config = {"model": {"class_path": "M", "init_args": {"lr": 0.5}}}
    code, _, err = compare(run("a", AA=0.5, config=config), "--by", "model.init_args.lrr")
    assert code == 2
    assert "no run has such a setting; did you mean model.init_args.lr?" in err


def test_a_seed_that_counts_twice_is_told_and_makes_no_pair(compare: Callable) -> None:
    folders = [*three("a", 0.5, 0.6, 0.8), run("a", 1, AA=0.6, folder="again"), *three("b", 0.4, 0.3, 0.2)]
    content = told(compare(*folders, "--metric", AA, "--json")[1])
    assert content["notes"][0].startswith("a holds more than one run of seed 1: ")
    assert content["differences"][0]["difference"]["n"] == 2


@pytest.mark.parametrize(("changes", "differs"), [({"classes": [1, 0]}, True), ({"name": "first"}, False)])
def test_different_streams_under_one_seed_are_told(changes: dict, differs: bool, compare: Callable) -> None:
    for name, more in (("a", {}), ("b", changes)):
        experience = {"name": "classes 0-1", "classes": [0, 1], "train_names": "5f3a", **more}
        (run(name, AA=0.5) / "stream.json").write_text(json.dumps({"data": "Digits", "experiences": [experience]}))
    assert ("went through different streams (seed 1)" in compare("a1", "b1")[1]) is differs


@pytest.mark.parametrize(("data", "told"), [("Digits", False), ("Fashion", True)])
def test_runs_on_other_data_are_told_without_pairs_too(data: str, told: bool, compare: Callable) -> None:
    def on(name: str) -> dict:
        return {"data": {"class_path": f"pvision.datamodules.{name}", "init_args": {"batch_size": 2}}}

    out = compare(run("a", 1, AA=0.5, config=on("Digits")), run("b", 2, AA=0.6, config=on(data)))[1]
    assert ("on different data (Digits, Fashion)" in out) is told
    for path in ("a", "b"):
        (Path("mlruns/1") / f"{path}{'ab'.index(path) + 1}" / "stream.json").write_text(json.dumps({"data": "Digits"}))
    assert "different data" not in compare("a1", "b2")[1], "what a run went through is known better from its stream"


def test_equal_means_are_equally_good(compare: Callable) -> None:
    out = compare(*three("a", 0.1, 0.2, 0.3), *three("b", 0.3, 0.2, 0.1), *three("c", 0.1, 0.1, 0.1))[1]
    assert {name: row.count("*") for name, row in rows(out).items()} == {"a": 2, "b": 2, "c": 0}


def test_curves_leave_out_what_was_forgotten_on_request(compare: Callable) -> None:
    path = run("a", AA=0.8, matrix=[[0.9, None], [0.0, 0.8]])
    kept = json.loads((path / "accuracy_matrix.json").read_text())
    (path / "accuracy_matrix.json").write_text(json.dumps({**kept, "forgotten": [0]}))
    assert told(compare(path, "--json")[1])["groups"][0]["average_accuracy_curves"] == [[None, 0.8]]


def test_names_of_any_kind_can_be_drawn(compare: Callable, recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("matplotlib")
    folders = [run(name, seed, AA=0.5, folder=f"x{seed}") for seed, name in enumerate(["$\\frac$", "顔", "x" * 300])]
    assert compare(*folders)[0] == 0
    assert [str(one.message) for one in recwarn if issubclass(one.category, UserWarning)] == []
