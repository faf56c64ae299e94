"""`pvision ledger RUN`: finds the run, says what may be claimed, refuses in one message."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pvision.privacy import PrivacyLedger, PrivacySpec

RUN = Path("mlruns", "1", "72ba4b5ff26a")
LEDGER = RUN / "ledger.jsonl"


def statement(**changes: object) -> PrivacySpec:
    values: dict[str, object] = {
        "mechanism": "residual",
        "unit": "clip",
        "mask": "public",
        "label": "public",
        "relation": "zero_out",
        "polarity": "inside",
        "delta": 1e-5,
        "max_grad_norm": 1.0,
        "sample_rate": 1.0,  # whose ε takes no time
        "steps": 20,
        "noise_multiplier": 2.0,
    }
    return PrivacySpec(**{**values, **changes})  # type: ignore[arg-type]  # a table of tests' own values


@pytest.fixture
def run() -> Iterator[PrivacyLedger]:
    """A run of 3 of 20 steps whose ledger is still open, with 2 more in reserve."""
    with PrivacyLedger.create(LEDGER, statement(), num_records=50, block=5) as ledger:
        for _ in range(3):
            ledger.charge()
        yield ledger


def rows(text: str) -> dict[str, str]:
    return {line[:14].strip(): line[15:] for line in text.splitlines()}


def test_it_prints_what_may_be_claimed(pvision: Callable, run: PrivacyLedger) -> None:
    run.close()
    code, out, err = pvision("ledger", RUN)
    assert (code, err) == (0, "")
    shown, report = rows(out), statement().report(steps=3)
    assert shown["ledger"] == str(LEDGER)
    assert shown["chain"] == "verified, 4 lines"
    assert shown["steps"] == "3 charged of 20 planned"
    assert shown["epsilon"] == (
        f"zero_out {report.epsilon_zero_out:.6g}, replace {report.epsilon_replace:.6g}, add_remove inf"
    )
    for fact in ("residual", "clip", "zero_out", "mask public", "label public", "inside"):
        assert fact in shown["statement"]
    for fact in ("noise_multiplier 2,", "sample_rate 1 ", "max_grad_norm 1,", "delta 1e-05"):
        assert fact in shown["noise"]
    assert shown["not protected"] == report.not_protected
    assert shown["history"].startswith("sessions 1, crashes 0, torn lines 0; ")
    assert shown["history"].endswith(" 0 steps at most")
    assert shown["writer"] == "none"


def test_json_is_for_machines(pvision: Callable, run: PrivacyLedger) -> None:
    run.close()
    for args in (("ledger", RUN, "--json"), ("ledger", "--json", RUN)):
        code, out, _ = pvision(*args)
        facts = json.loads(out)
        assert code == 0
        assert (facts["charged_steps"], facts["planned_steps"], facts["verified"]) == (3, 20, True)
        assert facts["report"] == statement().report(steps=3).as_dict()


def test_a_run_that_still_trains_has_a_writer_and_no_crash(pvision: Callable, run: PrivacyLedger) -> None:
    facts = json.loads(pvision("ledger", RUN, "--json").out)
    assert facts["writer"].startswith("pid ")
    assert (facts["charged_steps"], facts["crashes"], facts["lost_steps"]) == (5, 0, 0)
    run.charge()  # looking did not disturb it


def test_crashes_and_torn_lines_are_told_with_what_they_cost(pvision: Callable, run: PrivacyLedger) -> None:
    shutil.copy(LEDGER, "crashed.jsonl")
    with Path("crashed.jsonl").open("ab") as file:
        file.write(b'{"previous":')
    facts = json.loads(pvision("ledger", "crashed.jsonl", "--json").out)
    assert (facts["crashes"], facts["torn_lines"], facts["lost_steps"], facts["charged_steps"]) == (1, 1, 10, 10)


def test_not_private_is_the_first_word(pvision: Callable) -> None:
    PrivacyLedger.create(LEDGER, statement(noise_seed=1), num_records=50).close()
    assert pvision("ledger", RUN).out.startswith("NOT PRIVATE")
    assert json.loads(pvision("ledger", RUN, "--json").out)["private"] is False


@pytest.mark.parametrize("name", [RUN, LEDGER, f"{RUN}/", RUN / "checkpoints" / "last.ckpt", "72ba4b5ff26a"])
def test_a_run_is_found_by_folder_file_checkpoint_or_id(name: object, pvision: Callable, run: PrivacyLedger) -> None:
    (RUN / "checkpoints").mkdir()
    (RUN / "checkpoints" / "last.ckpt").touch()
    code, out, err = pvision("ledger", name)
    assert code == 0, err
    assert "5 charged of 20" in out


def test_a_run_is_found_from_elsewhere(pvision: Callable, run: PrivacyLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RUN.absolute()
    monkeypatch.chdir(RUN.parent)
    assert pvision("ledger", folder).code == 0


@pytest.fixture
def named() -> Callable[..., None]:
    """Enter runs under a name into a database like MLflow's."""

    def enter(name: str, *runs: str, stage: str = "active") -> None:
        with sqlite3.connect("mlruns/mlflow.db") as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS runs (run_uuid, name, experiment_id, lifecycle_stage, start_time)"
            )
            for start, run in enumerate(runs):
                database.execute("INSERT INTO runs VALUES (?, ?, 1, ?, ?)", (run, name, stage, start))
        database.close()

    return enter


def test_a_run_is_found_by_its_name(pvision: Callable, run: PrivacyLedger, named: Callable) -> None:
    named("first try 1.0", RUN.name)
    named("first try 1.0", "deleted", stage="deleted")
    assert "5 charged of 20" in pvision("ledger", "first try 1.0").out


def test_two_runs_of_one_name_are_both_shown(pvision: Callable, run: PrivacyLedger, named: Callable) -> None:
    named("again", "older", RUN.name)
    code, out, err = pvision("ledger", "again")
    assert (code, out) == (2, "")
    assert f"2 runs are called 'again'. Name one by its folder: {RUN}, mlruns/1/older." in err


def test_the_table_is_like_mlflows_own(tracked: Path) -> None:
    with sqlite3.connect(tracked) as database:
        columns = {row[1] for row in database.execute("PRAGMA table_info(runs)")}
    database.close()
    assert columns >= {"run_uuid", "name", "experiment_id", "lifecycle_stage", "start_time"}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nowhere"], "there is no run 'nowhere'"),
        (["*"], "there is no run '*'"),
        (["nowhere/ledger.jsonl"], "There is no privacy ledger to read at nowhere/ledger.jsonl"),
        (["."], "There is no privacy ledger to read at ledger.jsonl"),
        ([], "cannot be read"),
        (["--json"], "cannot be read"),
        (["a", "b"], "cannot be read"),
    ],
)
def test_a_wrong_run_is_one_message(args: list[str], told: str, pvision: Callable) -> None:
    code, out, err = pvision("ledger", *args)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


def test_an_edited_ledger_is_one_message(pvision: Callable, run: PrivacyLedger) -> None:
    run.close()
    LEDGER.write_bytes(LEDGER.read_bytes().replace(b'"steps":5', b'"steps":1'))
    code, out, err = pvision("ledger", RUN)
    assert (code, out) == (2, "")
    assert "line 3, is not what was written" in err
    assert err.count("\n") == 1


def test_a_broken_database_is_one_message(pvision: Callable) -> None:
    Path("mlruns").mkdir()
    Path("mlruns/mlflow.db").write_text("no database")
    code, _, err = pvision("ledger", "name")
    assert code == 2
    assert "mlruns/mlflow.db cannot be read" in err


def test_a_misspelt_run_is_answered_without_loading_torch() -> None:
    code = (
        "import sys\nfrom pvision.cli import main\ntry:\n    main(['ledger', 'nowhere'])\nfinally:\n"
        "    print('torch' in sys.modules, 'lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (2, ["False", "False"])
