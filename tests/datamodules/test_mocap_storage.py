"""The format of MocapActions: what was written comes back, and what was damaged is refused."""

import json
import lzma
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pvision.datamodules.mocap import storage
from pvision.datamodules.mocap.body import CLASS_NAMES, PARTS, SHIRT, SKIN
from pvision.datamodules.mocap.palette import COLORS, IndexedClip, garments, paint, parts_of, posterize
from pvision.datamodules.mocap.scenes import SPLITS, draw_scene
from pvision.datamodules.mocap.storage import load_clips, load_facts, read_manifest
from pvision.datamodules.mocap.writer import new_folder, write_manifest, write_split
from pvision.errors import ConfigError, DataError

SHIPPED = Path(storage.__file__).parent
# No body part has the value 1, so no map has 16.
MAP_VALUES = st.sampled_from([*range(16), *range(17, 32)])


@st.composite
def indexed_clips(draw, frames=3, height=5):
    maps = draw(arrays.arrays(np.uint8, (frames, height, height), elements=MAP_VALUES))
    shades = draw(arrays.arrays(np.uint8, int((maps >= 16).sum()), elements=st.integers(0, 15)))
    return IndexedClip(maps, shades, draw(arrays.arrays(np.uint8, (COLORS, 3))))


def slow_paint(clip):
    """The obvious twin: pixel by pixel."""
    video = np.zeros((*clip.map.shape, 3), np.uint8)
    shades = iter(clip.shades.tolist())
    for place in np.ndindex(clip.map.shape):
        value = int(clip.map[place])
        if value < 16:
            video[place] = clip.colors[value]
        else:
            part = value - 15
            garment = 16 if part in SKIN else 17 if part in SHIRT else 18
            brightness = 0.5625 + (next(shades) + 0.5) * (1 - 0.5625) / 16
            video[place] = np.rint(clip.colors[garment] * brightness)
    return video


def write(folder, clips):
    scenes = [draw_scene("synthetic", index, 0) for index in range(len(clips))]
    write_split(folder, "synthetic", zip(scenes, clips, strict=True), frames=3)
    write_manifest(folder, seed=0, frames=3, size=5, clips={"synthetic": len(clips)})


@given(clip=indexed_clips())
def test_painting_equals_its_slow_twin(clip):
    painted = paint(clip.map[None], clip.shades, clip.colors[None])
    assert np.array_equal(painted[0], slow_paint(clip))


@given(clips=st.lists(indexed_clips(), max_size=3), limit=st.integers(0, 3))
def test_what_is_written_comes_back_bit_for_bit(tmp_path_factory, clips, limit):
    folder = tmp_path_factory.mktemp("set")
    write(folder, clips)
    limit = min(limit, len(clips))
    for count in (None, limit):
        loaded = load_clips("synthetic", folder, limit=count)
        expected = clips if count is None else clips[:count]
        assert len(loaded.video) == len(loaded.parts) == len(loaded.label) == len(expected)
        for video, parts, clip in zip(loaded.video, loaded.parts, expected, strict=True):
            assert np.array_equal(parts.numpy(), np.maximum(clip.map.astype(int) - 15, 0))
            assert np.array_equal(video.numpy(), slow_paint(clip))
        assert loaded.label.tolist() == list(range(len(expected)))


def picture(rng, colors):
    """A background of ``colors`` random colours, and a body in shaded garments."""
    scene = draw_scene("synthetic", 3, 0)
    parts = rng.choice([0, 0, *range(2, 17)], (2, 12, 12)).astype(np.uint8)
    video = rng.integers(0, 256, (colors, 3), np.uint8)[rng.integers(0, colors, parts.shape)]
    full = 255 * np.array(garments(scene))[parts]
    shade = rng.uniform(0.57, 1, (*parts.shape, 1))
    return np.where(parts[..., None] > 0, np.rint(full * shade), video).astype(np.uint8), parts, scene


@pytest.mark.parametrize("colors", [1, 5, 16])
def test_posterizing_keeps_parts_and_background_exactly_and_the_body_nearly(colors):
    video, parts, scene = picture(np.random.default_rng(colors), colors)
    clip = posterize(video, parts, scene)
    painted = paint(clip.map[None], clip.shades, clip.colors[None])[0]
    assert np.array_equal(parts_of(clip.map), parts)
    assert np.array_equal(painted[parts == 0], video[parts == 0])
    assert np.abs(painted.astype(int) - video)[parts > 0].max() <= 5


def test_more_background_colours_than_fit_become_the_nearest_kept_one():
    video, parts, scene = picture(np.random.default_rng(0), 40)
    clip = posterize(video, parts, scene)
    painted = paint(clip.map[None], clip.shades, clip.colors[None])[0]
    assert np.array_equal(parts_of(clip.map), parts)
    distance = ((video[parts == 0][:, None].astype(int) - clip.colors[:16]) ** 2).sum(-1)
    chosen = ((video[parts == 0].astype(int) - painted[parts == 0]) ** 2).sum(-1)
    assert np.array_equal(chosen, distance.min(1))


def test_a_clip_without_background_or_without_body_is_kept():
    video, parts, scene = picture(np.random.default_rng(0), 3)
    for chosen in (np.zeros_like(parts), np.full_like(parts, 4)):
        clip = posterize(video, chosen, scene)
        assert np.array_equal(parts_of(clip.map), chosen)
        assert paint(clip.map[None], clip.shades, clip.colors[None]).shape == (1, *video.shape)


@pytest.mark.parametrize(("split", "count"), [("train", 6000), ("test", 1200), ("synthetic", 2400)])
def test_the_shipped_set_has_the_announced_clips(split, count):
    assert read_manifest().clips[split] == count
    facts = load_facts(split)
    classes = 160 if split == "synthetic" else len(CLASS_NAMES)
    assert np.bincount(facts.label).tolist() == [count // classes] * classes
    few = load_clips(split, limit=2 * classes)
    assert few.video.shape == (2 * classes, 8, 48, 48, 3)
    assert few.video.dtype == few.parts.dtype == torch.uint8
    assert few.label.tolist() == facts.label[: 2 * classes]
    assert set(few.parts.unique().tolist()) <= {0, *range(2, len(PARTS))}
    assert (few.parts > 0).flatten(1).any(1).all(), "a clip shows nobody"


def test_the_shipped_files_leave_room_in_the_wheel():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir() if path.is_file()) <= 18_000_000
    assert not [path for path in SHIPPED.iterdir() if path.suffix in (".pkl", ".pt", ".npz")]


@pytest.fixture
def copied(tmp_path):
    """The shipped test split in a folder of its own."""
    for path in SHIPPED.glob("test.*"):
        shutil.copy(path, tmp_path)
    shutil.copy(SHIPPED / "manifest.json", tmp_path)
    return tmp_path


def test_an_undamaged_copy_loads(copied):
    mine, shipped = load_clips("test", copied, limit=3), load_clips("test", limit=3)
    assert all(torch.equal(a, b) for a, b in zip(mine, shipped, strict=True))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["test.map.xz", "test.shades.xz", "test.colors.xz", "test.facts.json.xz"])
@pytest.mark.parametrize("damage", [flip_a_bit, cut, empty, Path.unlink])
def test_a_damaged_or_missing_file_is_named_with_the_remedy(copied, name, damage):
    damage(copied / name)
    with pytest.raises(DataError, match=r"python -m pvision\.datamodules\.mocap") as caught:
        load_clips("test", copied, limit=3)
    assert str(copied / name) in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "cause"), [(flip_a_bit, "not the file that was written"), (Path.unlink, "cannot be read")]
)
def test_what_is_wrong_with_the_facts_is_told(copied, damage, cause):
    damage(copied / "test.facts.json.xz")
    with pytest.raises(DataError, match=cause):
        load_facts("test", copied)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": "pvision-mocap", "version": 1}',
        '{"format": "pvision-mocap", "version": 2}',
    ],
)
def test_a_damaged_manifest_is_named(copied, text):
    (copied / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_clips("test", copied)


@pytest.mark.parametrize("change", [{"clips": []}, {"clips": {"test": "many"}}, {"size": None}, {"files": [1]}])
def test_a_wrong_entry_of_the_manifest_is_refused(copied, change):
    content = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_clips("test", copied)


@pytest.mark.parametrize("content", [b"", b"not xz", lzma.compress(b"too short"), lzma.compress(b"[1]")])
def test_files_that_match_the_manifest_but_hold_something_else_are_refused(copied, content):
    for name in ("test.map.xz", "test.facts.json.xz"):
        shutil.copy(SHIPPED / name, copied)
        (copied / name).write_bytes(content)
        write_manifest(copied, seed=0, frames=8, size=48, clips={"test": 1200})
        with pytest.raises(DataError, match=name):
            load_clips("test", copied, limit=3)
        shutil.copy(SHIPPED / name, copied)


def test_a_folder_without_a_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no MocapActions set"):
        load_clips("train", tmp_path / "nowhere")


@pytest.mark.parametrize(("split", "limit"), [("val", None), ("test", 1201), ("test", -1), ("test", True)])
def test_a_wrong_split_or_limit_is_refused(split, limit):
    with pytest.raises(ConfigError):
        load_clips(split, limit=limit)


def test_data_errors_travel_between_processes(tmp_path):
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_test_views_are_held_out_of_training():
    train, test = load_facts("train"), load_facts("test")
    assert max(angle % 90 for angle in train.azimuth) < 67.5 <= min(angle % 90 for angle in test.azimuth)
    assert all(0.4 <= phase < 0.6 for phase in test.phase)
    assert not any(0.4 <= phase < 0.6 for phase in train.phase)
    # Not by leaving views out: each of the four sectors and both sides of the held-out segment are well filled.
    for azimuth in (train.azimuth, test.azimuth):
        assert min(np.bincount(np.array(azimuth, int) // 90)) > len(azimuth) / 5
    assert 0.4 < np.mean(np.array(train.phase) < 0.4) < 0.6


@given(split=st.sampled_from(SPLITS), index=st.integers(0, 1199))
def test_each_clips_facts_follow_from_seed_split_and_position(split, index):
    facts, scene = load_facts_once(split), draw_scene(split, index, read_manifest().seed)
    assert facts.label[index] == scene.label
    for name in ("azimuth", "phase", "speed"):
        assert getattr(facts, name)[index] == pytest.approx(getattr(scene, name), abs=1e-3)


_FACTS = {}


def load_facts_once(split):
    if split not in _FACTS:
        _FACTS[split] = load_facts(split)
    return _FACTS[split]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "sets" / "mine"

    def interrupted():
        with new_folder(target) as folder:
            (folder / "half").write_text("written")
            assert not target.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(target.parent.iterdir()) == []
    with new_folder(target) as folder:
        (folder / "all").write_text("written")
    assert [path.name for path in target.parent.iterdir()] == ["mine"]
    assert (target / "all").read_text() == "written"
    with pytest.raises(ConfigError, match="exists already"), new_folder(target):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"), new_folder(tmp_path / "file" / "set"):
        pass
