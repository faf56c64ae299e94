"""DomainNet [0]: 345 classes in six domains.

[0] Peng, Bai, Xia, Huang, Saenko, Wang, Moment Matching for Multi-Source Domain Adaptation, ICCV 2019,
    arXiv:1812.01754.
"""

from pathlib import Path

from pvision.datamodules.streams._image_lists import (
    ImageRow,
    ImageSplits,
    below,
    numbered_classes,
    read_lines,
    refuse_absent,
    sources_of,
)
from pvision.datamodules.streams._yaml_split import read_yaml_split
from pvision.datamodules.streams.preprocessing import PILOT_224, Preprocessing
from pvision.datamodules.streams.protocol_stream import ProtocolStream, Sources
from pvision.errors import DataError

__all__ = ["DomainNetStream"]

_DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
_LAYOUTS = {
    "official": "ROOT/DOMAIN/CLASS/IMAGE and ROOT/DOMAIN_{train,test}.txt for each of " + ", ".join(_DOMAINS),
    "coda": "ROOT/DOMAIN/CLASS/IMAGE and ROOT/domainnet_{train,test}.yaml from CODA-Prompt's dataloaders/splits",
}


class DomainNetStream(ProtocolStream):
    """DomainNet: 586,575 images (409,832 for training) of 345 classes in six domains.

    - ``official``: ``ROOT/clipart_train.txt``, ``ROOT/clipart_test.txt`` and so on, the authors' lists.
    - ``coda``: ``ROOT/domainnet_train.yaml`` and ``domainnet_test.yaml``, the lists of CODA-Prompt.

    The images lie in ``ROOT/DOMAIN/CLASS/IMAGE`` for both. Labels are numbered as the lists do. With a
    `DomainIncremental` scenario the stream goes through domains, with `ClassIncremental` through classes of all domains
    at once. That the files of all entries are there is seen when they are read.

    Arguments are those of `ProtocolStream`.

    Example:
        ``DomainNetStream(root="data/domainnet", protocol="domainnet_sprompts_6")``
    """

    data = "domainnet"
    splits = ("official", "coda")

    def default_preprocessing(self) -> Preprocessing:
        """Return PILOT's: random parts of the image at 224 pixels, values in [0, 1]."""
        return PILOT_224

    def read_sources(self) -> Sources:
        """List the images.

        Raises:
            DataError: if lists or domains are missing, or the lists contradict each other.
        """
        lists = self._lists()
        refuse_absent(
            [path for kind in lists.values() for path in kind] + [self.root / domain for domain in _DOMAINS],
            data=f"DomainNet, split {self.split!r}",
            layout=_LAYOUTS[self.split],
            site="https://ai.bu.edu/M3SDA/ (the cleaned version)",
        )
        entries = {kind: [entry for path in paths for entry in self._entries(path)] for kind, paths in lists.items()}
        pairs = [(name.split("/")[1], number) for kind in entries.values() for name, number in kind]
        names = numbered_classes(pairs, self.root)
        train, test = ([_row(name) for name, _ in entries[kind]] for kind in ("train", "test"))
        for row in (train[0], test[-1]):
            refuse_absent([self.root / row.name], data="DomainNet", layout=_LAYOUTS[self.split], site="its authors")
        return Sources(*sources_of(ImageSplits(self.root, train, test, names)))

    def _lists(self) -> dict[str, list[Path]]:
        if self.split == "coda":
            return {kind: [self.root / f"domainnet_{kind}.yaml"] for kind in ("train", "test")}
        return {kind: [self.root / f"{domain}_{kind}.txt" for domain in _DOMAINS] for kind in ("train", "test")}

    def _entries(self, path: Path) -> list[tuple[str, int]]:
        if self.split == "coda":
            return read_yaml_split(path, parts=3)
        return [(_checked(name, path), _number(number, path)) for name, number, *_ in read_lines(path, 2)]


def _row(name: str) -> ImageRow:
    domain, label, _ = name.split("/")
    return ImageRow(name, label, domain)


def _checked(name: str, path: Path) -> str:
    if below(name, path).count("/") != 2 or name.partition("/")[0] not in _DOMAINS:
        raise DataError(f"{path}: the path {name!r} must be DOMAIN/CLASS/IMAGE. Take the list from the official page.")
    return name


def _number(text: str, path: Path) -> int:
    if not (text.isascii() and text.isdigit()):
        raise DataError(
            f"{path}: the class must be a whole number, but {text!r} came. Take the list from the official page."
        )
    return int(text)
