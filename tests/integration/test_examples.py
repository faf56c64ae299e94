"""The projects under examples/ run as their README says, with the bare installation."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "examples" / "own_project"
SCRIPTS = ("train_privately.py", "train_by_hand.py", "train_with_a_mask.py")
NOT_NEEDED = ("mlflow", "kornia", "albumentations", "pytorchvideo")
# One process for all: importing torch and Lightning takes longer than the training.
RUN_ALL = f"""
import runpy, sys
sys.path.insert(0, {str(PROJECT)!r})
for script in {SCRIPTS!r}:
    print("====", script)
    runpy.run_path({str(PROJECT)!r} + "/" + script, run_name="__main__")
print("loaded", *[name for name in {NOT_NEEDED!r} if name in sys.modules])
"""


def changed(script: str) -> list[str]:
    """The lines of the main part in which a script differs from train.py."""
    mains = [
        (PROJECT / name).read_text(encoding="utf-8").partition('if __name__ == "__main__":\n')[2].splitlines()
        for name in ("train.py", script)
    ]
    lines = [line[2:].strip() for line in difflib.ndiff(*mains) if line.startswith("+ ")]
    return [line for line in lines if not line.startswith("print(")]


@pytest.mark.parametrize(("script", "lines"), [("train_privately.py", 3), ("train_with_a_mask.py", 3)])
def test_three_lines_differ(script: str, lines: int) -> None:
    assert len(changed(script)) == lines, changed(script)


def test_the_readme_shows_the_lines_that_are_there() -> None:
    (shown,) = re.findall(r"```diff\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    added = [line[1:].strip() for line in shown.splitlines() if line.startswith("+")]
    assert added == changed("train_privately.py")
    plain = (PROJECT / "train.py").read_text(encoding="utf-8")
    assert all(line[1:].strip() in plain for line in shown.splitlines() if line.startswith("-"))


def test_the_project_imports_only_privacy_and_callbacks() -> None:
    for path in PROJECT.glob("*.py"):
        modules = re.findall(r"^(?:from|import) (pvision\S*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(modules) <= {"pvision.privacy", "pvision.callbacks"}, path.name


@pytest.mark.slow
def test_the_scripts_run_and_state_their_epsilon(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *parts, loaded = re.split(r"==== \S+\n|loaded", done.stdout)
    assert not loaded.strip(), f"the project needs {loaded}"
    by_lines, by_hand, masked = parts[1:]
    for said in (by_lines, by_hand):
        assert "dp_sgd: 64 releases" in said
        assert "7.99" in said
    assert "residual: 64 releases" in masked
    assert re.search(r"ε 7\.99\d* \(content or nothing", masked)
    assert len(list(tmp_path.glob("ledger*.jsonl"))) == 3
