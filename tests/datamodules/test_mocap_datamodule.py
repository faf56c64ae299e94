"""MocapActions: sets, both views, and what is refused."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from pvision.datamodules import MocapActions, TensorRecords
from pvision.datamodules.mocap.body import CLASS_NAMES, PARTS, REGIONS
from pvision.datamodules.mocap.datamodule import split_test
from pvision.datamodules.mocap.storage import load_clips
from pvision.errors import ConfigError, DataError
from pvision.privacy import Redaction

BOX = Redaction(sensitive="inside", shape="box", grid=6)
TRAIN, EVAL, PRETRAINING = 45, 30, 20


def small(**settings):
    settings = {"redaction": BOX, "train_clips": TRAIN, "eval_clips": EVAL, "pretraining_clips": PRETRAINING} | settings
    data = MocapActions(**settings)
    data.setup()
    return data


@pytest.fixture(scope="module")
def data():
    return small(batch_size=10)


@pytest.fixture(scope="module")
def clips():
    return load_clips("train", limit=TRAIN)


def sensitive(parts, region):
    return torch.isin(parts, torch.tensor(REGIONS[region], dtype=torch.uint8))


def test_the_sets_have_the_wanted_clips(data):
    sets = {"train": data.train_set, "val": data.val_set, "test": data.test_set, "pretraining": data.pretraining_set}
    assert {name: len(records) for name, records in sets.items()} == {
        "train": TRAIN,
        "val": EVAL,
        "test": EVAL,
        "pretraining": PRETRAINING,
    }
    for records in sets.values():
        views = records[[0, 1, 2]]
        assert views.full.shape == views.public.video.shape == (3, 3, 8, 48, 48)
        assert views.public.mask.shape == (3, 8, 48, 48)
        assert (views.full.dtype, views.public.mask.dtype) == (torch.uint8, torch.bool)
        assert views.public.position.tolist() == [0, 1, 2]
    assert data.num_classes == len(data.class_names) == 15
    everything = data.pretraining_set[range(PRETRAINING)]
    assert everything.label.tolist() == list(range(PRETRAINING)), "the label of a synthetic clip is its program"


def test_subsets_are_balanced_and_always_the_same(data):
    for records, count in ((data.train_set, TRAIN), (data.val_set, EVAL), (data.test_set, EVAL)):
        labels = Counter(records[range(count)].label.tolist())
        assert labels == dict.fromkeys(range(15), count // 15)
    again = small()
    assert torch.equal(again.val_set[range(EVAL)].full, data.val_set[range(EVAL)].full)


def test_validation_and_test_never_share_a_clip(data):
    names = [set(records.names) for records in (data.train_set, data.val_set, data.test_set, data.pretraining_set)]
    assert sum(map(len, names)) == len(set.union(*names))
    shipped = load_clips("test", limit=300)
    for records in (data.val_set, data.test_set):
        positions = [int(name.removeprefix("test/")) for name in records.names]
        assert torch.equal(records[range(EVAL)].label, shipped.label[positions])
        assert torch.equal(records[range(EVAL)].full, shipped.video[positions].permute(0, 4, 1, 2, 3))


def test_names_that_do_not_fit_the_records_are_refused(clips):
    with pytest.raises(DataError, match="one name for each of 45 records, but 1 came"):
        TensorRecords(clips.video, clips.parts > 0, clips.label, BOX, names=["train/0"])


@given(count=st.integers(0, 2000))
def test_the_test_clips_are_divided_a_third_to_two_and_balanced(count):
    validation, test = split_test(count)
    assert sorted(validation + test) == list(range(count))
    assert (validation, test) == (sorted(validation), sorted(test))
    assert len(validation) == count // 3
    for part in (validation, test):
        per_class = [sum(position % 15 == label for position in part) for label in range(15)]
        # Within one clip where whole groups of three rounds come, else within the rounds that are left over.
        assert max(per_class) - min(per_class) <= (1 if count % 15 == 0 and count >= 45 else 2)


def test_the_shipped_test_is_400_and_800():
    validation, test = split_test(1200)
    assert (len(validation), len(test)) == (400, 800)
    for part in (validation, test):
        per_class = Counter(position % 15 for position in part)
        assert max(per_class.values()) - min(per_class.values()) == 1


def test_regions_hold_the_parts_that_their_names_say():
    named = {region: {PARTS[value] for value in values} for region, values in REGIONS.items()}
    arms = {f"{side}_{part}" for side in ("left", "right") for part in ("upper_arm", "forearm", "hand")}
    legs = {f"{side}_{part}" for side in ("left", "right") for part in ("thigh", "shin", "foot")}
    assert named == {
        "person": set(PARTS) - {"background"},
        "upper_body": {"chest", "head"} | arms,
        "arms": arms,
        "hands": {"left_hand", "right_hand"},
        "head": {"head"},
        "legs": legs,
    }


@pytest.mark.parametrize("region", sorted(REGIONS))
@pytest.mark.parametrize("shape", ["exact", "union", "box"])
def test_redaction_leaves_not_one_sensitive_pixel(clips, region, shape):
    grid = 1 if shape == "exact" else 6
    data = small(region=region, redaction=Redaction(sensitive="inside", shape=shape, grid=grid), pretraining_clips=0)
    views = data.train_set[range(TRAIN)]
    hidden = sensitive(clips.parts, region)
    assert hidden.any()
    assert views.public.mask[hidden].all(), "the redacted region must cover the body part"
    full, public = (video.permute(0, 2, 3, 4, 1) for video in (views.full, views.public.video))
    assert torch.equal(full, clips.video)
    assert (public[views.public.mask] == 128).all()
    assert torch.equal(public[~views.public.mask], full[~views.public.mask])


def test_a_sensitive_background_keeps_the_person_and_nothing_else(clips):
    views = small(region="person", redaction=Redaction(sensitive="outside")).train_set[range(TRAIN)]
    person = clips.parts > 0
    assert torch.equal(views.public.mask, ~person)
    public = views.public.video.permute(0, 2, 3, 4, 1)
    assert torch.equal(public[person], clips.video[person])
    assert (public[~person] == 128).all()


def test_the_public_view_does_not_depend_on_what_is_hidden(data, clips):
    """Other content in the region leaves the public view as it is; other content beside it does not."""
    noise = torch.randint(0, 256, clips.video.shape, dtype=torch.uint8)
    region = BOX.region(sensitive(clips.parts, "upper_body"))
    public = data.train_set[range(TRAIN)].public.video
    inside = torch.where(region[..., None], noise, clips.video)
    assert torch.equal(BOX.redact(inside, region).permute(0, 4, 1, 2, 3), public)
    beside = torch.where(region[..., None], clips.video, noise)
    assert not torch.equal(BOX.redact(beside, region).permute(0, 4, 1, 2, 3), public)


@given(indices=st.lists(st.integers(0, TRAIN - 1), max_size=8))
def test_any_choice_of_clips_is_a_consistent_batch(data, indices):
    views = data.train_set[indices]
    assert views.full.shape == views.public.video.shape == (len(indices), 3, 8, 48, 48)
    assert views.public.position.tolist() == indices
    for place, index in enumerate(indices):
        alone = data.train_set[[index]]
        assert torch.equal(views.full[place], alone.full[0])
        assert torch.equal(views.public.video[place], alone.public.video[0])
        assert views.label[place] == alone.label[0]


def test_the_public_loader_rolls_redacted_clips_and_their_masks_together(data):
    torch.manual_seed(0)
    rolled = list(data.public_loader())
    assert sorted(torch.cat([view.position for view in rolled]).tolist()) == list(range(TRAIN))
    moved = 0
    for view in rolled:
        plain = data.train_set[view.position.tolist()].public
        shifts = [(down, right) for down in range(-4, 5) for right in range(-4, 5)]
        found = [shift for shift in shifts if torch.equal(plain.video.roll(shift, (-2, -1)), view.video)]
        assert len(found) == 1
        assert torch.equal(plain.mask.roll(found[0], (-2, -1)), view.mask)
        moved += found[0] != (0, 0)
    assert moved


def test_the_full_loader_rolls_both_views_alike(data):
    seen = []
    for views in data.full_loader():
        seen += views.public.position.tolist()
        beside = ~views.public.mask.unsqueeze(1).expand_as(views.full)
        assert torch.equal(views.full[beside], views.public.video[beside])
        assert (views.public.video[~beside] == 128).all()
    assert sorted(seen) == list(range(TRAIN))


def test_no_other_loader_rolls_and_a_shift_of_zero_does_not(data):
    for loader, records in (
        (data.two_view_loader(), data.train_set),
        (data.val_dataloader(), data.val_set),
        (data.pretraining_loader(), data.pretraining_set),
    ):
        for views in loader:
            assert torch.equal(views.public.video, records[views.public.position.tolist()].public.video)
    data = small(shift=0, pretraining_clips=0)
    for view in data.public_loader():
        assert torch.equal(view.video, data.train_set[view.position.tolist()].public.video)


def test_without_synthetic_clips_there_is_no_pretraining_set():
    data = small(pretraining_clips=0)
    assert data.pretraining_set is None
    assert data.pretraining_loader() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"region": "face"}, "data.region"),
        ({"train_clips": 0}, "data.train_clips"),
        ({"eval_clips": -1}, "data.eval_clips"),
        ({"pretraining_clips": True}, "data.pretraining_clips"),
        ({"shift": -1}, "data.shift"),
        ({"batch_size": 0}, "data.batch_size"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        MocapActions(redaction=BOX, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_clips": 6001}, "data.train_clips is 6001, but the set has 6000"),
        ({"eval_clips": 401}, "data.eval_clips is 401, but the set has 400"),
        ({"pretraining_clips": 10**6}, "data.pretraining_clips is 1000000"),
    ],
)
def test_more_clips_than_there_are_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        small(**settings)


def test_a_root_without_a_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no MocapActions set"):
        small(root=str(tmp_path))


def test_redaction_has_no_default():
    with pytest.raises(TypeError, match="redaction"):
        MocapActions()


def test_it_is_made_from_a_config():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MocapActions, "data")
    config = {"region": "head", "redaction": {"sensitive": "inside", "shape": "box", "grid": 6}, "train_clips": 15}
    made = parser.instantiate_classes(parser.parse_object({"data": config})).data
    assert isinstance(made, MocapActions)
    assert made.redaction == BOX
    assert tuple(made.class_names) == CLASS_NAMES
