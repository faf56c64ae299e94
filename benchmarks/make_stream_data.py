"""Make the image sets that pvision ships for streams, ``datamodules/streams/*.idx.xz``.

    python benchmarks/make_stream_data.py --fashion-mnist DIR

Digits come from scikit-learn (``sklearn.datasets.load_digits``); DIR holds the four files of Fashion-MNIST,
``train-images-idx3-ubyte.gz`` and so on. pvision itself needs neither. Prints the SHA-256 of every file; equal
versions of liblzma give equal bytes.
"""

import argparse
import hashlib
import lzma
from pathlib import Path

import numpy as np

from pvision.datamodules.streams.idx import encode_idx, read_idx

SEED = 0
FOLDER = Path(__file__).parents[1] / "datamodules" / "streams"
TEST_FRACTION = 1 / 3  # of the digits of each class
FASHION_TRAIN, FASHION_TEST = 500, 100  # images of each class
# Neighbouring pixels are alike and rows are short: literals of one byte, no alignment.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 2, "lp": 0, "pb": 0}]

Set = tuple[np.ndarray, np.ndarray]


def split_digits(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of training and test records, in order: a third of each class is for the test."""
    random = np.random.RandomState(SEED)
    test = [draw(labels, label, round((labels == label).sum() * TEST_FRACTION), random) for label in range(10)]
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def subset(images: np.ndarray, labels: np.ndarray, count: int) -> Set:
    """Return ``count`` records of each class, in the order of the data set."""
    random = np.random.RandomState(SEED)
    chosen = np.sort(np.concatenate([draw(labels, label, count, random) for label in range(10)]))
    return images[chosen], labels[chosen]


def draw(labels: np.ndarray, label: int, count: int, random: np.random.RandomState) -> np.ndarray:
    return random.permutation(np.flatnonzero(labels == label))[:count]


def digits() -> dict[str, Set]:
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = found.images.astype(np.uint8), found.target.astype(np.uint8)
    train, test = split_digits(labels)
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


def fashion_mnist(root: Path) -> dict[str, Set]:
    parts = {"train": ("train", FASHION_TRAIN), "test": ("t10k", FASHION_TEST)}
    return {
        split: subset(
            read_idx(root / f"{prefix}-images-idx3-ubyte.gz", dims=3),
            read_idx(root / f"{prefix}-labels-idx1-ubyte.gz", dims=1),
            count,
        )
        for split, (prefix, count) in parts.items()
    }


def write(name: str, parts: dict[str, Set]) -> None:
    for split, arrays in parts.items():
        for what, array in zip(("images", "labels"), arrays, strict=True):
            content = lzma.compress(encode_idx(array), format=lzma.FORMAT_XZ, filters=FILTERS)
            path = FOLDER / f"{name}-{split}-{what}.idx.xz"
            path.write_bytes(content)
            print(f"{path.name} {array.shape} {len(content)} bytes SHA-256 {hashlib.sha256(content).hexdigest()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    write("digits", digits())
    write("fashion_mnist", fashion_mnist(arguments.fashion_mnist))


if __name__ == "__main__":
    main()
