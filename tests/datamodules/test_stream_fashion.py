"""Fashion-MNIST: the shipped part, the official files, and their download."""

import gzip
import hashlib
import io
import urllib.error
import urllib.request
from http.client import IncompleteRead

import numpy as np
import pytest

from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import FashionMNISTStream, fashion_mnist
from pvision.datamodules.streams.idx import encode_idx
from pvision.datamodules.streams.shipped import load_shipped
from pvision.errors import ConfigError, DataError


def stream(**settings):
    return FashionMNISTStream(**{"scenario": ClassIncremental(experiences=5), "seed": 0, **settings})


def official(count=20, size=4):
    """Small files of the official names, and what they hold."""
    return {
        name: encode_idx(
            np.full((count, size, size), 7, np.uint8) if "images" in name else np.arange(count, dtype=np.uint8) % 10
        )
        for name in fashion_mnist._FILES
    }


@pytest.fixture
def folder(tmp_path):
    for name, content in official().items():
        # Both forms are taken.
        if "t10k" in name:
            (tmp_path / name).write_bytes(content)
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    return tmp_path


def test_the_shipped_part_is_that_of_the_first_release():
    data = stream()
    data.setup()
    assert (len(data.train_source), len(data.test_source)) == (5000, 1000)
    assert np.bincount(data.train_source.labels).tolist() == [500] * 10
    assert np.bincount(data.test_source.labels).tolist() == [100] * 10
    assert data.train_source.image(0).shape == (1, 28, 28)
    pixels = b"".join(load_shipped("fashion_mnist", split)[0].tobytes() for split in ("train", "test"))
    assert hashlib.sha256(pixels).hexdigest() == "c7850b99d548d6589d3e48e8408bb55e14e80eec0cfb24421075a3cc0d8fa65b"
    assert data.manifest().digest == "591a7c4190a471433f4c73b0252fc979457586ad1686dcca1e4eeb8a3b046cec"


def test_the_official_files_are_read(folder):
    data = stream(root=str(folder))
    data.setup()
    assert (len(data.train_source), len(data.test_source)) == (20, 20)
    assert data.train_source.image(3).unique().tolist() == [7]
    assert data.identity() != stream().identity()


def test_a_missing_file_is_named_with_the_remedies(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"holds no t10k-labels-idx1-ubyte\.gz.*data\.download: true"):
        stream(root=str(folder)).setup()


def test_a_truncated_file_is_named(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        stream(root=str(folder)).setup()


def test_files_that_do_not_go_together_are_refused(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode_idx(np.zeros(19, np.uint8))))
    with pytest.raises(DataError, match=r"train has 20 images and labels of shape \(19,\)"):
        stream(root=str(folder)).setup()
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode_idx(np.full(20, 10, np.uint8))))
    with pytest.raises(DataError, match="label of train record 0 is 10, but labels run from 0 to 9"):
        stream(root=str(folder)).setup()


def test_a_download_needs_a_place():
    with pytest.raises(ConfigError, match=r"data\.download needs data\.root"):
        stream(download=True)


@pytest.fixture
def site(monkeypatch):
    """A site that serves small files, with the checksums to go with them."""
    files = official()
    served = {f"{fashion_mnist._SITE}{name}.gz": gzip.compress(content) for name, content in files.items()}
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        if url not in served:
            raise urllib.error.URLError("no route to host")
        if isinstance(served[url], Exception):
            raise served[url]
        return io.BytesIO(served[url])

    facts = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    monkeypatch.setattr(fashion_mnist, "_FILES", facts)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return served, asked


def test_what_is_missing_is_downloaded_once(site, tmp_path):
    _, asked = site
    root = tmp_path / "new" / "folder"
    stream(root=str(root), download=True).setup()
    assert len(asked) == 4
    assert sorted(path.name for path in root.iterdir()) == sorted(f"{name}.gz" for name in fashion_mnist._FILES)
    again = stream(root=str(root), download=True)
    again.prepare_data()
    again.setup()
    assert len(asked) == 4


def test_nothing_is_downloaded_unless_it_was_asked_for(site, folder):
    stream(root=str(folder)).setup()
    stream().prepare_data()
    assert site[1] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(encode_idx(np.zeros(20, np.uint8))), "holds data of SHA-256"),
        (b"<html>", "is no whole gzip file"),
        (bytes(5000), "has more than the 4124 bytes that are expected"),
        (None, "cannot be downloaded .*no route to host"),
        (IncompleteRead(b"half"), r"cannot be downloaded \(IncompleteRead\(4 bytes read\)"),
    ],
    ids=[
        "other data",
        "no gzip file",
        "too long",
        "no network",
        "cut off",
    ],  # gzip writes the time: processes would not agree on a name
)
def test_a_file_that_is_not_the_one_meant_leaves_nothing_behind(site, tmp_path, content, message):
    served, _ = site
    url = f"{fashion_mnist._SITE}t10k-labels-idx1-ubyte.gz"
    if content is None:
        del served[url]
    else:
        served[url] = content
    with pytest.raises(DataError, match=message):
        stream(root=str(tmp_path / "d"), download=True).prepare_data()
    assert not [path for path in (tmp_path / "d").iterdir() if "t10k-labels" in path.name]


def test_a_file_that_unpacks_to_much_more_is_not_unpacked(site, tmp_path, monkeypatch):
    served, _ = site
    served[f"{fashion_mnist._SITE}t10k-labels-idx1-ubyte.gz"] = gzip.compress(bytes(2**21))
    read = []
    opened = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: (read.append(size), opened(self, size))[1])
    with pytest.raises(DataError, match="holds data of SHA-256"):
        stream(root=str(tmp_path / "d"), download=True).prepare_data()
    assert max(read) < 5000
