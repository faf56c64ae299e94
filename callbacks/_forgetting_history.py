"""The matrix of a run as it grows row by row, and what follows from it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pvision.callbacks._forgetting_stream import Place
from pvision.callbacks._forgetting_values import Pairs
from pvision.continual.metrics import AccuracyMatrix

__all__ = ["Floats", "History"]

Floats = npt.NDArray[np.float64]


class History:
    """All that was measured in the fits so far.

    Attributes:
        names: of the learned experiences, as far as they are known.
        forgotten: columns all of whose classes have been forgotten on request.
        events: what was measured after each request to forget.
        during: evaluations within fits, in order: row, step and accuracy of each.
        after_event: whether the latest evaluation followed a request to forget.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.forgotten: tuple[int, ...] = ()
        self.forgotten_classes: tuple[int, ...] = ()
        self.events: list[dict[str, Any]] = []
        self.during: list[dict[str, Any]] = []
        self.after_event = False
        self._matrices: dict[str, AccuracyMatrix] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was measured yet, not even the baseline."""
        return not self._matrices

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which matrices there are: ``agnostic``, and ``task_aware`` where the module gives such predictions."""
        return tuple(self._matrices)

    def matrix(self, kind: str = "agnostic") -> AccuracyMatrix:
        """Return a matrix with all it holds."""
        return self._matrices.get(kind) or AccuracyMatrix(1)

    def table(self, kind: str = "agnostic") -> Floats:
        """Return all that was measured, ``(T, columns)``, NaN where nothing was.

        Where records were counted, those of classes forgotten on request count in no row: what the model was asked to
        forget is not what it forgot.
        """
        return self.matrix(kind).accuracy(without=self.forgotten_classes)

    def accuracy(self, kind: str = "agnostic") -> Floats:
        """Return R, ``(T, T)``: of the `table` as many columns as rows."""
        table = self.table(kind)
        rows, columns = table.shape
        square = np.full((rows, rows), np.nan)
        square[:, :columns] = table[:, :rows]
        return square

    def baseline(self, kind: str = "agnostic") -> Floats | None:
        """Return the accuracy before any training, one per column; None if it was not measured."""
        values = self.matrix(kind).baseline(without=self.forgotten_classes)
        return None if np.isnan(values).all() else values

    def counts(self, kind: str = "agnostic") -> npt.NDArray[np.int64] | None:
        """Return the test records per column that count; None if a value has no counts."""
        return self.matrix(kind).counts(without=self.forgotten_classes)

    def record(self, place: Place, kind: str, found: Mapping[int, Pairs] | Sequence[float]) -> None:
        """Put what was found on each loader into the row of ``place``, or into the list of events.

        Args:
            place: where the evaluation stands.
            kind: which matrix.
            found: by loader, how often each true label met each prediction; or a value for each column.
        """
        self.names = place.names or self.names
        self.forgotten, self.forgotten_classes = place.forgotten, place.forgotten_classes
        self.after_event = place.event is not None
        if place.event is not None:
            self._record_event(place, kind, found)
        elif isinstance(found, Mapping):
            self._count(place, kind, found)
        else:
            matrix = self._matrices.setdefault(kind, AccuracyMatrix(1))
            matrix.clear(place.row)
            for column, value in zip(place.columns, found, strict=True):
                matrix.set_value(place.row, column, value)

    def note(self, *, row: int, step: int) -> None:
        """Keep what the last evaluation within a fit measured, for the curve between the ends of experiences."""
        accuracy = self.table()
        values = accuracy[row] if row < len(accuracy) else []
        self.during.append({"row": row, "step": step, "accuracy": [float(value) for value in values]})

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values, which ``torch.load(weights_only=True)`` takes."""
        return {
            "matrices": {kind: matrix.state_dict() for kind, matrix in self._matrices.items()},
            "names": list(self.names),
            "forgotten": list(self.forgotten),
            "forgotten_classes": list(self.forgotten_classes),
            "events": self.events,
            "during": self.during,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by a state of `state_dict`."""
        self.names, self.forgotten = tuple(state["names"]), tuple(state["forgotten"])
        self.forgotten_classes = tuple(state["forgotten_classes"])
        self.events, self.during = list(state["events"]), list(state["during"])
        self._matrices = {}
        for kind, saved in state["matrices"].items():
            self._matrices[kind] = AccuracyMatrix(saved["num_classes"])
            self._matrices[kind].load_state_dict(saved)

    def _count(self, place: Place, kind: str, found: Mapping[int, Pairs]) -> None:
        labels = {label for pairs in found.values() for pair in pairs for label in pair}
        classes = 1 + max(labels, default=0)
        matrix = self._matrices.get(kind) or AccuracyMatrix(classes)
        matrix.grow(max(classes, matrix.num_classes))  # a stream may bring new ones with every experience
        matrix.clear(place.row)
        for loader, column in enumerate(place.columns):
            prediction, target = _listed(found.get(loader, {}))
            matrix.add(place.row, column, prediction=prediction, target=target)
        self._matrices[kind] = matrix

    def _record_event(self, place: Place, kind: str, found: Mapping[int, Pairs] | Sequence[float]) -> None:
        event = place.event
        if event is None:
            return
        values, of_classes = found, np.nan
        if isinstance(found, Mapping):
            gone = set(place.forgotten_classes)
            values = [_remaining_accuracy(found.get(loader, Counter()), gone) for loader in range(len(place.columns))]
            of_classes = _accuracy([item for pairs in found.values() for item in pairs.items() if item[0][0] in gone])
        measured = {str(column): float(value) for column, value in zip(place.columns, values, strict=True)}
        about = {"index": event.index, "name": event.name, "classes": [int(label) for label in event.classes]}
        about |= {"records": len(event.train), "after_row": place.row, "forgotten": list(place.forgotten)}
        known = next((one for one in self.events if one["index"] == event.index), None)
        if known is None:
            known = {**about, "accuracy": {}, "accuracy_on_forgotten_classes": {}}
            self.events.append(known)
        known["accuracy"][kind], known["accuracy_on_forgotten_classes"][kind] = measured, of_classes


def _listed(pairs: Mapping[tuple[int, int], int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return predictions and true labels, one by one."""
    both = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    target, prediction = np.repeat(both, np.array(list(pairs.values()), dtype=np.int64), axis=0).T
    return prediction, target


def _remaining_accuracy(pairs: Pairs, gone: Collection[int]) -> float:
    """Return the accuracy on classes that were not forgotten; on all, if none is left."""
    return _accuracy([item for item in pairs.items() if item[0][0] not in gone] or list(pairs.items()))


def _accuracy(pairs: Sequence[tuple[tuple[int, int], int]]) -> float:
    total = sum(count for _, count in pairs)
    return sum(count for (truth, guess), count in pairs if truth == guess) / total if total else np.nan
