"""Count who was right: integers per row, column and class, from which every metric follows."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pvision.checks import positive_int
from pvision.continual.metrics._arrays import Floats, Integers, as_fractions, as_integers, ratio
from pvision.continual.metrics._matrix_state import pack, unpack
from pvision.errors import ConfigError, DataError

__all__ = ["AccuracyMatrix"]


class AccuracyMatrix:
    """Hold what was measured after each experience (rows) on the test set of each experience (columns).

    Its state is integer: correct and total per (row, column, class), and each row's confusion matrix. Counts of several
    processes add up exactly, so the figures do not depend on how the test set was shared out. It grows as rows and
    columns come. Row -1 is the model before any training.

    Args:
        num_classes: C, the classes of the whole stream; labels are 0..C-1.

    Example:
        >>> matrix = AccuracyMatrix(3)
        >>> matrix.add(0, 0, prediction=[0, 1, 1, 0], target=[0, 1, 0, 0])
        >>> matrix.accuracy()
        array([[0.75]])
        >>> matrix.counts()
        array([4])
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = positive_int("num_classes", num_classes)
        self._counts: dict[tuple[int, int], Integers] = {}  # (2, C): correct, total
        self._confusion: dict[int, Integers] = {}  # (C, C + 1): truth, prediction; the last column is "no class"
        self._values: dict[tuple[int, int], float] = {}  # what was measured without counts

    @property
    def rows(self) -> int:
        """How many rows there are, without row -1."""
        return 1 + max((row for row, _ in self._entries()), default=-1)

    @property
    def columns(self) -> int:
        """How many columns there are."""
        return 1 + max((column for _, column in self._entries()), default=-1)

    def add(self, row: int, column: int, prediction: object, target: object) -> None:
        """Count a batch.

        Args:
            row: the experience after which this is measured; -1 before any training.
            column: the experience whose test set this is.
            prediction: whole numbers ``(B,)``, the predicted labels; anything outside 0..C-1, as -1, means "no class".
            target: whole numbers ``(B,)``, the true labels.

        Raises:
            DataError: if a true label is not in 0..C-1, or the two differ in length.
        """
        entry = self._countable(row, column)
        truth = as_integers("target", target, (-1,), DataError)
        predicted = as_integers("prediction", prediction, (truth.size,), DataError)
        wrong = truth[(truth < 0) | (truth >= self.num_classes)]
        if wrong.size:
            raise DataError(
                f"target must hold labels in 0..{self.num_classes - 1}, but {wrong[0]} came."
                " Give AccuracyMatrix the num_classes of the whole stream."
            )
        predicted[(predicted < 0) | (predicted >= self.num_classes)] = self.num_classes
        right, whole = (np.bincount(t, minlength=self.num_classes) for t in (truth[truth == predicted], truth))
        self._add_entry(entry, right, whole)
        np.add.at(self._confusion.setdefault(entry[0], self._no_confusion()), (truth, predicted), 1)

    def add_counts(self, row: int, column: int, correct: object, total: object) -> None:
        """Count what was counted elsewhere; the row has no confusion matrix then.

        Args:
            row: as in `add`.
            column: as in `add`.
            correct: whole numbers ``(C,)``, the right predictions per class.
            total: whole numbers ``(C,)``, the test records per class.

        Raises:
            ConfigError: unless 0 <= correct <= total in every class.
        """
        entry = self._countable(row, column)
        right = as_integers("correct", correct, (self.num_classes,))
        whole = as_integers("total", total, (self.num_classes,))
        if (right < 0).any() or (right > whole).any():
            raise ConfigError("correct must lie between 0 and total in every class.")
        self._add_entry(entry, right, whole)

    def set_value(self, row: int, column: int, value: float) -> None:
        """Set a value that was measured without counts, such as mAP or mIoU, as a fraction; NaN if it is undefined.

        Raises:
            ConfigError: if the value lies outside [0, 1], or the entry was counted already.
        """
        entry = self._entry(row, column)
        if entry in self._counts:
            raise ConfigError(
                f"Row {row}, column {column} holds counts. Call clear({row}) before you set a value there."
            )
        self._values[entry] = float(as_fractions("value", value, 0))

    def grow(self, num_classes: int) -> None:
        """Make room for more classes, where the stream does not announce how many there will be."""
        more = positive_int("num_classes", num_classes, low=self.num_classes) - self.num_classes
        self._counts = {entry: np.pad(counts, ((0, 0), (0, more))) for entry, counts in self._counts.items()}
        for row, confusion in self._confusion.items():
            wide = np.insert(confusion, [self.num_classes] * more, 0, axis=1)  # before the column "no class"
            self._confusion[row] = np.pad(wide, ((0, more), (0, 0)))
        self.num_classes += more

    def clear(self, row: int) -> None:
        """Forget a row, so that it can be measured again."""
        self._counts = {entry: counts for entry, counts in self._counts.items() if entry[0] != row}
        self._values = {entry: value for entry, value in self._values.items() if entry[0] != row}
        self._confusion.pop(row, None)

    def merge(self, other: "AccuracyMatrix") -> None:
        """Add what another process counted; values set without counts must agree where both have them.

        Raises:
            ConfigError: if the other has another ``num_classes`` or another value at the same place.
        """
        if other.num_classes != self.num_classes:
            raise ConfigError(f"A matrix of {other.num_classes} classes cannot join one of {self.num_classes} classes.")
        for entry, value in other._values.items():
            if entry in self._counts or not np.array_equal(self._values.get(entry, value), value, equal_nan=True):
                raise ConfigError(f"Both matrices hold row {entry[0]}, column {entry[1]}, and not the same value.")
        if clash := next((entry for entry in other._counts if entry in self._values), None):
            raise ConfigError(f"Row {clash[0]}, column {clash[1]} is a value in one matrix and counts in the other.")
        self._values.update(other._values)
        for entry, (correct, total) in other._counts.items():
            self._add_entry(entry, correct, total)
        for row, confusion in other._confusion.items():
            self._confusion[row] = self._confusion.get(row, 0) + confusion

    def counts_vector(self, row: int, *, columns: int) -> Integers:
        """Return a row's counts as one vector that has the same length in every process: sum it over the processes.

        Args:
            row: the row.
            columns: how many columns the row has, the same number in every process.

        Returns:
            ``(columns * 2C + C * (C + 1),)``, for `load_counts`.
        """
        missing = np.zeros((2, self.num_classes), dtype=np.int64)
        parts = [self._counts.get((row, column), missing) for column in range(columns)]
        confusion = self._confusion.get(row, self._no_confusion())
        return np.concatenate([part.ravel() for part in [*parts, confusion]])

    def load_counts(self, row: int, vector: object, *, columns: int) -> None:
        """Replace a row's counts by a vector of `counts_vector`, usually the sum over processes.

        Columns in which nothing was counted stay unmeasured; values set without counts stay.
        """
        classes = self.num_classes
        flat = as_integers("vector", vector, (columns * 2 * classes + classes * (classes + 1),))
        counts = flat[: columns * 2 * classes].reshape(columns, 2, classes)
        if (flat < 0).any() or (counts[:, 0] > counts[:, 1]).any():
            raise ConfigError("vector must come from counts_vector, but some counts are negative or above their total.")
        values = {entry: value for entry, value in self._values.items() if entry[0] == row}
        self.clear(row)
        self._values.update(values)
        self._counts.update({(row, column): counts[column] for column in range(columns) if counts[column, 1].any()})
        self._confusion[row] = flat[columns * 2 * classes :].reshape(classes, classes + 1)

    def accuracy(self, *, without: Collection[int] = ()) -> Floats:
        """Return R, float64 ``(rows, columns)``, NaN where nothing was measured.

        Args:
            without: classes that no longer count, because they were forgotten on request. A column of such classes
                alone stays as it was measured; values set without counts are never changed.
        """
        return self._table(range(self.rows), without)

    def baseline(self, *, without: Collection[int] = ()) -> Floats:
        """Return row -1, float64 ``(columns,)``: the accuracy before any training, NaN where it was not measured."""
        return self._table([-1], without).ravel()

    def counts(self, *, without: Collection[int] = ()) -> Integers | None:
        """Return the test records per column, int64 ``(columns,)``, as last counted; None if a value has no counts."""
        if self._values or not self._counts:
            return None
        numbers = np.zeros(self.columns, dtype=np.int64)
        for (_, column), counts in sorted(self._counts.items()):  # the last row wins
            numbers[column] = self._remaining(counts, without)[1].sum()
        return numbers

    def per_class(self) -> Floats:
        """Return the accuracy per class after each experience, float64 ``(rows, C)``, over all columns of the row."""
        sums = np.zeros((self.rows, 2, self.num_classes), dtype=np.int64)
        for (row, _), counts in self._counts.items():
            if row >= 0:
                sums[row] += counts
        return ratio(sums[:, 0], sums[:, 1])

    def confusion(self, row: int) -> Integers | None:
        """Return a row's confusion matrix, int64 ``(C, C)``: truth, prediction. Predictions of no class are left out.

        None if some of the row was counted without predictions, or nothing was.
        """
        counted = sum(int(counts[1].sum()) for (place, _), counts in self._counts.items() if place == row)
        confusion = self._confusion.get(row)
        if confusion is None or int(confusion.sum()) != counted:
            return None
        return confusion[:, : self.num_classes].copy()

    def state_dict(self) -> dict[str, Any]:
        """Return the whole history as ints, floats and lists, so that ``torch.load(weights_only=True)`` takes it."""
        return pack(self.num_classes, self._counts, self._confusion, self._values)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by a state of `state_dict`.

        Raises:
            ConfigError: if the state is of another ``num_classes``.
            DataError: if it is damaged.
        """
        self._counts, self._confusion, self._values = unpack(self.num_classes, state)

    def _entries(self) -> set[tuple[int, int]]:
        return self._counts.keys() | self._values.keys()

    def _entry(self, row: object, column: object) -> tuple[int, int]:
        return positive_int("row", row, low=-1), positive_int("column", column, low=0)

    def _countable(self, row: int, column: int) -> tuple[int, int]:
        entry = self._entry(row, column)
        if entry in self._values:
            raise ConfigError(f"Row {row}, column {column} holds a value without counts. Call clear({row}) before.")
        return entry

    def _no_confusion(self) -> Integers:
        return np.zeros((self.num_classes, self.num_classes + 1), dtype=np.int64)

    def _add_entry(self, entry: tuple[int, int], correct: Integers, total: Integers) -> None:
        self._counts[entry] = self._counts.get(entry, 0) + np.stack([correct, total])

    def _remaining(self, counts: Integers, without: Collection[int]) -> Integers:
        """Return correct and total ``(2, C')`` of the classes that still count; of all, if none would be left."""
        gone = [label for label in without if label < self.num_classes]
        rest: Integers = np.delete(counts, gone, axis=1)
        return rest if rest[1].any() else counts

    def _table(self, rows: Sequence[int], without: Collection[int] = ()) -> Floats:
        table = np.full((len(rows), self.columns), np.nan)
        for place, row in enumerate(rows):
            for column in range(self.columns):
                if (row, column) in self._counts:
                    counts = self._remaining(self._counts[row, column], without)
                    table[place, column] = ratio(*counts.sum(axis=1, keepdims=True)).item()
                else:
                    table[place, column] = self._values.get((row, column), np.nan)
        return table
