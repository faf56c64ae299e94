"""Masks in memory and in files: which values mean what, which labels occur where, what is refused."""

import numpy as np
import pytest
from PIL import Image

from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules.segmentation import ArraySegmentation, FileSegmentation, LabelMap, SegmentationSource, presence
from pvision.datamodules.segmentation.mask_file import read_mask
from pvision.errors import ConfigError, DataError

VALUES = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


def saved(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def palette(values):
    image = Image.fromarray(values, mode=None).convert("L")
    made = Image.new("P", image.size)
    made.putdata(values.flatten().tolist())
    made.putpalette([n for value in range(256) for n in (255 - value, value, 7)])
    return made


@pytest.mark.parametrize("made", [Image.fromarray, palette], ids=["grey", "palette"])
def test_the_values_of_a_mask_are_read_as_they_are_stored(tmp_path, made):
    assert np.array_equal(read_mask(saved(tmp_path / "a.png", made(VALUES))), VALUES)


def test_a_mask_of_one_bit_holds_0_and_1(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(VALUES == 1))
    assert np.array_equal(read_mask(path), (VALUES == 1).astype(np.uint8))


def grey_of_4_bits(path):
    """A PNG that Pillow cannot write: 2 x 1 pixels of the values 1 and 15."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    data = zlib.compress(b"\0\x1f")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "There is no mask"),
        (lambda path: path.write_bytes(b"none"), "cannot be read as a PNG"),
        (lambda path: saved(path, Image.fromarray(VALUES), format="BMP"), "cannot be read as a PNG"),
        (lambda path: saved(path, Image.fromarray(np.stack([VALUES] * 3, -1))), "has colours, transparency or 16 bits"),
        (lambda path: saved(path, Image.fromarray(VALUES.astype(np.uint16) * 300)), "has colours, transparency or 16"),
        (lambda path: saved(path, Image.fromarray(np.stack([VALUES] * 2, -1))), "has colours, transparency or 16 bits"),
        (grey_of_4_bits, r"has fewer than 8 bits of grey \(L;4\)"),
    ],
    ids=["missing", "damaged", "other format", "colours", "16 bits", "transparency", "4 bits"],
)
def test_what_is_no_mask_is_refused_by_name(tmp_path, make, message):
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=message) as error:
        read_mask(tmp_path / "a.png")
    assert "a.png" in str(error.value)


def test_a_truncated_mask_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match="cannot be read as a PNG"):
        read_mask(path)


def test_a_label_map_says_what_values_mean():
    made = LabelMap({0: 0, 7: 1, 8: 1, 9: 2}, num_classes=2)
    assert made.apply(np.array([[0, 7, 8, 9, 255]], np.uint8), "a").tolist() == [[0, 1, 1, 2, 255]]
    with pytest.raises(DataError, match="mask a holds the values 1, 2, which label_map does not list"):
        made.apply(VALUES, "a")


def test_masks_that_number_the_classes_in_order():
    values = np.array([[0, 1, 2, 255]], np.uint8)
    assert LabelMap.in_order(2).apply(values, "a").tolist() == [[0, 1, 2, 255]]
    assert LabelMap.in_order(3, background=False).apply(values, "a").tolist() == [[1, 2, 3, 255]]
    with pytest.raises(DataError, match="the values 2"):
        LabelMap.in_order(1).apply(values, "a")


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ({0: 0, 1: 1, 2: 3}, {}, r"labels that do not exist \(2: 3\)\. Labels are 0 to 2 and 255"),
        ({0: 0, 1: 1, 2: 2}, {"background": False}, r"do not exist \(0: 0\)\. Labels are 1 to 2"),
        ({0: 0, 1: 1}, {}, "no value for the classes 2 of 2"),
        ({0: 0, 1: 1, 256: 2}, {}, "lists the values 256"),
        ({0: 0, 1: 1, -1: 2}, {}, "lists the values -1"),
        ({value: value for value in range(255)}, {"num_classes": 255}, "no value for the classes 255"),
    ],
)
def test_a_wrong_label_map_is_refused(labels, arguments, message):
    with pytest.raises(ConfigError, match=message):
        LabelMap(labels, **{"num_classes": 2, **arguments})


def arrays(count=3):
    return np.zeros((count, 3, 2, 3), np.uint8), np.stack([VALUES] * count)


def test_masks_in_memory_know_which_labels_occur():
    images, masks = arrays()
    masks[1] = 255
    masks[2] = 2
    made = ArraySegmentation(images, masks, num_classes=3, prefix="train")
    assert isinstance(made, SegmentationSource)
    assert made.presence().tolist() == [
        [True, True, True, False],
        [False, False, False, False],
        [False, False, True, False],
    ]
    made.image(0)[:] = 9
    made.mask(0)[:] = 9
    assert int(made.image(0).max()) == 0
    assert made.mask(0).tolist() == VALUES.tolist()


def test_wrong_arrays_are_refused():
    images, masks = arrays()
    for wrong, message in (
        ((images.transpose(0, 2, 3, 1), masks), "do not belong together"),
        ((images[:2], masks), "do not belong together"),
        ((images.astype(np.int64), masks), r"images must be uint8 \(N, 3, H, W\)"),
        ((images, masks[:, None]), r"masks must be uint8 \(N, H, W\)"),
    ):
        with pytest.raises(DataError, match=message):
            ArraySegmentation(*wrong, num_classes=2, prefix="train")
    with pytest.raises(DataError, match="mask train/0 holds the labels 2, but there are 1 classes"):
        ArraySegmentation(images, masks, num_classes=1, prefix="train").presence()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        saved(tmp_path / "images" / f"{name}.jpg", Image.fromarray(rng.integers(0, 256, (2, 3, 3)).astype(np.uint8)))
        saved(tmp_path / "masks" / f"{name}.png", palette(np.minimum(VALUES, 1) if name == "a" else VALUES))
    return tmp_path


def files(folder, **arguments):
    images, masks = (sorted((folder / name).iterdir()) for name in ("images", "masks"))
    given = {"root": folder, "label_map": LabelMap.in_order(2), "num_classes": 2, **arguments}
    return FileSegmentation(images, masks, **given)


def test_files_are_read_when_they_are_asked_for(folder):
    made = files(folder)
    assert isinstance(made, SegmentationSource)
    assert list(made.names) == ["images/a.jpg", "images/b.jpg"]
    assert made.image(1).shape == (3, 2, 3)
    assert made.mask(1).tolist() == VALUES.tolist()
    assert made.presence().tolist() == [[True, True, False], [True, True, True]]


def test_images_to_be_turned_are_refused(folder):
    exif = Image.Exif()
    exif[0x0112] = 3
    saved(folder / "images" / "a.jpg", Image.fromarray(np.zeros((2, 3, 3), np.uint8)), exif=exif)
    with pytest.raises(DataError, match="EXIF orientation 3"):
        files(folder).image(0)


def test_as_many_masks_as_images(folder):
    (folder / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match="2 images and 1 masks"):
        files(folder)


def test_which_labels_occur_is_kept_where_the_user_says(folder, monkeypatch):
    kept = folder / "kept" / "train.json"
    first = files(folder, presence_file=kept).presence()

    def fail(path):
        raise InterruptedError(path)

    with monkeypatch.context() as patched:
        patched.setattr(presence, "read_mask", fail)
        assert np.array_equal(files(folder, presence_file=kept).presence(), first)
        with pytest.raises(InterruptedError):
            files(folder).presence()
        other = LabelMap({0: 0, 1: 2, 2: 1}, num_classes=2)
        with pytest.raises(InterruptedError):
            files(folder, presence_file=kept, label_map=other).presence()
    saved(folder / "masks" / "a.png", Image.fromarray(np.full((4, 4), 2, np.uint8)))
    assert files(folder, presence_file=kept).presence()[0].tolist() == [False, False, True]


def test_a_file_that_keeps_something_else_is_not_overwritten(folder):
    for content, message in (("[1]", "another kind of file"), ("{", "cannot be read")):
        kept = folder / "notes.json"
        kept.write_text(content)
        with pytest.raises(DataError, match=message):
            files(folder, presence_file=kept).presence()
        assert kept.read_text() == content


def test_an_unreadable_mask_stops_the_stream_before_training(folder):
    (folder / "masks" / "b.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"b\.png cannot be read"):
        SegmentationScenario(task="1-1").positions(files(folder).presence())
