"""Images and masks of published data sets: listed, counted, and all there before anything is learned."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pvision.errors import DataError

__all__ = ["Listing", "Pair", "check_listings"]

_SHOWN = 3


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
        name: what the data set calls them.
        image: the file of the image.
        mask: the file of the mask.
    """

    name: str
    image: Path
    mask: Path


class Listing(NamedTuple):
    """The images of one split.

    Attributes:
        source: the list or folder that names them, for errors.
        pairs: the images.
        published: how many the split has as its authors published it.
    """

    source: Path
    pairs: Sequence[Pair]
    published: int


def check_listings(train: Listing, test: Listing, *, data: str, site: str, complete: bool) -> None:
    """Refuse splits that are not as published, and files that are not there.

    Args:
        train: the training images.
        test: the test images.
        data: the name of the data set.
        site: where it is to be had.
        complete: whether both splits must have as many images as published; else none may be empty.

    Raises:
        DataError: naming the files, if a split has another number of images, lists one twice, shares one with the
            other, or an image or mask is missing.
    """
    for listing in (train, test):
        _refuse_count(listing, data=data, site=site, complete=complete)
        _refuse_missing(listing, data=data, site=site)
    if both := {pair.name for pair in train.pairs} & {pair.name for pair in test.pairs}:
        raise DataError(
            f"{data}: {len(both)} images are in {train.source} and in {test.source} ({_some(sorted(both))}), so that "
            "the test would measure what was learned by heart. Take the list of training images alone."
        )


def _refuse_count(listing: Listing, *, data: str, site: str, complete: bool) -> None:
    count, names = len(listing.pairs), [pair.name for pair in listing.pairs]
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise DataError(f"{data}: {listing.source} lists images twice ({_some(twice)}). List each once.")
    if not count or (complete and count != listing.published):
        remedy = "" if not count else ", or set data.complete to false: figures then compare with nothing published"
        raise DataError(
            f"{data}: {listing.source} has {count} images, but {listing.published} are published. Get the whole set at "
            f"{site}{remedy}."
        )


def _refuse_missing(listing: Listing, *, data: str, site: str) -> None:
    for kind, paths in (
        ("images", [pair.image for pair in listing.pairs]),
        ("masks", [pair.mask for pair in listing.pairs]),
    ):
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise DataError(
                f"{data}: {len(missing)} of the {len(paths)} {kind} of {listing.source} are missing: {_some(missing)}. "
                f"Unpack the whole archive, from {site}."
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
