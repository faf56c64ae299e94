"""The renderer of yards: sets made from a seed."""

import hashlib
import sys

import numpy as np
import pytest

from pvision.datamodules.rendered_yard.__main__ import main, make_set
from pvision.datamodules.rendered_yard.camera import SIZE, Camera
from pvision.datamodules.rendered_yard.labels import KINDS, PARTS, label_of
from pvision.datamodules.rendered_yard.painting import SHADES, paint
from pvision.datamodules.rendered_yard.palette import draw_colors
from pvision.datamodules.rendered_yard.render import render_scene, render_split
from pvision.datamodules.rendered_yard.scenes import SIZES, Object, Scene, draw_scene, generator
from pvision.datamodules.rendered_yard.stage import Picture, stage
from pvision.datamodules.rendered_yard.storage import load_yard, read_manifest
from pvision.errors import ConfigError

FOCAL = 32 / np.tan(np.radians(27.5))


@pytest.fixture
def pybullet():
    return pytest.importorskip("pybullet", reason="pybullet is not installed")


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_shipped_pictures_are_what_the_renderer_makes(pybullet, split):
    shipped, seed = load_yard(split, limit=6), read_manifest().seed
    agreed = 0
    for index in range(6):
        scene, picture = render_scene(split, index, seed=seed)
        # Another processor may round a few pixels on an edge differently.
        assert np.mean(picture.labels != shipped.masks[index]) < 1e-3
        if np.array_equal(picture.labels, shipped.masks[index]):
            colors = draw_colors(generator(split, index, seed, "colors"), [item.kind for item in scene.objects])
            image = paint(*picture, colors, scene.camera, generator(split, index, seed, "surroundings"))
            assert np.mean(image != shipped.images[index]) < 1e-3
            agreed += 1
    assert agreed >= 3


def test_a_scene_follows_from_its_seed_whatever_was_rendered_before(pybullet):
    numbers = range(12)  # all kinds are among them
    assert {item.kind for index in numbers for item in draw_scene("train", index, 5).objects} == set(KINDS)
    first = [render_scene("train", index, seed=5)[1] for index in numbers]
    again = [render_scene("train", index, seed=5)[1] for index in reversed(numbers)]
    assert all(same(a, b) for a, b in zip(first, reversed(again), strict=True))
    _, other = render_scene("train", 7, seed=6)
    assert not np.array_equal(first[7].labels, other.labels)


def alone(kind, *, size=0, camera=None, lying=False, **place):
    """The picture of one object in front of the camera."""
    joints = (0.0,) * {"quadruped": 12, "arm": 6}.get(kind, 0)
    where = {"x": 0.0, "y": 2.0, "yaw": 0.0} | place
    item = Object(kind, size, aspect=0.0, performance=0, phase=0.1, joints=joints, lying=lying, **where)
    return stage().render(Scene(camera or Camera(1.0, 15.0), (0.3, -1.0, 1.0), (item,)))


@pytest.mark.parametrize(("size", "radius"), [(0, 0.25), (1, 0.35), (2, 0.45)])
def test_a_ball_is_where_and_as_large_as_it_should_be(pybullet, size, radius):
    """The outline against the pinhole equation, at the ball's own height above the floor."""
    picture = alone("ball", size=size, x=0.4, y=2.4, camera=Camera(radius, 0.0))
    rows, columns = np.nonzero(picture.labels)
    assert set(np.unique(picture.labels)) == {0, label_of("ball")}
    assert rows.mean() == pytest.approx(31.5, abs=0.6)
    assert columns.mean() == pytest.approx(31.5 + FOCAL * 0.4 / 2.4, abs=1)
    assert np.ptp(rows) + 1 == pytest.approx(2 * FOCAL * radius / 2.4, abs=2)


@pytest.mark.parametrize(("kind", "lying"), [*((kind, False) for kind in KINDS), ("drum", True)])
def test_everything_stands_on_the_floor(pybullet, kind, lying):
    """Seen from the floor's height, nothing reaches below the horizon, and something touches it."""
    for size in range(1 if kind == "person" else SIZES):
        rows, _ = np.nonzero(alone(kind, size=size, lying=lying, y=2.5, camera=Camera(0.0, 0.0)).labels)
        assert rows.max() == pytest.approx(31.5, abs=2.5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_shows_all_its_classes_and_no_other(pybullet, kind):
    picture = alone(kind, y=2.5)
    assert set(np.unique(picture.labels).tolist()) == {0, *(label_of(name) for name in PARTS[kind])}
    assert picture.shades.max() < SHADES
    assert len(np.unique(picture.shades)) >= 3, "light does not fall on it from one side"


def test_a_head_is_skin_a_foot_belongs_to_the_trousers_and_the_shirt_is_between(pybullet):
    labels = alone("person", y=2.5, camera=Camera(1.0, 10.0)).labels
    rows = {name: np.nonzero(labels == label_of(name))[0] for name in PARTS["person"]}
    assert rows["skin"].min() < rows["shirt"].min() < rows["trousers"].min()
    assert rows["trousers"].max() == np.nonzero(labels)[0].max()


def test_a_turn_shows_another_side_and_a_nearer_object_hides_a_farther_one(pybullet):
    views = [alone("vehicle", yaw=yaw).labels for yaw in (0.0, 30.0, 60.0)]
    assert len({view.tobytes() for view in views}) == 3
    ball = Object("ball", 1, 0.0, 1.6, 0.0, 0.0, -1, 0.1, (), False)
    drum = ball._replace(kind="drum", size=2, y=2.4)
    both = stage().render(Scene(Camera(1.0, 15.0), (0.0, 0.0, 1.0), (drum, ball))).labels
    single = alone("ball", size=1, y=1.6).labels
    assert np.array_equal(both == label_of("ball"), single > 0)
    assert (both == label_of("drum")).any()


def digest(folder):
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def test_a_set_is_the_same_for_the_same_seed_and_longer_ones_begin_with_it(pybullet, tmp_path):
    for name, seed, count in (("a", 1, 2), ("b", 1, 2), ("c", 2, 2), ("longer", 1, 4)):
        make_set(tmp_path / name, scenes={"train": count, "test": 1}, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    short, longer = load_yard("train", tmp_path / "a"), load_yard("train", tmp_path / "longer", limit=2)
    assert same(short, longer)
    assert len(load_yard("train", tmp_path / "longer").images) == 4
    assert read_manifest(tmp_path / "c").seed == 2


@pytest.mark.parametrize("settings", [{"split": "val"}, {"count": -1}, {"seed": -1}, {"seed": 0.5}])
def test_wrong_arguments_are_refused(pybullet, settings):
    settings = {"split": "train", "count": 1, "seed": 0} | settings
    with pytest.raises(ConfigError):
        list(render_split(settings.pop("split"), settings.pop("count"), **settings))


def test_the_command_makes_a_set_and_refuses_to_overwrite_it(pybullet, tmp_path, capsys):
    out = tmp_path / "set"
    command = ["--out", str(out), "--train=1", "--test=0"]
    assert main(command) == 0
    assert str(out) in capsys.readouterr().out
    before = digest(out)
    assert main([*command, "--seed=1"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert digest(out) == before


def test_an_interrupted_command_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(split, count, **settings):
        yield draw_scene("train", 0, 0), Picture(np.zeros((SIZE, SIZE), np.uint8), np.zeros(0, np.uint8))
        raise KeyboardInterrupt

    monkeypatch.setattr("pvision.datamodules.rendered_yard.__main__.render_split", interrupted)
    monkeypatch.setattr("pvision.datamodules.rendered_yard.__main__.require_bullet", lambda: None)
    assert main(["--out", str(tmp_path / "sets" / "mine"), "--train=2"]) == 130
    assert "Nothing was written" in capsys.readouterr().err
    assert list((tmp_path / "sets").iterdir()) == []


def test_without_pybullet_the_remedy_is_named_and_nothing_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    assert main(["--out", str(tmp_path / "sets" / "mine")]) == 2
    message = capsys.readouterr().err
    assert "Rendering a set needs the package 'pybullet'" in message
    assert "pip install 'pvision[render]'" in message
    assert not (tmp_path / "sets").exists()


def test_help_says_what_the_command_does(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "seen from other sides" in capsys.readouterr().out
