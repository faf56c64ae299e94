"""Data modules of files: their loaders, and clips that cannot be used."""

import logging
import pickle
import signal

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from pvision.datamodules.decoding import probe_video
from pvision.datamodules.masks import Boxes, FixedRegions
from pvision.datamodules.records import PublicOnly
from pvision.datamodules.video_folder import VideoFolder
from pvision.errors import CorruptVideoError, DataError
from pvision.privacy import Redaction

LEFT = FixedRegions([[0, 0, 0.5, 1]], unit="fraction")
SMALL = {"frames": 4, "stride": 2, "size": 24, "batch_size": 4, "eval_batch_size": 4}


def folder(root, settings=(), **changed):
    return VideoFolder(
        **{"root": str(root), "masks": LEFT, "redaction": Redaction("inside"), **SMALL, **dict(settings), **changed}
    )


# Loaders


def test_batches_have_both_views_in_the_contract_of_all_records(split_folders):
    data = folder(split_folders)
    data.setup()
    assert list(data.class_names) == ["run", "walk"]
    batch = next(iter(data.two_view_loader()))
    assert batch.full.shape == batch.public.video.shape == (3, 3, 4, 24, 24)
    assert batch.full.dtype == batch.public.video.dtype == torch.uint8
    assert batch.public.mask.shape == (3, 4, 24, 24)
    assert batch.public.mask.dtype == torch.bool
    assert batch.label.tolist() == [0, 1, 1]
    assert batch.public.position.tolist() == [0, 1, 2]
    assert data.train_set.names == ["train/run/c.mkv", "train/walk/a.mp4", "train/walk/b.avi"]


def test_an_empty_choice_is_an_empty_batch(split_folders):
    data = folder(split_folders)
    data.setup()
    batch = data.train_set[[]]
    assert batch.full.shape == (0, 3, 4, 24, 24)
    assert batch.public.video.shape == (0, 3, 4, 24, 24)
    assert batch.public.mask.shape == (0, 4, 24, 24)
    assert batch.public.mask.dtype == torch.bool
    assert batch.label.shape == batch.public.position.shape == (0,)


def test_a_record_is_the_same_clip_each_time(split_folders):
    one, two = folder(split_folders), folder(split_folders)
    one.setup()
    two.setup()
    assert torch.equal(one.train_set[[0, 1, 2]].full, two.train_set[[2, 0, 1]].full[[1, 2, 0]])


# Clips that cannot be used


def test_raise_stops_at_set_up_with_the_path(split_folders):
    bad = split_folders / "train" / "walk" / "a.mp4"
    bad.write_bytes(bad.read_bytes()[:-50])
    with pytest.raises(CorruptVideoError) as caught:
        folder(split_folders).setup()
    assert caught.value.path == str(bad)


def test_a_clip_without_mask_stops_at_set_up(tmp_path, split_folders):
    (tmp_path / "boxes.json").write_text("{}")
    with pytest.raises(DataError, match=r"nothing of the clip 'train/run/c\.mkv'"):
        folder(split_folders, masks=Boxes(str(tmp_path / "boxes.json"))).setup()


@pytest.fixture
def flipped(split_folders):
    """A training clip whose first frame is good and whose others are not."""
    path = split_folders / "train" / "walk" / "b.avi"
    data = bytearray(path.read_bytes())
    for at in np.random.default_rng(0).integers(len(data) * 85 // 100, len(data) * 95 // 100, 30):
        data[at] ^= 255
    path.write_bytes(bytes(data))
    probe_video(path)
    return path


def test_skip_counts_and_reports_and_the_number_of_records_is_fixed(split_folders, flipped, caplog):
    data = folder(split_folders, on_error="skip", frames=16, stride=1)
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert [path for path, _ in data.skipped] == [str(flipped)]
    assert len(data.train_set) == 2
    assert "1 of 9 clips were left out" in caplog.text
    assert str(flipped) in caplog.text
    assert sum(len(batch.position) for batch in data.public_loader()) == 2


def test_raise_finds_later_damage_when_it_reads_it(split_folders, flipped):
    data = folder(split_folders, frames=16, stride=1)
    data.setup()
    with pytest.raises(CorruptVideoError, match=r"b\.avi"):
        data.train_set[[0, 1, 2]]


def test_too_many_skipped_clips_stop_the_run_with_the_list(split_folders):
    bad = [split_folders / split / "walk" / "a.mp4" for split in ("train", "val")]
    for path in bad:
        path.write_text("no video")
    with pytest.raises(DataError, match=r"2 of 9 clips cannot be used") as caught:
        folder(split_folders, on_error="skip").setup()
    assert all(str(path) in str(caught.value) for path in bad)


def test_skipping_may_not_empty_a_split(split_folders):
    for name in ("walk/a.mp4", "walk/b.avi"):
        (split_folders / "val" / name).unlink()
    (split_folders / "val/run/c.mkv").write_text("no video")
    with pytest.raises(DataError, match="no clips for val"):
        folder(split_folders, on_error="skip").setup()


def test_a_file_that_changes_under_way_is_refused(split_folders, write_video):
    data = folder(split_folders)
    data.setup()
    write_video(split_folders / "train/walk/a.mp4", height=32, width=32)
    with pytest.raises(CorruptVideoError, match="changed since the start"):
        data.train_set[[1]]


# Loader processes


@pytest.fixture(autouse=True)
def torch_keeps_no_signal_handler():
    """A loader with workers sets one for SIGCHLD and leaves it."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


def test_workers_give_what_the_main_process_gives(split_folders):
    """They are forked after this process has decoded, and hang if a decoder is still open."""
    alone, helped = folder(split_folders), folder(split_folders, num_workers=2)
    alone.setup()
    helped.setup()
    batches = [[2, 0], [], [1]]
    for mine, theirs in zip(alone.two_view_loader(batches), helped.two_view_loader(batches), strict=True):
        assert torch.equal(mine.full, theirs.full)
        assert torch.equal(mine.public.video, theirs.public.video)
        assert torch.equal(mine.public.mask, theirs.public.mask)


def test_a_worker_names_the_file(split_folders, flipped):
    data = folder(split_folders, frames=16, stride=1, num_workers=1)
    data.setup()
    with pytest.raises(Exception, match=r"b\.avi: ") as caught:
        list(data.two_view_loader())
    assert "CorruptVideoError" in repr(caught.value) + str(caught.value)


def test_records_travel_to_spawned_workers(split_folders):
    data = folder(split_folders)
    data.setup()
    copy = pickle.loads(pickle.dumps(PublicOnly(data.train_set)))
    assert torch.equal(copy[[1]].video, data.train_set[[1]].public.video)


# Configuration files


def test_a_configuration_file_builds_it(split_folders):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VideoFolder, "data")
    values = {
        "root": str(split_folders),
        "masks": {
            "class_path": "pvision.datamodules.masks.FixedRegions",
            "init_args": {"boxes": [[0, 0, 0.5, 1]], "unit": "fraction"},
        },
        "redaction": {"sensitive": "inside", "dilate": 2},
        **SMALL,
    }
    data = parser.instantiate(parser.parse_object({"data": values})).data
    data.setup()
    same = folder(split_folders, redaction=Redaction("inside", dilate=2))
    same.setup()
    assert torch.equal(data.val_set[[0]].public.video, same.val_set[[0]].public.video)
