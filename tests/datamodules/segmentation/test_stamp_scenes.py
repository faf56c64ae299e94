"""Stamps and the scenes that are drawn with them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvision.continual.masks import VOID
from pvision.datamodules.segmentation.backgrounds import divide_photographs, drawn_clouds, photographs
from pvision.datamodules.segmentation.stamp_files import (
    STAMP_CLASSES,
    Stamp,
    StampClass,
    divide_stamps,
    find_stamps,
    read_stamp,
)
from pvision.datamodules.segmentation.stamp_scenes import SceneSettings, draw_scene
from pvision.errors import DataError

CLASSES = (StampClass("disc", ("shapes",), without=("drawing",)), StampClass("bar", ("more/bars",), only=("a", "b")))


def cut_out(path, colour=(200, 30, 30), size=(20, 30)):
    """Write an opaque rectangle of a colour in a transparent frame."""
    pixels = np.zeros((*size, 4), np.uint8)
    pixels[4:-4, 3:-3] = (*colour, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("one", "two", "three", "drawing", "two_mirror", "cartoon/four"):
        cut_out(tmp_path / f"shapes/{name}.png")
    for name in ("a", "b", "c"):
        cut_out(tmp_path / f"more/bars/{name}.png")
    return tmp_path


def plain(side, random):
    return np.full((side, side, 3), 10, np.uint8)


def square(colour, side=16):
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[...] = (*colour, 255)
    return Image.fromarray(pixels)


def test_the_table_has_eighteen_classes_and_no_folder_twice():
    assert len(STAMP_CLASSES) == len({kind.name for kind in STAMP_CLASSES}) == 18
    folders = [folder for kind in STAMP_CLASSES for folder in kind.folders]
    assert len(folders) == len(set(folders))
    assert not [folder for folder in folders if "cartoon" in folder]


def test_drawings_mirrored_copies_cartoons_and_what_is_not_named_stay_out(folder):
    found = [(stamp.path.stem, stamp.label) for stamp in find_stamps(folder, CLASSES)]
    assert found == [("one", 1), ("three", 1), ("two", 1), ("a", 2), ("b", 2)]


def test_a_missing_folder_is_named_with_the_package_that_brings_it(folder):
    with pytest.raises(DataError, match=r"there is no .*/nothing\. Expected is .*tuxpaint-stamps-default"):
        find_stamps(folder, (StampClass("x", ("nothing",)),))


def test_a_class_that_cannot_be_divided_is_refused(folder):
    with pytest.raises(DataError, match="'bar' has 1 stamps"):
        find_stamps(folder, (StampClass("bar", ("more/bars",), only=("a",)),))


@given(
    counts=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_no_stamp_is_on_both_sides_and_each_class_is_on_each(counts, fraction, seed):
    stamps = [Stamp(f"{label}/{n}", label) for label, count in enumerate(counts, 1) for n in range(count)]
    train, test = divide_stamps(stamps, fraction=fraction, seed=seed)
    assert sorted(train + test) == sorted(stamps)
    for side in (train, test):
        assert set(Counter(stamp.label for stamp in side)) == set(range(1, len(counts) + 1))


def test_another_seed_draws_another_split():
    stamps = [Stamp(str(n), 1) for n in range(10)]
    assert len({str(divide_stamps(stamps, fraction=0.3, seed=seed)) for seed in range(5)}) > 1


def test_a_stamp_is_cut_to_what_is_seen_and_made_smaller(tmp_path):
    stamp = read_stamp(cut_out(tmp_path / "a.png", size=(200, 100)), most=50)
    assert stamp.mode == "RGBA"
    assert max(stamp.size) == 50
    assert stamp.getchannel("A").getextrema() == (255, 255)


def test_palettes_and_grey_with_transparency_are_read(tmp_path):
    image = Image.open(cut_out(tmp_path / "a.png"))
    image.convert("LA").save(tmp_path / "grey.png")
    image.convert("RGB").quantize(4).save(tmp_path / "palette.png", transparency=b"\0\x80\xff\xff")
    assert read_stamp(tmp_path / "grey.png", most=50).mode == "RGBA"
    assert read_stamp(tmp_path / "palette.png", most=50).mode == "RGBA"


@pytest.mark.parametrize(("alpha", "how_much"), [(0, "all"), (255, "nothing")])
def test_what_is_no_cut_out_is_refused(tmp_path, alpha, how_much):
    Image.new("RGBA", (5, 5), (1, 2, 3, alpha)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png is no cut-out: {how_much} of it is transparent"):
        read_stamp(tmp_path / "a.png", most=50)


def test_a_damaged_stamp_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        read_stamp(tmp_path / "a.png", most=50)


def scene(seed=0, *, objects=(2, 3), side=48, background=plain):
    stamps = {1: [square((250, 0, 0))], 2: [square((0, 250, 0))]}
    return draw_scene(stamps, background, settings=SceneSettings(side, objects), seed=(seed,))


def test_a_scene_is_a_function_of_its_seed():
    one, same, other = scene(1), scene(1), scene(2)
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.mask, same.mask)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("background", [plain, drawn_clouds])
def test_a_scene_has_the_size_and_types_of_its_kind(background):
    made = scene(3, background=background)
    assert (made.image.shape, made.mask.shape) == ((48, 48, 3), (48, 48))
    assert made.image.dtype == made.mask.dtype == np.uint8


def test_the_mask_says_what_the_pixels_show():
    shown = set()
    for seed in range(12):
        image, mask = scene(seed)
        red, green = image[mask == 1], image[mask == 2]
        # Opaque pixels have their stamp's hue, and where nothing was pasted the background is untouched.
        assert (red[:, 0] > 100).all()
        assert (red[:, 1] < 100).all()
        assert (green[:, 1] > 100).all()
        assert (image[mask == 0] < 130).all()  # a quarter of a stamp, twice
        shown |= set(np.unique(mask).tolist())
    assert shown == {0, 1, 2, VOID}


def test_void_lies_at_edges_only():
    _, mask = scene(0, objects=(1, 1))
    rows, columns = np.nonzero(mask == VOID)
    assert len(rows)
    for row, column in zip(rows, columns, strict=True):
        around = mask[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        assert (around == 0).any()


def test_a_scene_without_objects_is_background():
    image, mask = scene(0, objects=(0, 0))
    assert not mask.any()
    assert (image == 10).all()


def test_clouds_are_neither_flat_nor_alike():
    made = [drawn_clouds(32, np.random.default_rng(seed)) for seed in range(4)]
    assert all(cloud.std() > 5 for cloud in made)
    assert len({cloud.tobytes() for cloud in made}) == 4


def test_photographs_are_divided_by_file_and_cut_to_squares(tmp_path):
    for number in range(5):
        Image.new("RGB", (60 + number, 300), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").touch()
    train, test = divide_photographs(tmp_path, fraction=0.4, seed=0)
    assert (len(train), len(test)) == (3, 2)
    assert not set(train) & set(test)
    part = photographs(train)
    cuts = [part(24, np.random.default_rng(seed)) for seed in range(20)]
    assert {cut.shape for cut in cuts} == {(24, 24, 3)}
    assert {int(cut[0, 0, 0]) for cut in cuts} == {40 * int(path.stem) for path in train}
    assert np.array_equal(part(24, np.random.default_rng(0)), cuts[0])


def test_one_photograph_is_too_few(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="holds 1 photographs"):
        divide_photographs(tmp_path, fraction=0.5, seed=0)
