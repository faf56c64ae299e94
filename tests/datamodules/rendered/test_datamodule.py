"""RenderedModalities: sets, modalities, budgets, and what is refused."""

import pytest
import torch
from jsonargparse import ArgumentParser

from pvision.datamodules.rendered.camera import HEIGHT, WIDTH
from pvision.datamodules.rendered.datamodule import RenderedModalities
from pvision.datamodules.rendered.objects import CLASS_NAMES
from pvision.datamodules.rendered.sensors import MODALITIES
from pvision.detection.records import check_target
from pvision.errors import ConfigError, DataError

TRAIN, EVAL = 12, 5
CHANNELS = {"rgb": 3, "lwir": 1, "depth": 2}


def small(**settings):
    data = RenderedModalities(**({"train_images": TRAIN, "eval_images": EVAL} | settings))
    data.setup()
    return data


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_sets_have_the_wanted_scenes_in_the_wanted_modality(modality):
    data = small(modality=modality)
    assert (len(data.train_set), len(data.val_set)) == (TRAIN, EVAL)
    assert list(data.test_sets) == (["rgb"] if modality == "rgb" else [modality, "rgb"])
    for records in (data.train_set, data.val_set, *data.test_sets.values()):
        batch = records[range(3)]
        assert batch.modality == records.modality
        for image, target, name in zip(batch.images, batch.targets, batch.names, strict=True):
            assert image.shape == (CHANNELS[records.modality], HEIGHT, WIDTH)
            check_target(target, name=name, height=HEIGHT, width=WIDTH, class_names=CLASS_NAMES)


def test_the_test_is_on_the_same_scenes_in_both_modalities():
    data = small(modality="depth")
    depth, rgb = data.test_sets["depth"], data.test_sets["rgb"]
    assert list(depth.names) == list(rgb.names)
    for one, other in zip(depth[range(EVAL)].targets, rgb[range(EVAL)].targets, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
        assert torch.equal(one["labels"], other["labels"])


def test_the_test_on_rgb_can_be_left_out():
    assert list(small(rgb=False).test_sets) == ["lwir"]


def test_no_scene_is_in_two_sets():
    data = small()
    names = [set(records.names) for records in (data.train_set, data.val_set, data.test_sets["lwir"])]
    assert sum(map(len, names)) == len(set.union(*names)) == TRAIN + 2 * EVAL


def test_fewer_images_are_the_first_of_more():
    few, more = small(train_images=4), small()
    assert list(few.train_set.names) == list(more.train_set.names)[:4]
    for a, b in zip(few.train_set[range(4)].images, more.train_set[range(4)].images, strict=True):
        assert torch.equal(a, b)


def test_all_scenes_are_used_unless_fewer_are_wanted():
    data = small(train_images=None, eval_images=None)
    assert [len(records) for records in (data.train_set, data.val_set, data.test_sets["rgb"])] == [1000, 200, 400]


def test_a_budget_of_labels_takes_a_share():
    half = small(label_fraction=0.5)
    seen = [name for batch in half.train_dataloader() for name in batch.names]
    assert len(seen) == len(set(seen)) == TRAIN // 2


def test_the_loaders_serve_every_image_once():
    data = small(batch_size=5, eval_batch_size=2)
    assert sorted(name for batch in data.train_dataloader() for name in batch.names) == sorted(data.train_set.names)
    for loader, records in zip(data.test_dataloader(), data.test_sets.values(), strict=True):
        assert [name for batch in loader for name in batch.names] == list(records.names)


def test_mirrored_images_keep_their_boxes_on_their_objects():
    plain, flipped = small(modality="depth"), small(modality="depth", flip=True)
    pairs = {
        name: (image, target)
        for batch in plain.train_dataloader()
        for image, target, name in zip(*batch[:3], strict=True)
    }
    mirrored = 0
    for batch in flipped.train_dataloader():
        for image, target, name in zip(batch.images, batch.targets, batch.names, strict=True):
            before, boxes = pairs[name][0], pairs[name][1]["boxes"]
            if torch.equal(image, before):
                continue
            mirrored += 1
            assert torch.equal(image.flip(-1), before)
            assert torch.equal(WIDTH - target["boxes"][:, 2], boxes[:, 0])
    assert 0 < mirrored < TRAIN


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality": "thermal"}, r"data\.modality must be one of 'rgb', 'lwir', 'depth'"),
        ({"modality": None}, r"data\.modality"),
        ({"rgb": "no"}, r"data\.rgb"),
        ({"train_split": "test"}, r"data\.train_split"),
        ({"train_images": 0}, r"data\.train_images"),
        ({"eval_images": True}, r"data\.eval_images"),
        ({"batch_size": 0}, r"data\.batch_size"),
        ({"label_fraction": 0}, r"data\.label_fraction"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        RenderedModalities(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_images": 1001}, r"data\.train_images is 1001, but the train split has 1000"),
        ({"eval_images": 201}, r"data\.eval_images is 201, but the val split has 200"),
        ({"train_split": "detector"}, r"python -m pvision\.datamodules\.rendered"),
    ],
)
def test_more_scenes_than_there_are_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        small(**settings)


def test_a_root_without_a_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no RenderedModalities set"):
        small(root=str(tmp_path))


def test_it_is_made_from_a_config():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RenderedModalities, "data")
    config = {"modality": "depth", "rgb": False, "train_images": 15, "flip": True}
    made = parser.instantiate_classes(parser.parse_object({"data": config})).data
    assert isinstance(made, RenderedModalities)
    assert (made.modality, made.train_images, made.flip) == ("depth", 15, True)
    assert made.class_names == CLASS_NAMES
