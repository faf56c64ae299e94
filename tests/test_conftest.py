"""Each guard of conftest.py is shown a test that does what it forbids."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

LEAKS = {
    "environment": "import os; os.environ['PVISION_LEAK'] = '1'",
    "working directory": "import os; os.chdir('/')",
    "signal handlers": "import signal; signal.signal(signal.SIGTERM, lambda *_: None)",
    "threads": "import threading, time; threading.Thread(target=time.sleep, args=(4,)).start()",
    "default dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "gradients": "import torch; torch.set_grad_enabled(False)",
    "anomaly mode": "import torch; torch.autograd.set_detect_anomaly(True)",
}
AFTER = """
def test_after():
    import os, pathlib, signal, torch
    assert 'PVISION_LEAK' not in os.environ
    assert not list(pathlib.Path.cwd().iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert not torch.is_anomaly_enabled()

def test_clean():
    open('litter.txt', 'w').close()
"""


def run_pytest(folder: Path, source: str, **variables: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_inner.py").write_text(source, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"COLUMNS": "300"} | variables
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-rA", "--rootdir=."]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr + f"\nexit code {done.returncode}\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    tests = [f"def test_{number}():\n    {leak}\n" for number, leak in enumerate(LEAKS.values())]
    return run_pytest(tmp_path_factory.mktemp("leaks"), "\n".join(tests) + AFTER)


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_fails_its_test_and_says_what_leaked(report: str, name: str) -> None:
    (line,) = [
        line for line in report.splitlines() if line.startswith(f"ERROR test_inner.py::test_{[*LEAKS].index(name)} ")
    ]
    assert name in line


def test_a_leak_does_not_reach_the_next_test(report: str) -> None:
    assert "PASSED test_inner.py::test_after" in report
    assert "ERROR test_inner.py::test_after" not in report


def test_a_clean_test_passes_and_its_files_stay_out_of_the_checkout(report: str) -> None:
    assert "PASSED test_inner.py::test_clean" in report
    assert "ERROR test_inner.py::test_clean" not in report


SKIPPED = """
import pytest
def test_package(): pytest.importorskip("no_such_package")
def test_gpu(): pytest.skip("needs a GPU")
"""


def test_ci_fails_when_a_test_is_skipped_for_want_of_a_package(tmp_path: Path) -> None:
    report = run_pytest(tmp_path, SKIPPED, CI="true")
    assert "ERROR test_inner.py::test_package was skipped in CI" in report
    assert "test_gpu was skipped in CI" not in report
    assert "exit code 1" in report


def test_elsewhere_a_skipped_test_is_no_failure(tmp_path: Path) -> None:
    assert "exit code 0" in run_pytest(tmp_path, SKIPPED)
