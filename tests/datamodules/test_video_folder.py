"""A user's own clips: the layouts, the splits, and what may be wrong with them."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvision.datamodules._folder_listing import HashSplit
from pvision.datamodules.listing import Listing, Row
from pvision.datamodules.masks import FixedRegions
from pvision.datamodules.video_folder import VideoFolder
from pvision.errors import ConfigError, DataError, PrivacyError
from pvision.privacy import Redaction

LEFT = FixedRegions([[0, 0, 0.5, 1]], unit="fraction")
SMALL = {"frames": 4, "stride": 2, "size": 24, "batch_size": 4, "eval_batch_size": 4}


def folder(root, settings=(), **changed):
    return VideoFolder(
        **{"root": str(root), "masks": LEFT, "redaction": Redaction("inside"), **SMALL, **dict(settings), **changed}
    )


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


def test_units_come_from_the_columns(tmp_path, clips):
    root, rows = clips
    rows = [[*row, f"tape {number // 2}"] for number, row in enumerate(rows)]
    data = folder(root, annotations=table(tmp_path / "a.csv", rows, "path,label,split,subject,video"))
    data.setup()
    assert data.train_set.unit_names("video") == ["tape 0", "tape 0"]
    assert data.test_set.unit_names("subject") == ["p2", "p2"]
    assert data.train_set.unit_names("clip") == ["0.mp4", "1.mp4"]


def test_without_columns_a_file_is_a_video_and_subjects_are_refused(tmp_path, clips, split_folders):
    root, rows = clips
    named = table(tmp_path / "a.csv", [row[:3] for row in rows], "path,label,split")
    for data in (folder(split_folders), folder(root, annotations=named)):
        data.setup()
        assert data.train_set.unit_names("video") == data.train_set.names
        with pytest.raises(PrivacyError, match=r"data\.annotations a CSV with the column `subject`"):
            data.train_set.unit_names("subject")


def test_a_recording_in_two_splits_is_refused(tmp_path, clips):
    root, rows = clips
    rows = [[*row[:3], f"tape {number % 4}"] for number, row in enumerate(rows)]
    with pytest.raises(DataError, match=r"line 6: the video 'tape 0' is in test, but at .*line 2 in train"):
        folder(root, annotations=table(tmp_path / "a.csv", rows, "path,label,split,video")).list_clips()


def test_a_table_without_splits_and_subjects_is_split_by_recording(tmp_path):
    rows = [[f"{n}.mp4", "walk", f"tape {n % 40}"] for n in range(400)]
    path = table(tmp_path / "a.csv", rows, "path,label,video")
    listing = folder(tmp_path, annotations=path, val_fraction=0.3, test_fraction=0.3).list_clips()
    assert len({(row.video, row.split) for row in listing.rows}) == 40


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
