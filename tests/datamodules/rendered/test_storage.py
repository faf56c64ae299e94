"""The format of RenderedModalities: what was written comes back, and what was damaged is refused."""

import json
import lzma
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.datamodules.rendered import storage
from pvision.datamodules.rendered.camera import HEIGHT, WIDTH
from pvision.datamodules.rendered.geometry import SHADES, Geometry, owners
from pvision.datamodules.rendered.objects import KINDS
from pvision.datamodules.rendered.scenes import draw_scene
from pvision.datamodules.rendered.storage import Facts, load_scenes, read_manifest
from pvision.datamodules.rendered.weather import SPLITS
from pvision.datamodules.rendered.writer import surface_table, write_manifest, write_split
from pvision.errors import ConfigError, DataError

SHIPPED = Path(storage.__file__).parent
NAMES = ["map.xz", "shades.xz", "depths.xz", "surfaces.xz", "facts.json.xz"]


def rendered(index, rng):
    """A scene with a made-up picture, as if it had been rendered."""
    scene = draw_scene("val", index, 0)
    kinds = [item.kind for item in scene.objects]
    maps = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value in range(len(owners(kinds))):
        top, left = rng.integers(0, HEIGHT - 9), rng.integers(0, WIDTH - 9)
        maps[top : top + 9, left : left + 9] = value
    pixels = int((maps > 0).sum())
    shades = rng.integers(0, SHADES, pixels).astype(np.uint8)
    depths = rng.integers(0, 256, pixels).astype(np.uint8)
    return scene, Geometry(maps, shades, depths, rng.integers(300, 900, len(kinds)).tolist(), [1.0] * len(kinds))


def write(folder, made, split="val"):
    write_split(folder, split, made)
    write_manifest(folder, seed=0, scenes={split: len(made)})


@settings(max_examples=10)  # the xz encoder takes its time
@given(count=st.integers(0, 3), limit=st.integers(0, 3), seed=st.integers(0, 99))
def test_what_is_written_comes_back_bit_for_bit(tmp_path_factory, count, limit, seed):
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(seed)
    made = [rendered(index, rng) for index in range(count)]
    write(folder, made)
    limit = min(limit, count)
    for wanted in (None, limit):
        loaded = load_scenes("val", folder, limit=wanted)
        assert len(loaded) == (count if wanted is None else limit)
        for index in range(len(loaded)):
            scene, geometry = made[index]
            assert all(np.array_equal(a, b) for a, b in zip(loaded[index].geometry, geometry, strict=True))
            assert np.array_equal(loaded[index].table, surface_table(scene))
            assert loaded[index].kinds == [item.kind for item in scene.objects]
            assert loaded[index].camera == scene.camera


@pytest.mark.parametrize(("split", "count"), [("train", 1000), ("val", 200), ("test", 400)])
def test_the_shipped_set_has_the_announced_scenes(split, count):
    assert read_manifest().scenes[split] == count
    scenes = load_scenes(split)
    assert len(scenes) == count
    kinds = np.bincount([kind for kinds in scenes.facts.kinds for kind in kinds], minlength=len(KINDS))
    assert kinds.min() > count / 2


def test_the_scenes_for_a_detector_are_not_shipped():
    assert read_manifest().scenes.get("detector", 0) == 0
    with pytest.raises(ConfigError, match="the set has 0"):
        load_scenes("detector", limit=1)


def test_the_shipped_files_are_small_and_hold_no_pickles():
    files = [path for path in SHIPPED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert {path.suffix for path in files} == {".py", ".xz", ".json"}
    assert {path.name for path in files if path.suffix == ".xz"} == set(read_manifest().files)


def test_test_views_are_held_out_of_training():
    for split in ("train", "val", "test"):
        facts = load_scenes(split).facts
        aspects = np.array([aspect for row in facts.aspect for aspect in row])
        phases = np.array([phase for row in facts.phase for phase in row])
        assert ((aspects % 90 >= 67.5) == (split == "test")).all()
        assert (((phases >= 0.4) & (phases < 0.6)) == (split == "test")).all()
        # Not by leaving views out: each quarter turn is well filled.
        assert np.bincount(aspects.astype(int) // 90).min() > len(aspects) / 5


def test_no_scene_is_in_two_splits():
    maps = {}
    for split in ("train", "val", "test"):
        scenes = load_scenes(split)
        maps[split] = {scenes[index].geometry.map.tobytes() for index in range(len(scenes))}
        assert len(maps[split]) == len(scenes)
    assert not maps["train"] & maps["val"]
    assert not maps["train"] & maps["test"]
    assert not maps["val"] & maps["test"]


@given(split=st.sampled_from(("train", "val", "test")), index=st.integers(0, 199))
def test_each_scenes_facts_follow_from_seed_split_and_number(split, index):
    facts, scene = facts_once(split), draw_scene(split, index, read_manifest().seed)
    assert (facts.height[index], facts.pitch[index]) == scene.camera
    assert facts.kinds[index] == [item.kind for item in scene.objects]
    assert facts.performance[index] == [item.performance for item in scene.objects]
    assert facts.aspect[index] == pytest.approx([item.aspect for item in scene.objects], abs=0.11)
    assert facts.phase[index] == pytest.approx([item.phase for item in scene.objects], abs=0.0011)


_FACTS: dict[str, Facts] = {}


def facts_once(split):
    if split not in _FACTS:
        _FACTS[split] = load_scenes(split).facts
    return _FACTS[split]


@pytest.fixture
def copied(tmp_path):
    """The shipped validation split in a folder of its own."""
    for path in SHIPPED.glob("val.*"):
        shutil.copy(path, tmp_path)
    shutil.copy(SHIPPED / "manifest.json", tmp_path)
    return tmp_path


def test_an_undamaged_copy_loads(copied):
    mine, shipped = load_scenes("val", copied, limit=3), load_scenes("val", limit=3)
    for index in range(3):
        assert np.array_equal(mine[index].geometry.map, shipped[index].geometry.map)
        assert np.array_equal(mine[index].table, shipped[index].table)


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
def test_a_damaged_or_missing_file_is_named_with_the_remedy(copied, name, damage):
    damage(copied / f"val.{name}")
    with pytest.raises(DataError, match=r"python -m pvision\.datamodules\.rendered") as caught:
        load_scenes("val", copied, limit=3)
    assert str(copied / f"val.{name}") in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": "pvision-rendered", "version": 1}',
        '{"format": "pvision-rendered", "version": 2}',
        '{"format": "pvision-mocap", "version": 1}',
    ],
)
def test_a_damaged_manifest_is_named(copied, text):
    (copied / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_scenes("val", copied)


@pytest.mark.parametrize(
    "change", [{"scenes": []}, {"scenes": {"val": "many"}}, {"seed": None}, {"files": [1]}, {"files": {}}]
)
def test_a_wrong_entry_of_the_manifest_is_refused(copied, change):
    content = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_scenes("val", copied)


@pytest.mark.parametrize("content", [b"", b"not xz", lzma.compress(b"too short"), lzma.compress(b"[1]")])
@pytest.mark.parametrize("name", NAMES)
def test_files_that_match_the_manifest_but_hold_something_else_are_refused(copied, name, content):
    (copied / f"val.{name}").write_bytes(content)
    write_manifest(copied, seed=0, scenes={"val": 200})
    with pytest.raises(DataError, match=name):
        load_scenes("val", copied)


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": [[9]]},
        {"kinds": [[-1]]},
        {"kinds": [[0, 0]]},
        {"kinds": [["person"]]},
        {"kinds": []},
        {"kinds": [5]},
        {"more": [1]},
    ],
)
def test_facts_that_do_not_fit_each_other_are_refused(tmp_path, change):
    facts = {"height": [1.0], "pitch": [5.0], "kinds": [[0]], "anchors": [[300]], "shares": [[1.0]]}
    facts |= {"aspect": [[10.0]], "phase": [[0.1]], "performance": [[2]]}
    write(tmp_path, [rendered(0, np.random.default_rng(0))])
    (tmp_path / "val.facts.json.xz").write_bytes(lzma.compress(json.dumps(facts | change).encode()))
    write_manifest(tmp_path, seed=0, scenes={"val": 1})
    with pytest.raises(DataError, match=r"facts\.json\.xz"):
        load_scenes("val", tmp_path)


def test_a_map_that_names_surfaces_which_its_scene_lacks_is_refused(tmp_path):
    scene, geometry = rendered(0, np.random.default_rng(0))
    geometry.map[0, 0] = 255
    pixels = np.zeros((geometry.map > 0).sum(), np.uint8)
    write(tmp_path, [(scene, geometry._replace(shades=pixels, depths=pixels))])
    with pytest.raises(DataError, match=r"map\.xz"):
        load_scenes("val", tmp_path)


def test_a_folder_without_a_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no RenderedModalities set"):
        load_scenes("train", tmp_path / "nowhere")


@pytest.mark.parametrize(("split", "limit"), [("pretraining", None), ("val", 201), ("val", -1), ("val", True)])
def test_a_wrong_split_or_limit_is_refused(split, limit):
    with pytest.raises(ConfigError):
        load_scenes(split, limit=limit)


def test_data_errors_travel_between_processes(tmp_path):
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_splits_have_names():
    assert SPLITS == ("train", "val", "test", "detector"), "their order is part of each scene's seed"
