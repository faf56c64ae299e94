"""What exactly a stream consisted of, written down so that another run can be compared with it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pvision.continual.experience import Experience, Positions
from pvision.errors import DataError
from pvision.files import write_whole

__all__ = ["ExperienceEntry", "StreamManifest", "names_digest"]

_FORMAT, _VERSION = "pvision-stream", 1
_KINDS = ("learn", "forget")


@dataclass(frozen=True)
class ExperienceEntry:
    """One experience of a stream.

    Attributes:
        kind: ``learn`` or ``forget``.
        name: what people call it.
        classes: its classes in the order of the stream.
        domain: where the stream goes through domains.
        train: how many training records it has; of a ``forget`` event, how many are forgotten.
        val: how many records are held out for validation.
        test: how many test records it has.
        train_names: SHA-256 of the names of its training records in order, see `names_digest`.
        val_names: the same of those held out.
        test_names: the same of its test records.
    """

    kind: Literal["learn", "forget"]
    name: str
    classes: tuple[int, ...]
    domain: str | None
    train: int
    val: int
    test: int
    train_names: str
    val_names: str
    test_names: str

    @classmethod
    def of(cls, experience: Experience, train_names: Sequence[str], test_names: Sequence[str]) -> "ExperienceEntry":
        """Describe an experience of a data set whose records have these names."""
        return cls(
            kind=experience.kind,
            name=experience.name,
            classes=experience.classes,
            domain=experience.domain,
            train=len(experience.train),
            val=len(experience.val),
            test=len(experience.test),
            train_names=_digest_at(train_names, experience.train),
            val_names=_digest_at(train_names, experience.val),
            test_names=_digest_at(test_names, experience.test),
        )


@dataclass(frozen=True)
class StreamManifest:
    """The split of a data set into a stream: equal manifests mean equal records in equal order.

    It covers the records' names, not their pixels.

    Attributes:
        data: the name of the data set.
        protocol: the name of the field's protocol that the stream follows; empty if none.
        scenario: the scenario's class and its settings.
        class_names: the names of the classes, in label order.
        class_order: the labels in the order of their first appearance in the stream.
        seed: draws validation records, batches and augmentation.
        val_fraction: part of the training records that is held out.
        settings: what else decides which images the stream shows.
        experiences: all events in order.
    """

    data: str
    protocol: str
    scenario: Mapping[str, object]
    class_names: tuple[str, ...]
    class_order: tuple[int, ...]
    seed: int
    val_fraction: float
    settings: Mapping[str, object]
    experiences: tuple[ExperienceEntry, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 of all of it."""
        return _sha256(_canonical(self.as_dict()))

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, as JSON holds them."""
        content = json.loads(_canonical(asdict(self)))
        return {"format": _FORMAT, "version": _VERSION, **content}

    @classmethod
    def from_dict(cls, content: object, source: str = "the manifest") -> "StreamManifest":
        """Return the manifest that `as_dict` wrote.

        Args:
            content: the plain values.
            source: where they come from, for messages.

        Raises:
            DataError: if this is no manifest, one of another version, or an entry is missing or of another type.
        """
        found = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
        if not isinstance(content, dict) or found != (_FORMAT, _VERSION):
            raise DataError(
                f"{source} describes {found}, but {(_FORMAT, _VERSION)} is expected. Give a stream's manifest."
            )
        try:
            return _manifest(content)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{source} is no manifest of a stream: {error!r}. Give the file that a run wrote."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write it as JSON; the file holds all of it or what it held before."""
        write_whole(Path(path), json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "StreamManifest":
        """Read what `save` wrote.

        Raises:
            DataError: if the file cannot be read or holds no manifest.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}. Give a stream's manifest.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no JSON file ({error}). Give a stream's manifest.") from error
        return cls.from_dict(content, str(path))

    def difference(self, other: "StreamManifest") -> list[str]:
        """Return in words where ``other`` differs from this one; nothing if they are equal."""
        found = [
            line
            for name, title in _TITLES.items()
            for line in _lines(title, _plain(getattr(self, name)), _plain(getattr(other, name)))
        ]
        if len(self.experiences) != len(other.experiences):
            return [*found, f"it has {len(other.experiences)} experiences, not {len(self.experiences)}"]
        pairs = zip(self.experiences, other.experiences, strict=True)
        return found + [
            line for number, (mine, its) in enumerate(pairs) for line in _experience_lines(number, mine, its)
        ]


_TITLES = {
    "data": "the data set",
    "protocol": "the protocol",
    "scenario": "the scenario's",
    "class_names": "the list of class names",
    "class_order": "the class order",
    "seed": "the seed",
    "val_fraction": "val_fraction",
    "settings": "the setting",
}


def _lines(title: str, mine: object, its: object) -> list[str]:
    """Return how two plain values differ; of mappings, where."""
    if mine == its:
        return []
    if isinstance(mine, dict) and isinstance(its, dict):
        keys = [key for key in (mine | its) if mine.get(key) != its.get(key)]
        return [line for key in keys for line in _lines(f"{title} {key}", mine.get(key), its.get(key))]
    return [f"{title} is {_short(its)}, not {_short(mine)}"]


def names_digest(names: Sequence[str]) -> str:
    """Return the SHA-256 of names in order, each written as a JSON text on a line of its own."""
    return _sha256("\n".join(json.dumps(name) for name in names))


def _digest_at(names: Sequence[str], positions: Positions) -> str:
    return names_digest([names[int(position)] for position in positions])


def _experience_lines(number: int, mine: ExperienceEntry, its: ExperienceEntry) -> list[str]:
    lines = [
        f"experience {number} has {title} {_short(getattr(its, name))}, not {_short(getattr(mine, name))}"
        for name, title in (
            ("kind", "the kind"),
            ("name", "the name"),
            ("classes", "the classes"),
            ("domain", "the domain"),
        )
        if getattr(mine, name) != getattr(its, name)
    ]
    for part, title in (("train", "training"), ("val", "validation"), ("test", "test")):
        if getattr(mine, part) != getattr(its, part):
            lines.append(f"experience {number} has {getattr(its, part)} {title} records, not {getattr(mine, part)}")
        elif getattr(mine, f"{part}_names") != getattr(its, f"{part}_names"):
            lines.append(f"experience {number} has other {title} records, or the same in another order")
    return lines


def _manifest(content: Mapping[str, Any]) -> StreamManifest:
    return StreamManifest(
        data=_text(content["data"]),
        protocol=_text(content["protocol"]),
        scenario=dict(content["scenario"]),
        class_names=tuple(_text(name) for name in content["class_names"]),
        class_order=tuple(_whole(label) for label in content["class_order"]),
        seed=_whole(content["seed"]),
        val_fraction=float(content["val_fraction"]),
        settings=dict(content["settings"]),
        experiences=tuple(_entry(entry) for entry in content["experiences"]),
    )


def _entry(content: Mapping[str, Any]) -> ExperienceEntry:
    if content["kind"] not in _KINDS:
        raise ValueError(f"an experience of kind {content['kind']!r}")
    domain = content["domain"]
    return ExperienceEntry(
        kind=content["kind"],
        name=_text(content["name"]),
        classes=tuple(_whole(label) for label in content["classes"]),
        domain=None if domain is None else _text(domain),
        train=_whole(content["train"]),
        val=_whole(content["val"]),
        test=_whole(content["test"]),
        train_names=_text(content["train_names"]),
        val_names=_text(content["val_names"]),
        test_names=_text(content["test_names"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text is expected")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} where a whole number is expected")
    return value


def _plain(value: object) -> object:
    return json.loads(_canonical(value))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 100 else f"{text[:80]}…"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
