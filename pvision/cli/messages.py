"""From what jsonargparse raises to one sentence that names the key and the remedy.

A refusal deep in a configuration arrives as a chain of exceptions: each link adds the key of one level, and the last
one says what was wrong.
"""

import re
from collections.abc import Iterator

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger

from pvision.cli.parser import Parser, SettingsError
from pvision.cli.suggestions import did_you_mean, nearest
from pvision.errors import UserError

__all__ = ["BASES", "chain", "explain", "subclasses"]

_KEY = re.compile(r'Parser key "([^"]+)"')
_UNKNOWN = (
    re.compile(r"(?:Option|option) '([^']+)'"),
    re.compile(r"unrecognized arguments: --([^\s=]+)"),
)
_REQUIRED = re.compile(r"arguments are required: (.+)|Key \"(.+)\" is required")
_EXPECTED = re.compile(r"Expected an? (?P<type>.+?)\. Got value: (?P<value>.*)", re.DOTALL)
_SUBTYPES = re.compile(r"Subtypes: \[(.*?)\]\n", re.DOTALL)
_STRAY = re.compile(r"unrecognized arguments: (?!--)(.+)")
_NO_VALUE = re.compile(r"argument (\S+): expected .*argument")
_NO_SUBCLASS = re.compile(r"Not a valid subclass of \w+\. Got value: \{.*'class_path'")
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<bare>\S+)|given class_path '(?P<path>[^']+)'")
# The classes that may stand under a key.
BASES: dict[str, type] = {
    "model": LightningModule,
    "data": LightningDataModule,
    "trainer.callbacks": Callback,
    "trainer.logger": Logger,
}
_LONGEST_VALUE = 80


def explain(error: BaseException, *, stage: str, stage_parser: Parser) -> str:
    """Return a sentence or two for a refused setting of ``pvision STAGE``: key, what came, what was expected."""
    links = list(chain(error))
    keys = _keys(links)
    last = str(links[-1])
    key = ".init_args.".join(keys)
    for link in links:
        if isinstance(link, UserError):
            return f"--{key}: {link}" if key else str(link)
    owners = (link.parser for link in reversed(links) if isinstance(link, SettingsError) and link.parser.owner)
    unknown = next((match[1] for pattern in _UNKNOWN if (match := pattern.search(last))), None)
    if unknown is not None and unknown.startswith(f"{stage}."):
        return f"The settings stand under {stage}. Write them without it: they are the same for every command."
    if unknown == "class_path" or _NO_SUBCLASS.match(last):
        return (
            f"--{key} has settings beside class_path and init_args. Write them under init_args "
            f"({key}: {{class_path: …, init_args: {{…}}}})."
        )
    if unknown is not None:
        return _explain_unknown(unknown, keys, next(owners, stage_parser))
    if required := _REQUIRED.search(last):
        return _explain_missing((required[1] or required[2]).split(", "), keys, stage)
    for link in reversed(links[-2:]):
        if class_missing := _NO_CLASS.search(str(link)):
            return _explain_class(key, class_missing["bare"] or class_missing["path"], links[-1])
    if stray := _STRAY.match(last):
        return f"{stray[1]} is not expected here. Flags begin with --, and their values follow after = or a space."
    if empty := _NO_VALUE.match(last):
        return f"{empty[1]}: a flag has no value. Write --KEY=VALUE."
    if expected := _EXPECTED.match(last):
        return f"--{key} must be {_types(links, expected['type'])}, but {_short(expected['value'])!r} came."
    sentence = " ".join(_KEY.sub("", last).lstrip(": \n").split())
    return f"--{key}: {sentence}" if key else sentence


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error``, what it was raised from, what that was raised from, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _keys(links: list[BaseException]) -> list[str]:
    keys, previous = [], ""
    for text in map(str, links):
        found = _KEY.match(text)
        if found and text != previous:  # the parsers of a command and of its stage repeat each other's words
            keys.append(found[1])
        previous = text
    return keys


def _explain_unknown(unknown: str, keys: list[str], parser: Parser) -> str:
    prefix = "".join(f"{key}.init_args." for key in keys)
    base = BASES.get(".".join(keys))
    if base is not None and parser.owner is base:
        return (
            f"--{keys[0]}.{unknown} has no class to belong to. Name the class too "
            f"({keys[0]}: {{class_path: …, init_args: {{{unknown.split('.')[0]}: …}}}})."
        )
    where = f" in {parser.owner.__name__}" if parser.owner else ""
    return f"--{prefix}{unknown} does not exist{where}{_hint(unknown, parser.keys, prefix=f'--{prefix}')}"


def _hint(unknown: str, known: list[str], *, prefix: str) -> str:
    """Look for ``unknown`` among its siblings; where it has none, among all keys and groups."""
    parent, _, leaf = unknown.rpartition(".")
    siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == parent]
    if parent and not siblings:
        whole = did_you_mean(unknown, known, prefix=prefix)
        groups = {key.partition(".")[0] for key in known}
        return whole if whole != "." else did_you_mean(unknown.partition(".")[0], groups, prefix=prefix)
    return did_you_mean(leaf, siblings, prefix=f"{prefix}{parent}." if parent else prefix)


def _explain_missing(missing: list[str], keys: list[str], stage: str) -> str:
    # "model" goes before "data", as in every recipe; jsonargparse lists them in no order.
    names = sorted((".init_args.".join([*keys, name.removeprefix(f"{stage}.")]) for name in missing), reverse=True)
    flags = " and ".join(f"--{name}" for name in names)
    verb = "is" if len(names) == 1 else "are"
    if set(names) <= set(BASES):
        return (
            f"{flags} {verb} missing. Start from a recipe (`pvision recipes list`, `pvision {stage} --config NAME`) "
            f"or name a class ({names[0]}: {{class_path: …}})."
        )
    return f"{flags} {verb} missing and without a default. Give a value."


def _explain_class(key: str, path: str, reason: BaseException) -> str:
    base = BASES.get(key)
    name = path.rsplit(".", 1)[-1]
    known = sorted({found.__name__ for found in subclasses(base)}) if base else []
    because = f" ({reason})" if isinstance(reason, ImportError | AttributeError) else ""
    hint = did_you_mean(name, known) if nearest(name, known) else ". Give the path by which Python imports it."
    return f"--{key}: there is no class {path}{because}{hint}"


def subclasses(base: type) -> Iterator[type]:
    """Yield the subclasses of ``base`` and theirs, as far as they are imported."""
    direct: list[type] = type.__subclasses__(base)
    for found in direct:
        yield found
        yield from subclasses(found)


def _types(links: list[BaseException], single: str) -> str:
    union = _SUBTYPES.search(str(links[-2])) if len(links) > 1 and str(links[-2]).startswith("Does not") else None
    return _readable(union[1].replace(", <class", " or <class") if union else single)


def _readable(types: str) -> str:
    types = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", types).replace("NoneType", "null")
    return re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", types).replace("typing.", "")


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
