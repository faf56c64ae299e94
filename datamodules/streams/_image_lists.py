"""Lists of image files: from class folders, or from the text files of published data sets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pvision.datamodules.streams.sources import FileImages
from pvision.errors import DataError

__all__ = [
    "ImageRow",
    "ImageSplits",
    "below",
    "class_folders",
    "draw_test",
    "folder_rows",
    "numbered_classes",
    "read_lines",
    "refuse_absent",
    "sources_of",
    "two_splits",
]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a list.

    Args:
        name: its path below the data's folder, with forward slashes.
        label: the name of its class.
        domain: the name of its domain; None where the data has none.
    """

    name: str
    label: str
    domain: str | None = None


@dataclass(frozen=True)
class ImageSplits:
    """The images of both splits.

    Args:
        root: the folder below which all of them lie.
        train: the training images.
        test: the test images.
        class_names: in the order of their labels; None for alphabetical order.
    """

    root: Path
    train: Sequence[ImageRow]
    test: Sequence[ImageRow]
    class_names: Sequence[str] | None = None


def sources_of(splits: ImageSplits) -> tuple[tuple[str, ...], FileImages, FileImages]:
    """Return the names of the classes, and the sources of the training and the test images.

    Raises:
        DataError: if a split is empty, or a class has training images or test images only.
    """
    names = tuple(splits.class_names or sorted({row.label for row in splits.train}))
    for kind, rows in (("training", splits.train), ("test", splits.test)):
        if not rows:
            raise DataError(f"{splits.root} has no {kind} images. Both training and test images are needed.")
    unknown = sorted({row.label for row in splits.test} - set(names))
    if unknown:
        raise DataError(
            f"{splits.root}: the class {unknown[0]!r} has test images and no training images ({len(unknown)} such "
            "classes). Complete the training images, or take the test images out."
        )
    untested = sorted({row.label for row in splits.train} - {row.label for row in splits.test})
    if untested:
        raise DataError(
            f"{splits.root}: the class {untested[0]!r} has training images and no test images ({len(untested)} such "
            "classes), so that nothing would be measured on it. Add some, or take the class out."
        )
    labels = {name: label for label, name in enumerate(names)}
    train, test = (_source(rows, splits.root, labels) for rows in (splits.train, splits.test))
    return names, train, test


def _source(rows: Sequence[ImageRow], root: Path, labels: Mapping[str, int]) -> FileImages:
    domains = [row.domain for row in rows if row.domain is not None]
    return FileImages(
        [f"{root}/{row.name}" for row in rows],
        np.array([labels[row.label] for row in rows], dtype=np.int64),
        root=root,
        domains=domains or None,
    )


def refuse_absent(paths: Iterable[Path], *, data: str, layout: str, site: str) -> None:
    """Raise `DataError` if a file or folder of a data set is not there.

    Args:
        paths: what must be there.
        data: the name of the data set.
        layout: what is expected, in words.
        site: where its authors publish it.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(
            f"{data}: there is no {' and no '.join(missing)}. Expected is {layout}. Get it at {site} and unpack it "
            "there."
        )


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name; hidden ones are left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def folder_rows(root: Path, folder: Path, *, domain: str | None = None, inner: str = "") -> list[ImageRow]:
    """Return the images below ``folder/CLASS``, sorted by class and file name.

    Hidden files and those without the suffix of an image are left out.

    Args:
        root: the data's folder, from which names are counted.
        folder: the folder that holds the class folders.
        domain: what they belong to.
        inner: the folder in each class folder that holds the images; empty if it is the class folder.

    Raises:
        DataError: if there is no class folder, or one holds no image.
    """
    try:
        classes = class_folders(folder)
    except OSError as error:
        raise _unlistable(folder, error) from error
    if not classes:
        raise DataError(f"{folder} holds no class folders. Expected is {folder}/CLASS/IMAGE.")
    rows = []
    for path in classes:
        files = _image_names(path / inner)
        prefix = (path / inner).relative_to(root).as_posix()
        rows += [ImageRow(f"{prefix}/{file}", path.name, domain) for file in files]
    return rows


def two_splits(root: Path, *, train: str = "train", test: str = "test") -> ImageSplits:
    """Return the images below ``root/train/CLASS`` and ``root/test/CLASS``.

    Raises:
        DataError: if a class of the test has no training images, or a folder is empty.
    """
    return ImageSplits(root, folder_rows(root, root / train), folder_rows(root, root / test))


def draw_test(root: Path, rows: Sequence[ImageRow], *, fraction: float, seed: int) -> ImageSplits:
    """Draw test images from each class of each domain; a pure function of the sorted names, the fraction and the seed.

    Args:
        root: the data's folder.
        rows: all images.
        fraction: the part of each class that is for the test, rounded down, but one image at least.
        seed: of ``numpy.random.RandomState``, which never changes.

    Raises:
        DataError: if a class has a single image.
    """
    random = np.random.RandomState(seed)
    groups: dict[tuple[str, str], list[ImageRow]] = {}
    for row in sorted(rows, key=lambda row: row.name):
        groups.setdefault((row.domain or "", row.label), []).append(row)
    train: list[ImageRow] = []
    test: list[ImageRow] = []
    for (_, label), images in sorted(groups.items()):
        if len(images) < 2:
            raise DataError(
                f"{images[0].name} below {root} is the only image of {label!r}; a split needs two. Add one."
            )
        count = max(1, int(len(images) * fraction))
        drawn = set(random.permutation(len(images))[:count].tolist())
        train += [row for place, row in enumerate(images) if place not in drawn]
        test += [row for place, row in enumerate(images) if place in drawn]
    return ImageSplits(root, train, test)


def read_lines(path: Path, columns: int, *, separator: str | None = None) -> list[list[str]]:
    """Return the cells of each line of a text file that is not empty.

    Args:
        path: the file.
        columns: how many cells a line has at least.
        separator: between cells; None for white space.

    Raises:
        DataError: if the file cannot be read, or a line has fewer cells.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {path} cannot be read ({error}). Take it from the official archive.") from error
    rows = [(number, line.split(separator)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, cells in rows:
        if len(cells) < columns:
            raise DataError(
                f"{path}, line {number}: {columns} cells are expected, but {' '.join(cells)!r} came. Take the file "
                "from the official archive."
            )
    return [cells for _, cells in rows]


def below(name: str, source: object) -> str:
    """Return the path of an image of a list, which must stay below the data's folder.

    Args:
        name: as the list has it.
        source: the list, for errors.

    Raises:
        DataError: if it is absolute or goes upwards.
    """
    parts = name.split("/")  # a path object for each of DomainNet's lines would take seconds
    if not parts[0] or ".." in parts:
        raise DataError(
            f"{source}: the path {name!r} leaves the data's folder. Take the list from the official archive."
        )
    return name


def numbered_classes(pairs: Iterable[tuple[str, int]], source: object) -> list[str]:
    """Return the names of classes in the order of their numbers.

    Args:
        pairs: name and number of the class of each image.
        source: the list, for errors.

    Raises:
        DataError: if a number has two names, a name has two numbers, or the numbers do not run from 0 without a gap.
    """
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for name, number in pairs:
        if names.setdefault(number, name) != name or numbers.setdefault(name, number) != number:
            raise DataError(
                f"{source}: the class {name!r} has the number {number} here, but elsewhere {names[number]!r} has it, "
                f"or it has {numbers.get(name)}. Take the lists from one archive."
            )
    if sorted(names) != list(range(len(names))):
        raise DataError(
            f"{source}: the class numbers must run from 0 without a gap, but {len(names)} came, up to {max(names)}."
        )
    return [names[number] for number in range(len(names))]


def _image_names(folder: Path) -> list[str]:
    try:
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise _unlistable(folder, error) from error
    images = sorted(name for name in names if Path(name).suffix.lower() in _SUFFIXES)
    if not images and any((folder / name).is_dir() for name in names):
        raise DataError(
            f"{folder} holds folders, but no images. Put the images of a class directly into its folder; if "
            f"{folder.name!r} is a domain with class folders in it, use ImageFolderStream with domains: true."
        )
    if not images:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))}). Fill it, or remove it.")
    return images


def _unlistable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder} cannot be listed: {error.strerror or error}. A folder that can be read is expected.")
