"""What `pvision repeat` is asked to do."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pvision.cli.configs import resolve_configs
from pvision.cli.runs import REPEATS
from pvision.errors import ConfigError

__all__ = ["Entry", "Plan"]

_CLASS_ORDER = "--data.init_args.scenario.init_args.class_order_seed"
_OURS = ("--seeds", "--class_orders", "--jobs", "--name", "--folder")
_MOST = 1000
_NAME = re.compile(r"[\w.+-][\w.+ -]*")
# Flags of `fit` that would make its runs alike, or no runs at all; what to do instead.
_REFUSED = {
    "--seed_everything": "the seeds are what differs between the runs. Write --seeds",
    "--trainer.default_root_dir": "each run needs a folder of its own. Write --folder, where all of them shall lie",
    "--trainer.fast_dev_run": "such runs leave no results. Try one with `pvision fit` first",
    "--ckpt_path": "every run begins anew. Name weights to start from in the model's own settings",
    "--print_config": "nothing is to be run then. Write `pvision fit` instead of `pvision repeat`",
}


@dataclass(frozen=True)
class Entry:
    """One run of a repeat.

    Attributes:
        seed: for initial weights and the order of the data.
        class_order: the seed of the order of classes; None leaves it to the configuration.
        status: ``PENDING``, ``FINISHED``, ``FAILED``, ``KILLED``.
        seconds: how long it took.
        exit_code: of its process.
        summary: its ``summary.json``, relative to the repeat's folder if it lies below.
    """

    seed: int
    class_order: int | None
    status: str = "PENDING"
    seconds: float | None = None
    exit_code: int | None = None
    summary: str | None = None

    @property
    def key(self) -> str:
        """The name of the run's folder."""
        return f"seed_{self.seed}" + ("" if self.class_order is None else f"-order_{self.class_order}")

    def __str__(self) -> str:
        """Return what the run is, for people."""
        return f"seed {self.seed}" + ("" if self.class_order is None else f", class order {self.class_order}")


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        fit: the words of ``pvision fit`` that all runs share, recipes replaced by their files.
        seeds: of `Entry`.
        class_orders: of `Entry`.
        jobs: how many runs go on at once.
        name: what the runs are called.
        recipe: the names of their configurations.
        folder: where their files lie.
    """

    fit: tuple[str, ...]
    seeds: tuple[int, ...]
    class_orders: tuple[int | None, ...]
    jobs: int
    name: str
    recipe: str
    folder: Path

    @classmethod
    def of(cls, argv: Sequence[str]) -> "Plan":
        """Read the words after ``pvision repeat``.

        Raises:
            ConfigError: if a flag has no or a wrong value, or one of ``fit`` contradicts what is asked.
        """
        ours, words = _split(argv)
        fit, recipe = resolve_configs(words)
        recipe = recipe or "fit"
        name = ours.get("--name", recipe)
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--name {name!r} cannot be the name of a folder. Use letters, digits, '.', '_', '-'.")
        plan = cls(
            fit=tuple(fit),
            seeds=_numbers("--seeds", ours.get("--seeds", "3")),
            class_orders=_numbers("--class_orders", ours["--class_orders"]) if "--class_orders" in ours else (None,),
            jobs=_count("--jobs", ours.get("--jobs", "1")),
            name=name,
            recipe=recipe,
            folder=Path(ours.get("--folder") or REPEATS / name),
        )
        refused = _REFUSED | ({} if plan.class_orders == (None,) else {_CLASS_ORDER: "write --class_orders only"})
        for word in fit:
            if reason := refused.get(word.partition("=")[0]):
                raise ConfigError(f"{word.partition('=')[0]} does not go with `pvision repeat`: {reason}.")
        return plan

    @property
    def entries(self) -> list[Entry]:
        """The runs to be made, class orders innermost."""
        return [Entry(seed, order) for seed, order in product(self.seeds, self.class_orders)]

    def words(self, entry: Entry) -> list[str]:
        """Return the words after ``pvision`` for one run."""
        named = any(word.partition("=")[0] == "--run_summary.name" for word in self.fit)
        return [
            "fit",
            *self.fit,
            *([] if named else [f"--run_summary.name={self.name}"]),
            f"--seed_everything={entry.seed}",
            *([] if entry.class_order is None else [f"{_CLASS_ORDER}={entry.class_order}"]),
            f"--trainer.default_root_dir={self.folder / entry.key}",
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for runs to be repetitions of each other: flags, and what the configurations hold."""
        files = [word.partition("=")[2] for word in self.fit if word.startswith("--config=")]
        contents = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
        return {"arguments": list(self.fit), "configs": contents, "class_orders": self.class_orders != (None,)}

    @property
    def digest(self) -> str:
        """The hash of `identity`."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


def _split(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the flags of this command with their values, and the words that are left for ``fit``."""
    ours: dict[str, str] = {}
    rest: list[str] = []
    words: Iterator[str] = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in _OURS:
            rest.append(word)
            continue
        if flag in ours:
            raise ConfigError(f"{flag} is given twice. Keep one of the two.")
        ours[flag] = value if equals else next(words, "")
        if not ours[flag] or ours[flag].startswith("--"):
            raise ConfigError(f"{flag} needs a value, as in `pvision repeat --config NAME --seeds 3`.")
    return ours, rest


def _count(flag: str, text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST:
        return int(text)
    raise ConfigError(f"{flag} must be a whole number from 1 to {_MOST}, but {text!r} came.")


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    """Return ``1, ..., N`` for ``N``, and what a list like ``1,5,7`` or ``[1993]`` holds."""
    listed = "," in text or text.startswith("[")
    if not listed:
        return tuple(range(1, _count(flag, text) + 1))
    words = [word.strip() for word in text.removeprefix("[").removesuffix("]").split(",")]
    words = words[:-1] if words[-1] == "" else words
    if not words or not all(word.isascii() and word.isdigit() and int(word) < 2**32 for word in words):
        raise ConfigError(f"{flag} must be a count, or seeds from 0 to 2**32 - 1 as in 1,5,7, but {text!r} came.")
    numbers = tuple(int(word) for word in words)
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{flag} names a seed twice in {text!r}. Equal runs would count as evidence: name each once.")
    return numbers
