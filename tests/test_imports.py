"""What an import pulls in, and which imports the layers forbid."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "lightning",
    "mlflow",
    "kornia",
    "albumentations",
    "pytorchvideo",
    "torchvision",
    "matplotlib",
    "numpy",
}
NOT_FOR_CALLBACKS = {"mlflow", "kornia", "albumentations", "pytorchvideo", "opacus", "matplotlib", "av", "pybullet"}
PRINT_NEW = "print(*{name.partition('.')[0] for name in set(sys.modules) - old})"
# Not matplotlib: torchmetrics loads it wherever it is installed. `.ci/package` imports all without it.
EXTRAS = ["mlflow", "kornia", "albumentations", "pytorchvideo", "opacus", "dp_accounting", "av", "pybullet"]


def run_python(code: str, folder: Path) -> str:
    """Run the code in a fresh interpreter outside the checkout, return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(statement: str, folder: Path, *, before: str = "pass") -> set[str]:
    """The top-level modules that a statement brings into a fresh interpreter, beyond those that ``before`` brings."""
    lines = ["import sys", before, "old = set(sys.modules)", statement, PRINT_NEW]
    return set(run_python("\n".join(lines), folder).split())


def test_import_pvision_loads_nothing_heavy(tmp_path: Path) -> None:
    assert not modules_after("import pvision", tmp_path) & HEAVY


def test_listing_the_recipes_loads_nothing_heavy(tmp_path: Path) -> None:
    lines = [
        "import sys",
        "old = set(sys.modules)",
        "from pvision.cli import main",
        "main(['recipes', 'list'])",
        "print()",
        PRINT_NEW,
    ]
    *listing, loaded = run_python("\n".join(lines), tmp_path).strip().splitlines()
    assert not set(loaded.split()) & (HEAVY | {"jsonargparse"})
    assert any("maskdp_mocap" in line for line in listing)


def test_the_import_probe_sees_a_heavy_package(tmp_path: Path) -> None:
    assert "numpy" in modules_after("import numpy", tmp_path)


@pytest.mark.slow
def test_callbacks_bring_no_package_that_a_foreign_project_may_lack(tmp_path: Path) -> None:
    # Lightning itself loads an installed torchvision, hence the difference to what Lightning brings.
    brought = modules_after("import pvision.callbacks", tmp_path, before="import lightning.pytorch")
    assert not brought & (NOT_FOR_CALLBACKS | {"torchvision"})


@pytest.mark.slow
def test_every_package_imports_without_the_extras(tmp_path: Path) -> None:
    packages = [
        "privacy",
        "continual",
        "adapters",
        "detection",
        "segmentation",
        "models",
        "callbacks",
        "datamodules",
        "training",
        "modules",
        "cli",
    ]
    code = [f"import sys\nfor name in {EXTRAS}: sys.modules[name] = None"]
    run_python("\n".join([*code, *(f"import pvision.{package}" for package in packages)]), tmp_path)


@pytest.mark.parametrize("name", ["callbacks", "datamodules"])
def test_the_second_identity_is_refused(name: str) -> None:
    """In the checkout's root the real folder is importable under its bare name; it would make other classes."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"ImportError: import these as `pvision.{name}`" in done.stderr


def test_no_module_is_loaded_twice() -> None:
    """The links in pvision/ lead pytest to the same files by two ways; classes must be the same by both."""
    files: dict[Path, set[str]] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        path = Path(file or "/").resolve()
        if any(path.is_relative_to(ROOT / folder) for folder in ("pvision", "callbacks", "datamodules", "recipes")):
            files.setdefault(path, set()).add(name)
    twice = {str(path.relative_to(ROOT)): names for path, names in files.items() if len(names) > 1}
    assert not twice


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    # The copy must be found before the installed package.
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [*command, "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("pvision", "callbacks", "datamodules", "recipes"):
        ignore = shutil.ignore_patterns("__pycache__", "*.mp4", "*.xz", "*.safetensors")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_layers_hold(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("pvision/privacy/planted.py", "import lightning"),
        ("pvision/models/planted.py", "import mlflow"),
        ("pvision/privacy/planted.py", "import pvision.modules"),
        ("pvision/errors.py", "import pvision.privacy"),
        ("callbacks/planted.py", "import pvision.modules"),
        ("callbacks/planted.py", "import pvision.models"),
        ("callbacks/planted.py", "import pvision.datamodules"),
        ("datamodules/planted.py", "import pvision.callbacks"),
        ("pvision/training/planted.py", "import pvision.callbacks"),
        ("pvision/privacy/planted.py", "import pvision.training"),
        ("datamodules/planted.py", "import pvision.cli"),
        ("pvision/detection/planted.py", "import pvision.segmentation"),
    ],
)
def test_a_forbidden_import_breaks_a_contract(copy: Path, file: str, statement: str) -> None:
    path = copy / file
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text((before or "") + f"\n{statement}\n", encoding="utf-8")
    try:
        done = lint_imports(copy)
    finally:
        path.unlink() if before is None else path.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_a_package_outside_the_layers_is_seen(copy: Path) -> None:
    new = copy / "pvision" / "planted"
    new.mkdir()
    (new / "__init__.py").touch()
    try:
        done = lint_imports(copy)
    finally:
        shutil.rmtree(new)
    assert done.returncode == 1, done.stdout + done.stderr
