"""Images in folders of one's own, and what may be wrong with folders and files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pvision.continual.scenarios import ClassIncremental, DomainIncremental
from pvision.datamodules.streams import ImageFolderStream, Preprocessing
from pvision.errors import ConfigError, DataError

PLAIN = Preprocessing()
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


def opened(stream):
    stream.setup()
    return stream


def folder_stream(root, **more):
    return ImageFolderStream(root=str(root), preprocessing=PLAIN, **{"scenario": ONE, **more})


def test_own_split_folders(root):
    put(root, "train/cat/1.png", "train/dog/2.png", "test/cat/3.webp", "test/dog/4.jpg")
    stream = opened(folder_stream(root, scenario=TWO))
    assert list(stream.class_names) == ["cat", "dog"]
    assert stream.test_source.names == ["test/cat/3.webp", "test/dog/4.jpg"]
    assert [experience.classes for experience in stream.experiences] == [(0,), (1,)]


def test_own_class_folders_are_divided(root):
    put(root, *(f"{label}/{place}.jpg" for label in ("cat", "dog") for place in range(6)))
    stream = opened(folder_stream(root, test_fraction=0.34))
    assert np.bincount(stream.test_source.labels).tolist() == [2, 2]
    assert stream.manifest().settings["test_fraction"] == 0.34


def test_own_domains_are_divided_one_by_one(root):
    put(
        root,
        *(f"{domain}/{label}/{place}.jpg" for domain in ("day", "night") for label in "ab" for place in range(5)),
    )
    stream = opened(folder_stream(root, domains=True, scenario=DomainIncremental()))
    assert [experience.domain for experience in stream.experiences] == ["day", "night"]
    assert [len(experience.test) for experience in stream.experiences] == [2, 2]
    assert list(stream.class_names) == ["a", "b"]


def test_a_batch_comes_out(root):
    put(root, *(f"{label}/{place}.jpg" for label in "ab" for place in range(5)))
    stream = opened(folder_stream(root, batch_size=8, seed=1))
    batch = next(iter(stream.train_dataloader()))
    assert batch.image.shape == (8, 3, 8, 8)
    assert sorted(set(batch.label.tolist())) == [0, 1]


# ---- what may be wrong with files and folders


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        ((), {}, "holds no class folders"),
        (("cat/1.txt",), {}, "cat holds no images"),
        (("day/cat/1.jpg", "day/cat/2.jpg"), {}, "day holds folders, but no images.*domains: true"),
        (("cat/1.jpg",), {}, "cat/1.jpg below .* is the only image of 'cat'"),
        (("train/cat/1.jpg",), {}, "has a folder 'train' without its counterpart"),
        (("test/cat/1.jpg",), {}, "has a folder 'test' without its counterpart"),
        (("train/cat/1.jpg", "test/dog/1.jpg"), {}, "the class 'dog' has test images and no training images"),
        (
            ("train/cat/1.jpg", "train/dog/1.jpg", "test/dog/2.jpg"),
            {},
            "the class 'cat' has training images and no test images",
        ),
        (("day/1.jpg",), {"domains": True}, "day holds no class folders"),
    ],
)
def test_folders_in_no_layout_are_named(root, names, arguments, message):
    (root / "photos").mkdir()
    put(root / "photos", *names)
    with pytest.raises(DataError, match=message):
        opened(folder_stream(root / "photos", **arguments))


def test_a_root_that_is_no_folder_is_named(root):
    with pytest.raises(DataError, match=r"data.root .*nowhere is no folder"):
        opened(folder_stream(root / "nowhere"))


def png_bomb(side):
    """A PNG of a few hundred bytes that says it has ``side`` x ``side`` pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", JPEG[:200], encoded(kind="PNG")[:100], png_bomb(60_000), png_bomb(10_000)],
    ids=["empty", "text", "cut JPEG", "cut PNG", "bomb of 10 GB", "bomb of 300 MB"],
)
def test_a_file_that_is_no_image_is_named_when_it_is_read(root, content):
    put(root, "train/cat/1.png", "test/cat/1.png")
    (root / "train/cat/1.png").write_bytes(content)
    stream = opened(folder_stream(root))
    with pytest.raises(DataError, match=r"train/cat/1.png .*(Mend|Remove)"):
        stream.train_source.image(0)


def test_damaged_images_give_pixels_or_a_named_error(root):
    """Flip bytes at random: whatever a decoder makes of it, nothing but `DataError` comes out."""
    put(root, "train/cat/1.png", "test/cat/1.png")
    stream, random = opened(folder_stream(root)), np.random.default_rng(3)
    outcomes, messages = set(), []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        sound = np.frombuffer(encoded(kind=kind), np.uint8)
        for _ in range(30):
            damaged = sound.copy()
            places = random.integers(0, len(sound), 3)
            damaged[places] = random.integers(0, 256, 3)
            (root / "train/cat/1.png").write_bytes(damaged.tobytes())
            try:
                outcomes.add(stream.train_source.image(0).shape[0])
            except DataError as error:
                messages.append(str(error))
    assert outcomes == {3}
    assert messages
    assert all("train/cat/1.png" in message for message in messages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_fraction": 0.0}, "data.test_fraction must be a number strictly between 0 and 1"),
        ({"split_seed": 1.5}, "data.split_seed must be a whole number"),
        ({"scenario": DomainIncremental()}, "needs a data set whose records have domains"),
    ],
)
def test_wrong_settings_are_named(root, arguments, message):
    put(root, "cat/1.jpg", "cat/2.jpg")
    with pytest.raises(ConfigError, match=message):
        opened(folder_stream(root, **arguments))
