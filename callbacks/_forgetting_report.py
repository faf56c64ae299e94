"""The numbers of a run as metrics, as files and as one line."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from pvision.callbacks._figures import save
from pvision.callbacks._forgetting_history import Floats, History
from pvision.callbacks._matrix_plots import curves, heatmap
from pvision.continual.metrics import (
    all_definitions,
    anytime_average_accuracy,
    compatible,
    definition_of,
    forgetting,
    min_accuracy,
    summary,
    worst_case_accuracy,
)
from pvision.errors import ConfigError, MissingExtraError
from pvision.files import write_whole

__all__ = ["Extras", "line", "metrics_of", "scalars", "write_files", "write_plots"]


@dataclass(frozen=True)
class Extras:
    """What the user asks for, or knows, beside the matrix.

    Attributes:
        definition: of forgetting.
        compatible: whether the values of other frameworks are wanted too.
        baseline: accuracy before any training, per experience.
        reference: accuracy of joint training, per experience.
        independent: accuracy of models trained on one experience alone.

    Raises:
        ConfigError: if the definition is unknown or a number is no fraction.
    """

    definition: str = "chaudhry"
    compatible: bool = False
    baseline: Sequence[float] | None = None
    reference: Sequence[float] | None = None
    independent: Sequence[float] | None = None

    def __post_init__(self) -> None:
        definition_of("forgetting", self.definition)
        for name in ("baseline", "reference", "independent"):
            values = getattr(self, name)
            for value in () if values is None else values:
                number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
                if not (0 <= number <= 1 or np.isnan(number)):
                    raise ConfigError(
                        f"forgetting_metrics.{name} must hold a fraction in [0, 1] for each experience, but {value!r} "
                        "came. If these are percentages, divide by 100."
                    )

    def given(self, history: History, kind: str) -> dict[str, Any]:
        """Return what `summary` takes beside R, each as long as R; NaN where the user gave fewer numbers."""
        rows = len(history.accuracy(kind))
        counts = history.counts(kind)
        baseline: Any = history.baseline(kind) if self.baseline is None else self.baseline
        vectors = {"baseline": baseline, "reference": self.reference, "independent": self.independent}
        fitted = {name: _fitted(values, rows, np.nan) for name, values in vectors.items() if values is not None}
        return fitted if counts is None else {**fitted, "counts": _fitted(counts, rows, 0)}


def metrics_of(history: History, extras: Extras) -> dict[str, float]:
    """Return all metrics after the last row, NaN where undefined; none before the first row."""
    values: dict[str, float] = {}
    for kind in history.kinds:
        accuracy = history.accuracy(kind)
        if len(accuracy):
            found = _metrics(accuracy, _gone(history), extras, extras.given(history, kind))
            values |= {_key(key, kind): value for key, value in found.items()}
    return values | _during(history) | _forgotten(history)


def scalars(history: History, row: int) -> dict[str, float]:
    """Return the accuracy on each experience in one row."""
    values = {}
    for kind in history.kinds:
        accuracy = history.table(kind)
        for column, value in enumerate(accuracy[row] if row < len(accuracy) else ()):
            values[_key(f"continual/accuracy/experience_{column}", kind)] = float(value)
    return values


def line(history: History, values: Mapping[str, float], *, folder: Path) -> str:
    """Return what a run says of itself after a row."""
    row = len(history.accuracy()) - 1
    if row < 0:
        baseline = history.matrix().baseline()
        return f"Before any training: average accuracy {np.nanmean(baseline):.3f} on {len(baseline)} test sets."
    where = f"Accuracy matrix: {folder / 'accuracy_matrix.csv'}"
    if history.after_event:
        shares = {"forgotten": "on what was forgotten", "retained": "on the rest"}
        known = {words: values.get(f"continual/{name}_accuracy", np.nan) for name, words in shares.items()}
        told = ", ".join(f"{value:.3f} {words}" for words, value in known.items() if not np.isnan(value))
        return f"After the event {history.events[-1]['name']!r}: accuracy {told}. {where}"
    parts = [f"average accuracy {values['continual/average_accuracy']:.3f}"]
    parts += [
        f"{key.removeprefix('continual/').replace('_', ' ')} {value:.3f}"
        for key, value in values.items()
        if key.startswith("continual/forgetting") and not np.isnan(value)
    ][:1]
    title = f" ({history.names[row]})" if row < len(history.names) else ""
    return f"After experience {row + 1}{title}: {', '.join(parts)}. {where}"


def write_files(history: History, extras: Extras, *, folder: Path, source: str) -> list[Path]:
    """Write the matrix as CSV and everything as JSON; return the paths."""
    table, record = folder / "accuracy_matrix.csv", folder / "accuracy_matrix.json"
    write_whole(table, _csv(history))
    write_whole(record, json.dumps(_record(history, extras, source), indent=1, ensure_ascii=False, allow_nan=False))
    return [table, record]


def write_plots(history: History, *, folder: Path, measure: str) -> list[Path]:
    """Draw the matrix and its curves; return the paths, none where matplotlib is missing, which is said."""
    accuracy, names = history.accuracy(), _names(history)
    try:
        figures = {
            "accuracy_matrix.png": heatmap(accuracy, names, measure=measure, forgotten=_gone(history)),
            "accuracy_curves.png": curves(accuracy, names, measure=measure, forgotten=_gone(history)),
        }
    except MissingExtraError as error:
        rank_zero_info(f"No plots of the accuracy matrix: {error}")
        return []
    return [save(figure, folder / name) for name, figure in figures.items()]


def _gone(history: History) -> list[int]:
    """Return the columns of R that were forgotten on request."""
    return [column for column in history.forgotten if column < len(history.accuracy())]


def _metrics(accuracy: Floats, gone: Sequence[int], extras: Extras, given: Mapping[str, Any]) -> dict[str, float]:
    values = summary(accuracy, **given, forgotten=gone)
    # Definitions that summary does not know of leave out what was forgotten on request with its row.
    kept = np.setdiff1d(np.arange(len(accuracy)), gone)
    rest = accuracy[np.ix_(kept, kept)]
    chosen = definition_of("forgetting", extras.definition)
    if not chosen.default:
        del values[definition_of("forgetting").key]
        values[chosen.key] = forgetting(rest, definition=extras.definition) if len(rest) else np.nan
    if extras.compatible and len(rest):
        values |= compatible(rest)
    return values


def _during(history: History) -> dict[str, float]:
    """Return the metrics of all evaluations within fits, none if there were none."""
    if not history.during:
        return {}
    current = [step["row"] for step in history.during]
    columns = 1 + max(current)
    evaluations = [_fitted(step["accuracy"], columns, np.nan) for step in history.during]
    return {
        "continual/anytime_average_accuracy": anytime_average_accuracy(evaluations, current),
        "continual/anytime_min_accuracy": min_accuracy(evaluations, current),
        "continual/anytime_worst_case_accuracy": worst_case_accuracy(evaluations, current),
    }


def _forgotten(history: History) -> dict[str, float]:
    """Return what the model still knows of what was forgotten on request, and of the rest after the last request."""
    if not history.events:
        return {}
    last = history.events[-1]
    classes_known = last["accuracy_on_forgotten_classes"].get("agnostic", np.nan)
    accuracy = {int(column): value for column, value in last["accuracy"].get("agnostic", {}).items()}
    rest = [
        value for column, value in accuracy.items() if column <= last["after_row"] and column not in last["forgotten"]
    ]
    for row in history.accuracy()[last["after_row"] + 1 :]:  # learned since
        accuracy |= {column: value for column, value in enumerate(row) if not np.isnan(value)}
    gone = [accuracy[column] for column in history.forgotten if column in accuracy]
    per_class = history.matrix().per_class()
    if len(per_class) > last["after_row"] + 1 and history.forgotten_classes:
        classes_known = float(np.nanmean(per_class[-1][list(history.forgotten_classes)]))
    if not np.isnan(classes_known):  # counted: class by class, not experience by experience
        gone = [classes_known]
    groups = {"forgotten": gone, "retained": rest}
    return {f"continual/{name}_accuracy": float(np.mean(values)) for name, values in groups.items() if values}


def _csv(history: History) -> str:
    accuracy, names = history.accuracy(), _names(history)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["after", *names])
    for name, row in zip(names, accuracy, strict=True):
        writer.writerow([name, *("" if np.isnan(value) else repr(float(value)) for value in row)])
    return text.getvalue()


def _record(history: History, extras: Extras, source: str) -> dict[str, Any]:
    matrix = history.matrix()
    counts = history.counts()
    rows = matrix.rows
    values = metrics_of(history, extras)
    return {
        "source": source,
        "experiences": _names(history, matrix.columns),
        "accuracy": _plain(history.table()),
        "baseline": _plain(history.baseline()),
        "counts": None if counts is None else counts.tolist(),
        "per_class": None if counts is None else _plain(matrix.per_class()),
        "confusion": _confusion(matrix.confusion(rows - 1) if rows else None),
        "task_aware": _plain(history.table("task_aware")) if "task_aware" in history.kinds else None,
        "forgotten": list(history.forgotten),
        "forgotten_classes": list(history.forgotten_classes),
        "events": _plain(history.events),
        "during_fits": _plain(history.during),
        "metrics": {key: {"value": _plain(value), **_about(key)} for key, value in values.items()},
        "not_measured": _not_measured(values),
    }


def _about(key: str) -> dict[str, str]:
    plain_key = key.replace("continual/task_aware/", "continual/")
    found = next((one for one in all_definitions() if one.key == plain_key), None)
    return {} if found is None else {"definition": found.name, "formula": found.formula, "source": found.source}


def _not_measured(values: Mapping[str, float]) -> dict[str, str]:
    """Return the metrics that have no value, and what they lack."""
    missing = {one.key: f"needs {one.needs}" for one in all_definitions() if one.needs and one.key not in values}
    undefined = {key: "undefined for what was measured so far" for key, value in values.items() if np.isnan(value)}
    return missing | undefined


def _confusion(matrix: Any) -> dict[str, Any] | None:
    """Return a confusion matrix by its entries that are not zero: true label, predicted label, how often."""
    if matrix is None:
        return None
    places = np.argwhere(matrix)
    entries = [[int(truth), int(guess), int(matrix[truth, guess])] for truth, guess in places]
    return {"classes": len(matrix), "counts": entries}


def _names(history: History, at_least: int = 0) -> list[str]:
    """Return a name for each row, and for each of ``at_least`` columns; numbers where names are missing or shared."""
    count = max(len(history.accuracy()), at_least)
    names = list(history.names[:count])
    return names if len(set(names)) == count else [str(place) for place in range(count)]


def _key(key: str, kind: str) -> str:
    return key if kind == "agnostic" else key.replace("continual/", f"continual/{kind}/", 1)


def _fitted(values: Any, length: int, filling: float) -> Any:
    """Return ``values`` cut or filled up to ``length``."""
    array = np.asarray(values)
    return np.concatenate([array, np.full(max(length - len(array), 0), filling, dtype=array.dtype)])[:length]


def _plain(value: Any) -> Any:
    """Return ``value`` as strict JSON can hold it: None where it is not a number."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
