"""HMDB51: the official splits, and validation by source video."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvision.datamodules.hmdb51 import HMDB51, _source_video
from pvision.datamodules.masks import WholeFrame
from pvision.errors import ConfigError, CorruptVideoError, DataError, PrivacyError
from pvision.privacy import Redaction

SPLITS = "testTrainMulti_7030_splits"


def hmdb51(root, **settings):
    common = {"masks": WholeFrame(), "redaction": Redaction("inside"), "frames": 4, "size": 16, **settings}
    return HMDB51(root=str(root), **common)


def clip(label, source, number):
    return f"{source}_{label}_f_cm_np1_ri_med_{number}.avi"


@pytest.fixture
def root(tmp_path):
    """The official layout for two classes, without the clips: 40 sources of three clips, 10 of them for the test."""
    root = tmp_path / "hmdb"
    (root / SPLITS).mkdir(parents=True)
    for label in ("brush_hair", "wave"):
        for fold in (1, 2, 3):
            lines = []
            for source in range(40):
                kind = 2 if source % 4 == fold else 1
                lines += [f"{clip(label, f'Film_{source}', number)} {kind} \n" for number in range(2)]
                lines += [f"{clip(label, f'Film_{source}', 2)} 0 \n"]
            (root / SPLITS / f"{label}_test_split{fold}.txt").write_text("".join(lines))
    return root


def sources(listing, split):
    return {_source_video(row.name.partition("/")[2], row.label) for row in listing.of(split)}


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_the_official_test_part_and_validation_by_source(root, fold):
    listing = hmdb51(root, fold=fold, val_fraction=0.3).list_clips()
    assert sources(listing, "test") == {f"Film_{source}" for source in range(40) if source % 4 == fold}
    assert len(listing.rows) == 2 * 40 * 2
    assert listing.class_names == ["brush_hair", "wave"]
    parts = [sources(listing, split) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 40
    assert 2 <= len(parts[1]) <= 18


@pytest.mark.parametrize(
    ("file", "label", "source"),
    [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09"),
        ("AmericanGangster_eat_u_nm_np1_fr_bad_55.avi", "eat", "AmericanGangster"),
        ("#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi", "clap", "#20_Rhythm"),
        ("A_wave_of_joy_wave_f_cm_np2_le_med_10.avi", "wave", "A_wave_of_joy"),
        ("without_a_tail.avi", "wave", "without_a_tail"),
    ],
)
def test_the_source_is_what_stands_before_the_action(file, label, source):
    assert _source_video(file, label) == source


@given(st.from_regex(r"[A-Za-z0-9_]{1,20}", fullmatch=True), st.integers(0, 99), st.integers(0, 99))
def test_clips_of_a_source_have_one_source_whatever_their_attributes(source, first, second):
    files = [f"{source}_wave_f_cm_np1_ri_med_{first}.avi", f"{source}_wave_u_nm_np2_ba_goo_{second}.avi"]
    assert _source_video(files[0], "wave") == _source_video(files[1], "wave")


def test_a_small_copy_trains(root, write_video):
    listing = hmdb51(root, val_fraction=0.3).list_clips()
    chosen = {split: listing.of(split)[0].name.partition("/")[2] for split in ("train", "val", "test")}
    (root / SPLITS / "wave_test_split1.txt").unlink()
    path = root / SPLITS / "brush_hair_test_split1.txt"
    lines = [line for line in path.read_text().splitlines() if line.split()[0] in chosen.values()]
    path.write_text("\n".join(lines))
    for seed, name in enumerate(chosen.values()):
        write_video(root / "brush_hair" / name, seed=seed, frames=8)
    data = hmdb51(root, val_fraction=0.3)
    data.setup()
    assert [part.names for part in (data.train_set, data.val_set, data.test_set)] == [
        [f"brush_hair/{name}"] for name in chosen.values()
    ]
    assert next(iter(data.val_dataloader())).full.shape == (1, 3, 4, 16, 16)


def test_the_unit_video_is_the_source_whatever_the_class(root):
    rows = hmdb51(root).list_clips().rows
    assert {row.video for row in rows} == {f"Film_{source}" for source in range(40)}
    assert {row.label for row in rows if row.video == "Film_4"} == {"brush_hair", "wave"}


@pytest.mark.parametrize(
    "file", ["without_a_tail.avi", "Film_1_clap_f_cm_np1_ri_med_0.avi", "Film_1_wave_f_cm_np1_ri_med.avi"]
)
def test_a_name_that_does_not_tell_its_source_makes_no_unit(root, write_video, file):
    path = root / SPLITS / "wave_test_split1.txt"
    path.write_text(path.read_text() + f"{file} 1\n")
    data = hmdb51(root, val_fraction=0.3)
    listing = data.list_clips()
    data.class_names = listing.class_names
    row = next(row for row in listing.rows if row.name == f"wave/{file}")
    write_video(row.path, frames=4)
    records = data._records([(row, data._inspect(row))], "train")
    with pytest.raises(PrivacyError, match=r"the video of 1 of 1 clips is unknown.*official name"):
        records.unit_names("video")
    with pytest.raises(PrivacyError, match="HMDB51 does not say who is in a clip"):
        records.unit_names("subject")


def test_a_clip_that_a_list_names_must_be_there(root):
    with pytest.raises(CorruptVideoError, match=r"brush_hair/Film_0_brush_hair.*there is no such file"):
        hmdb51(root).setup()


def test_a_missing_folder_is_refused_with_layout_and_site(root):
    (root / SPLITS).rename(root / "elsewhere")
    with pytest.raises(DataError, match=rf"{SPLITS}.*ROOT/CLASS/\*\.avi.*serre-lab"):
        hmdb51(root).setup()


def test_a_folder_without_the_fold_is_named(root):
    for path in (root / SPLITS).glob("*_test_split3.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"no \*_test_split3\.txt"):
        hmdb51(root, fold=3).setup()


@pytest.mark.parametrize("line", ["a.avi 3", "a.avi", "a b.avi 1"])
def test_a_wrong_line_is_named(root, line):
    path = root / SPLITS / "wave_test_split1.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"wave_test_split1\.txt, a.*0, 1 or 2"):
        hmdb51(root).list_clips()


@pytest.mark.parametrize("settings", [{"fold": 0}, {"fold": 4}, {"val_fraction": 0}, {"val_fraction": 1.0}])
def test_settings_out_of_range_are_refused_at_once(root, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        hmdb51(root, **settings)
