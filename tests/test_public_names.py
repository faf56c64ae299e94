"""The public names are frozen in public_names.json, so that losing one is a decision.

Rewrite the file with `make public-names` or `python tests/test_public_names.py --rewrite`.
"""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FROZEN = Path(__file__).with_name("public_names.json")
# Where each part of the package stands in the checkout: the package-dir map of pyproject.toml.
FOLDERS = {
    "pvision": ROOT / "pvision",
    "pvision.callbacks": ROOT / "callbacks",
    "pvision.datamodules": ROOT / "datamodules",
}


def declared_names(source: str) -> list[str] | None:
    """The sorted `__all__` of a module, read without importing it; None where it has none."""
    for node in ast.parse(source).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return sorted(ast.literal_eval(node.value))
    return None


def public_names() -> dict[str, list[str]]:
    """Module to names, for all modules that declare any; a module whose name starts with `_` is private."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            names = declared_names(path.read_text(encoding="utf-8"))
            if names and not any(part.startswith("_") for part in parts):
                found[".".join((package, *parts))] = names
    return dict(sorted(found.items()))


def differences(frozen: dict[str, list[str]], current: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The names that are gone and the names that are new, each as `module.name`."""
    old = {f"{module}.{name}" for module, names in frozen.items() for name in names}
    new = {f"{module}.{name}" for module, names in current.items() for name in names}
    return sorted(old - new), sorted(new - old)


def test_the_public_names_are_the_frozen_ones() -> None:
    gone, new = differences(json.loads(FROZEN.read_text(encoding="utf-8")), public_names())
    assert not gone, (
        f"public names are gone: {gone}. Someone's code may use them: keep the old name for one release with a"
        " DeprecationWarning. If they were never released, run `make public-names`."
    )
    assert not new, f"new public names: {new}. If they are meant to be public, run `make public-names`."


def test_a_lost_and_a_new_name_are_told_apart() -> None:
    assert differences({"m": ["a", "b"]}, {"m": ["b", "c"], "n": ["a"]}) == (["m.a"], ["m.c", "n.a"])


@pytest.mark.parametrize(
    "path",
    [path for folder in FOLDERS.values() for path in sorted(folder.rglob("*.py"))],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_module_declares_its_public_names(path: Path) -> None:
    names = declared_names(path.read_text(encoding="utf-8"))
    assert names is not None, f"{path.relative_to(ROOT)} has no `__all__`. An empty one says that nothing is public."
    assert len(names) == len(set(names)), f"{path.relative_to(ROOT)}: a name stands twice in `__all__`"


def test_a_missing_all_is_seen() -> None:
    assert declared_names("x = 1\n") is None
    assert declared_names("__all__: list[str] = []\n") == []
    assert declared_names('__all__ = ["b", "a"]\n') == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("module", [name for name in public_names() if name.count(".") <= 1])
def test_every_public_name_is_there(module: str) -> None:
    loaded = importlib.import_module(module)
    missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
    assert not missing, f"{module}.__all__ promises {missing}"


if __name__ == "__main__":
    if sys.argv[1:] != ["--rewrite"]:
        raise SystemExit("usage: python tests/test_public_names.py --rewrite")
    FROZEN.write_text(json.dumps(public_names(), indent=2) + "\n", encoding="utf-8")
