"""CUB-200, DomainNet and Tiny-ImageNet in their official layouts, whose lists say what is for training."""

import io

import numpy as np
import pytest
import yaml
from PIL import Image

from pvision.continual.scenarios import ClassIncremental, DomainIncremental
from pvision.datamodules.streams import (
    CUB200Stream,
    DomainNetStream,
    ImageNetRStream,
    Preprocessing,
    TinyImageNetStream,
)
from pvision.errors import DataError

PLAIN = Preprocessing()
ONE = ClassIncremental(experiences=1)
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


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


# ---- CUB-200-2011


@pytest.fixture
def cub(root):
    names = [f"{number:03}.Bird_{number}" for number in range(1, 4)]
    images = [f"{name}/Bird_{place}.jpg" for name in names for place in range(4)]
    put(root, *(f"images/{name}" for name in images))
    lists = {
        "classes.txt": [f"{number} {name}" for number, name in enumerate(names, 1)],
        "images.txt": [f"{number} {name}" for number, name in enumerate(images, 1)],
        "image_class_labels.txt": [f"{number} {(number - 1) // 4 + 1}" for number in range(1, 13)],
        "train_test_split.txt": [f"{number} {int(number % 4 != 0)}" for number in range(1, 13)],
    }
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def cub_stream(root):
    return CUB200Stream(root=str(root), scenario=ONE, preprocessing=PLAIN)


def test_the_official_lists_of_cub_decide(cub):
    stream = opened(cub_stream(cub))
    assert list(stream.class_names) == ["001.Bird_1", "002.Bird_2", "003.Bird_3"]
    assert stream.test_source.names == [f"images/00{number}.Bird_{number}/Bird_3.jpg" for number in (1, 2, 3)]
    assert stream.test_source.labels.tolist() == [0, 1, 2]
    assert len(stream.train_source) == 9
    assert stream.train_source.image(0).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("images.txt", "13 001.Bird_1/more.jpg", r"image 13 \(001.Bird_1/more.jpg\) has no known class"),
        ("train_test_split.txt", "1 2", "image 1 .* no 0 or 1 in train_test_split.txt"),
        ("images.txt", "1 ../../secret.jpg", "leaves the data's folder"),
        ("images.txt", "1 /etc/passwd", "leaves the data's folder"),
        ("image_class_labels.txt", "5", "line 13: 2 cells are expected, but '5' came"),
    ],
)
def test_lists_of_cub_that_contradict_each_other_are_named(cub, file, line, message):
    with (cub / file).open("a", encoding="utf-8") as list_file:
        list_file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        opened(cub_stream(cub))


# ---- DomainNet


def domainnet(root, classes, per_class=1):
    """Each class in each domain, with the authors' lists; returns the root."""
    for domain in DOMAINS:
        for kind in ("train", "test"):
            lines = []
            for label in range(classes):
                for place in range(per_class):
                    name = f"{domain}/class_{label:03}/{domain}_{label:03}_{kind}{place}.jpg"
                    lines.append(f"{name} {label}")
            (root / f"{domain}_{kind}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            put(root, lines[0].split()[0], lines[-1].split()[0])
    return root


@pytest.mark.parametrize(
    ("protocol", "domains"),
    [
        ("domainnet_sprompts_6", list(DOMAINS)),
        ("domainnet_ranpac_6", ["real", "quickdraw", "painting", "sketch", "infograph", "clipart"]),
    ],
)
def test_domainnet_goes_through_its_domains(root, protocol, domains):
    stream = opened(DomainNetStream(root=str(domainnet(root, 345)), protocol=protocol))
    assert stream.num_classes == 345
    assert [experience.domain for experience in stream.experiences] == domains
    for experience in stream.experiences:
        assert {stream.train_source.names[place].split("/")[0] for place in experience.train} == {experience.domain}
        assert len(experience.train) == len(experience.test) == 345
    stream.begin(0)
    assert len(stream.evaluated) == 6


def test_domainnet_goes_through_its_classes_with_the_lists_of_coda_prompt(root):
    domainnet(root, 2)
    for kind in ("train", "test"):
        names = [(domain, label) for label in range(345) for domain in DOMAINS]
        data = [f"/shared/DomainNet/{domain}/class_{label:03}/{kind}.jpg" for domain, label in names]
        text = yaml.safe_dump({"data": data, "targets": [label for _, label in names]})
        (root / f"domainnet_{kind}.yaml").write_text(text, encoding="utf-8")
    put(root, "clipart/class_000/train.jpg", "sketch/class_344/test.jpg")
    stream = opened(DomainNetStream(root=str(root), protocol="domainnet_coda_5"))
    assert [experience.classes for experience in stream.experiences] == [
        tuple(range(start, start + 69)) for start in range(0, 345, 69)
    ]
    assert stream.train_source.domains[:6] == list(DOMAINS)


def test_a_class_may_miss_a_domain(root):
    # The official painting_train.txt has no t-shirt.
    domainnet(root, 3)
    for kind in ("train", "test"):
        path = root / f"painting_{kind}.txt"
        path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n", encoding="utf-8")
    stream = opened(DomainNetStream(root=str(root), scenario=DomainIncremental()))
    assert stream.experiences[2].classes == (0, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clipart/class_000/x.jpg 1", "the class 'class_000' has the number 1 here"),
        ("clipart/class_009/x.jpg 9", "run from 0 without a gap"),
        ("clipart/class_000/x.jpg one", "a whole number, but 'one' came"),
        ("clipart/class_000/x.jpg -1", "a whole number, but '-1' came"),
        ("clipart/../x.jpg 0", "leaves the data's folder"),
        ("photo/class_000/x.jpg 0", "must be DOMAIN/CLASS/IMAGE"),
        ("clipart/x.jpg 0", "must be DOMAIN/CLASS/IMAGE"),
        ("clipart/class_000/x.jpg", "2 cells are expected"),
    ],
)
def test_wrong_lines_of_domainnet_are_named(root, line, message):
    domainnet(root, 2)
    with (root / "clipart_train.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        opened(DomainNetStream(root=str(root), scenario=ONE))


def test_lists_without_images_are_noticed_at_once(root):
    domainnet(root, 2)
    (root / "clipart/class_000/clipart_000_train0.jpg").unlink()
    with pytest.raises(DataError, match=r"DomainNet: there is no .*clipart_000_train0.jpg"):
        opened(DomainNetStream(root=str(root), scenario=ONE))


# ---- Tiny-ImageNet


@pytest.fixture
def tiny(root):
    lines = []
    for place, label in enumerate(wordnet(200)):
        put(root, f"train/{label}/images/{label}_0.JPEG", f"val/images/val_{place}.JPEG")
        lines.append(f"val_{place}.JPEG\t{label}\t0\t0\t8\t8")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines[::-1]) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [
        ("tiny_imagenet_pass_b100_inc5", [100] + [5] * 20),
        ("tiny_imagenet_pass_b100_inc10", [100] + [10] * 10),
        ("tiny_imagenet_pass_b100_inc20", [100] + [20] * 5),
    ],
)
def test_tiny_imagenet_is_tested_on_its_validation_images(tiny, protocol, sizes):
    stream = opened(TinyImageNetStream(root=str(tiny), protocol=protocol))
    assert [len(experience.classes) for experience in stream.experiences] == sizes
    assert stream.test_source.names[0] == "val/images/val_199.JPEG"
    assert stream.class_names[stream.test_source.labels[0]] == wordnet(200)[199]
    assert stream.experiences[0].classes[:4] == (168, 136, 51, 9)


def test_images_that_the_annotations_name_must_be_there(tiny):
    (tiny / "val" / "images" / "val_7.JPEG").unlink()
    with pytest.raises(DataError, match=r"names 1 images that are not there, such as val/images/val_7.JPEG"):
        opened(TinyImageNetStream(root=str(tiny), scenario=ONE))


def test_test_images_of_unknown_classes_are_named(tiny):
    with (tiny / "val" / "val_annotations.txt").open("a", encoding="utf-8") as file:
        file.write("val_0.JPEG\tn99999999\t0\n")
    with pytest.raises(DataError, match="the class 'n99999999' has test images and no training images"):
        opened(TinyImageNetStream(root=str(tiny), scenario=ONE))


# ---- what may be wrong with files and folders


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda root: ImageNetRStream(root=root, protocol="imagenet_r_pilot_b0_inc20"), ("/train", "/test", "random")),
        (
            lambda root: ImageNetRStream(root=root, protocol="imagenet_r_coda_5"),
            ("imagenet-r_train.yaml", "CODA-Prompt"),
        ),
        (lambda root: CUB200Stream(root=root, scenario=ONE), ("train_test_split.txt", "CUB_200_2011.tgz", "caltech")),
        (lambda root: DomainNetStream(root=root, scenario=ONE), ("clipart_train.txt", "sketch", "M3SDA")),
        (
            lambda root: TinyImageNetStream(root=root, scenario=ONE),
            ("val_annotations.txt", "ROOT/train/WNID", "cs231n"),
        ),
    ],
)
def test_missing_data_is_named_with_the_layout_and_the_site(root, make, parts):
    with pytest.raises(DataError) as caught:
        opened(make(str(root)))
    for part in (str(root), "Expected is", *parts):
        assert part in str(caught.value)
