"""CUB-200-2011 [0]: 200 species of birds.

[0] Wah, Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001, 2011.
"""

from pathlib import Path

from pvision.datamodules.streams._image_lists import (
    ImageRow,
    ImageSplits,
    below,
    read_lines,
    refuse_absent,
    sources_of,
    two_splits,
)
from pvision.datamodules.streams.preprocessing import PILOT_224, Preprocessing
from pvision.datamodules.streams.protocol_stream import ProtocolStream, Sources
from pvision.errors import DataError

__all__ = ["CUB200Stream"]

_LISTS = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
_LAYOUTS = {
    "official": f"ROOT/images/CLASS/IMAGE with {', '.join(_LISTS)}, as in CUB_200_2011.tgz",
    "folders": "ROOT/{train,test}/CLASS/IMAGE",
}


class CUB200Stream(ProtocolStream):
    """CUB-200-2011: 11,788 photographs of 200 species.

    - ``official``: the folder ``CUB_200_2011`` of the authors' archive, divided by its ``train_test_split.txt``.
    - ``folders``: ``ROOT/{train,test}/CLASS/IMAGE``, as in the archive of PILOT and its relatives.

    Arguments are those of `ProtocolStream`.

    Example:
        ``CUB200Stream(root="data/cub", protocol="cub200_pilot_b0_inc10")``
    """

    data = "cub200"
    splits = ("official", "folders")

    def default_preprocessing(self) -> Preprocessing:
        """Return PILOT's: random parts of the image at 224 pixels, values in [0, 1]."""
        return PILOT_224

    def read_sources(self) -> Sources:
        """List the images.

        Raises:
            DataError: if the data is not in the layout of the split, or the lists contradict each other.
        """
        needed = ("images", *_LISTS) if self.split == "official" else ("train", "test")
        refuse_absent(
            [self.root / name for name in needed],
            data=f"CUB-200-2011, split {self.split!r}",
            layout=_LAYOUTS[self.split],
            site="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        )
        return Sources(*sources_of(_official(self.root) if self.split == "official" else two_splits(self.root)))


def _official(root: Path) -> ImageSplits:
    classes = _table(root / "classes.txt")
    labels, in_training = _table(root / "image_class_labels.txt"), _table(root / "train_test_split.txt")
    rows: dict[str, list[ImageRow]] = {"1": [], "0": []}
    for number, name in _table(root / "images.txt").items():
        label, side = classes.get(labels.get(number, "")), rows.get(in_training.get(number, ""))
        if label is None or side is None:
            raise DataError(
                f"{root}: image {number} ({name}) has no known class, or no 0 or 1 in train_test_split.txt. Take all "
                "lists from one archive."
            )
        side.append(ImageRow(f"images/{below(name, root / 'images.txt')}", label))
    return ImageSplits(root, rows["1"], rows["0"], list(classes.values()))


def _table(path: Path) -> dict[str, str]:
    """Return the second cell of each line by the first."""
    return {cells[0]: cells[1] for cells in read_lines(path, 2)}
