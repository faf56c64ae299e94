"""`pvision repeat`: every run once, whatever happens in between, and what the runs say together."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvision.cli import main
from pvision.cli.repetition import processes

# Stands in for `pvision fit`, which takes ten seconds to load: does to a run what fate.json says.
FIT = """
import json, os, signal, sys, time
from pathlib import Path
flags = dict(word.split("=", 1) for word in sys.argv[2:])
seed, root = int(flags["--seed_everything"]), Path(flags["--trainer.default_root_dir"])
order = flags.get("--data.init_args.scenario.init_args.class_order_seed")
with open("ran.txt", "a") as file:
    print(seed, order, os.getpid(), file=file)
fate = json.loads(Path("fate.json").read_text()).get(str(seed), "well") if Path("fate.json").exists() else "well"
folder = root / "1" / f"{seed:032x}"
folder.mkdir(parents=True, exist_ok=True)
def summary(status):
    accuracy = 0.5 + seed / 100 + int(order or 0) % 10 / 1000
    metrics = {"continual/average_accuracy": accuracy, "continual/forgetting": 1 - accuracy, "train/loss": 2.0}
    content = {"name": flags["--run_summary.name"], "status": status, "metrics": metrics, "seed": seed, "run_id": None}
    (folder / "summary.json").write_text(json.dumps(content))
    (folder / "accuracy_matrix.json").write_text(json.dumps({"accuracy": [[0.9, None], [0.8, accuracy]]}))
if fate == "wrong":
    print("pvision: --modle is no flag; did you mean --model?", file=sys.stderr)
    sys.exit(2)
if fate == "fails":
    summary("FAILED")
    sys.exit("ZeroDivisionError: a bug")
if fate in ("half", "late"):
    summary("FINISHED")  # as Lightning leaves it between fit and test
if fate == "late":
    sys.exit("ZeroDivisionError: in the test")
if fate in ("long", "half", "deaf"):
    signal.signal(signal.SIGINT, signal.SIG_IGN if fate == "deaf" else lambda *_: (summary("KILLED"), os._exit(130)))
    Path("waits").touch()
    time.sleep(60)
if fate != "silent":
    summary("KILLED" if fate == "stopped" else "FINISHED")
"""
COMMAND = (sys.executable, "-c", FIT)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_COMMAND", COMMAND)
    monkeypatch.setattr(processes, "_TICK", 0.01)
    Path("toy.yaml").write_text("seed_everything: 7\n", encoding="utf-8")


@pytest.fixture
def repeat(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process, without Lightning: ``repeat("--seeds", 2)``."""

    def call(*args: object, config: str = "toy.yaml") -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(["repeat", "--config", config, *map(str, args)]) or 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return call


def fate(**of_seeds: str) -> None:
    Path("fate.json").write_text(json.dumps({seed.removeprefix("seed_"): what for seed, what in of_seeds.items()}))


def ran() -> list[str]:
    """Seed and class order of each run that was started, in order."""
    return [line.rpartition(" ")[0] for line in Path("ran.txt").read_text().splitlines()]


def results(folder: str = "mlruns/repeats/toy") -> dict:
    return json.loads(Path(folder, "repeat.json").read_text(encoding="utf-8"))


def test_every_seed_runs_once_and_the_table_says_what_they_say_together(repeat: Callable) -> None:
    code, out, err = repeat("--seeds", 3)
    assert code == 0, err
    assert ran() == ["1 None", "2 None", "3 None"]
    lines = out.splitlines()
    assert lines[0].split() == ["metric", "mean", "±", "95", "%", "std", "n"]
    # Accuracies .51, .52, .53: std .01; Student's t for two degrees of freedom 4.303, over the root of 3.
    assert lines[1].split() == ["continual/average_accuracy", "↑", "0.5200", "±", "0.0248", "0.0100", "3"]
    assert lines[2].split()[:3] == ["continual/forgetting", "↓", "0.4800"]
    assert "train/loss" not in out
    assert lines[-1] == "mlruns/repeats/toy/repeat.json"


def test_files_hold_all_metrics_all_runs_and_a_picture(repeat: Callable) -> None:
    repeat("--seeds", 2)
    told = {row["metric"]: row for row in results()["metrics"]}
    assert told["continual/average_accuracy"]["values"] == pytest.approx([0.51, 0.52])
    assert [run["status"] for run in results()["runs"]] == ["FINISHED"] * 2
    assert results()["average_accuracy_curves"] == [[0.9, pytest.approx(0.655)], [0.9, pytest.approx(0.66)]]
    with Path("mlruns/repeats/toy/repeat.csv").open(newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert rows.keys() == told.keys() == {"continual/average_accuracy", "continual/forgetting", "train/loss"}
    assert float(rows["train/loss"]["mean"]) == 2.0
    assert rows["continual/forgetting"]["better"] == "lower"
    assert Path("mlruns/repeats/toy/repeat.png").read_bytes().startswith(b"\x89PNG")


def test_class_orders_are_crossed_with_seeds(repeat: Callable) -> None:
    code, _, err = repeat("--seeds=1,5", "--class_orders=[1993]")
    assert code == 0, err
    assert ran() == ["1 1993", "5 1993"]
    code, out, err = repeat("--seeds", 2, "--class_orders", 2, "--name", "crossed")
    assert ran()[2:] == ["1 1", "1 2", "2 1", "2 2"]
    assert "not quite independent" in out


def test_one_run_has_no_interval(repeat: Callable) -> None:
    code, out, _ = repeat("--seeds", 1)
    assert code == 0
    assert out.splitlines()[1].split() == ["continual/average_accuracy", "↑", "0.5100", "±", "–", "–", "1"]
    told = next(row for row in results()["metrics"] if row["metric"] == "continual/average_accuracy")
    assert (told["std"], told["low"], told["n"]) == (None, None, 1)


def test_progress_says_which_run_how_long_and_what_came_out(repeat: Callable) -> None:
    err = repeat("--seeds", 2, "--class_orders", 1)[2]
    assert "2 runs of toy over 2 seeds and 1 class order, in mlruns/repeats/toy" in err
    assert "run 1 of 2 (seed 1, class order 1): finished in 0:0" in err
    assert "average_accuracy 0.5210, forgetting 0.4790" in err
    assert "to go)" in err


def test_again_in_the_same_words_runs_nothing_and_more_seeds_run_alone(repeat: Callable) -> None:
    repeat("--seeds", 2)
    code, out, err = repeat("--seeds", 2)
    assert (code, len(ran())) == (0, 2)
    assert "2 of which finished before" in err
    assert "continual/average_accuracy" in out
    assert repeat("--seeds", 3)[0] == 0
    assert ran() == ["1 None", "2 None", "3 None"]
    assert results()["metrics"][0]["n"] == 3
    repeat("--seeds", 2)
    assert results()["metrics"][0]["n"] == 2  # what was asked for


def test_a_failing_run_is_named_the_others_go_on_and_it_is_tried_again(repeat: Callable) -> None:
    fate(seed_2="fails")
    code, out, err = repeat("--seeds", 3)
    assert code == 1
    assert ran() == ["1 None", "2 None", "3 None"]
    assert "seed 2): FAILED after" in err
    assert "(exit code 1): ZeroDivisionError: a bug" in err
    assert "seed 2 failed; log: mlruns/repeats/toy/seed_2/log.txt" in err
    assert out.splitlines()[1].endswith(" 2")
    fate()
    assert repeat("--seeds", 3)[0] == 0
    assert ran()[3:] == ["2 None"]


@pytest.mark.parametrize(
    ("what", "told"),
    [("silent", "without a summary"), ("stopped", "without a summary of a finished run"), ("late", "exit code 1")],
)
def test_what_counts_is_exit_code_and_summary_together(what: str, told: str, repeat: Callable) -> None:
    fate(seed_1=what)
    code, out, err = repeat("--seeds", 1)
    assert (code, out) == (1, "")
    assert f"FAILED after 0:00 ({told}" in err


@pytest.mark.parametrize("damage", ["", "{}", '{"status": "KILLED"}', None])
def test_a_finished_run_whose_summary_is_gone_runs_again(damage: str | None, repeat: Callable) -> None:
    repeat("--seeds", 1)
    (path,) = Path("mlruns/repeats/toy").rglob("summary.json")
    path.unlink() if damage is None else path.write_text(damage)
    assert repeat("--seeds", 1)[0] == 0
    assert ran() == ["1 None", "1 None"]


def test_what_the_first_run_refuses_is_told_once_and_no_other_is_tried(repeat: Callable) -> None:
    fate(seed_1="wrong", seed_2="wrong")
    code, out, err = repeat("--seeds", 3, "--jobs", 2)
    assert (code, out) == (2, "")
    assert ran() == ["1 None"]
    last = err.splitlines()[-1]
    assert last.startswith("pvision: --modle is no flag; did you mean --model? (No other run was tried;")


def test_several_at_once_give_the_same(repeat: Callable) -> None:
    assert repeat("--seeds", 4, "--jobs", 3, "--name", "parallel")[0] == 0
    repeat("--seeds", 4, "--name", "single")
    values = [
        {row["metric"]: row["values"] for row in results(f"mlruns/repeats/{name}")["metrics"]}
        for name in ("parallel", "single")
    ]
    assert values[0] == values[1]
    assert ran()[0] == "1 None"  # alone, before the others


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--trainer.max_epochs=5"], "with nothing else"),
        (["--class_orders", 1], "without --class_orders"),
    ],
)
def test_other_arguments_are_refused_with_the_remedy(change: list[object], told: str, repeat: Callable) -> None:
    repeat("--seeds", 1)
    code, _, err = repeat("--seeds", 1, *change)
    assert code == 2
    assert "holds runs of other arguments" in err
    assert told in err
    assert "Give another --name, or remove that folder" in err
    assert len(ran()) == 1


def test_a_changed_configuration_is_refused(repeat: Callable) -> None:
    repeat("--seeds", 1)
    Path("toy.yaml").write_text("seed_everything: 8\n", encoding="utf-8")
    assert "toy.yaml was changed since" in repeat("--seeds", 1)[2]


def test_the_name_is_the_runs_and_the_folder_can_lie_elsewhere(repeat: Callable) -> None:
    assert repeat("--seeds", 1, "--name", "mine", "--folder", "elsewhere/here")[0] == 0
    summary = next(Path("elsewhere/here").rglob("summary.json"))
    assert json.loads(summary.read_text())["name"] == "mine"
    assert not Path("mlruns").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--seeds", "0"], "--seeds must be a whole number from 1"),
        (["--seeds", "three"], "--seeds must be a whole number from 1"),
        (["--seeds", "1,x"], "--seeds must be a count, or seeds"),
        (["--seeds", "[]"], "--seeds must be a count, or seeds"),
        (["--seeds", "1,1"], "--seeds names a seed twice"),
        (["--seeds"], "--seeds needs a value"),
        (["--seeds", "--jobs=2"], "--seeds needs a value"),
        (["--seeds=2", "--seeds=3"], "--seeds is given twice"),
        (["--jobs", "-1"], "--jobs must be a whole number"),
        (["--class_orders", "4294967296,"], "--class_orders must be a count"),
        (["--name", "../up"], "cannot be the name of a folder"),
        (["--seed_everything=3"], "Write --seeds"),
        (["--seed_everything", "3"], "Write --seeds"),
        (["--trainer.default_root_dir=x"], "Write --folder"),
        (["--ckpt_path", "last"], "every run begins anew"),
        (["--trainer.fast_dev_run=true"], "leave no results"),
        (["--class_orders=2", "--data.init_args.scenario.init_args.class_order_seed=1"], "write --class_orders only"),
        (["--config", "no_such_recipe"], "there is no recipe"),
    ],
)
def test_wrong_words_are_one_message_and_nothing_is_written(args: list[str], told: str, repeat: Callable) -> None:
    code, out, err = repeat(*args)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == {"toy.yaml"}


def test_a_broken_index_is_one_message(repeat: Callable) -> None:
    repeat("--seeds", 1)
    Path("mlruns/repeats/toy/runs.json").write_text("{")
    assert "runs.json cannot be read" in repeat("--seeds", 1)[2]


def test_without_matplotlib_there_is_a_table_and_a_notice(repeat: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = repeat("--seeds", 1)
    assert code == 0
    assert "continual/average_accuracy" in out
    assert "pip install 'pvision[plots]'" in err
    assert not list(Path().rglob("*.png"))


def test_help_needs_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["repeat"], ["repeat", "--help"]):
        assert not main(args)
        assert "--class_orders 2" in capsys.readouterr().out


# What can happen to the command itself: it runs as a process of its own, so that it can be killed.

DRIVER = f"""
import sys
from pvision.cli import main
from pvision.cli.repetition import processes
processes._COMMAND = {COMMAND!r}
sys.exit(main())
"""


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start the command and return once its slow run goes on; what is left of it ends with the test."""
    started = []

    def start(*args: str) -> subprocess.Popen:
        command = [sys.executable, "-c", DRIVER, "repeat", "--config", "toy.yaml", *args]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        wait_for(Path("waits").exists)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def child() -> int:
    return int(Path("ran.txt").read_text().split()[-1])


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_run_and_the_same_command_goes_on(
    number: signal.Signals, started: Callable, repeat: Callable
) -> None:
    fate(seed_2="long")
    process = started("--seeds", "3")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "stopped; 1 of 3 runs have finished. The same command goes on." in err
    assert not lives(child())
    index = json.loads(Path("mlruns/repeats/toy/runs.json").read_text())["runs"]
    assert [run["status"] for run in index.values()] == ["FINISHED", "KILLED", "PENDING"]
    fate()
    assert repeat("--seeds", 3)[0] == 0
    assert ran() == ["1 None", "2 None", "2 None", "3 None"]


def test_a_run_that_does_not_listen_is_ended_when_the_user_insists(started: Callable) -> None:
    fate(seed_1="deaf")
    process = started("--seeds", "2")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # patient
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not lives(child())


def test_after_kill_9_nothing_half_done_counts_and_nobody_works_beside_the_run_that_is_left(
    started: Callable, repeat: Callable
) -> None:
    fate(seed_2="half")
    process = started("--seeds", "2")
    wait_for(lambda: len(list(Path("mlruns/repeats/toy/seed_2").rglob("summary.json"))) == 1)
    process.kill()
    process.communicate()
    code, _, err = repeat("--seeds", 2)
    assert code == 2
    assert "mlruns/repeats/toy is in use" in err
    os.kill(child(), signal.SIGKILL)
    wait_for(lambda: not lives(child()))
    fate()
    assert repeat("--seeds", 2)[0] == 0
    assert ran() == ["1 None", "2 None", "2 None"]


@pytest.mark.slow
def test_the_real_command_runs_the_real_fit(monkeypatch: pytest.MonkeyPatch, toy: Callable, repeat: Callable) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    config = toy("real.yaml", **{"trainer.logger": False})
    code, out, err = repeat("--seeds", "2", "--model.init_args.lr=0.2", config=str(config))
    assert code == 0, err
    assert "test/accuracy ↑" in out
    summaries = sorted(Path("mlruns/repeats/real").rglob("summary.json"))
    assert [json.loads(path.read_text())["seed"] for path in summaries] == [1, 2]
    assert all("lr: 0.2" in (path.parent / "config.yaml").read_text() for path in summaries)
