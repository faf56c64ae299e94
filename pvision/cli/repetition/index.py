"""The file that says how far a repeat is."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pvision.cli.repetition.plan import Entry, Plan
from pvision.cli.runs import SUMMARY
from pvision.errors import ConfigError, DataError
from pvision.files import write_whole

__all__ = ["Index"]


@dataclass
class Index:
    """The file ``runs.json`` of a repeat: what its runs share, and how each of them ended.

    Attributes:
        plan: what is asked now.
        entries: by `Entry.key`, also those of earlier calls.
    """

    plan: Plan
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> "Index":
        """Read the file, if there is one; runs that did not finish are pending again.

        Raises:
            ConfigError: if it belongs to other arguments.
            DataError: if it cannot be read.
        """
        path = plan.folder / "runs.json"
        index = cls(plan)
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                told = {key: Entry(**entry) for key, entry in found["runs"].items()}
                identity, digest = found["identity"], found["hash"]
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(f"{path} cannot be read. Remove {plan.folder}, or give another --name.") from error
            if digest != plan.digest:
                raise ConfigError(
                    f"{plan.folder} holds runs of other arguments ({_difference(identity, plan.identity)}). Give "
                    "another --name, or remove that folder."
                )
            index.entries = {key: entry for key, entry in told.items() if index.finished(entry)}
        for entry in plan.entries:
            index.entries.setdefault(entry.key, entry)
        return index

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.plan.folder / "runs.json"

    @property
    def asked(self) -> list[Entry]:
        """The runs that are asked for now, as far as they are."""
        return [self.entries[entry.key] for entry in self.plan.entries]

    def finished(self, entry: Entry) -> bool:
        """Return whether a run has ended well and its summary still says so."""
        if entry.status != "FINISHED" or entry.summary is None:
            return False
        try:
            summary = json.loads((self.plan.folder / entry.summary).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(summary, dict) and summary.get("status") == "FINISHED"

    def record(self, entry: Entry) -> None:
        """Write down how a run ended, before anything else is done."""
        self.entries[entry.key] = entry
        self.write()

    def write(self) -> None:
        """Write the file."""
        content = {
            "name": self.plan.name,
            "recipe": self.plan.recipe,
            "hash": self.plan.digest,
            "identity": self.plan.identity,
            "runs": {key: asdict(entry) for key, entry in self.entries.items()},
        }
        write_whole(self.path, json.dumps(content, indent=2) + "\n")

    def summary_of(self, entry: Entry, *, since: float) -> str | None:
        """Return the summary that a run has written into its folder since then; the path is as `Entry` keeps it."""
        written = [(path.stat().st_mtime, path) for path in (self.plan.folder / entry.key).rglob(SUMMARY)]
        newest = max((pair for pair in written if pair[0] >= since), default=None)
        return str(newest[1].relative_to(self.plan.folder)) if newest else None


def _difference(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    before, now = found["arguments"], asked["arguments"]
    gone, new = [word for word in before if word not in now], [word for word in now if word not in before]
    if gone or new:
        return f"without {' '.join(new) or 'anything new'}, with {' '.join(gone) or 'nothing else'}"
    if found["class_orders"] != asked["class_orders"]:
        return f"{'with' if found['class_orders'] else 'without'} --class_orders"
    changed = [file for file, digest in asked["configs"].items() if found["configs"].get(file) != digest]
    return f"{' and '.join(changed)} was changed since" if changed else "in another order"
