"""Configuration files, looked at before anything heavy is imported."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from pvision.cli import recipes
from pvision.errors import ConfigError

__all__ = ["resolve_configs"]

_FLAGS = ("--config", "-c")
_SECTIONS = ("trainer", "privacy_accounting", "run_summary")


def resolve_configs(argv: list[str]) -> tuple[list[str], str | None]:
    """Replace recipe names behind ``--config`` by their files, and check that every file can be read.

    Returns:
        The arguments with paths for names, and what to call the run: the configurations' names joined by ``+``.

    Raises:
        ConfigError: if a recipe or file does not exist, or does not hold settings.
    """
    resolved, called = [], []
    waiting: str | None = None
    for word in argv:
        flag, equals, value = word.partition("=")
        if waiting is None and word in _FLAGS:
            waiting = word
        elif waiting is not None or (flag in _FLAGS and equals):
            path = _locate(word if waiting else value)
            _check_file(path)
            resolved.append(f"--config={path}")
            called.append(path.stem)
            waiting = None
        else:
            resolved.append(word)
    if waiting is not None:
        raise ConfigError(f"{waiting} needs a value: a recipe's name (`pvision recipes list`) or a YAML file.")
    return resolved, "+".join(called) or None


def _locate(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"--config {name} is a folder. Give a YAML file, or a recipe's name.")
    if len(path.parts) == 1 and not path.suffix:
        try:
            return recipes.find(name)
        except ConfigError as error:
            raise ConfigError(f"--config {name}: {error}") from None
    remedy = f"Did you mean the recipe `--config {path.stem}`?" if path.stem in recipes.names() else "Check the path."
    raise ConfigError(f"--config {name} does not exist. {remedy}")


def _check_file(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path} is not text in UTF-8. Save it as UTF-8.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} is not valid YAML: {_one_line(error)}.") from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"--config {path} holds no settings. Write `key: value` lines, or copy a recipe to start.")
    for name, node in root.value:
        if name.value in _SECTIONS and not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"--config {path}: --{name.value} must hold settings, `key: value` each, and does not.")
    for key, node in _nodes(root):
        twice = _repeated(key, node)
        if twice:
            raise ConfigError(f"--config {path}: --{twice} is given twice. Keep one of the two.")
        # By such tags YAML can be asked to build objects, that is, to run code.
        if node.tag.startswith(("tag:yaml.org,2002:python/", "!")):
            raise ConfigError(f"--config {path}: --{key} has the tag {node.tag}. Write plain YAML without tags.")


def _one_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())


def _nodes(node: yaml.Node, key: str = "", seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, yaml.Node]]:
    """Yield each node with the dotted key at which it stands.

    Raises:
        ConfigError: if a node contains itself, which YAML's aliases allow.
    """
    if id(node) in seen:
        raise ConfigError(f"--{key} is an alias of what it stands in, so the settings never end. Write it out.")
    yield key, node
    inside = seen | {id(node)}
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _nodes(value, f"{key}.{name.value}".lstrip("."), inside)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _nodes(item, key, inside)


def _repeated(key: str, node: yaml.Node) -> str | None:
    """Return a key that stands twice in the mapping ``node``: YAML keeps the last without a word."""
    if isinstance(node, yaml.MappingNode):
        names = [str(name.value) for name, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                return f"{key}.{name}".lstrip(".")
    return None
