"""The script `.ci/run`, run against a stand-in for make: what makes it fail, and what it prints last."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKE = 'echo "$1" >>"$TRACES"\n[ "$1" = test ] && echo "$CLOSING"\n[ "$1" != "$FAILS" ]\n'
PASSED = "===== 12 passed, 1 skipped in 3.45s ====="


def run_ci(
    folder: Path, *, closing: str = PASSED, fails: str = ""
) -> "tuple[subprocess.CompletedProcess[str], list[str]]":
    """Run a copy of the script, return what it did and the targets it made."""
    (folder / "clone" / ".ci").mkdir(parents=True)
    (folder / "bin").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / "clone" / ".ci")
    make = folder / "bin" / "make"
    make.write_text(f"#!/bin/sh\n{MAKE}")
    make.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "TRACES": str(folder / "traces"),
        "CLOSING": closing,
        "FAILS": fails,
    }
    command = ["bash", str(folder / "clone" / ".ci" / "run")]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done, (folder / "traces").read_text().split()


def test_a_good_run_makes_everything_and_ends_with_the_count_of_tests(tmp_path: Path) -> None:
    done, made = run_ci(tmp_path)
    assert done.returncode == 0, done.stderr
    assert made == ["setup-dev", "lint", "package", "test"]
    assert done.stdout.splitlines()[-1] == PASSED


@pytest.mark.parametrize("fails", ["setup-dev", "lint", "package", "test"])
def test_a_failing_step_fails_the_run_and_ends_it(tmp_path: Path, fails: str) -> None:
    done, made = run_ci(tmp_path, fails=fails)
    assert done.returncode != 0
    assert made[-1] == fails


@pytest.mark.parametrize("closing", ["===== no tests ran in 0.01s =====", "===== 3 skipped in 0.10s =====", ""])
def test_a_run_in_which_no_test_passed_fails(tmp_path: Path, closing: str) -> None:
    done, _ = run_ci(tmp_path, closing=closing)
    assert done.returncode != 0
    assert "No test passed" in done.stderr
