"""Listings of published sets: counted, compared, and every file there."""

import pytest

from pvision.datamodules.segmentation.published import Listing, Pair, check_listings
from pvision.errors import DataError


@pytest.fixture
def listing(tmp_path):
    def make(names, *, published, source="train.txt", leave_out=()):
        pairs = [Pair(name, tmp_path / f"{name}.jpg", tmp_path / f"{name}.png") for name in names]
        for pair in pairs:
            for path in (pair.image, pair.mask):
                if path.name not in leave_out:
                    path.touch()
        return Listing(tmp_path / source, pairs, published)

    return make


def check(train, test, *, complete=True):
    check_listings(train, test, data="The set", site="its site", complete=complete)


def test_complete_splits_pass(listing):
    check(listing("abc", published=3), listing("de", published=2))


def test_another_number_of_images_is_refused_unless_a_part_is_wanted(listing):
    train, test = listing("ab", published=3), listing("de", published=2)
    with pytest.raises(DataError, match=r"train\.txt has 2 images, but 3 are published.*data\.complete to false"):
        check(train, test)
    check(train, test, complete=False)
    with pytest.raises(DataError, match=r"val\.txt has 0 images"):
        check(train, listing("", published=2, source="val.txt"), complete=False)


def test_missing_files_are_counted_and_named(listing):
    train = listing("abcdef", published=6, leave_out=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    with pytest.raises(DataError, match=r"4 of the 6 images of .*train\.txt are missing: .*a\.jpg, .*c\.jpg, …\. "):
        check(train, listing("g", published=1))
    with pytest.raises(DataError, match=r"1 of the 2 masks of .* are missing: \S*h\.png\. Unpack"):
        check(listing("k", published=1), listing("gh", published=2, leave_out=["h.png"]))


def test_an_image_of_both_splits_is_refused(listing):
    with pytest.raises(DataError, match=r"1 images are in .*train\.txt and in .*val\.txt \(b\)"):
        check(listing("ab", published=2), listing("bc", published=2, source="val.txt"))


def test_an_image_that_is_listed_twice_is_refused(listing):
    with pytest.raises(DataError, match=r"lists images twice \(a\)"):
        check(listing("aab", published=3), listing("c", published=1))
