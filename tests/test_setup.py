"""The set-up script `.ci/setup`, run against stand-ins for Python and uv that do nothing but leave traces."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

REAL = f'exec "{sys.executable}" "$@"\n'
OLD = 'case "$*" in *exit*) exit 1 ;; *) echo CPython 3.9.18 ;; esac\n'
WITHOUT_VENV = f'case "$*" in *ensurepip*) exit 1 ;; *) exec "{sys.executable}" "$@" ;; esac\n'
UV = """
echo "$*" >>"$TRACES"
case "$1" in
  venv) for last; do :; done; mkdir -p "$last/bin" && ln -sf "$REAL_PYTHON" "$last/bin/python" ;;
  pip) exit "${UV_FAILS:-0}" ;;
  python) exit 1 ;;
esac
"""


class Checkout:
    """A copy of the set-up script in a folder of its own, with a PATH that holds only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.bin = folder / "bin"
        self.traces = folder / "traces"
        (self.root / ".ci").mkdir(parents=True)
        self.bin.mkdir()
        self.traces.touch()
        shutil.copy(ROOT / ".ci" / "setup", self.root / ".ci")
        (self.root / "pyproject.toml").write_text("[project]\n")
        (self.root / "constraints.txt").write_text("")
        for tool in ("sh", "cat", "cksum", "cp", "dirname", "ln", "mkdir", "rm", "touch"):
            path = shutil.which(tool)
            assert path is not None
            (self.bin / tool).symlink_to(path)

    def put(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}")
        (self.bin / name).chmod(0o755)

    def setup(self, extra: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": str(self.bin), "TRACES": str(self.traces), "REAL_PYTHON": sys.executable} | variables
        command = ["sh", ".ci/setup", extra]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    def installs(self) -> list[str]:
        return [line for line in self.traces.read_text().splitlines() if line.startswith("pip install")]

    @property
    def venv(self) -> Path:
        return self.root / ".venv"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.put("python3", REAL)
    made.put("uv", UV)
    return made


def test_the_first_call_installs_with_the_constraints_and_the_second_does_nothing(checkout: Checkout) -> None:
    assert checkout.setup("demo").returncode == 0
    (install,) = checkout.installs()
    assert "--constraint constraints.txt" in install
    assert "--editable .[demo]" in install
    again = checkout.setup("demo")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert len(checkout.installs()) == 1


@pytest.mark.parametrize(("first", "second", "installs"), [("dev", "demo", 1), ("demo", "dev", 2)])
def test_either_order_works_and_dev_holds_all_that_demo_needs(
    checkout: Checkout, first: str, second: str, installs: int
) -> None:
    assert checkout.setup(first).returncode == 0
    assert checkout.setup(second).returncode == 0
    assert len(checkout.installs()) == installs


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed(checkout: Checkout, file: str) -> None:
    checkout.setup("dev")
    (checkout.root / file).write_text("# changed\n")
    checkout.setup("dev")
    assert len(checkout.installs()) == 2


def test_a_moved_checkout_is_installed_afresh(checkout: Checkout) -> None:
    checkout.setup("dev")
    (checkout.venv / "points-to-the-old-place").touch()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.setup("dev").returncode == 0
    assert len(checkout.installs()) == 2
    assert not (checkout.venv / "points-to-the-old-place").exists()


def test_a_failed_install_leaves_no_stamp_and_the_next_call_starts_afresh(checkout: Checkout) -> None:
    failed = checkout.setup("dev", UV_FAILS="1", PIP_NO_INDEX="1")
    assert failed.returncode != 0
    assert "could not be installed" in failed.stderr
    assert not list(checkout.venv.glob(".installed-*"))
    (checkout.venv / "half-written").touch()
    assert checkout.setup("dev").returncode == 0
    assert not (checkout.venv / "half-written").exists()


def test_a_venv_whose_python_is_gone_is_made_again(checkout: Checkout) -> None:
    checkout.setup("dev")
    (checkout.venv / "bin" / "python").unlink()
    again = checkout.setup("dev")
    assert again.returncode == 0
    assert "starting afresh" in again.stderr
    assert (checkout.venv / "bin" / "python").exists()


def test_a_broken_venv_of_someone_else_is_not_touched(checkout: Checkout) -> None:
    checkout.venv.mkdir()
    (checkout.venv / "precious").touch()
    refused = checkout.setup("dev")
    assert refused.returncode != 0
    assert "Remove or rename it" in refused.stderr
    assert (checkout.venv / "precious").exists()


def test_a_working_venv_of_someone_else_is_used_as_it_is(checkout: Checkout) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    (checkout.venv / "bin" / "python").symlink_to(sys.executable)
    (checkout.venv / "precious").touch()
    assert checkout.setup("dev", UV_FAILS="1", PIP_NO_INDEX="1").returncode != 0
    assert checkout.setup("dev").returncode == 0
    assert (checkout.venv / "precious").exists()


def test_a_python_that_is_too_old_is_named_with_its_version(checkout: Checkout) -> None:
    checkout.put("python3", OLD)
    refused = checkout.setup("dev")
    assert refused.returncode != 0
    assert "needs CPython 3.11 or newer" in refused.stderr
    assert "python3 is CPython 3.9.18" in refused.stderr
    assert not checkout.venv.exists()


def test_a_newer_python_is_found_behind_an_old_one(checkout: Checkout) -> None:
    checkout.put("python3", OLD)
    checkout.put("python3.12", REAL)
    assert checkout.setup("dev").returncode == 0


def test_a_python_without_venv_is_named_with_the_remedy(checkout: Checkout) -> None:
    (checkout.bin / "uv").unlink()
    checkout.put("python3", WITHOUT_VENV)
    refused = checkout.setup("dev")
    assert refused.returncode != 0
    assert "python3 cannot make virtual environments" in refused.stderr
    assert "apt install python3-venv" in refused.stderr


def test_uv_needs_no_venv_module(checkout: Checkout) -> None:
    checkout.put("python3", WITHOUT_VENV)
    assert checkout.setup("dev").returncode == 0


def test_the_chosen_python_is_the_only_one_tried(checkout: Checkout) -> None:
    checkout.put("mine", OLD)
    refused = checkout.setup("dev", PYTHON=str(checkout.bin / "mine"))
    assert refused.returncode != 0
    assert "mine is CPython 3.9.18" in refused.stderr


@pytest.mark.skipif(os.name != "posix", reason="the script is for POSIX shells")
def test_the_script_is_plain_sh() -> None:
    assert subprocess.run(["sh", "-n", str(ROOT / ".ci" / "setup")], check=False).returncode == 0
