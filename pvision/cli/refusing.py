"""From what constructors, data and loader processes raise to one sentence about what the user gave."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from pvision.cli.messages import BASES, chain, subclasses
from pvision.errors import ConfigError, UserError

__all__ = ["from_worker", "refusing", "refusing_constructors"]

_FROM_WORKER = re.compile(
    r"Caught (?P<type>\w+) in DataLoader worker process \d+\.\nOriginal Traceback.*\n[\w.]+: (?P<message>.+)", re.DOTALL
)
_BEGINS_WITH_KEY = re.compile(r"[a-z_]+\.[a-z_]+")


def from_worker(error: BaseException) -> str | None:
    """Return the message of a `UserError` that a loader process raised: torch hands it over inside a traceback."""
    found = _FROM_WORKER.match(str(error))
    if found is None:
        return None
    return found["message"].strip() if found["type"] in {kind.__name__ for kind in subclasses(UserError)} else None


@contextmanager
def refusing(key: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds into a `ConfigError` of one sentence, which begins with ``key``."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise ConfigError(f"{key}: {_one_line(error)}") from error


@contextmanager
def refusing_constructors() -> Iterator[None]:
    """Turn what a constructor raises about its arguments into a `ConfigError` that names the class."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, MisconfigurationException) as error:
        links = list(chain(error))
        cause = next((link for link in links if isinstance(link, UserError)), links[-1])
        message = _one_line(cause)
        if isinstance(cause, UserError) and _BEGINS_WITH_KEY.match(message):
            raise ConfigError(message) from error
        built = _constructed(cause)
        ours = isinstance(cause, UserError) or built.__module__.startswith("lightning.")
        raise ConfigError(f"{_labelled(built)}: {message}{'' if ours else _place(cause)}") from error


def _constructed(error: BaseException) -> type:
    """Return the class that was being built when ``error`` was raised, NoneType if none was."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        built = frame.f_locals.get("self")
        if frame.f_code.co_name in ("__init__", "__post_init__") and built is not None:
            return type(built)
    return type(None)


def _labelled(built: type) -> str:
    if built is type(None):
        return "the configuration"
    key = next((key for key, base in {**BASES, "trainer": Trainer}.items() if issubclass(built, base)), None)
    return f"--{key} ({built.__name__})" if key else built.__name__


def _place(error: BaseException) -> str:
    """Return file and line, for the author of a class who is shown no traceback."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" [{Path(last.filename).name}, line {last.lineno}]"


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
