"""A user's own clips: both views of each, the layouts, the splits, and what is wrong with them."""

import csv
import logging
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from pvision.datamodules._folder_listing import HashSplit
from pvision.datamodules.decoding import VideoInfo, probe_video
from pvision.datamodules.file_records import ClipFormat, FileRecords
from pvision.datamodules.listing import Listing, Row
from pvision.datamodules.masks import Boxes, FixedRegions, Footage, MaskArrays, MaskSource, WholeFrame
from pvision.datamodules.records import PublicOnly
from pvision.datamodules.transforms import square_region, square_video
from pvision.datamodules.video_folder import VideoFolder
from pvision.errors import ConfigError, CorruptVideoError, DataError
from pvision.privacy import Redaction

LEFT = FixedRegions([[0, 0, 0.5, 1]], unit="fraction")
SMALL = {"frames": 4, "stride": 2, "size": 24, "batch_size": 4, "eval_batch_size": 4}


def folder(root, settings=(), **changed):
    return VideoFolder(
        **{"root": str(root), "masks": LEFT, "redaction": Redaction("inside"), **SMALL, **dict(settings), **changed}
    )


@pytest.fixture
def split_folders(tmp_path, write_video):
    """Three clips of two classes in each split folder."""
    root = tmp_path / "clips"
    seed = 0
    for split in ("train", "val", "test"):
        for name in ("walk/a.mp4", "walk/b.avi", "run/c.mkv"):
            write_video(root / split / name, seed=(seed := seed + 1))
    return root


def table(path, rows, header="path,label,split,subject"):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return str(path)


@pytest.fixture
def clips(tmp_path, write_video):
    """Six clips in one folder, and rows of a table that is right."""
    root = tmp_path / "clips"
    for number in range(6):
        write_video(root / f"{number}.mp4", seed=number)
    splits = ["train", "train", "val", "val", "test", "test"]
    rows = [[f"{n}.mp4", "run" if n % 2 else "walk", splits[n], f"p{n // 2}"] for n in range(6)]
    return root, rows


# Both views


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


def one_record(path, masks, redaction, *, seed=None, name="a.mkv", **clip):
    """A data set of one video."""
    footage = Footage(name, path, probe_video(path))
    form = ClipFormat(**{"frames": 4, "stride": 2, "size": 24, **clip})
    return FileRecords([footage], [0], masks=masks, redaction=redaction, clip=form, seed=seed)


class GivenMask(MaskSource):
    """A mask that lies in memory."""

    def __init__(self, mask):
        self.mask = torch.as_tensor(mask)

    def load(self, footage, positions):
        return self.mask[list(positions)]


@pytest.fixture
def odd_mask():
    """A mask whose border falls between the pixels of the resized clip."""
    mask = torch.zeros(16, 48, 64, dtype=torch.bool)
    for frame in range(16):
        mask[frame, 11:30, 15 + frame : 41] = True
    return mask


@pytest.mark.parametrize("sensitive", ["inside", "outside"])
@pytest.mark.parametrize("size", [17, 24, 48, 60])
def test_the_full_view_of_a_redacted_clip_is_its_public_view(tmp_path, write_video, odd_mask, sensitive, size):
    redaction = Redaction(sensitive, dilate=1)
    path = write_video(tmp_path / "a.mkv")
    public = one_record(path, GivenMask(odd_mask), redaction, size=size)[[0]].public
    content = torch.from_numpy(np.stack(_frames(path)))
    redacted = write_video(tmp_path / "b.mkv", redaction.redact(content, redaction.region(odd_mask)).numpy())
    # The mask source gives masks for the sampled frames only, and so must the region be computed for them.
    again = one_record(redacted, GivenMask(odd_mask), redaction, size=size)[[0]]
    assert torch.equal(again.full, public.video)
    assert torch.equal(again.public.video, public.video)
    assert torch.equal(again.public.mask, public.mask)


def _frames(path):
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def two_contents(seed, *, extreme):
    """Two clips that differ in their sensitive region only, and the region."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8, generator=generator)
    region = torch.zeros(2, 20, 30, dtype=torch.bool)
    region[:, 7:14, 8:19] = True
    other = video.clone()
    other[region] = torch.randint(0, 256, (int(region.sum()), 3), dtype=torch.uint8, generator=generator)
    if extreme:
        video[region], other[region] = 0, 255
    return video, other, region


@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.booleans())
def test_the_public_view_does_not_depend_on_sensitive_pixels(seed, size, extreme):
    video, other, region = two_contents(seed, extreme=extreme)
    redaction = Redaction("inside")
    views = [square_video(redaction.redact(clip, region), size) for clip in (video, other)]
    assert torch.equal(*views)


@pytest.mark.parametrize("mask", ["any pixel", "bilinear"])
def test_resizing_before_redaction_would_leak_at_the_border(mask):
    """The control of the test above: with either mask, the filter brings sensitive pixels into public ones."""
    video, other, region = two_contents(0, extreme=True)
    if mask == "any pixel":
        small = square_region(region, 10)
    else:
        square = region[:, None, :, 5:25].float()
        small = torch.nn.functional.interpolate(square, (10, 10), mode="bilinear", antialias=True)[:, 0] > 0.5
        assert (square_region(region, 10) & ~small).any()
    views = [square_video(clip, 10).permute(1, 2, 3, 0) for clip in (video, other)]
    redacted = [Redaction("inside").redact(clip, small) for clip in views]
    assert not torch.equal(*redacted)


@given(
    st.integers(5, 40),
    st.integers(5, 40),
    st.integers(3, 50),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), min_size=1, max_size=4),
)
def test_every_sensitive_pixel_stays_in_the_resized_region(height, width, size, pixels):
    region = torch.zeros(1, height, width, dtype=torch.bool)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    for y, x in pixels:
        region[0, top + y % side, left + x % side] = True
    small = square_region(region, size)[0]
    for y, x in region[0].nonzero().tolist():
        y, x = (y - top + 0.5) * size / side, (x - left + 0.5) * size / side
        assert small[int(y), int(x)]


def test_the_mask_belongs_to_exactly_the_sampled_frames(tmp_path, write_video):
    content = np.full((16, 48, 48, 3), 10, np.uint8)
    mask = np.zeros((16, 48, 48), bool)
    for frame in range(16):
        content[frame, frame * 3 : frame * 3 + 3] = 250
        mask[frame, frame * 3 : frame * 3 + 3] = True
    (tmp_path / "masks").mkdir()
    np.savez_compressed(tmp_path / "masks" / "a.npz", mask=mask)
    path = write_video(tmp_path / "a.mkv", content)
    for settings in ({"stride": 3}, {"stride": 7}, {"stride": 2, "seed": 3}):
        records = one_record(path, MaskArrays(str(tmp_path / "masks")), Redaction("inside"), size=48, **settings)
        views = records[[0]]
        assert (views.full == 250).any(1).any(-1).any(-1).all()
        assert not (views.public.video == 250).any()
        assert torch.equal(views.public.mask, (views.full == 250).all(1))


def test_the_picture_is_the_centre_square(tmp_path, write_video):
    content = np.zeros((4, 48, 80, 3), np.uint8)
    content[:, :, 16:64] = [255, 0, 0]
    full = one_record(write_video(tmp_path / "a.mkv", content), WholeFrame(), Redaction("inside"))[[0]].full
    assert full[:, 0].min() == 255
    assert full[:, 1:].max() == 0


# Which frames


@given(st.integers(1, 300), st.integers(1, 32), st.integers(1, 8), st.integers(0, 2**31), st.text(max_size=20))
def test_a_clip_lies_inside_its_video_when_it_can(total, frames, stride, seed, name):
    clip = ClipFormat(frames=frames, stride=stride, size=8)
    span = (frames - 1) * stride + 1
    for start in (clip.start(name, total, seed), clip.start(name, total, None)):
        assert 0 <= start < total
        assert start + span <= total or start == 0
    assert clip.start(name, total, seed) == clip.start(name, total, seed)


def test_training_clips_are_drawn_by_seed_and_name_and_evaluation_takes_the_middle():
    clip = ClipFormat(frames=4, stride=2, size=8)
    assert clip.start("a", 107, None) == 50
    starts = {clip.start(f"{number}.mp4", 107, 0) for number in range(2000)}
    assert starts == set(range(101))
    assert [clip.start(f"{n}", 107, 0) for n in range(50)] != [clip.start(f"{n}", 107, 1) for n in range(50)]


def test_a_record_is_the_same_clip_each_time(split_folders):
    one, two = folder(split_folders), folder(split_folders)
    one.setup()
    two.setup()
    assert torch.equal(one.train_set[[0, 1, 2]].full, two.train_set[[2, 0, 1]].full[[1, 2, 0]])


def test_a_decoder_that_ends_early_is_no_short_video(tmp_path, write_video):
    path = write_video(tmp_path / "a.mkv")
    redaction, clip = Redaction("inside"), ClipFormat(frames=8, stride=2, size=8)

    def read(announced):
        footage = Footage("a.mkv", path, VideoInfo(announced, 48, 64))
        return FileRecords([footage], [0], masks=LEFT, redaction=redaction, clip=clip, seed=None)[[0]]

    assert read(17).full.shape == (1, 3, 8, 8, 8)
    with pytest.raises(CorruptVideoError, match="ends at frame 15, but the container holds 30 frames"):
        read(30)


# Layouts


def test_a_table_says_path_label_split_and_subject(tmp_path, clips):
    root, rows = clips
    data = folder(root, annotations=table(tmp_path / "ä.csv", rows))
    data.setup()
    assert [records.names for records in (data.train_set, data.val_set, data.test_set)] == [
        ["0.mp4", "1.mp4"],
        ["2.mp4", "3.mp4"],
        ["4.mp4", "5.mp4"],
    ]
    assert data.class_names == ["run", "walk"]
    assert data.train_set[[0, 1]].label.tolist() == [1, 0]


def test_a_table_may_lack_the_subject_and_begin_with_a_byte_order_mark(tmp_path, clips):
    root, rows = clips
    path = table(tmp_path / "a.csv", [row[:3] for row in rows], "path,label,split")
    (tmp_path / "b.csv").write_text((tmp_path / "a.csv").read_text(), encoding="utf-8-sig")
    for name in (path, str(tmp_path / "b.csv")):
        assert len(folder(root, annotations=name).list_clips().rows) == 6


def test_clips_outside_the_guarantee_are_a_set_of_their_own(tmp_path, clips):
    root, rows = clips
    rows[1][2], rows[1][3] = "synthetic", "none"
    rows[1][1] = "walk"
    rows[0][1] = "walk"
    for row in rows[2:]:
        row[1] = "walk"
    data = folder(root, annotations=table(tmp_path / "a.csv", rows), pretraining_split="synthetic")
    data.setup()
    assert data.train_set.names == ["0.mp4"]
    assert data.pretraining_set.names == ["1.mp4"]
    assert len(list(data.pretraining_loader())) == 1


def test_clips_outside_the_guarantee_may_have_a_folder(split_folders, write_video):
    write_video(split_folders / "toys" / "run" / "x.mp4", seed=77)
    assert len(folder(split_folders).list_clips().of("pretraining")) == 0
    assert len(folder(split_folders, pretraining_split="toys").list_clips().of("pretraining")) == 1


@pytest.mark.parametrize("name", ["train", "val", "test", ""])
def test_the_training_split_cannot_be_declared_outside_the_guarantee(split_folders, name):
    with pytest.raises(ConfigError, match=r"data\.pretraining_split"):
        folder(split_folders, pretraining_split=name)


def class_folders(root, number):
    """Empty files: lists do not open them."""
    for label in ("run", "walk"):
        (root / label).mkdir(parents=True)
        for index in range(number):
            (root / label / f"{index}.mp4").touch()
    return root


def test_class_folders_are_split_by_a_hash_of_the_file(tmp_path):
    root = class_folders(tmp_path / "clips", 300)
    settings = {"val_fraction": 0.2, "test_fraction": 0.3}
    before = folder(root, settings).list_clips()
    parts = [len(before.of(split)) / 600 for split in ("train", "val", "test")]
    assert parts == pytest.approx([0.5, 0.2, 0.3], abs=0.06)
    # More clips, another seed and another place change no clip's side.
    (root / "run" / "new.mp4").touch()
    root.rename(tmp_path / "moved")
    after = {row.name: row.split for row in folder(tmp_path / "moved", settings, seed=5).list_clips().rows}
    assert all(after[row.name] == row.split for row in before.rows)


def test_hidden_files_are_no_clips(tmp_path):
    root = class_folders(tmp_path / "clips", 40)
    (root / "run" / ".DS_Store").touch()
    (root / ".cache").mkdir()
    (root / ".cache" / "x.mp4").touch()
    names = [row.name for row in folder(root, val_fraction=0.3, test_fraction=0.3).list_clips().rows]
    assert len(names) == 80


def test_a_table_without_splits_is_split_by_subject(tmp_path):
    rows = [[f"{n}.mp4", "walk", f"person {n % 40}"] for n in range(400)]
    path = table(tmp_path / "a.csv", rows, "path,label,subject")
    listing = folder(tmp_path, annotations=path, val_fraction=0.3, test_fraction=0.3).list_clips()
    sides = {}
    for row in listing.rows:
        sides.setdefault(row.subject, set()).add(row.split)
    assert len(sides) == 40
    assert all(len(splits) == 1 for splits in sides.values())


subjects = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 4), min_size=1, max_size=12)
fractions = st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45))


@given(subjects, fractions)
def test_a_subject_is_in_one_split_whoever_else_is_there(people, parts):
    rule = HashSplit.of(*parts)
    sides = {name: rule.split(name) for name in people}
    assert sides == {name: HashSplit.of(*parts).split(name) for name in reversed(list(people))}
    rows = [
        Row(f"{i}-{j}.mp4", tmp, "walk", sides[name], name, "row")
        for i, (name, number) in enumerate(people.items())
        for j, tmp in enumerate(_paths(i, number))
    ]
    if {row.split for row in rows} == {"train", "val", "test"}:
        Listing(rows, source="table")


def _paths(subject, number):
    return [Path(f"/nowhere/{subject}-{clip}.mp4") for clip in range(number)]


def test_a_subject_in_two_splits_is_refused(tmp_path, clips):
    root, rows = clips
    rows[4][3] = "p0"
    with pytest.raises(DataError, match=r"line 6: the subject 'p0' is in test, but at .*line 2 in train"):
        folder(root, annotations=table(tmp_path / "a.csv", rows)).list_clips()


# What may be wrong with a list


def broken(change):
    rows = [[f"{n}.mp4", "walk", split, f"p{n}"] for n, split in enumerate(["train", "train", "val", "test"])]
    change(rows)
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[2].__setitem__(1, "swim"), r"line 4: the label 'swim' of a val clip .* Known are 'walk'"),
        (lambda rows: rows[1].__setitem__(0, "0.mp4"), r"line 3: the clip '0.mp4' is the same file as at .*line 2"),
        (lambda rows: rows[1].__setitem__(0, "./0.mp4"), r"line 3: .*the same file"),
        (lambda rows: rows[1].__setitem__(0, "0.avi"), r"line 3: '0.avi' differs from '0.mp4' in its suffix only"),
        (lambda rows: rows[3].__setitem__(2, "dev"), r"line 5: the split 'dev' is none of 'train', 'val', 'test'"),
        (lambda rows: rows.pop(3), r"no clips for test \(train 2, val 1, test 0\)"),
        (lambda rows: rows[0].__setitem__(1, " "), r"line 2: the column 'label' is empty"),
        (lambda rows: rows[0].__setitem__(3, ""), r"line 2: the column 'subject' is empty"),
        (lambda rows: rows[0].pop(), r"line 2: the column 'subject' is empty"),
        (lambda rows: rows[0].append("x"), r"line 2: the row has more cells than the header"),
        (lambda rows: rows[0].__setitem__(0, "/etc/a.mp4"), r"line 2: the path '/etc/a.mp4' must be relative"),
        (lambda rows: rows[0].__setitem__(0, "x/../a.mp4"), r"line 2: .*without '\.\.'"),
        (lambda rows: rows.clear(), r"no clips for train and val and test"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        folder(tmp_path, annotations=table(tmp_path / "a.csv", broken(change))).list_clips()


@pytest.mark.parametrize(
    "header", ["path,split,subject", "file,label,split,subject", "path;label;split", "path,label,label,split"]
)
def test_a_missing_column_is_named_with_the_header_that_came(tmp_path, header):
    with pytest.raises(DataError, match=r"the header must be path,label,split,subject.*" + header[:8]):
        folder(tmp_path, annotations=table(tmp_path / "a.csv", broken(lambda _: None), header)).list_clips()


def test_a_table_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        folder(tmp_path, annotations=str(tmp_path / "nowhere.csv")).list_clips()
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(DataError, match="no CSV file in UTF-8"):
        folder(tmp_path, annotations=str(tmp_path / "a.csv")).list_clips()


def test_a_root_that_is_not_there_is_refused_with_the_layouts(tmp_path):
    with pytest.raises(DataError, match=r"nowhere is no folder.*root/CLASS/CLIP.*annotations"):
        folder(tmp_path / "nowhere").setup()


def test_a_missing_split_folder_is_named(split_folders):
    (split_folders / "val").rename(split_folders / "validation")
    with pytest.raises(DataError, match="none named val"):
        folder(split_folders).list_clips()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 0.2}, "set together"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave clips for training"),
        ({"val_fraction": 0, "test_fraction": 0.5}, r"data\.val_fraction"),
        ({"on_error": "ignore"}, r"data\.on_error"),
        ({"frames": 0}, r"data\.frames"),
        ({"stride": 1.5}, r"data\.stride"),
        ({"size": -1}, r"data\.size"),
        ({"seed": True}, r"data\.seed"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        folder(tmp_path, settings)


def test_fractions_go_only_with_layouts_that_need_them(tmp_path, split_folders, clips):
    both = {"val_fraction": 0.2, "test_fraction": 0.2}
    root, rows = clips
    named = table(tmp_path / "a.csv", rows)
    for data in (folder(split_folders, both), folder(root, both, annotations=named)):
        with pytest.raises(ConfigError, match="must be left out"):
            data.list_clips()
    unnamed = table(tmp_path / "b.csv", [row[:2] for row in rows], "path,label")
    for data in (folder(class_folders(tmp_path / "c", 2)), folder(root, annotations=unnamed)):
        with pytest.raises(ConfigError, match="must be set"):
            data.list_clips()


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
