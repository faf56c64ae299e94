"""The photographic cut-outs among Tux Paint's stamps, by class: which files, read how, on which side of the split."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pvision.datamodules.streams._image_lists import refuse_absent
from pvision.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["STAMP_CLASSES", "Stamp", "StampClass", "divide_stamps", "find_stamps", "pillow_image", "read_stamp"]

_LAYOUT = (
    "the folder that Debian's package tuxpaint-stamps-default installs, /usr/share/tuxpaint/stamps, with animals/, "
    "food/, household/, …"
)
_SITE = "https://packages.debian.org/tuxpaint-stamps-default"


class StampClass(NamedTuple):
    """Where the cut-outs of one class lie.

    Attributes:
        name: of the class.
        folders: below the stamps' folder; folders in them are not entered, which leaves out the cartoons.
        without: names of files that are drawings, or show something else.
        only: names of files to take; empty for all.
    """

    name: str
    folders: tuple[str, ...]
    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


class Stamp(NamedTuple):
    """One cut-out.

    Attributes:
        path: of its file.
        label: of its class, from 1.
    """

    path: Path
    label: int


_HOOFED = ("animals/mammals/deer", "animals/mammals/equines", "animals/mammals/camel")
_CARNIVORES = ("animals/mammals/cats", "animals/mammals/dogs", "animals/mammals/bears")
_VEHICLES = ("auto", "construction", "emergency", "masstransit", "race", "cycle")
_COINS = ("canadian/coins", "euro/coins", "japanese", "us/coins")

STAMP_CLASSES = (
    StampClass("bird", ("animals/birds",)),
    StampClass("fruit", ("food/fruit",)),
    StampClass("vehicle", (*(f"vehicles/{kind}" for kind in _VEHICLES), "military/vehicles"), without=("f22_raptor",)),
    StampClass("flower", ("plants/flowers",)),
    StampClass("bovine", ("animals/mammals/bovines",)),
    StampClass("tool", ("household/tools",), without=("cementmixer",)),
    StampClass("coin", tuple(f"symbols/money/{country}" for country in _COINS)),
    StampClass("fish", ("animals/fish",), without=("lobster", "shrimp")),
    StampClass(
        "road sign",
        ("town/roadsigns",),
        without=("railroad_crossing", "stoplight_01_red", "stoplight_02_yellow", "stoplight_03_green", "traffic_cone"),
    ),
    StampClass("vegetable", ("food/vegetables",), without=("mushroom",)),
    StampClass("carnivore", _CARNIVORES),
    StampClass("instrument", tuple(f"hobbies/music/{kind}" for kind in ("string", "brass", "wind", "percussion"))),
    StampClass("planet", ("space/planets", "space/moon"), without=("0_sun",)),
    StampClass("hoofed animal", _HOOFED),
    StampClass("plant", ("plants", "plants/trees"), without=("holly_leaves", "pinecone", "rambutan")),
    StampClass("rodent or rabbit", ("animals/mammals/rodents",)),
    StampClass("gravestone", ("seasonal/halloween",), only=tuple(f"grave-{letter}" for letter in "abcdefghij")),
    StampClass("insect", ("animals/insects",), without=("Brown_slug", "Woodlouse", "bee")),
)
"""Classes of photographic cut-outs, in label order: class 1 is the first."""


def find_stamps(root: Path, classes: Sequence[StampClass] = STAMP_CLASSES) -> list[Stamp]:
    """Return the cut-outs of all classes, in the order of their labels and file names.

    Mirrored copies of other files are left out: they would come to both sides of a split.

    Args:
        root: the stamps' folder.
        classes: what to take.

    Raises:
        DataError: if a folder is missing, or a class has fewer than two cut-outs, so that it cannot be divided.
    """
    folders = [root / folder for kind in classes for folder in kind.folders]
    refuse_absent(folders, data="Tux Paint's stamps", layout=_LAYOUT, site=_SITE)
    stamps: list[Stamp] = []
    for label, kind in enumerate(classes, start=1):
        paths = [path for folder in kind.folders for path in sorted((root / folder).glob("*.png"))]
        taken = [path for path in paths if _is_taken(path.stem, kind)]
        if len(taken) < 2:
            raise DataError(
                f"The class {kind.name!r} has {len(taken)} stamps in {root}/{{{','.join(kind.folders)}}}, but two at "
                "least are needed, one for training and one for the test. Install tuxpaint-stamps-default whole."
            )
        stamps += [Stamp(path, label) for path in taken]
    return stamps


def divide_stamps(stamps: Sequence[Stamp], *, fraction: float, seed: int) -> tuple[list[Stamp], list[Stamp]]:
    """Return the cut-outs for training and for the test: no file is on both sides, every class on each.

    Args:
        stamps: of all classes, two of each at least.
        fraction: part of each class' files that is for the test, rounded down, but one file at least.
        seed: draws them.
    """
    train: list[Stamp] = []
    test: list[Stamp] = []
    for label in sorted({stamp.label for stamp in stamps}):
        files = [stamp for stamp in stamps if stamp.label == label]
        order = np.random.default_rng([seed, label]).permutation(len(files))
        count = max(1, int(len(files) * fraction))
        test += [files[place] for place in sorted(order[:count])]
        train += [files[place] for place in sorted(order[count:])]
    return train, test


def read_stamp(path: Path, *, most: int) -> "Image":
    """Return a cut-out as Pillow's RGBA image, cut to what is not transparent.

    Args:
        path: of the file.
        most: pixels that its longer side may have; larger ones are made smaller.

    Raises:
        DataError: if the file cannot be decoded, or nothing or all of it is transparent.
    """
    image = pillow_image(path).convert("RGBA")
    alpha = image.getchannel("A")
    box, (low, _) = alpha.getbbox(), alpha.getextrema()
    if box is None or low == 255:
        raise DataError(f"{path} is no cut-out: {'all' if box is None else 'nothing'} of it is transparent. Remove it.")
    image = image.crop(box)
    image.thumbnail((most, most))
    return image


def pillow_image(path: Path) -> "Image":
    """Return the loaded image of a file.

    Raises:
        DataError: if the file cannot be decoded.
        MissingExtraError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("pillow", "continual", "Reading image files") from error
    try:
        with Image.open(path) as image:
            image.load()
            # Pillow warns of palettes whose entries are transparent to a degree unless they are asked for like this.
            return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
    except Exception as error:  # Pillow lets through whatever its decoders meet in a damaged file
        raise DataError(f"{path} cannot be read as an image ({error}). Mend or remove the file.") from error


def _is_taken(name: str, kind: StampClass) -> bool:
    return (name in kind.only if kind.only else name not in kind.without) and not name.endswith("_mirror")
