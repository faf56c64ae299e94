"""CIFAR-10 and CIFAR-100 in the layout of their Python archives."""

import hashlib
import io
import os
import pickle
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import CIFAR10Stream, CIFAR100Stream, Preprocessing
from pvision.datamodules.streams._plain_pickle import read_plain_pickle
from pvision.errors import ConfigError, DataError

PLAIN = Preprocessing()
TWO = ClassIncremental(experiences=2)


def rows(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def cifar100(tmp_path):
    """Two training images and a test image of each of 100 classes."""
    folder = tmp_path / "cifar-100-python"
    labels = [position % 100 for position in range(200)]
    dump(folder / "train", {b"data": rows(200, 1), b"fine_labels": labels, b"coarse_labels": [0] * 200})
    dump(folder / "test", {b"data": rows(100, 2), b"fine_labels": labels[:100], b"coarse_labels": [0] * 100})
    dump(folder / "meta", {b"fine_label_names": [f"class {label:02}".encode() for label in range(100)]})
    return tmp_path


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    for number in range(1, 6):
        dump(folder / f"data_batch_{number}", {"data": rows(10, number), "labels": list(range(10))})
    dump(folder / "test_batch", {"data": rows(10, 6), "labels": list(range(10))})
    dump(folder / "batches.meta", {"label_names": [f"class {label}" for label in range(10)], "num_vis": 3072})
    return tmp_path


def small(root, **more):
    return CIFAR10Stream(root=str(root), scenario=TWO, preprocessing=PLAIN, **more)


def test_pixels_labels_and_names_are_those_of_the_files(cifar10):
    stream = small(cifar10)
    stream.setup()
    assert list(stream.class_names) == [f"class {label}" for label in range(10)]
    assert len(stream.train_source) == 50
    assert len(stream.test_source) == 10
    # Image 13 is image 3 of the second file: 1,024 red pixels row by row, then green ones, then blue ones.
    row = rows(10, 2)[3]
    image = stream.train_source.image(13)
    assert stream.train_source.labels[13] == 3
    assert image.dtype == torch.uint8
    assert image[0, 1, 2] == row[34]
    assert image[2, 31, 31] == row[3071]


def test_the_fine_labels_of_cifar100_count(cifar100):
    stream = CIFAR100Stream(root=str(cifar100), scenario=TWO)
    stream.setup()
    assert stream.class_names[42] == "class 42"
    assert stream.train_source.labels[142] == 42


def test_the_protocol_brings_classes_in_the_fields_order(cifar100):
    stream = CIFAR100Stream(root=str(cifar100), protocol="cifar100_pilot_b0_inc10", batch_size=4)
    stream.setup()
    assert [len(experience.classes) for experience in stream.experiences] == [10] * 10
    assert stream.experiences[0].classes == (68, 56, 78, 8, 23, 84, 90, 65, 74, 76)
    assert set(stream.train_source.labels[stream.experiences[0].train]) == {68, 56, 78, 8, 23, 84, 90, 65, 74, 76}
    assert next(iter(stream.train_dataloader())).image.shape == (4, 3, 224, 224)
    assert stream.manifest().protocol == "cifar100_pilot_b0_inc10"


def test_half_of_the_classes_come_first_with_b50(cifar100):
    stream = CIFAR100Stream(root=str(cifar100), protocol="cifar100_pycil_b50_inc10", batch_size=4)
    assert [len(experience.classes) for experience in stream.experiences] == [50, 10, 10, 10, 10, 10]
    assert next(iter(stream.train_dataloader())).image.shape == (4, 3, 32, 32)


def test_other_class_orders_of_a_protocol_can_be_drawn(cifar100):
    stream = CIFAR100Stream(root=str(cifar100), protocol="cifar100_icarl_10", class_order_seed=7)
    expected = np.random.RandomState(7).permutation(100)[:10]
    assert stream.experiences[0].classes == tuple(expected)


def test_a_protocol_of_another_number_of_classes_is_refused(cifar100):
    dump(cifar100 / "cifar-100-python" / "meta", {"fine_label_names": ["a", "b"]})
    for name, count in (("train", 200), ("test", 100)):
        labels = [position % 2 for position in range(count)]
        dump(cifar100 / "cifar-100-python" / name, {"data": rows(count, 1), "fine_labels": labels})
    with pytest.raises(DataError, match=r"cifar100_coda_10 has 100 classes, but .* holds 2"):
        CIFAR100Stream(root=str(cifar100), protocol="cifar100_coda_10").setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "CIFAR10Stream needs data.scenario, or data.protocol: one of cifar10_mammoth_5"),
        ({"protocol": "cifar10_mammoth_5", "scenario": TWO}, "data.scenario and data.protocol 'cifar10_mammoth_5' are"),
        ({"protocol": "cifar10_mammoth_5", "preprocessing": PLAIN}, "data.preprocessing and data.protocol"),
        ({"protocol": "cifar10_mamoth_5"}, "unknown. Do you mean 'cifar10_mammoth_5'"),
        ({"protocol": "cifar100_coda_10"}, "belongs to the data set cifar100, but this stream is cifar10"),
        ({"scenario": TWO, "class_order_seed": 3}, "class_order_seed goes with data.protocol"),
    ],
)
def test_contradicting_settings_are_named(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        CIFAR10Stream(root=str(tmp_path), **arguments)


def test_missing_data_is_named_with_the_layout(tmp_path):
    with pytest.raises(DataError) as caught:
        small(tmp_path).setup()
    for part in (
        "cifar10",
        str(tmp_path / "cifar-10-batches-py" / "data_batch_1"),
        "ROOT/cifar-10-batches-py/",
        "kriz",
    ):
        assert part in str(caught.value)


def test_a_single_missing_file_is_named(cifar10):
    (cifar10 / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"there is no .*data_batch_4\. Expected"):
        small(cifar10).setup()


# ---- pickles


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_asks_for_code_is_refused_and_runs_nothing(cifar10, tmp_path):
    marker, file = tmp_path / "marker", cifar10 / "cifar-10-batches-py" / "test_batch"
    dump(file, {"data": rows(10, 1), "labels": [Bomb(marker)]})
    with pytest.raises(DataError, match=r"test_batch is refused: it asks for posix.system"):
        small(cifar10).setup()
    assert not marker.exists()
    pickle.loads(file.read_bytes())  # what anybody's reader would have done
    assert marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02cnumpy\nndarray.__init__.__globals__\n.",
        b"c_codecs\ndecode\n.",
    ],
)
def test_no_other_name_is_looked_up(tmp_path, program):
    path = tmp_path / "file"
    path.write_bytes(program)
    with pytest.raises(DataError, match=r"is refused: it asks for|is no intact pickle"):
        read_plain_pickle(path)


def test_a_file_as_python_2_wrote_it_is_read(tmp_path):
    """The official files are of this kind; each opcode stands where Python 2.7 puts it."""
    image = rows(1, 5)[0]
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + image.tobytes() + b"tb"
    )
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02}q\x01(U\x04dataq\x02" + array + b"U\x06labels]K\x03aU\x0bbatch_labelU\x01xu.")
    content = read_plain_pickle(path)
    np.testing.assert_array_equal(content["data"], image[None])
    assert content["labels"] == [3]
    assert pickle.loads(path.read_bytes(), encoding="bytes")[b"labels"] == [3]  # the bytes above are a true pickle


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": list(range(10))}, "no rows of 3 x 32 x 32 bytes"),
        ({"data": rows(10, 1)[:, :3000].copy(), "labels": list(range(10))}, "no rows of 3 x 32 x 32 bytes"),
        ({"data": rows(10, 1).astype(np.float32), "labels": list(range(10))}, "not one of bytes"),
        ({"data": np.asfortranarray(rows(10, 1)), "labels": list(range(10))}, "in C order"),
        ({"data": rows(10, 1), "labels": list(range(9))}, "10 images and 9 labels"),
        ({"data": rows(10, 1), "labels": [*range(9), 10]}, "labels from 0 to 9"),
        ({"data": rows(10, 1), "labels": [*range(9), "9"]}, "labels from 0 to 9"),
        ([1, 2, 3], "holds a list where a dictionary is expected"),
    ],
)
def test_files_with_other_content_are_named(cifar10, content, message):
    dump(cifar10 / "cifar-10-batches-py" / "data_batch_3", content)
    with pytest.raises(DataError, match=f"data_batch_3.*{message}"):
        small(cifar10).setup()


def test_names_that_are_no_names_are_refused(cifar10):
    dump(cifar10 / "cifar-10-batches-py" / "batches.meta", {"label_names": [1, 2]})
    with pytest.raises(DataError, match=r"batches.meta holds no list of names 'label_names'"):
        small(cifar10).setup()


@pytest.mark.parametrize("kept", [0, 1, 10, 200, -1])
def test_a_damaged_file_is_named(cifar10, kept):
    file = cifar10 / "cifar-10-batches-py" / "data_batch_1"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match="data_batch_1 is no intact pickle"):
        small(cifar10).setup()


# ---- download


def archive(folder):
    """The bytes of an archive of a folder, with a file in it that nobody asked for."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
        tar.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    return stream.getvalue()


@pytest.fixture
def site(monkeypatch, tmp_path, cifar10):
    """A web site that hands out an archive, and a folder without data."""
    content, asked = archive(cifar10 / "cifar-10-batches-py"), []

    def answer(url, **_):
        asked.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(CIFAR10Stream, "sha256", hashlib.sha256(content).hexdigest())
    return asked, tmp_path / "elsewhere" / "data"


def test_the_archive_is_downloaded_once_and_unpacked(site):
    asked, root = site
    for _ in range(2):
        stream = small(root, download=True)
        stream.prepare_data()
        stream.setup()
        assert len(stream.train_source) == 50
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    assert not (root.parent / "outside").exists()


def test_an_archive_with_another_checksum_is_refused_and_nothing_of_it_is_left(site, monkeypatch):
    _, root = site
    monkeypatch.setattr(CIFAR10Stream, "sha256", "0" * 64)
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz has the SHA-256 .* but 0{64} is expected"):
        small(root, download=True).prepare_data()
    assert list(root.iterdir()) == []


def test_a_damaged_archive_beside_the_folder_is_refused(site):
    asked, root = site
    root.mkdir(parents=True)
    (root / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    with pytest.raises(DataError, match=r"data/cifar-10-python.tar.gz has the SHA-256"):
        small(root, download=True).prepare_data()
    assert not asked


def test_without_the_network_the_remedy_is_named(site, monkeypatch):
    _, root = site

    def fail(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(DataError, match=r"cannot be downloaded .*no route to host.* Download it elsewhere"):
        small(root, download=True).prepare_data()
    assert list(root.iterdir()) == []


def test_nothing_is_downloaded_unless_asked(site):
    asked, root = site
    with pytest.raises(DataError, match=r"or set data.download: true"):
        small(root).setup()
    assert not asked


def test_the_checksums_are_those_of_the_published_archives():
    assert CIFAR10Stream.sha256 == "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    assert CIFAR100Stream.sha256 == "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
