"""What annotations say about an image, before anything of it is opened or checked."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pvision.datamodules.detection.image_file import SUFFIXES
from pvision.datamodules.detection.training_images import draw
from pvision.errors import ConfigError, DataError

__all__ = ["Listed", "NamedBox", "Splits", "chosen_classes", "held_out", "only", "partner", "relative"]


class NamedBox(NamedTuple):
    """An object as it is annotated.

    Attributes:
        left: in pixels from the image's left edge; pixel 0 reaches from 0 to 1.
        top: from its upper edge.
        right: exclusive.
        bottom: exclusive.
        label: the name of its class.
    """

    left: float
    top: float
    right: float
    bottom: float
    label: str

    @property
    def height(self) -> float:
        """In pixels."""
        return self.bottom - self.top

    @property
    def area(self) -> float:
        """In pixels."""
        return (self.right - self.left) * self.height


@dataclass(frozen=True, slots=True)
class Listed:
    """An image and its objects.

    Args:
        name: of the image, unique in its data set.
        path: its file.
        boxes: its objects.
        source: where they are annotated, for messages.
        rgb: the RGB image of the same scene; None where there is none.
        size: height and width that the annotations claim; None if they do not.
        group: what is never divided between training and validation; empty for the image alone.
    """

    name: str
    path: Path
    boxes: tuple[NamedBox, ...]
    source: str
    rgb: Path | None = None
    size: tuple[int, int] | None = None
    group: str = ""


@dataclass(frozen=True)
class Splits:
    """The images of a data set.

    Args:
        train: for training, and for validation if ``val`` is None.
        test: for the test.
        class_names: of all classes that the annotations know, in label order; None for those of the objects, sorted.
        default: the classes that the data set is used with; empty for all.
        val: for validation; None to draw them.
    """

    train: Sequence[Listed]
    test: Sequence[Listed]
    class_names: Sequence[str] | None = None
    default: Sequence[str] = ()
    val: Sequence[Listed] | None = None


def held_out(rows: Sequence[Listed], fraction: float, *, seed: int, purpose: str) -> tuple[list[Listed], list[Listed]]:
    """Return the rows that stay and those that are drawn: a share of their groups, one at least.

    Args:
        rows: all of them, in any order.
        fraction: which share is drawn.
        seed: draws it, by the groups' names.
        purpose: what for, so that one seed draws different ones for different purposes.

    Raises:
        DataError: if there is one group only.
    """
    groups = sorted({row.group or row.name for row in rows}, key=lambda group: (draw(purpose, seed, group), group))
    if len(groups) < 2:
        raise DataError(f"{len(groups)} images or recordings cannot be divided to draw some for {purpose}. Add more.")
    drawn = set(groups[: min(len(groups) - 1, max(1, round(fraction * len(groups))))])
    stay = [row for row in rows if (row.group or row.name) not in drawn]
    return stay, [row for row in rows if (row.group or row.name) in drawn]


def chosen_classes(splits: Splits, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes in label order.

    Args:
        splits: the images, with what their annotations know.
        chosen: what the user asks for; None for the data set's default.

    Raises:
        ConfigError: if one is unknown or named twice.
    """
    known = splits.class_names
    if known is None:
        rows = [*splits.train, *splits.test, *(splits.val or ())]
        known = sorted({box.label for row in rows for box in row.boxes} | set(splits.default))
    if chosen is None:
        return tuple(splits.default or known)
    unknown = [name for name in chosen if name not in known]
    if not chosen or unknown or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"data.classes must name classes of the annotations, each once, but {list(chosen)} came"
            f"{f', of which {unknown} are unknown' if unknown else ''}. The annotations know: {', '.join(known)}."
        )
    return tuple(chosen)


def only(
    rows: Sequence[Listed], keep: Callable[[NamedBox], bool], dropped: Counter[str], *, reason: str = ""
) -> list[Listed]:
    """Return the rows with those boxes only that ``keep`` approves of; images that lose all of them stay.

    Args:
        rows: the images.
        keep: tells which boxes stay.
        dropped: counts the others, by ``reason``, or by class if there is none.
        reason: why boxes are dropped.
    """
    kept = []
    for row in rows:
        boxes = tuple(box for box in row.boxes if keep(box))
        dropped.update(reason or box.label for box in row.boxes if not keep(box))
        kept.append(replace(row, boxes=boxes))
    return kept


def relative(name: str, source: object) -> str:
    """Return a path of a list, which must stay below the data's folder.

    Raises:
        DataError: if it is absolute or goes upwards.
    """
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or ":" in parts[0] or "\0" in name:
        raise DataError(f"{source}: the path {name!r} leaves the data's folder. Mend the list.")
    return "/".join(parts)


def partner(folder: Path, name: str) -> Path:
    """Return the file of this name in a folder, or the one that differs from it by its suffix alone.

    Where there is none, the path that was looked for first.
    """
    path = folder / name
    if path.is_file():
        return path
    others = [path.with_suffix(suffix) for suffix in sorted(SUFFIXES)]
    return next((other for other in others if other.is_file()), path)
