"""What a comparison leaves on the disk: numbers for machines, a picture for people."""

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pvision.cli.comparison.groups import Group, lower_is_better
from pvision.cli.comparison.plots import picture, save
from pvision.errors import ConfigError, MissingExtraError
from pvision.files import write_whole

__all__ = ["as_json", "draw", "metric_row", "write_tables"]


def metric_row(group: Group, metric: str) -> dict[str, Any]:
    """Return what a group's runs say of a metric, under the names that CSV and JSON files give it."""
    interval = group.interval(metric)
    told = interval._asdict() if interval else {"mean": None, "low": None, "high": None, "std": None, "n": 0}
    return {"metric": metric, "better": "lower" if lower_is_better(metric) else "higher", **told}


def as_json(content: Any) -> str:
    """Return strict JSON: undefined numbers become null, infinite ones the strings that summaries have."""
    return json.dumps(_strict(content), indent=2, ensure_ascii=False, allow_nan=False)


def write_tables(stem: Path, content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write ``content`` as JSON and ``rows``, which have equal keys, as CSV; return the files.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows([{key: _strict(value) for key, value in row.items()} for row in rows])
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".json", ".csv")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path, written in zip(paths, (as_json(content) + "\n", text.getvalue()), strict=True):
            write_whole(path, written)
    except OSError as error:
        raise ConfigError(f"{stem.parent} cannot be written: {error.strerror}. Choose another place.") from error
    return paths


def draw(groups: Sequence[Group], metrics: Sequence[str], path: Path, *, title: str) -> list[Path]:
    """Write the picture, and return its path; without matplotlib say so and return nothing."""
    try:
        return [save(picture(groups, metrics, title=title), path)]
    except MissingExtraError as error:
        print(f"pvision: no picture. {error}", file=sys.stderr)
        return []


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    return [_strict(inner) for inner in value] if isinstance(value, list | tuple) else value
