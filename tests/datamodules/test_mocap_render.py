"""The renderer of MocapActions: motions, scenes, and sets made from a seed."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.datamodules.mocap.__main__ import main, make_set
from pvision.datamodules.mocap.body import CLASS_NAMES, JOINTS, LINK_OFFSET, PARTS
from pvision.datamodules.mocap.datamodule import MocapActions
from pvision.datamodules.mocap.motions import Motion, load_motion
from pvision.datamodules.mocap.palette import paint, parts_of
from pvision.datamodules.mocap.programs import Program
from pvision.datamodules.mocap.quaternions import from_rotation_vector, multiply, slerp
from pvision.datamodules.mocap.render import render_clip, render_split
from pvision.datamodules.mocap.scenes import SPLITS, draw_scene
from pvision.datamodules.mocap.stage import stage
from pvision.datamodules.mocap.storage import load_clips, read_manifest
from pvision.errors import ConfigError, MissingExtraError
from pvision.privacy import Redaction


@pytest.fixture
def pybullet():
    return pytest.importorskip("pybullet", reason="pybullet is not installed")


vectors = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)


@given(start=vectors, end=vectors, fraction=st.floats(0, 1))
def test_slerp_turns_evenly_from_start_to_end(start, end, fraction):
    a, b = from_rotation_vector(start), from_rotation_vector(end)
    middle = slerp(a, b, np.array([fraction]))
    assert np.linalg.norm(middle) == pytest.approx(1)
    assert abs(slerp(a, b, np.array([0.0])) @ a) == pytest.approx(1)
    assert abs(slerp(a, b, np.array([1.0])) @ b) == pytest.approx(1)
    whole = np.arccos(min(1, abs(a @ b)))
    assert np.arccos(min(1, abs(a @ middle))) == pytest.approx(fraction * whole, abs=1e-6)


@given(vector=vectors)
def test_rotations_undo_each_other(vector):
    there, back = from_rotation_vector(vector), from_rotation_vector(-vector)
    assert multiply(there, back) == pytest.approx(np.array([0, 0, 0, 1]), abs=1e-12)


def toy_motion(*, loops):
    """Three frames in two seconds: one step along x each, a knee that bends, all else at rest."""
    rest = np.tile([0.0, 0, 0, 1], (3, 1))
    joints = np.zeros((3, 36))
    for joint in JOINTS:
        if joint.size == 4:
            joints[:, joint.columns] = rest
    knee = next(joint for joint in JOINTS if joint.size == 1)
    joints[:, knee.column] = [0, 1, 0]
    times, position = np.array([0.0, 1, 2]), np.array([[0, 0.9, 0], [1, 0.9, 0], [2, 0.9, 0]])
    return Motion(times, position, rest, joints, loops), knee.column


def test_a_looping_motion_repeats_its_pose_and_walks_on():
    motion, knee = toy_motion(loops=True)
    poses = motion.poses(np.array([0.5, 2.5, 4.5]))
    assert poses.joints[:, knee] == pytest.approx([0.5, 0.5, 0.5])
    assert poses.position[:, 0] == pytest.approx([0.5, 2.5, 4.5])
    assert poses.position[:, 2] == pytest.approx([0.9, 0.9, 0.9]), "height is up"


def test_a_motion_that_does_not_loop_holds_its_last_pose():
    motion, knee = toy_motion(loops=False)
    poses = motion.poses(np.array([1.0, 2.0, 9.0]))
    assert poses.joints[:, knee] == pytest.approx([1, 0, 0])
    assert poses.position[:, 0] == pytest.approx([1, 2, 2])
    assert motion.start(1.0, span=0.5) == 1.5
    assert motion.start(1.0, span=5.0) == 0


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)))
def test_a_performance_passes_through_its_captured_frames(pybullet, label):
    motion = load_motion(label)
    poses = motion.poses(motion.times[:-1])
    assert poses.position[:, 2] == pytest.approx(motion.position[:-1, 1])
    for joint in JOINTS:
        captured, posed = motion.joints[:-1, joint.columns], poses.joints[:, joint.columns]
        if joint.size == 4:
            assert np.linalg.norm(captured, axis=1) == pytest.approx(1)
            assert np.abs((captured * posed).sum(1)) == pytest.approx(1)
        else:
            assert posed == pytest.approx(captured)


def test_programs_differ_and_repeat():
    times = np.linspace(0, 4, 9)
    first, second = Program(0).poses(times), Program(1).poses(times)
    assert not np.allclose(first.joints, second.joints)
    assert all(np.array_equal(a, b) for a, b in zip(first, Program(0).poses(times), strict=True))
    assert np.linalg.norm(first.rotation, axis=1) == pytest.approx(1)


@given(split=st.sampled_from(SPLITS), index=st.integers(0, 10**6), seed=st.integers(0, 2**32))
def test_scenes_stay_in_their_split(split, index, seed):
    scene = draw_scene(split, index, seed)
    assert scene == draw_scene(split, index, seed)
    assert scene != draw_scene(split, index, seed + 1)
    if split != "synthetic":
        assert (scene.azimuth % 90 >= 67.5) == (0.4 <= scene.phase < 0.6) == (split == "test")


@pytest.mark.parametrize("split", SPLITS)
def test_a_clip_follows_from_its_seed_whatever_was_rendered_before(pybullet, split):
    _, first = render_clip(split, 7, seed=5)
    render_clip("synthetic", 3, seed=9)
    _, again = render_clip(split, 7, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    _, other = render_clip(split, 7, seed=6)
    assert not np.array_equal(first.map, other.map)


@pytest.mark.parametrize("split", SPLITS)
def test_the_shipped_clips_are_what_the_renderer_makes(pybullet, split):
    shipped = load_clips(split, limit=4)
    for index, (video, parts) in enumerate(zip(shipped.video, shipped.parts, strict=True)):
        scene, clip = render_clip(split, index, seed=read_manifest().seed)
        assert scene.label == shipped.label[index]
        # Another processor may round a few pixels on an edge differently.
        assert np.mean(parts_of(clip.map) != parts.numpy()) < 1e-3
        painted = paint(clip.map[None], clip.shades, clip.colors[None])[0]
        assert np.mean((painted != video.numpy()).any(-1)) < 1e-2


class WithShadows:
    """pybullet, with shadows on the floor."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def getCameraImage(self, *args, **settings):
        return self._engine.getCameraImage(*args, **(settings | {"shadow": 1}))


def background_with_and_without_the_body(monkeypatch, index):
    scene = draw_scene("train", index, 0)
    clip = stage().render(scene, frames=8, size=48)
    away = ([0, 0, -50], [0, 0, 0, 1])
    engine, body = stage()._bullet, stage()._body
    with monkeypatch.context() as patch:
        patch.setattr(stage(), "_pose", lambda poses, frame: engine.resetBasePositionAndOrientation(body, *away))
        empty = stage().render(scene, frames=8, size=48)
    pictures = [paint(part.map[None], part.shades, part.colors[None])[0] for part in (clip, empty)]
    background = parts_of(clip.map) == 0
    return [picture[background] for picture in pictures]


def test_no_pixel_beside_the_body_tells_of_it(pybullet, monkeypatch):
    for index in (2, 8, 9):
        with_body, without = background_with_and_without_the_body(monkeypatch, index)
        assert np.array_equal(with_body, without)


def test_shadows_would_tell_of_the_body(pybullet, monkeypatch):
    monkeypatch.setattr(stage(), "_bullet", WithShadows(stage()._bullet))
    pairs = [background_with_and_without_the_body(monkeypatch, index) for index in (2, 8, 9)]
    assert not all(np.array_equal(*pair) for pair in pairs)


def test_each_part_value_is_the_link_that_it_is_called_after(pybullet):
    called = {"root": "pelvis", "neck": "head", "hip": "thigh", "knee": "shin", "ankle": "foot"}
    called |= {"shoulder": "upper_arm", "elbow": "forearm", "wrist": "hand"}
    engine, body = stage()._bullet, stage()._body
    links = [engine.getJointInfo(body, link)[12].decode() for link in range(engine.getNumJoints(body))]
    expected = ["_".join(called.get(word, word) for word in link.split("_")) for link in links]
    assert list(PARTS[LINK_OFFSET:]) == expected


def digest(folder):
    content = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    return hashlib.sha256(content).hexdigest()


COUNTS = {"train": 15, "test": 15, "synthetic": 4}


def test_a_set_is_the_same_for_the_same_seed_and_serves_training(pybullet, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_set(tmp_path / name, clips=COUNTS, seed=seed, frames=4, size=24)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    assert read_manifest(tmp_path / "c").seed == 2
    data = MocapActions(root=str(tmp_path / "a"), redaction=Redaction(sensitive="inside", shape="box", grid=6))
    data.setup()
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [15, 5, 10]
    assert next(iter(data.public_loader())).video.shape == (15, 3, 4, 24, 24)


def test_a_smaller_set_is_the_beginning_of_a_larger_one(pybullet, tmp_path):
    for name, count in (("few", 3), ("more", 6)):
        make_set(tmp_path / name, clips={"train": count}, frames=2, size=24)
    few, more = load_clips("train", tmp_path / "few"), load_clips("train", tmp_path / "more", limit=3)
    assert all(torch.equal(a, b) for a, b in zip(few, more, strict=True))


@pytest.mark.slow
def test_several_processes_make_the_same_clips(pybullet):
    alone = list(render_split("train", 25, seed=3, frames=2, size=24))
    together = list(render_split("train", 25, seed=3, frames=2, size=24, processes=2))
    assert [scene for scene, _ in alone] == [scene for scene, _ in together]
    for (_, a), (_, b) in zip(alone, together, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "settings",
    [{"split": "val"}, {"count": -1}, {"seed": -1}, {"seed": 0.5}, {"frames": 0}, {"size": 0}, {"processes": 0}],
)
def test_wrong_arguments_are_refused(pybullet, settings):
    settings = {"split": "train", "count": 1, "seed": 0} | settings
    with pytest.raises(ConfigError):
        list(render_split(settings.pop("split"), settings.pop("count"), **settings))


def test_the_command_makes_a_set_and_refuses_to_overwrite_it(pybullet, tmp_path, capsys):
    out = tmp_path / "set"
    command = [str(out), "--train=2", "--test=3", "--synthetic=1", "--frames=2", "--size=24", "--processes=1"]
    assert main(command) == 0
    assert str(out) in capsys.readouterr().out
    before = digest(out)
    assert main([*command, "--seed=1"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert digest(out) == before


def test_an_interrupted_command_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(split, count, **settings):
        yield draw_scene("synthetic", 0, 0), render_clip_stub()
        raise KeyboardInterrupt

    monkeypatch.setattr("pvision.datamodules.mocap.__main__.render_split", interrupted)
    assert main([str(tmp_path / "sets" / "mine"), "--train=2"]) == 130
    assert "Nothing was written" in capsys.readouterr().err
    assert list((tmp_path / "sets").iterdir()) == []


def render_clip_stub():
    from pvision.datamodules.mocap.palette import COLORS, IndexedClip

    return IndexedClip(np.zeros((8, 4, 4), np.uint8), np.zeros(0, np.uint8), np.zeros((COLORS, 3), np.uint8))


def test_without_pybullet_the_remedy_is_named_and_nothing_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    assert main([str(tmp_path / "sets" / "mine")]) == 2
    assert "pip install 'pvision[render]'" in capsys.readouterr().err
    assert list((tmp_path / "sets").iterdir()) == []
    with pytest.raises(MissingExtraError):
        load_motion.__wrapped__(0)


def test_help_says_what_the_command_does(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "pre-training clips of random motions" in capsys.readouterr().out
