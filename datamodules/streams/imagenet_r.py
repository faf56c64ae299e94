"""ImageNet-R [0]: renditions of 200 classes of ImageNet.

[0] Hendrycks, Basart, Mu, Kadavath, Wang, Dorundo, Desai, Zhu, Parajuli, Guo, Song, Steinhardt, Gilmer, The Many Faces
    of Robustness, ICCV 2021, arXiv:2006.16241.
"""

from collections.abc import Iterable
from typing import ClassVar

from pvision.datamodules.streams._image_lists import ImageRow, ImageSplits, numbered_classes
from pvision.datamodules.streams._wordnet_folders import WordNetFolders
from pvision.datamodules.streams._yaml_split import read_yaml_split
from pvision.errors import DataError

__all__ = ["ImageNetRStream"]


class ImageNetRStream(WordNetFolders):
    """ImageNet-R: 30,000 drawings, toys, tattoos and the like of 200 classes; three splits are in use.

    - ``folders``: ``ROOT/{train,test}/CLASS/IMAGE``, as in the archive of PILOT and its relatives.
    - ``coda``: ``ROOT/imagenet-r_train.yaml`` and ``imagenet-r_test.yaml``, the lists of CODA-Prompt. The images may
      lie in ``ROOT/CLASS`` or ``ROOT/{train,test}/CLASS``; labels are numbered as the lists do.
    - ``random``: ``ROOT/CLASS/IMAGE``, as the authors publish it, divided within each class by ``split_seed``.

    Other arguments are those of `ProtocolStream`.

    Args:
        test_fraction: part of each class' images that is for the test, with split ``random``.
        split_seed: draws them.

    Example:
        ``ImageNetRStream(root="data/imagenet-r", protocol="imagenet_r_pilot_b0_inc20")``
    """

    data = "imagenet_r"
    title = "ImageNet-R"
    site = "https://github.com/hendrycks/imagenet-r"
    splits: ClassVar[tuple[str, ...]] = ("folders", "coda", "random")

    def _listed(self) -> ImageSplits:
        if self.split != "coda":
            return super()._listed()
        lists = {kind: self.root / f"imagenet-r_{kind}.yaml" for kind in ("train", "test")}
        self._refuse_absent(
            *(path.name for path in lists.values()),
            layout="ROOT/imagenet-r_{train,test}.yaml from CODA-Prompt's dataloaders/splits, beside the class folders",
        )
        entries = {kind: read_yaml_split(path, parts=2) for kind, path in lists.items()}
        pairs = [(name.partition("/")[0], number) for kind in entries.values() for name, number in kind]
        found = self._found({label for label, _ in pairs})
        train, test = ([_row(name, found, lists[kind]) for name, _ in entries[kind]] for kind in ("train", "test"))
        return ImageSplits(self.root, train, test, numbered_classes(pairs, lists["train"]))

    def _found(self, classes: Iterable[str]) -> dict[str, str]:
        """Return where each ``CLASS/IMAGE`` lies below the root."""
        folders = [self.root / above / label for above in ("", "train", "test") for label in classes]
        return {
            f"{folder.name}/{path.name}": path.relative_to(self.root).as_posix()
            for folder in folders
            if folder.is_dir()
            for path in folder.iterdir()
        }


def _row(name: str, found: dict[str, str], source: object) -> ImageRow:
    if name not in found:
        raise DataError(
            f"{source} names {name}, but there is no such image. Unpack the whole archive beside the lists."
        )
    return ImageRow(found[name], name.partition("/")[0])
