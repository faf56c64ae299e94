"""What a scenario knows of a data set: its labels and domains, no pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pvision.checks import positive_int
from pvision.continual.experience import Positions
from pvision.errors import DataError

__all__ = ["StreamLabels", "shown"]


@dataclass(frozen=True, eq=False)
class StreamLabels:
    """The labels of a data set, and the domains where it has them.

    Args:
        train: int64 ``(N,)``, the label of each training record, from 0 to ``num_classes - 1``.
        test: int64 ``(M,)``, the label of each test record.
        num_classes: how many classes the data set has.
        train_domains: the domain of each training record; None where the set has no domains.
        test_domains: the domain of each test record.
        class_names: what people call the classes, in label order; None to call them by their numbers.

    Raises:
        DataError: if a label is no whole number in range, a class has no training record, a test label is never
            trained, or the domains do not go with the labels.
    """

    train: Positions
    test: Positions
    num_classes: int
    train_domains: Sequence[str] | None = None
    test_domains: Sequence[str] | None = None
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        positive_int("num_classes", self.num_classes)
        for name in ("train", "test"):
            object.__setattr__(self, name, _checked(name, getattr(self, name), self.num_classes))
        if (self.train_domains is None) != (self.test_domains is None):
            raise DataError("Domains must be given for the training and the test records, or for neither.")
        for name, domains, labels in (
            ("train", self.train_domains, self.train),
            ("test", self.test_domains, self.test),
        ):
            if domains is not None and len(domains) != len(labels):
                raise DataError(
                    f"There are {len(domains)} domains for {len(labels)} {name} records. Give one for each."
                )
        self._refuse_unknown()

    def named(self, classes: Sequence[int]) -> str:
        """Return what people call a group of classes: the first four of them."""
        names = self.class_names or ()
        if all(name.isdigit() for name in names):
            names = [str(label) for label in range(self.num_classes)]
            single, several = "class ", "classes "
        else:
            single = several = ""
        listed = ", ".join(names[label] for label in classes[:4])
        if len(classes) > 4:
            return f"{len(classes)} classes: {listed}, …"
        return f"{several if len(classes) > 1 else single}{listed}"

    def _refuse_unknown(self) -> None:
        trained = np.bincount(self.train, minlength=self.num_classes)
        tested = np.bincount(self.test, minlength=self.num_classes)
        unknown = np.flatnonzero((tested > 0) & (trained == 0)).tolist()
        if unknown:
            raise DataError(
                f"{int(tested[unknown].sum())} test records have the labels {shown(unknown)}, which no training record "
                "has. Remove them from the test set, or add training records."
            )
        missing = np.flatnonzero(trained == 0).tolist()
        if missing:
            raise DataError(
                f"The classes {shown(missing)} of {self.num_classes} have no training record. Labels must run from 0 "
                "without a gap: number the classes that exist, or add records."
            )


def shown(values: Sequence[object], most: int = 8) -> str:
    """Return the first values as a message lists them."""
    rest = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + rest


def _checked(name: str, labels: object, num_classes: int) -> Positions:
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(
            f"The {name} labels must be one row of whole numbers, but {array.dtype} of shape {array.shape} came."
        )
    if not array.size:
        raise DataError(f"There are no {name} records. Look at the data's path and split settings.")
    wrong = np.flatnonzero((array < 0) | (array >= num_classes))
    if wrong.size:
        raise DataError(
            f"The label of {name} record {wrong[0]} is {array[wrong[0]]}, but labels run from 0 to {num_classes - 1}."
        )
    return array.astype(np.int64)
