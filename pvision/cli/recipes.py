"""The recipes that ship with pvision: their names, their first lines, copies of them."""

import re
import shutil
from importlib import resources
from pathlib import Path

from pvision.errors import ConfigError

__all__ = ["copy", "find", "names", "table", "text"]

# Line 1 of a recipe: `# pvision fit --config NAME   (4 min on 2 cores, ε = 8)`; line 2: `# One sentence.`
_FIRST_LINE = re.compile(r"#\s*(?P<command>pvision .*?)\s*(?:\((?P<cost>.*)\))?\s*$")


def _folder() -> Path:
    return Path(str(resources.files("pvision.recipes")))


def names() -> list[str]:
    """Return the names of all shipped recipes, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def find(name: str) -> Path:
    """Return the file of the recipe called ``name``.

    Raises:
        ConfigError: if there is none; the message names the likest.
    """
    name = name.removesuffix(".yaml")
    known = names()
    if name not in known:
        from pvision.cli.suggestions import did_you_mean

        raise ConfigError(
            f"there is no recipe {name!r}{did_you_mean(name, known, count=3)} `pvision recipes list` shows all."
        )
    return _folder() / f"{name}.yaml"


def text(name: str) -> str:
    """Return the recipe as it is written."""
    return find(name).read_text(encoding="utf-8")


def table() -> str:
    """Return one line per recipe: its name, what it costs, what it does."""
    rows = [("RECIPE", "COST", "WHAT IT DOES"), *((name, *_headline(text(name))) for name in names())]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}".rstrip() for row in rows)


def copy(name: str, destination: str) -> str:
    """Copy the recipe to a file or into a folder, and return what to do with it.

    Raises:
        ConfigError: if the file exists, or cannot be written.
    """
    source, target = find(name), Path(destination)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise ConfigError(f"{target} exists and is not overwritten. Choose another name.")
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}. Choose another place.") from error
    return f"{target}: change it, then run `pvision fit --config {target}`"


def _headline(recipe: str) -> tuple[str, str]:
    lines = recipe.splitlines()
    first = _FIRST_LINE.match(lines[0]) if lines else None
    described = first is not None and len(lines) > 1 and lines[1].startswith("#")
    return ((first["cost"] or "") if first else "", lines[1].lstrip("# ") if described else "")
