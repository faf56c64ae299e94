"""The IoU of each class after each experience, and what follows from it."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pvision.callbacks._forgetting_history import Floats
from pvision.continual.masks import BACKGROUND
from pvision.continual.metrics import mean_over_steps
from pvision.continual.metrics.iou import class_forgetting, group_iou, learned_minus_final

__all__ = ["IouHistory", "Terms"]


class Terms(NamedTuple):
    """What the numbers of one matrix have in common; those of two matrices with other terms cannot be compared.

    Attributes:
        evaluation: ``"full"`` images, or ``"crop"``.
        absent: what a class counts that is absent in truth and prediction.
        has_background: whether the data has one.
    """

    evaluation: str
    absent: str
    has_background: bool


class IouHistory:
    """A step × class matrix as it grows row by row.

    Args:
        terms: what its numbers have in common.

    Attributes:
        names: of the classes from 1 on.
        groups: the classes of each experience that was measured, and of those before.
        rows: IoU by label, by the index of the experience.
        titles: of the experiences.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.names: tuple[str, ...] = ()
        self.groups: list[tuple[int, ...]] = []
        self.titles: list[str] = []
        self.rows: dict[int, dict[int, float]] = {}

    @property
    def labels(self) -> list[int]:
        """The labels of the columns: the background, if there is one, and the classes in the order they came in."""
        return self.labels_after(len(self.groups) - 1)

    def labels_after(self, step: int) -> list[int]:
        """Return those of `labels` that are known after an experience."""
        background = [BACKGROUND] if self.terms.has_background else []
        return background + [label for group in self.groups[: step + 1] for label in group]

    def matrix(self) -> Floats:
        """Return fractions ``(steps, labels)``, NaN where nothing was measured or a class is undefined."""
        steps = max(self.rows, default=-1) + 1
        return np.array(
            [[self.rows.get(step, {}).get(label, np.nan) for label in self.labels] for step in range(steps)]
        ).reshape(steps, len(self.labels))

    def means(self, step: int) -> dict[str, float]:
        """Return ``miou_old``, ``miou_new``, ``miou_all``, ``hiou`` and their further forms after a step."""
        old, *later = self.groups[: step + 1]
        new = [label for group in later for label in group]
        background = BACKGROUND if self.terms.has_background else None
        return group_iou(self.rows[step], old=old, new=new, background=background)

    def forgetting(self) -> dict[str, dict[int, float]]:
        """Return both definitions of what each class lost, by label."""
        matrix = self.matrix()
        found = {"forgetting": class_forgetting(matrix), "learned_minus_final": learned_minus_final(matrix)}
        return {name: dict(zip(self.labels, values.tolist(), strict=True)) for name, values in found.items()}

    def summary(self) -> dict[str, float]:
        """Return the means after the last step, and those over steps and classes; nothing before the first.

        Means over classes are over those that were learned before the last step, without the background.
        """
        if not self.rows:
            return {}
        last = max(self.rows)
        steps = [self.means(step)["miou_all"] if step in self.rows else np.nan for step in range(last + 1)]
        found = self.means(last) | {"average_over_steps": mean_over_steps(steps)}
        earlier = [label for group in self.groups[:last] for label in group]
        for name, values in self.forgetting().items():
            of_earlier = [values[label] for label in earlier if not math.isnan(values[label])]
            found[name] = float(np.mean(of_earlier)) if of_earlier else np.nan
            if name == "forgetting":
                found["forgetting_largest"] = max(of_earlier, default=np.nan)
        return found

    def class_name(self, label: int) -> str:
        """Return what a label is called."""
        if label == BACKGROUND:
            return "background"
        return self.names[label - 1] if label <= len(self.names) else str(label)

    def table(self) -> str:
        """Return the matrix as CSV; cells without a value are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["after", *(self.class_name(label) for label in self.labels)])
        for title, row in zip(self.titles, self.matrix(), strict=False):
            writer.writerow([title, *("" if np.isnan(value) else repr(float(value)) for value in row)])
        return text.getvalue()

    def record(self) -> str:
        """Return everything as strict JSON: null where a value is undefined."""
        lost = self.forgetting()
        steps = [
            {"after": self.titles[step], "iou": _by_name(self.rows[step]), **self.means(step)}
            for step in sorted(self.rows)
        ]
        classes = [
            {
                "label": label,
                "name": self.class_name(label),
                "experience": _learned_in(label, self.groups),
                **{name: values[label] for name, values in lost.items()},
            }
            for label in self.labels
        ]
        record = {**self.terms._asdict(), "classes": classes, "steps": steps, "summary": self.summary()}
        return json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values, which ``torch.load(weights_only=True)`` takes."""
        return {
            "terms": list(self.terms),
            "names": list(self.names),
            "groups": [list(group) for group in self.groups],
            "titles": list(self.titles),
            "rows": {step: dict(row) for step, row in self.rows.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "IouHistory":
        """Return what `state_dict` was taken of."""
        made = cls(Terms(*state["terms"]))
        made.names, made.titles = tuple(state["names"]), list(state["titles"])
        made.groups = [tuple(group) for group in state["groups"]]
        made.rows = {int(step): dict(row) for step, row in state["rows"].items()}
        return made


def _learned_in(label: int, groups: Sequence[Sequence[int]]) -> int:
    """Return the index of the experience that brought a label; the background comes with the first."""
    return next((index for index, group in enumerate(groups) if label in group), 0)


def _by_name(row: Mapping[int, float]) -> dict[str, float]:
    return {str(label): value for label, value in row.items()}


def _plain(value: Any) -> Any:
    """Return ``value`` with None in place of NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
