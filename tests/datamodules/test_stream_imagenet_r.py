"""ImageNet-R and ImageNet-A in the layouts that are in use; split folders of CUB-200."""

import io

import numpy as np
import pytest
import yaml
from PIL import Image

from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import CUB200Stream, ImageNetAStream, ImageNetRStream
from pvision.errors import ConfigError, DataError

ONE, TWO = ClassIncremental(experiences=1), ClassIncremental(experiences=2)


@pytest.fixture
def root(tmp_path):
    """The folder of a data set, with nothing else in it."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def encoded(seed=0, kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


JPEG = encoded()


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG)


def wordnet(count):
    return [f"n{number:08}" for number in range(1000, 1000 + count)]


def opened(stream):
    stream.setup()
    return stream


@pytest.fixture
def split_folders(root):
    """200 classes, two training images and a test image of each."""
    for label in wordnet(200):
        put(root, f"train/{label}/art_0.jpg", f"train/{label}/toy_1.jpg", f"test/{label}/misc_2.jpg")
    return root


@pytest.mark.parametrize(
    ("kind", "protocol", "experiences", "first"),
    [
        (ImageNetRStream, "imagenet_r_pilot_b0_inc20", 10, (168, 136, 51, 9)),
        (ImageNetRStream, "imagenet_r_inflora_20", 20, (168, 136, 51, 9)),
        (ImageNetRStream, "imagenet_r_sdlora_5", 5, (146, 198, 169, 126)),
        (ImageNetAStream, "imagenet_a_pilot_b0_inc20", 10, (168, 136, 51, 9)),
        (CUB200Stream, "cub200_pilot_b0_inc10", 20, (168, 136, 51, 9)),
    ],
)
def test_protocols_on_split_folders(split_folders, kind, protocol, experiences, first):
    # The class orders stand in the logs of InfLoRA (seed 1993) and SD-LoRA (1995).
    stream = opened(kind(root=str(split_folders), protocol=protocol))
    assert (len(stream.train_source), len(stream.test_source), stream.num_classes) == (400, 200, 200)
    assert list(stream.class_names) == wordnet(200)
    assert len(stream.experiences) == experiences
    assert stream.experiences[0].classes[:4] == first
    assert {name.split("/")[0] for name in stream.train_source.names} == {"train"}
    assert stream.identity()["split"] == "folders"


def coda_lists(root, prefixes, classes, targets=None):
    """The lists of CODA-Prompt: the first image of each class is for the test, whatever folder it came from."""
    for kind, files in (("train", ("b.jpg", "c.jpg")), ("test", ("a.jpg",))):
        rows = [(label, name) for name in files for label in classes]
        data = [f"{prefixes[place % len(prefixes)]}/{label}/{name}" for place, (label, name) in enumerate(rows)]
        numbers = [(targets or range(len(classes)))[classes.index(label)] for label, _ in rows]
        text = yaml.safe_dump({"data": data, "targets": list(numbers)})
        (root / f"imagenet-r_{kind}.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("folders", [("",), ("train/", "test/")], ids=["authors' archive", "split folders"])
def test_the_lists_of_coda_prompt_decide_wherever_the_images_lie(root, folders):
    classes = wordnet(200)
    for place, label in enumerate(classes):
        put(root, *(f"{folders[place % len(folders)]}{label}/{name}" for name in ("a.jpg", "b.jpg", "c.jpg")))
    coda_lists(root, ["data/imagenet-r/train", "data/imagenet-r/test"], classes)
    stream = opened(ImageNetRStream(root=str(root), protocol="imagenet_r_coda_10"))
    assert (len(stream.train_source), len(stream.test_source)) == (400, 200)
    assert {name.rpartition("/")[2] for name in stream.test_source.names} == {"a.jpg"}
    assert [experience.classes for experience in stream.experiences] == [
        tuple(range(start, start + 20)) for start in range(0, 200, 20)
    ]


def test_labels_are_numbered_as_the_lists_do(root):
    put(root, *(f"{label}/{name}.jpg" for label in ("n1", "n2") for name in "abc"))
    coda_lists(root, ["data"], ["n1", "n2"], targets=[1, 0])
    stream = opened(ImageNetRStream(root=str(root), scenario=TWO, split="coda"))
    assert list(stream.class_names) == ["n2", "n1"]
    assert [stream.class_names[label] for label in stream.test_source.labels] == ["n1", "n2"]
    assert [name.split("/")[0] for name in stream.test_source.names] == ["n1", "n2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [x/n1/a.jpg]\n", "must hold a list of paths `data`"),
        ("data: [x/n1/a.jpg]\ntargets: [0, 1]\n", "of equal length"),
        ("data: [x/n1/a.jpg]\ntargets: ['0']\n", "a list of class numbers"),
        ("data: [x/n1/gone.jpg]\ntargets: [0]\n", "names n1/gone.jpg, but there is no such image"),
        ("data: [a.jpg]\ntargets: [0]\n", "must end in 2 names"),
        ("data: [x/../a.jpg]\ntargets: [0]\n", "must end in 2 names"),
        ("data: [x/n1/a.jpg]\ntargets: [1]\n", "run from 0 without a gap"),
        ("data: [x/n1/a.jpg, x/n1/b.jpg]\ntargets: [0, 1]\n", "the class 'n1' has the number 1 here"),
        ("data: [", "cannot be read"),
        ("!!python/object/apply:os.system ['touch marker']", "cannot be read"),
    ],
)
def test_wrong_lists_are_named(root, text, message, monkeypatch):
    monkeypatch.chdir(root)
    put(root, "n1/a.jpg", "n1/b.jpg")
    for kind in ("train", "test"):
        (root / f"imagenet-r_{kind}.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        opened(ImageNetRStream(root=str(root), scenario=ONE, split="coda"))
    assert not (root / "marker").exists()


def test_a_drawn_split_depends_on_the_seed_and_holds_each_class(root):
    put(root, *(f"{label}/{number:02}.jpg" for label in wordnet(3) for number in range(10)))
    put(root, f"{wordnet(1)[0]}/.hidden.jpg", f"{wordnet(1)[0]}/README.txt")

    def test_names(seed):
        stream = opened(ImageNetAStream(root=str(root), scenario=ONE, split="random", split_seed=seed))
        assert not set(stream.train_source.names) & set(stream.test_source.names)
        assert np.bincount(stream.test_source.labels).tolist() == [2, 2, 2]
        assert np.bincount(stream.train_source.labels).tolist() == [8, 8, 8]
        return stream.test_source.names

    assert test_names(0) == test_names(0)
    assert test_names(0) != test_names(1)


def test_a_drawn_split_is_frozen(root):
    """Figures measured on it must stay comparable: these names may never change."""
    put(root, *(f"{label}/{number}.jpg" for label in "ab" for number in range(5)))
    stream = opened(ImageNetAStream(root=str(root), scenario=ONE, split="random", split_seed=0))
    random = np.random.RandomState(0)
    expected = [f"{label}/{number}.jpg" for label in "ab" for number in sorted(random.permutation(5)[:1])]
    assert stream.test_source.names == expected == ["a/2.jpg", "b/0.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "imagenet_r_coda_5", "split": "folders"}, "data.split and data.protocol"),
        ({"scenario": ONE, "split": "official"}, "data.split must be one of 'folders', 'coda', 'random'"),
        ({"scenario": ONE, "test_fraction": 1.0}, "data.test_fraction must be a number strictly between"),
        ({"scenario": ONE, "split_seed": -1}, "data.split_seed"),
    ],
)
def test_wrong_settings_are_named(root, arguments, message):
    with pytest.raises(ConfigError, match=message):
        ImageNetRStream(root=str(root), **arguments)


def test_the_split_of_the_protocol_may_be_repeated(split_folders):
    ImageNetRStream(root=str(split_folders), protocol="imagenet_r_pilot_b0_inc20", split="folders")
