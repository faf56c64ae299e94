"""UCF101: the official lists, and validation by whole groups."""

import pytest

from pvision.datamodules.masks import WholeFrame
from pvision.datamodules.ucf101 import UCF101
from pvision.errors import ConfigError, CorruptVideoError, DataError, PrivacyError
from pvision.privacy import Redaction

CLASSES = ["ApplyEyeMakeup", "YoYo"]


def ucf101(root, **settings):
    common = {"masks": WholeFrame(), "redaction": Redaction("inside"), "frames": 4, "size": 16, **settings}
    return UCF101(root=str(root), **common)


def clip(label, group, number=1):
    return f"{label}/v_{label}_g{group:02}_c{number:02}.avi"


@pytest.fixture
def root(tmp_path):
    """The official layout for two classes of 25 groups of two clips, without the clips."""
    root = tmp_path / "ucf"
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (root / "UCF-101").mkdir()
    (lists / "classInd.txt").write_text("".join(f"{n} {label}\r\n" for n, label in enumerate(CLASSES, 1)))
    for fold, tested in ((1, range(1, 8)), (2, range(8, 15)), (3, range(15, 22))):
        train = [
            f"{clip(label, group, number)} {CLASSES.index(label) + 1}\n"
            for label in CLASSES
            for group in range(1, 26)
            for number in (1, 2)
            if group not in tested
        ]
        test = [f"{clip(label, group, number)}\n" for label in CLASSES for group in tested for number in (1, 2)]
        (lists / f"trainlist0{fold}.txt").write_text("".join(train))
        (lists / f"testlist0{fold}.txt").write_text("".join(test))
    return root


def groups(listing, split):
    return {int(row.name.partition("_g")[2][:2]) for row in listing.of(split)}


@pytest.mark.parametrize(("fold", "tested"), [(1, range(1, 8)), (2, range(8, 15)), (3, range(15, 22))])
def test_the_test_part_is_the_official_one(root, fold, tested):
    listing = ucf101(root, fold=fold).list_clips()
    assert groups(listing, "test") == set(tested)
    assert len(listing.rows) == 100
    assert listing.class_names == CLASSES


@pytest.mark.parametrize(("fold", "held_out"), [(1, {23, 24, 25}), (2, {23, 24, 25}), (3, {23, 24, 25})])
def test_validation_is_whole_groups_of_the_training_list(root, fold, held_out):
    listing = ucf101(root, fold=fold).list_clips()
    assert groups(listing, "val") == held_out
    assert not groups(listing, "train") & (groups(listing, "val") | groups(listing, "test"))
    assert groups(ucf101(root, fold=fold, val_groups=1).list_clips(), "val") == {25}


def test_a_small_copy_trains(root, write_video):
    for list_file in (root / "ucfTrainTestlist").glob("*list01.txt"):
        kept = [line for line in list_file.read_text().splitlines() if "_c01" in line and line[-12:-8] != "_g99"]
        list_file.write_text("\n".join(line for line in kept if any(g in line for g in ("g01", "g20", "g25"))))
    for seed, label in enumerate(CLASSES):
        for group in (1, 20, 25):
            write_video(root / "UCF-101" / clip(label, group), seed=10 * seed + group, frames=8)
    data = ucf101(root, val_groups=1)
    data.setup()
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [2, 2, 2]
    batch = next(iter(data.test_dataloader()))
    assert batch.label.tolist() == [0, 1]
    assert batch.full.shape == (2, 3, 4, 16, 16)


def test_the_unit_video_is_a_group_of_a_class(root):
    listing = ucf101(root).list_clips()
    units = {}
    for row in listing.rows:
        units.setdefault(row.video, set()).add(row.name)
    assert len(units) == 2 * 25
    assert units["YoYo, group 3"] == {clip("YoYo", 3, 1), clip("YoYo", 3, 2)}


def test_there_is_no_unit_subject(root, write_video):
    data = ucf101(root)
    listing = data.list_clips()
    data.class_names, row = listing.class_names, listing.of("train")[0]
    write_video(row.path, frames=4)
    records = data._records([(row, data._inspect(row))], "train")
    assert records.unit_names("video") == [row.video]
    with pytest.raises(PrivacyError, match=r"UCF101 does not say who is in a clip.*unit 'video'.*CSV"):
        records.unit_names("subject")


def test_a_clip_that_a_list_names_must_be_there(root):
    with pytest.raises(CorruptVideoError, match=r"v_ApplyEyeMakeup_g08_c01\.avi: there is no such file"):
        ucf101(root).setup()


@pytest.mark.parametrize("missing", ["UCF-101", "ucfTrainTestlist"])
def test_a_missing_folder_is_refused_with_layout_and_site(root, missing):
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(DataError, match=rf"{missing}.*trainlist0K.*crcv\.ucf\.edu"):
        ucf101(root).setup()


def test_a_missing_list_is_named(root):
    (root / "ucfTrainTestlist" / "testlist02.txt").unlink()
    with pytest.raises(DataError, match=r"testlist02\.txt"):
        ucf101(root, fold=2).setup()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Swim/v_Swim_g08_c01.avi 3\n", "'Swim' is not in classInd"),
        ("YoYo/v_YoYo.avi 2\n", "no clip of UCF101"),
        ("YoYo/v_YoYo_g01_c01.avi 2\n", "same file"),
        ("YoYo/v_YoYo_g01_c09.avi 2\n", "the video 'YoYo, group 1' is in test, but at .* in train"),
    ],
)
def test_a_wrong_line_is_named(root, line, message):
    path = root / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text(path.read_text() + line)
    with pytest.raises(DataError, match=message):
        ucf101(root).list_clips()


@pytest.mark.parametrize("settings", [{"fold": 0}, {"fold": 4}, {"fold": "1"}, {"val_groups": 0}])
def test_settings_out_of_range_are_refused_at_once(root, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ucf101(root, **settings)


def test_all_groups_for_validation_are_too_many(root):
    with pytest.raises(ConfigError, match="below 18"):
        ucf101(root, val_groups=18).list_clips()
