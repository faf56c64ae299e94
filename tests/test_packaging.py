"""What pyproject.toml says about packages is what the folders hold, and what the wheel carries."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = SETTINGS["tool"]["setuptools"]
LINKS = ("callbacks", "datamodules", "recipes")
LARGEST = 26 * 1024 * 1024


def folders_with_code(root: Path) -> set[str]:
    """The installed names of all folders with an ``__init__.py``; os.walk enters no links, so each comes once."""
    found = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        for path, folders, files in os.walk(root / folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            if "__init__.py" in files:
                found.add(".".join((package, *Path(path).relative_to(root / folder).parts)))
    return found


def test_the_list_of_packages_is_complete() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders_with_code(ROOT)), (
        "`packages` in pyproject.toml differs from the folders: a package that is not listed is missing from the wheel"
    )


def test_a_forgotten_package_is_seen(tmp_path: Path) -> None:
    for folder in SETUPTOOLS["package-dir"].values():
        (tmp_path / folder / "new").mkdir(parents=True)
        (tmp_path / folder / "new" / "__init__.py").touch()
    assert folders_with_code(tmp_path) == {f"{package}.new" for package in SETUPTOOLS["package-dir"]}


def test_the_versions_agree() -> None:
    import pvision

    assert SETTINGS["project"]["version"] == pvision.__version__


def declared() -> set[str]:
    """The normalised names of the packages that pyproject.toml asks for."""
    project = SETTINGS["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = (re.match(r"[\w.-]+", line) for line in lines)
    return {name[0].lower().replace("_", "-") for name in names if name} - {"pvision"}


def imported(tree: ast.AST) -> set[str]:
    """The top-level names of all imports in a module, wherever they stand."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_every_imported_package_is_declared() -> None:
    files = [path for folder in SETUPTOOLS["package-dir"].values() for path in (ROOT / folder).rglob("*.py")]
    names = set().union(*(imported(ast.parse(path.read_text(encoding="utf-8"))) for path in files))
    owners = importlib.metadata.packages_distributions()
    undeclared = {
        name: owners.get(name, ["a package that is not installed"])
        for name in names - sys.stdlib_module_names - {"pvision"}
        if not {owner.lower().replace("_", "-") for owner in owners.get(name, [])} & declared()
    }
    assert not undeclared, f"imported, but neither a dependency nor in an extra: {undeclared}"


def test_imports_are_found_wherever_they_stand() -> None:
    code = "import a.b\nfrom . import c\ndef f():\n    from d.e import g\n"
    assert imported(ast.parse(code)) == {"a", "d"}


def test_constraints_pin_exactly_what_pyproject_asks_for() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if line and not line.startswith("#")}
    # setuptools is left to what torch wants of it.
    assert pinned == declared() - {"setuptools"}


@pytest.mark.parametrize("name", LINKS)
def test_links_are_relative_and_tracked(name: str) -> None:
    assert Path(ROOT / "pvision" / name).readlink() == Path("..") / name
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "--stage", f"pvision/{name}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert listing.startswith("120000 "), f"git does not hold pvision/{name} as a link: git add pvision/{name}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from a copy, so that no build folder and no egg-info appears in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*SETUPTOOLS["package-dir"].values(), "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_the_wheel_carries_every_module_and_data_file(contents: set[str]) -> None:
    expected = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        for path, folders, files in os.walk(ROOT / folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            inside = PurePosixPath(*package.split(".")) / Path(path).relative_to(ROOT / folder).as_posix()
            expected |= {str(inside / file) for file in files if (Path(path) / file).suffix not in {".pyc", ".md"}}
    missing, surplus = expected - contents, {name for name in contents - expected if ".dist-info/" not in name}
    assert not missing, (
        f"in the checkout, not in the wheel: {sorted(missing)}. See packages and package-data in pyproject.toml"
    )
    assert not surplus, f"in the wheel, not in the checkout: {sorted(surplus)}"


@pytest.mark.parametrize(
    "name", ["pvision/py.typed", "pvision/callbacks/__init__.py", "pvision/recipes/maskdp_mocap.yaml"]
)
def test_the_wheel_holds(contents: set[str], name: str) -> None:
    assert name in contents


def test_the_wheel_installs_one_top_level_name(contents: set[str]) -> None:
    assert {name.partition("/")[0] for name in contents if ".dist-info/" not in name} == {"pvision"}


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= LARGEST


def test_the_wheel_lists_its_recipes_with_no_other_package_installed(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import sys; sys.path.append(sys.argv[1]); from pvision.cli import main; main(['recipes', 'list'])"
    # -I -S: neither this checkout nor site-packages can be seen, so every third-party import would fail.
    command = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "maskdp_mocap" in done.stdout
