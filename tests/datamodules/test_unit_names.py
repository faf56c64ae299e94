"""Which records are protected together, and what cannot be told."""

import pytest
import torch

from pvision.datamodules import MocapActions, TensorRecords
from pvision.datamodules.mocap.body import CLASS_NAMES
from pvision.datamodules.unit_names import UnitNames
from pvision.errors import ConfigError, DataError, PrivacyError
from pvision.privacy import Redaction


def records(count=4, *, redaction=None, mask=None, **units):
    video = torch.zeros(count, 2, 4, 4, 3, dtype=torch.uint8)
    mask = torch.zeros(count, 2, 4, 4, dtype=torch.bool) if mask is None else mask
    return TensorRecords(video, mask, torch.arange(count), redaction or Redaction("inside"), **units)


def test_a_clip_is_a_unit_of_its_own():
    assert records(names=["a", "b", "c", "d"]).unit_names("clip") == ["a", "b", "c", "d"]
    assert len(set(records().unit_names("clip"))) == 4


def test_clips_that_share_a_name_are_no_units():
    with pytest.raises(DataError, match="Two clips are named 'b'"):
        records(names=["a", "b", "c", "b"]).unit_names("clip")


def test_videos_and_subjects_are_those_that_were_given():
    clips = records(videos=["v", "v", "w", "w"], subjects=["p", "q", "p", "q"])
    assert clips.unit_names("video") == ["v", "v", "w", "w"]
    assert clips.unit_names("subject") == ["p", "q", "p", "q"]


@pytest.mark.parametrize("unit", ["video", "subject"])
def test_what_the_data_does_not_tell_is_refused_and_never_guessed(unit):
    with pytest.raises(PrivacyError, match=f"does not tell the {unit} of a clip.*`subjects=`.*smaller unit"):
        records().unit_names(unit)


def test_one_unknown_name_is_refused():
    with pytest.raises(PrivacyError, match=r"the subject of 1 of 2 clips is unknown, first of 'b'.*Ask her"):
        UnitNames(["v", "w"], ["p", None], {"subject": "Ask her."}).of("subject", ["a", "b"])


def test_an_unknown_unit_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.unit must be one of 'clip', 'video', 'subject', but 'person'"):
        records().unit_names("person")


@pytest.mark.parametrize("which", ["videos", "subjects"])
def test_a_name_for_each_record_is_needed(which):
    with pytest.raises(DataError, match=f"{which} must hold one name for each of 4 records, but 3 came"):
        records(**{which: ["a", "b", "c"]})


def test_records_with_an_empty_region_are_not_sensitive():
    mask = torch.zeros(4, 2, 4, 4, dtype=torch.bool)
    mask[1, 1, 2, 3] = True
    mask[2] = True
    assert records(mask=mask).sensitive.tolist() == [False, True, True, False]
    assert records(mask=mask, redaction=Redaction("outside")).sensitive.tolist() == [True, True, False, True]
    assert records(0, mask=mask[:0]).sensitive.shape == (0,)


def test_mocap_knows_performances_and_no_performers():
    data = MocapActions(redaction=Redaction("inside"), train_clips=45, eval_clips=15, pretraining_clips=20)
    data.setup()
    assert data.train_set.unit_names("video") == [*CLASS_NAMES] * 3
    assert data.train_set.sensitive.all()
    assert len(set(data.pretraining_set.unit_names("video"))) == 20
    with pytest.raises(PrivacyError, match="do not name their performers"):
        data.train_set.unit_names("subject")
