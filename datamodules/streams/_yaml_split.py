"""The split files of CODA-Prompt: YAML with a list of paths and a list of class numbers."""

from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pvision.errors import DataError

__all__ = ["read_yaml_split"]

# Both make plain data only; the first one is many times quicker, and not in every build.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml_split(path: Path, parts: int) -> list[tuple[str, int]]:
    """Return the image and the class number of each entry.

    Paths in these files begin with whatever folder their author had, some of them with an earlier split's. So only the
    last parts of each count.

    Args:
        path: the file.
        parts: how many parts of each path, from its end, tell the image.

    Raises:
        DataError: if the file cannot be read, or is no such list.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(
            f"The split {path} cannot be read ({error}). Take it from CODA-Prompt's dataloaders/splits."
        ) from error
    names, numbers = (_values(content, key, kind) for key, kind in (("data", str), ("targets", int)))
    if not names or len(names) != len(numbers):
        raise DataError(
            f"{path} must hold a list of paths `data` and a list of class numbers `targets` of equal length. Take it "
            "from CODA-Prompt's dataloaders/splits."
        )
    return [(_tail(name, parts, path), number) for name, number in zip(names, numbers, strict=True)]


def _values(content: object, key: str, kind: type) -> list[Any]:
    """Return the list of this name, empty if there is none, or one with other values."""
    values = content.get(key) if isinstance(content, dict) else None
    return values if isinstance(values, list) and all(type(value) is kind for value in values) else []


def _tail(name: str, parts: int, path: Path) -> str:
    tail = PurePosixPath(name).parts[-parts:]
    if len(tail) < parts or ".." in tail or "/" in tail:
        raise DataError(f"{path}: the path {name!r} must end in {parts} names, the last one a file's.")
    return "/".join(tail)
