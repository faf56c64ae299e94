"""Lists of clips from a table or from class folders."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pvision.checks import open_unit
from pvision.datamodules.listing import SPLITS, Listing, Row, hash_fraction
from pvision.errors import ConfigError, DataError

__all__ = ["HashSplit", "list_folders", "list_table"]

_NEEDED = ("path", "label")
_KNOWN = (*_NEEDED, "split", "subject", "video")


@dataclass(frozen=True)
class HashSplit:
    """Puts subjects, videos or files into splits by a hash of their name.

    Args:
        val: part that is for validation.
        test: part that is for the test.
    """

    val: float
    test: float

    @classmethod
    def of(cls, val_fraction: float | None, test_fraction: float | None) -> "HashSplit | None":
        """Return the rule, None if neither fraction is set.

        Raises:
            ConfigError: if one is missing, one is out of range, or nothing is left for training.
        """
        if val_fraction is None and test_fraction is None:
            return None
        if val_fraction is None or test_fraction is None:
            raise ConfigError(
                "data.val_fraction and data.test_fraction must be set together, but "
                f"{val_fraction!r} and {test_fraction!r} came. Set both."
            )
        split = cls(open_unit("data.val_fraction", val_fraction), open_unit("data.test_fraction", test_fraction))
        if split.val + split.test >= 1:
            raise ConfigError(
                f"data.val_fraction and data.test_fraction must leave clips for training, but their sum is "
                f"{split.val + split.test:g}. Set them below 1 together."
            )
        return split

    def split(self, key: str) -> str:
        """Return the split of a subject, video or file."""
        place = hash_fraction(key)
        if place < self.test:
            return "test"
        return "val" if place < self.test + self.val else "train"


def list_folders(root: Path, rule: HashSplit | None, pretraining: str | None) -> Listing:
    """Return the clips below ``root/train|val|test/CLASS`` or, if there is no ``root/train``, below ``root/CLASS``.

    Every file is a clip, but for hidden ones.

    Args:
        root: the folder.
        rule: how to split clips below ``root/CLASS``.
        pretraining: the name of the folder of clips outside the guarantee.

    Raises:
        ConfigError: if the rule is missing, or not needed.
        DataError: if a folder is missing, or the clips contradict each other.
    """
    if (root / "train").is_dir():
        _refuse_rule(rule, f"{root} has split folders")
        folders = {split: split for split in SPLITS} | ({pretraining: "pretraining"} if pretraining else {})
        missing = [folder for folder in folders if not (root / folder).is_dir()]
        if missing:
            raise DataError(f"{root} has a folder train but none named {' or '.join(missing)}. Add it, or give a CSV.")
        rows = [
            _file_row(_below(root, path), path, split)
            for folder, split in folders.items()
            for path in _clips(root / folder)
        ]
        return Listing(rows, source=str(root))
    rule = _needed(rule, f"{root} has no folder train")
    if pretraining:
        raise ConfigError(f"data.pretraining_split {pretraining!r} needs split folders or a CSV with the column split.")
    names = [(_below(root, path), path) for path in _clips(root)]
    rows = [_file_row(name, path, rule.split(name)) for name, path in names]
    return Listing(rows, source=str(root))


def list_table(table: Path, root: Path, rule: HashSplit | None, pretraining: str | None) -> Listing:
    """Return the clips of a CSV file with the header ``path,label,split,subject,video``; the last three are optional.

    Args:
        table: the file; comma-separated, UTF-8.
        root: the folder to which its paths are relative.
        rule: how to split clips if the table has no column ``split``.
        pretraining: the split of clips outside the guarantee.

    Raises:
        ConfigError: if the rule is missing, or not needed.
        DataError: if the table cannot be read, lacks a column, or contradicts itself.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_table_rows(csv.DictReader(file, restkey=""), table, root, rule, pretraining))
    except OSError as error:
        raise DataError(f"data.annotations {table} cannot be read: {error.strerror}. Give a CSV file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"data.annotations {table} is no CSV file in UTF-8: {error}.") from error
    return Listing(rows, source=str(table))


def _table_rows(
    reader: "csv.DictReader[str]", table: Path, root: Path, rule: HashSplit | None, pretraining: str | None
) -> Iterator[Row]:
    header = list(reader.fieldnames or ())
    lacking = [column for column in _NEEDED if column not in header]
    if lacking or len(set(header)) < len(header):
        raise DataError(
            f"{table}: the header must be {','.join(_KNOWN)} (the last three optional, separated by commas), but "
            f"{','.join(header)!r} came."
        )
    splits = {split: split for split in SPLITS} | ({pretraining: "pretraining"} if pretraining else {})
    if "split" in header:
        _refuse_rule(rule, f"{table} has a column split")
    else:
        rule = _needed(rule, f"{table} has no column split")
    for cells in reader:
        source = f"{table}, line {reader.line_num}"
        name = _name(_cell(cells, "path", source), source)
        subject = _cell(cells, "subject", source) if "subject" in header else None
        video = _cell(cells, "video", source) if "video" in header else name
        if rule is None:
            split = splits.get(_cell(cells, "split", source))
            if split is None:
                raise DataError(
                    f"{source}: the split {cells['split']!r} is none of {', '.join(map(repr, splits))}. Correct it, or "
                    "name it in data.pretraining_split if the guarantee need not cover its clips."
                )
        else:
            split = rule.split(video if subject is None else subject)
        label = _cell(cells, "label", source)
        yield Row(name, root / name, label, split, subject, source, video=video, undivided=True)


def _file_row(name: str, path: Path, split: str) -> Row:
    return Row(name, path, path.parent.name, split, None, str(path), video=name)


def _cell(cells: dict[str, str], column: str, source: str) -> str:
    if "" in cells:
        raise DataError(f"{source}: the row has more cells than the header. Put cells with commas in quotes.")
    value = (cells[column] or "").strip()
    if not value:
        raise DataError(
            f"{source}: the column {column!r} is empty. Fill it in, or take the column out if it is optional."
        )
    return value


def _name(path: str, source: str) -> str:
    name = PurePosixPath(path)
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{source}: the path {path!r} must be relative to data.root, without '..'. Correct it.")
    return name.as_posix()


def _clips(folder: Path) -> list[Path]:
    """Return the files in the folders in a folder, sorted."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [path for name in classes for path in sorted(name.iterdir()) if not path.name.startswith(".")]


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _refuse_rule(rule: HashSplit | None, why: str) -> None:
    if rule is not None:
        raise ConfigError(f"data.val_fraction and data.test_fraction must be left out: {why}.")


def _needed(rule: HashSplit | None, why: str) -> HashSplit:
    if rule is None:
        raise ConfigError(f"data.val_fraction and data.test_fraction must be set: {why}. For example 0.15 and 0.15.")
    return rule
