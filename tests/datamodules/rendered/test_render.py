"""The renderer of RenderedModalities: sets made from a seed."""

import hashlib
import sys

import numpy as np
import pytest

from pvision.datamodules.rendered.__main__ import main, make_set
from pvision.datamodules.rendered.datamodule import RenderedModalities
from pvision.datamodules.rendered.geometry import Geometry, decode_depth, owners
from pvision.datamodules.rendered.objects import CLUTTER, KINDS
from pvision.datamodules.rendered.records import simulate
from pvision.datamodules.rendered.render import render_scene, render_split
from pvision.datamodules.rendered.scenes import CLUTTER_SHAPES, draw_scene
from pvision.datamodules.rendered.stage import stage
from pvision.datamodules.rendered.storage import StoredScene, load_scenes, read_manifest
from pvision.datamodules.rendered.weather import SPLITS
from pvision.datamodules.rendered.writer import surface_table
from pvision.errors import ConfigError


@pytest.fixture
def pybullet():
    return pytest.importorskip("pybullet", reason="pybullet is not installed")


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("split", ["train", "detector"])
def test_a_scene_follows_from_its_seed_whatever_was_rendered_before(pybullet, split):
    _, first = render_scene(split, 7, seed=5)
    render_scene("test", 3, seed=9)
    _, again = render_scene(split, 7, seed=5)
    assert same(first, again)
    _, other = render_scene(split, 7, seed=6)
    assert not np.array_equal(first.map, other.map)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_shipped_scenes_are_what_the_renderer_makes(pybullet, split):
    shipped = load_scenes(split, limit=2)
    for index in range(2):
        scene, geometry = render_scene(split, index, seed=read_manifest().seed)
        stored = shipped[index]
        assert stored.camera == scene.camera
        assert np.array_equal(stored.table, surface_table(scene))
        # Another processor may round a few pixels on an edge differently.
        assert np.mean(geometry.map != stored.geometry.map) < 1e-3
        if not np.array_equal(geometry.map, stored.geometry.map):
            continue
        fresh = StoredScene(geometry, surface_table(scene), stored.kinds, scene.camera)
        pictures = [simulate(made, "lwir", split=split, index=index, seed=0) for made in (fresh, stored)]
        assert np.mean(pictures[0] != pictures[1]) < 1e-2


def test_a_sphere_is_where_and_as_large_as_it_should_be(pybullet):
    """The renderer's depth and outline against the geometry that the scene was drawn from."""
    model, radius = next((m, shape.size[2]) for m, shape in enumerate(CLUTTER_SHAPES) if shape.form == "sphere")
    template = next(
        (scene, item)
        for scene in (draw_scene("train", index, 0) for index in range(500))
        for item in scene.objects
        if item.kind == CLUTTER
    )
    ball = template[1]._replace(model=model, x=0.0, y=5.0)
    scene = template[0]._replace(objects=(ball,), camera=template[0].camera._replace(height=radius, pitch=0.0))
    geometry = stage().render(scene)
    belongs = owners([CLUTTER])[geometry.map]
    depth = decode_depth(geometry.depths, geometry.anchors, belongs)
    rows, columns = np.nonzero(belongs)
    assert depth[belongs > 0].min() == pytest.approx(5 - radius, abs=0.03)
    assert (rows.mean(), columns.mean()) == pytest.approx((47.5, 63.5), abs=0.6)
    assert np.ptp(rows) + 1 == pytest.approx(2 * 131.9 * radius / 5, abs=2)


def crowd():
    """A scene in which one object hides much of another."""
    for index in range(200):
        scene, geometry = render_scene("train", index, seed=0)
        for number, share in enumerate(geometry.shares):
            if 0.2 < share < 0.8:
                return scene, geometry, number
    raise AssertionError("no scene with a hidden object")


def test_the_visible_share_is_that_of_the_object_alone(pybullet):
    scene, geometry, number = crowd()
    kinds = [item.kind for item in scene.objects]
    visible = (owners(kinds)[geometry.map] == number + 1).sum()
    alone = stage().render(scene._replace(objects=(scene.objects[number],)))
    assert geometry.shares[number] == pytest.approx(visible / (alone.map > 0).sum(), abs=1e-3)
    assert alone.shares == [1.0]


def test_clutter_and_what_stands_free_is_wholly_visible(pybullet):
    for index in range(4):
        scene, geometry = render_scene("val", index, seed=0)
        for item, share in zip(scene.objects, geometry.shares, strict=True):
            assert 0 <= share <= 1
            assert share in (0.0, 1.0) or item.kind != CLUTTER


def test_every_kind_shows_all_its_surfaces(pybullet):
    seen = {kind: set() for kind in range(len(KINDS))}
    for index in range(12):
        scene, geometry = render_scene("train", index, seed=1)
        first = 1
        for item in scene.objects:
            values = range(first, first + len(item.surfaces))
            seen[item.kind] |= {value - first for value in values if (geometry.map == value).any()}
            first += len(item.surfaces)
    assert seen == {0: {0, 1, 2, 3}, 1: {0, 1, 2}, 2: {0, 1, 2}, 3: {0}}


def digest(folder):
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


COUNTS = {"train": 2, "val": 1, "test": 1, "detector": 1}


def test_a_set_is_the_same_for_the_same_seed_and_serves_training(pybullet, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_set(tmp_path / name, scenes=COUNTS, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    assert read_manifest(tmp_path / "c").seed == 2
    data = RenderedModalities(root=str(tmp_path / "a"), modality="rgb", train_split="detector")
    data.setup()
    assert [len(part) for part in (data.train_set, data.val_set, data.test_sets["rgb"])] == [1, 1, 1]
    assert next(iter(data.train_dataloader())).names == ["detector/00000"]


@pytest.mark.slow
def test_several_processes_make_the_same_scenes(pybullet):
    alone = list(render_split("train", 21, seed=3))
    together = list(render_split("train", 21, seed=3, processes=2))
    assert [scene for scene, _ in alone] == [scene for scene, _ in together]
    assert all(same(a, b) for (_, a), (_, b) in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "settings", [{"split": "pretraining"}, {"count": -1}, {"seed": -1}, {"seed": 0.5}, {"processes": 0}]
)
def test_wrong_arguments_are_refused(pybullet, settings):
    settings = {"split": "train", "count": 1, "seed": 0} | settings
    with pytest.raises(ConfigError):
        list(render_split(settings.pop("split"), settings.pop("count"), **settings))


def test_the_command_makes_a_set_and_refuses_to_overwrite_it(pybullet, tmp_path, capsys):
    out = tmp_path / "set"
    command = ["--out", str(out), "--train=1", "--val=1", "--test=1", "--detector=0", "--processes=1"]
    assert main(command) == 0
    assert str(out) in capsys.readouterr().out
    before = digest(out)
    assert main([*command, "--seed=1"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert digest(out) == before
    assert {name.split(".")[0] for name in read_manifest(out).files} == {"train", "val", "test"}


def test_an_interrupted_command_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(split, count, **settings):
        scene = draw_scene("train", 0, 0)
        nothing = np.zeros(0, np.uint8)
        yield scene, Geometry(np.zeros((96, 128), np.uint8), nothing, nothing, [], [])
        raise KeyboardInterrupt

    monkeypatch.setattr("pvision.datamodules.rendered.__main__.render_split", interrupted)
    assert main(["--out", str(tmp_path / "sets" / "mine"), "--train=2"]) == 130
    assert "Nothing was written" in capsys.readouterr().err
    assert list((tmp_path / "sets").iterdir()) == []


def test_without_pybullet_the_remedy_is_named_and_nothing_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    assert main(["--out", str(tmp_path / "sets" / "mine")]) == 2
    assert "pip install 'pvision[render]'" in capsys.readouterr().err
    assert list((tmp_path / "sets").iterdir()) == []


def test_help_says_what_the_command_does(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "scenes for a detector to start from" in capsys.readouterr().out


def test_the_splits_do_not_share_random_numbers(pybullet):
    maps = [render_scene(split, 0, seed=0)[1].map.tobytes() for split in SPLITS]
    assert len(set(maps)) == len(SPLITS)
