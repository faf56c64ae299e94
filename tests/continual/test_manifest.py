"""Manifests: equal streams have equal ones, any difference is found and said, a file is whole and safe to read."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pvision.continual.experience import Experience
from pvision.continual.manifest import ExperienceEntry, StreamManifest, names_digest
from pvision.errors import DataError

TRAIN, TEST = [f"train/{n}" for n in range(8)], [f"test/{n}" for n in range(4)]


def entries(train=TRAIN, test=TEST):
    learn = [
        Experience(0, "learn", "first", (1, 0), (1, 0), np.array([0, 1]), np.array([2]), np.array([0, 1])),
        Experience(1, "learn", "second", (2,), (2,), np.array([4, 5]), np.array([6]), np.array([2, 3]), "photo"),
        Experience(2, "forget", "forget class 1", (1,), train=np.array([1])),
    ]
    return tuple(ExperienceEntry.of(experience, train, test) for experience in learn)


def manifest(**changes):
    settings = {
        "data": "Digits",
        "protocol": "",
        "scenario": {"class": "ClassIncremental", "increments": [2, 1]},
        "class_names": ("zéro", "one", "two"),
        "class_order": (1, 0, 2),
        "seed": 3,
        "val_fraction": 0.25,
        "settings": {"part": "all"},
        "experiences": entries(),
    }
    return StreamManifest(**{**settings, **changes})


def test_a_saved_manifest_comes_back_equal(tmp_path):
    path = tmp_path / "new" / "stream.json"
    manifest().save(path)
    found = StreamManifest.load(path)
    assert found == manifest()
    assert found.digest == manifest().digest
    assert found.difference(manifest()) == []
    assert [file.name for file in path.parent.iterdir()] == ["stream.json"]


def test_the_digest_is_that_of_the_first_release():
    # A change here means that no earlier run can be resumed: raise the manifest's version then.
    assert manifest().digest == "975f6688efd79e0e42554c68c0a259e0bad5b409af27090b126d1a6361805bd3"


def test_a_failed_save_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "stream.json"
    manifest().save(path)
    before = path.read_text()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        manifest(seed=4).save(path)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["stream.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "MNIST"}, "the data set is 'MNIST', not 'Digits'"),
        ({"protocol": "p"}, "the protocol is 'p', not ''"),
        ({"scenario": {"class": "Blurry", "increments": [2, 1]}}, "the scenario's class is 'Blurry', not 'Class"),
        (
            {"scenario": {"class": "ClassIncremental", "increments": [3]}},
            "the scenario's increments is [3], not [2, 1]",
        ),
        ({"class_names": ("a", "b", "c")}, "the list of class names is"),
        ({"class_order": (0, 1, 2)}, "the class order is [0, 1, 2], not [1, 0, 2]"),
        ({"seed": 4}, "the seed is 4, not 3"),
        ({"val_fraction": 0.5}, "val_fraction is 0.5, not 0.25"),
        ({"settings": {"part": "shipped"}}, "the setting part is 'shipped', not 'all'"),
        ({"experiences": entries()[:2]}, "it has 2 experiences, not 3"),
        (
            {"experiences": entries(train=["renamed", *TRAIN[1:]])},
            "experience 0 has other training records, or the same in another order",
        ),
        ({"experiences": entries(train=[*TRAIN[:6], "x", "y"])}, "experience 1 has other validation records"),
        ({"experiences": entries(test=TEST[::-1])}, "experience 0 has other test records"),
        (
            {"experiences": (replace(entries()[0], train=9), *entries()[1:])},
            "experience 0 has 9 training records, not 2",
        ),
        (
            {"experiences": (replace(entries()[0], classes=(0, 1)), *entries()[1:])},
            "experience 0 has the classes [0, 1]",
        ),
        ({"experiences": (*entries()[:2], replace(entries()[2], name="x"))}, "experience 2 has the name 'x'"),
        (
            {"experiences": (entries()[0], replace(entries()[1], domain=None), entries()[2])},
            "experience 1 has the domain null, not 'photo'",
        ),
        ({"experiences": (*entries()[:2], replace(entries()[2], kind="learn"))}, "experience 2 has the kind 'learn'"),
    ],
)
def test_every_difference_changes_the_digest_and_is_said(changes, words):
    other = manifest(**changes)
    assert other.digest != manifest().digest
    (line, *_) = manifest().difference(other)
    assert line.startswith(words)
    assert len(line) < 300


def test_the_order_of_names_counts_and_their_borders_too():
    assert names_digest(["a", "b"]) != names_digest(["b", "a"])
    assert names_digest(["a\nb"]) != names_digest(["a", "b"])
    assert names_digest([]) == names_digest([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        ("[]", r"describes None, but \('pvision-stream', 1\) is expected"),
        ('{"format": "pvision-stream", "version": 2}', "is expected"),
        ('{"format": "pvision-stream", "version": 1}', r"no manifest of a stream: KeyError\('data'\)"),
        ("[" * 100_000, "is no JSON file"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text, message):
    path = tmp_path / "stream.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        StreamManifest.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", "3"), ("seed", True), ("class_order", ["a"]), ("data", 1), ("class_names", 3), ("scenario", 1)],
)
def test_an_entry_of_another_type_is_refused(key, value):
    with pytest.raises(DataError, match="no manifest of a stream"):
        StreamManifest.from_dict({**manifest().as_dict(), key: value})


@pytest.mark.parametrize(("key", "value"), [("kind", "relearn"), ("train", -1.5), ("domain", 1), ("train_names", None)])
def test_an_experience_of_another_form_is_refused(key, value):
    content = manifest().as_dict()
    content["experiences"][0][key] = value
    with pytest.raises(DataError, match="no manifest of a stream"):
        StreamManifest.from_dict(content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json cannot be read: No such file"):
        StreamManifest.load(tmp_path / "gone.json")


def test_the_plain_values_are_json_and_can_be_read_by_torch(tmp_path):
    import torch

    content = manifest().as_dict()
    assert json.loads(json.dumps(content)) == content
    torch.save(content, tmp_path / "state.pt")
    assert StreamManifest.from_dict(torch.load(tmp_path / "state.pt", weights_only=True)) == manifest()
