"""The digits that are shipped: what they are, how they are split, and a model that learns them."""

import hashlib
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from pvision.continual.scenarios import Blurry, ClassIncremental, LongTailed
from pvision.datamodules.streams import DigitsStream, shipped
from pvision.datamodules.streams.idx import encode_idx, read_idx
from pvision.errors import ConfigError, DataError


def stream(**settings):
    return DigitsStream(**{"scenario": ClassIncremental(experiences=5), "seed": 0, **settings})


def test_the_sets_are_those_of_the_first_release():
    data = stream()
    data.setup()
    assert (len(data.train_source), len(data.test_source), data.num_classes) == (1198, 599, 10)
    assert np.bincount(data.train_source.labels).tolist() == [119, 121, 118, 122, 121, 121, 121, 119, 116, 120]
    assert np.bincount(data.test_source.labels).tolist() == [59, 61, 59, 61, 60, 61, 60, 60, 58, 60]
    # Whoever changes a shipped image changes every figure measured on it.
    pixels = [torch.stack([part.image(n) for n in range(len(part))]) for part in (data.train_source, data.test_source)]
    assert (
        hashlib.sha256(b"".join(part.numpy().tobytes() for part in pixels)).hexdigest()
        == "29424633ea332c160cb9201c8016aef9f980ef5eeb3a63217e5910f563cec0c5"
    )
    assert data.manifest().digest == "8011df01a00fdc22904b2c0b9426ffa073e0b6850d12564dbefb1a9d1307bdb4"


def test_the_script_makes_what_is_shipped():
    pytest.importorskip("sklearn.datasets")
    made = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "make_stream_data.py"))["digits"]()
    for split, arrays in made.items():
        for mine, its in zip(arrays, shipped.load_shipped("digits", split), strict=True):
            assert np.array_equal(mine, its)
    assert sum(len(labels) for _, labels in made.values()) == 1797


def test_pixels_use_the_whole_range_and_training_sees_0_to_1():
    data = stream(batch_size=1198, scenario=ClassIncremental(experiences=1))
    (batch,) = data.train_dataloader()
    assert batch.image.shape == (1198, 1, 8, 8)
    assert (batch.image.min(), batch.image.max()) == (0, 1)
    values = {round(value * 255 / 16) for value in range(17)}
    assert set((batch.image * 255).round().unique().int().tolist()) == values


@pytest.mark.parametrize(
    "scenario",
    [
        Blurry(experiences=5),
        LongTailed(scenario=ClassIncremental(experiences=5), imbalance=0.1),
        ClassIncremental(increments=[4, 3, 2, 1], class_order_seed=1993),
    ],
)
def test_the_other_scenarios_make_streams_of_them(scenario):
    data = stream(scenario=scenario, val_fraction=0.1)
    tested = sum(len(e.test) for e in data.experiences)
    assert tested == 599
    for index in range(len(data.experiences)):
        data.begin(index)
        assert sum(len(batch.label) for batch in data.train_dataloader()) == len(data.experiences[index].train)


def test_more_experiences_than_digits_are_refused():
    with pytest.raises(ConfigError, match="11 experiences cannot share 10 classes"):
        stream(scenario=ClassIncremental(experiences=11)).setup()


def test_a_linear_model_learns_them():
    data = stream(scenario=ClassIncremental(experiences=1), batch_size=64)
    layer = torch.nn.Linear(64, 10)
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    for _ in range(10):
        for batch in data.train_dataloader():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(batch.image.flatten(1)), batch.label).backward()
            optimizer.step()
    (loader,) = data.test_dataloader()
    right = sum(int((layer(batch.image.flatten(1)).argmax(1) == batch.label).sum()) for batch in loader)
    assert right / 599 > 0.9


def test_a_damaged_shipped_file_is_named(tmp_path, monkeypatch):
    for path in Path(shipped.__file__).parent.glob("digits-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path)
    content = bytearray((tmp_path / "digits-test-images.idx.xz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "digits-test-images.idx.xz").write_bytes(content)
    with pytest.raises(DataError, match=r"digits-test-images\.idx\.xz cannot be read"):
        stream().setup()
    (tmp_path / "digits-train-labels.idx.xz").unlink()
    with pytest.raises(DataError, match=r"digits-train-labels\.idx\.xz is missing"):
        stream().setup()


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 2)])
def test_idx_files_hold_arrays(tmp_path, shape):
    array = np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape)
    (tmp_path / "a.idx").write_bytes(encode_idx(array))
    assert np.array_equal(read_idx(tmp_path / "a.idx", dims=len(shape)), array)


WHOLE = encode_idx(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file of unsigned bytes in 2 dimensions"),
        (WHOLE[:9], "is no IDX file"),
        (b"\x00\x00\x0d" + WHOLE[3:], "is no IDX file"),
        (encode_idx(np.zeros(6, np.uint8)), "is no IDX file of unsigned bytes in 2 dimensions"),
        (WHOLE[:-1], r"declares \(2, 3\), 6 bytes, but holds 5"),
        (WHOLE + b"\x00", r"declares \(2, 3\), 6 bytes, but holds more"),
        (WHOLE[:4] + b"\xff" * 8, "more than 2147483648 bytes"),
    ],
)
def test_damaged_idx_files_are_refused_before_memory_is_taken(tmp_path, content, message):
    (tmp_path / "a.idx").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "a.idx", dims=2)
