"""The format of rendered yards: what was written comes back, what was damaged is refused, and what ships."""

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.datamodules.rendered_yard import storage
from pvision.datamodules.rendered_yard.camera import SIZE
from pvision.datamodules.rendered_yard.labels import CLASS_NAMES, KINDS, PARTS, label_of
from pvision.datamodules.rendered_yard.painting import SHADES, paint
from pvision.datamodules.rendered_yard.palette import draw_colors
from pvision.datamodules.rendered_yard.scenes import draw_scene, generator
from pvision.datamodules.rendered_yard.stage import Picture
from pvision.datamodules.rendered_yard.storage import load_facts, load_yard, read_manifest
from pvision.datamodules.rendered_yard.writer import write_manifest, write_split
from pvision.errors import ConfigError, DataError

SHIPPED = Path(storage.__file__).parent
NAMES = ["map.xz", "shades.xz", "colors.xz", "facts.json.xz"]
COUNTS = {"train": 1200, "test": 400}
PINNED = [[143.44, 108.41, 114.86], [111.2, 115.08, 103.07], [125.36, 89.02, 117.43], [76.04, 88.9, 89.65]]
"""Mean red, green and blue of the first test pictures."""

_LOADED = {}


def shipped(split):
    """A split of the shipped set, loaded once."""
    if split not in _LOADED:
        _LOADED[split] = load_yard(split)
    return _LOADED[split]


def rendered(index, rng):
    """A scene with a made-up picture, as if it had been rendered."""
    scene = draw_scene("train", index, 0)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for item in scene.objects:
        for name in PARTS[item.kind]:
            top, left = rng.integers(0, SIZE - 9), rng.integers(0, SIZE - 9)
            labels[top : top + 9, left : left + 9] = label_of(name)
    return scene, Picture(labels, rng.integers(0, SHADES, (labels > 0).sum()).astype(np.uint8))


def write(folder, made):
    write_split(folder, "train", made, seed=0)
    write_manifest(folder, seed=0, scenes={"train": len(made)})


@settings(max_examples=10)  # the xz encoder takes its time
@given(count=st.integers(0, 3), limit=st.integers(0, 3), seed=st.integers(0, 99))
def test_what_is_written_comes_back_bit_for_bit(tmp_path_factory, count, limit, seed):
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(seed)
    made = [rendered(index, rng) for index in range(count)]
    write(folder, made)
    limit = min(limit, count)
    for wanted in (None, limit):
        images, masks = load_yard("train", folder, limit=wanted)
        assert len(images) == len(masks) == (count if wanted is None else limit)
        for index, (scene, picture) in enumerate(made[: len(images)]):
            colors = draw_colors(generator("train", index, 0, "colors"), [item.kind for item in scene.objects])
            surroundings = generator("train", index, 0, "surroundings")
            assert np.array_equal(masks[index], picture.labels)
            assert np.array_equal(images[index], paint(*picture, colors, scene.camera, surroundings))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_shipped_set_has_the_announced_pictures(split):
    images, masks = shipped(split)
    assert images.shape == (COUNTS[split], 64, 64, 3)
    assert masks.shape == (COUNTS[split], 64, 64)
    assert images.dtype == masks.dtype == np.uint8
    assert images.flags.writeable
    assert masks.flags.writeable
    assert read_manifest().counts == COUNTS


@pytest.mark.parametrize("split", ["train", "test"])
def test_each_class_is_in_many_pictures_and_no_other_label_is(split):
    masks = shipped(split).masks
    pixels = np.bincount(masks.ravel(), minlength=11)
    assert len(pixels) == 1 + len(CLASS_NAMES)
    pictures = [(masks == label).any((1, 2)).mean() for label in range(1, 11)]
    assert min(pictures) > 0.25
    assert pixels[1:].min() > 0.005 * masks.size
    assert 0.7 < pixels[0] / masks.size < 0.85
    assert min(len(np.unique(mask)) for mask in masks) >= 2, "a picture without any object"


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_those_of_the_scenes_objects(split):
    for mask, kinds in zip(shipped(split).masks, load_facts(split).kinds, strict=True):
        allowed = {0, *(label_of(name) for kind in kinds for name in PARTS[kind])}
        assert set(np.unique(mask).tolist()) <= allowed


def test_the_colours_of_the_pictures_agree_with_the_masks():
    """Each class has its own colours in the pictures, where its mask says it is."""
    images, masks = shipped("train")
    means = np.array([images[masks == label].mean(0) for label in range(1, 11)])
    red, green, blue = (dict(zip(CLASS_NAMES, column, strict=True)) for column in means.T)
    assert np.argmin(means.sum(1)) == label_of("wheel") - 1
    assert red["vehicle"] > 1.5 * blue["vehicle"]
    assert red["shirt"] > 2 * blue["shirt"]
    assert red["skin"] > green["skin"] > blue["skin"]
    assert blue["drum"] > 1.5 * red["drum"]
    assert red["ball"] > 1.2 * green["ball"]


def test_what_is_painted_stays_what_it_was():
    """Measurements are published on these pictures: who changes a number here changes the data set."""
    means = shipped("test").images[:4].mean((1, 2)).round(2).tolist()
    assert means == PINNED


def test_test_views_are_held_out_of_training():
    for split in ("train", "test"):
        facts = load_facts(split)
        aspects = np.array([aspect for row in facts.aspect for aspect in row])
        phases = np.array([phase for row in facts.phase for phase in row])
        assert (((aspects % 90 >= 33.75) & (aspects % 90 < 56.25)) == (split == "test")).all()
        assert (((phases >= 0.4) & (phases < 0.6)) == (split == "test")).all()
        # Not by leaving views out: each quarter turn is well filled.
        assert np.bincount(aspects.astype(int) // 90).min() > len(aspects) / 5


def test_no_scene_is_there_twice():
    masks = [mask.tobytes() for split in COUNTS for mask in shipped(split).masks]
    assert len(set(masks)) == sum(COUNTS.values())


@given(split=st.sampled_from(sorted(COUNTS)), index=st.integers(0, 399))
def test_each_scenes_facts_follow_from_seed_split_and_number(split, index):
    facts, scene = facts_once(split), draw_scene(split, index, read_manifest().seed)
    assert (facts.height[index], facts.pitch[index]) == scene.camera
    assert facts.kinds[index] == [item.kind for item in scene.objects]
    assert facts.performance[index] == [item.performance for item in scene.objects]
    assert facts.aspect[index] == pytest.approx([item.aspect for item in scene.objects], abs=0.011)
    assert facts.phase[index] == pytest.approx([item.phase for item in scene.objects], abs=0.0011)


_FACTS = {}


def facts_once(split):
    if split not in _FACTS:
        _FACTS[split] = load_facts(split)
    return _FACTS[split]


def test_the_first_pictures_are_the_same_whatever_the_limit():
    few = load_yard("test", limit=7)
    assert all(np.array_equal(some, every[:7]) for some, every in zip(few, shipped("test"), strict=True))
    assert len(load_yard("test", limit=0).images) == 0


def test_the_shipped_files_are_small_and_hold_no_pickles():
    files = [path for path in SHIPPED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 1_000_000
    assert {path.suffix for path in files} == {".py", ".xz", ".json"}
    assert {path.name for path in files if path.suffix == ".xz"} == set(read_manifest().files)


def test_the_manifest_names_the_classes():
    content = json.loads((SHIPPED / "manifest.json").read_text())
    assert tuple(content["class_names"]) == CLASS_NAMES
    assert {kind for row in load_facts("test").kinds for kind in row} == set(KINDS)


@pytest.fixture
def copied(tmp_path):
    """The shipped test split in a folder of its own."""
    for path in SHIPPED.glob("test.*"):
        shutil.copy(path, tmp_path)
    shutil.copy(SHIPPED / "manifest.json", tmp_path)
    return tmp_path


def test_an_undamaged_copy_loads(copied):
    mine = load_yard("test", copied, limit=3)
    assert all(np.array_equal(some, every[:3]) for some, every in zip(mine, shipped("test"), strict=True))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [flip_a_bit, cut, empty, Path.unlink])
def test_a_damaged_or_missing_file_is_named_with_cause_and_remedy(copied, name, damage):
    damage(copied / f"test.{name}")
    cause = "cannot be read" if damage is Path.unlink else "is not the file that was written"
    with pytest.raises(DataError, match=r"python -m pvision\.datamodules\.rendered_yard") as caught:
        load_yard("test", copied, limit=3)
    assert f"{copied / f'test.{name}'} {cause}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": "pvision-rendered-yard", "version": 1}',
        '{"format": "pvision-rendered-yard", "version": 2}',
        '{"format": "pvision-rendered", "version": 1}',
    ],
)
def test_a_damaged_manifest_is_named(copied, text):
    (copied / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_yard("test", copied)


@pytest.mark.parametrize(
    "change", [{"scenes": []}, {"scenes": {"test": "many"}}, {"seed": None}, {"files": [1]}, {"files": {}}]
)
def test_a_wrong_entry_of_the_manifest_is_refused(copied, change):
    content = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_yard("test", copied)


@pytest.mark.parametrize("content", [b"", b"not xz", lzma.compress(b"too short"), lzma.compress(b"[1]")])
@pytest.mark.parametrize("name", NAMES)
def test_files_that_match_the_manifest_but_hold_something_else_are_refused(copied, name, content):
    (copied / f"test.{name}").write_bytes(content)
    write_manifest(copied, seed=0, scenes={"test": 400})
    with pytest.raises(DataError, match=name):
        load_yard("test", copied)


@pytest.mark.parametrize(
    "change",
    [
        {"height": []},
        {"height": ["high"]},
        {"height": [-1.0]},
        {"pitch": [float("nan")]},
        {"pitch": [90.0]},
        {"kinds": 5},
        {"kinds": []},
        {"aspect": [[10.0], [10.0]]},
        {"more": [1]},
    ],
)
def test_facts_that_describe_no_scene_are_refused(tmp_path, change):
    write(tmp_path, [rendered(0, np.random.default_rng(0))])
    facts = load_facts("train", tmp_path)._asdict()
    (tmp_path / "train.facts.json.xz").write_bytes(lzma.compress(json.dumps(facts | change).encode()))
    write_manifest(tmp_path, seed=0, scenes={"train": 1})
    with pytest.raises(DataError, match=r"facts\.json\.xz"):
        load_yard("train", tmp_path)


@pytest.mark.parametrize("label", [11, 255])
def test_a_label_that_is_no_class_is_refused(tmp_path, label):
    scene, picture = rendered(0, np.random.default_rng(0))
    picture.labels[picture.labels > 0] = label
    write(tmp_path, [(scene, picture)])
    with pytest.raises(DataError, match=r"map\.xz has labels above 10"):
        load_yard("train", tmp_path)


def test_light_that_is_no_step_is_refused(tmp_path):
    scene, picture = rendered(0, np.random.default_rng(0))
    write(tmp_path, [(scene, picture._replace(shades=picture.shades + np.uint8(SHADES)))])
    with pytest.raises(DataError, match=r"shades\.xz has steps of light above 15"):
        load_yard("train", tmp_path)


def test_a_folder_without_a_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no rendered yard set"):
        load_yard("train", tmp_path / "nowhere")


@pytest.mark.parametrize(("split", "limit"), [("val", None), ("test", 401), ("test", -1), ("test", True)])
def test_a_wrong_split_or_limit_is_refused(split, limit):
    with pytest.raises(ConfigError):
        load_yard(split, limit=limit)
