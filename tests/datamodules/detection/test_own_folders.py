"""A user's own images: COCO's format and Pascal VOC's."""

import json
import logging
import random
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from jsonargparse import ArgumentParser

from pvision.datamodules.batches import Share
from pvision.datamodules.detection import CocoFolder, DetectionDataModule, VocFolder
from pvision.errors import ConfigError, DataError

PERSON = ("person", 2, 3, 6, 12)


def everything(records):
    return records[range(len(records))]


def ready(data):
    data.setup()
    return data


class Coco:
    """Twenty images, each fifth without objects, and a data module that reads them."""

    def __init__(self, root, make):
        self.root, self.make = root, make
        self.boxes = {f"a/{number}.png": [PERSON] if number % 5 else [] for number in range(20)}
        for number, name in enumerate(self.boxes):
            make.picture(root / "images" / name, seed=number)
        self.write()

    def write(self, **changed):
        self.make.coco(self.root / "all.json", {**self.boxes, **changed}, ["person", "dog"])
        return self

    def edit(self, change):
        content = json.loads((self.root / "all.json").read_text())
        change(content)
        (self.root / "all.json").write_text(json.dumps(content))

    def module(self, **settings):
        return CocoFolder(images=str(self.root / "images"), annotations=str(self.root / "all.json"), **settings)


@pytest.fixture
def coco(tmp_path, make):
    return Coco(tmp_path, make)


def test_images_without_objects_are_trained_on(coco):
    data = ready(coco.module(batch_size=4))
    assert (data.class_names, data.test_modalities) == (("person", "dog"), ("lwir",))
    batches = list(data.train_dataloader())
    counts = [len(target["boxes"]) for batch in batches for target in batch.targets]
    assert len(counts) == 13
    assert 0 in counts
    assert all(target["boxes"].shape[1:] == (4,) for batch in batches for target in batch.targets)
    assert all(target["boxes"].dtype == torch.float32 for batch in batches for target in batch.targets)
    assert all(target["labels"].dtype == torch.int64 for batch in batches for target in batch.targets)


def test_nothing_depends_on_the_order_in_the_file(coco):
    first = ready(coco.module(label_fraction=0.5))
    coco.edit(lambda content: random.Random(0).shuffle(content["images"]))
    coco.edit(lambda content: random.Random(1).shuffle(content["annotations"]))
    second = ready(coco.module(label_fraction=0.5))
    for one, other in [(first.train_dataloader(), second.train_dataloader())]:
        assert [batch.names for batch in one] == [batch.names for batch in other]
    assert first.test_sets["lwir"].names == second.test_sets["lwir"].names


def test_the_test_images_stay_the_same_whatever_the_seed(coco):
    tests = {tuple(ready(coco.module(seed=seed)).test_sets["lwir"].names) for seed in range(4)}
    assert len(tests) == 1
    assert tests != {tuple(ready(coco.module(split_seed=split)).test_sets["lwir"].names) for split in range(1, 5)}


def test_own_validation_and_test_annotations_are_taken(coco):
    for kind in ("val", "test"):
        coco.make.picture(coco.root / f"images/{kind}.png")
        coco.make.coco(coco.root / f"{kind}.json", {f"{kind}.png": [PERSON]}, ["person", "dog"])
    files = {f"{kind}_annotations": str(coco.root / f"{kind}.json") for kind in ("val", "test")}
    data = ready(coco.module(**files))
    assert (len(data.train_set), data.val_set.names, data.test_sets["lwir"].names) == (20, ["val.png"], ["test.png"])
    coco.make.coco(coco.root / "test.json", {"test.png": []}, ["boat"])
    with pytest.raises(ConfigError, match=r"test\.json has the categories boat, but the training annotations person"):
        coco.module(**files).setup()


def test_rgb_partners_are_found_under_another_suffix(coco):
    for name in coco.boxes:
        coco.make.picture(coco.root / "rgb" / name.replace("png", "jpg"), colour=True)
    data = ready(coco.module(rgb_images=str(coco.root / "rgb")))
    assert data.test_modalities == ("lwir", "rgb")
    assert everything(data.test_sets["rgb"]).images[0].shape == (3, 24, 32)


def test_each_image_is_scored_by_one_of_two_processes(coco):
    data = ready(coco.module(test_fraction=0.35, eval_batch_size=2))
    seen = []
    for rank in range(2):
        data._share = lambda rank=rank: Share(rank, 2)
        seen += [name for batch in data.test_dataloader()[0] for name in batch.names]
    assert sorted(seen) == data.test_sets["lwir"].names
    assert len(seen) == 7


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (("person", 5, 5, 0, 4), "has no area"),
        (("person", 5, 5, 4, -4), "has no area"),
        (("person", 30, 5, 4, 4), "leaves the image of 32 x 24"),
        (("person", -1, 5, 4, 4), "leaves the image"),
        (("person", float("nan"), 5, 4, 4), "is not finite"),
        (("person", 1, 5, float("inf"), 4), "is not finite"),
    ],
)
def test_every_defect_of_a_box_is_refused_with_the_images_name(coco, box, message):
    coco.write(**{"a/4.png": [PERSON, box]})
    with pytest.raises(DataError, match=rf"all\.json, a/4\.png: box 1 .*{message}"):
        coco.module().setup()


def test_a_box_outside_of_the_image_is_refused_even_if_boxes_are_cut(coco):
    coco.write(**{"a/4.png": [("person", 40, 5, 4, 4)]})
    with pytest.raises(DataError, match=r"a/4\.png: box 0 .* has no area"):
        coco.module(clip_boxes=True).setup()


def test_identical_boxes_are_kept_and_said(coco, caplog):
    coco.write(**{"a/4.png": [PERSON, PERSON]})
    with caplog.at_level(logging.INFO):
        data = ready(coco.module())
    assert "1 objects are annotated twice" in caplog.text
    sets = [data.train_set, data.val_set, *data.test_sets.values()]
    assert sum(len(target["boxes"]) for records in sets for target in everything(records).targets) == 17


def test_what_is_left_out_is_counted_and_said_once(coco, caplog):
    coco.write(**{"a/4.png": [PERSON, ("dog", 1, 1, 5, 5)]})
    coco.edit(lambda content: content["annotations"][0].update(iscrowd=1))
    data = coco.module(classes=["person"])
    with caplog.at_level(logging.INFO):
        data.setup()
        data.setup("test")
    assert caplog.text.count("CocoFolder: 1 objects left out: crowd; 1 objects left out: dog.") == 1


def test_data_without_any_object_is_refused(coco):
    coco.write(**dict.fromkeys(coco.boxes, ()))
    with pytest.raises(
        DataError, match=r"none of the \d+ images for training has an object of the classes person, dog"
    ):
        coco.module().setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "not in COCO's format"),
        (lambda c: c["annotations"][0].update(image_id=999), "refers to an image or class"),
        (lambda c: c["annotations"][0].update(category_id=999), "refers to an image or class"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"needs a bbox .*\[1, 2, 3\] came"),
        (lambda c: c["annotations"][0].update(bbox=["a", 2, 3, 4]), "needs a bbox"),
        (lambda c: c["images"][1].update(file_name="a/0.png"), "a file_name twice"),
        (lambda c: c["images"][1].update(id=10), "an image id twice"),
        (lambda c: c["images"][1].update(file_name="../../etc/x.png"), "leaves the data's folder"),
        (lambda c: c["images"][1].update(height=25), r"annotations say 32 x 25 pixels, but .*1\.png has 32 x 24"),
        (lambda c: c["images"][1].update(file_name="absent.png"), "There is no image .*absent.png"),
        (lambda c: c["images"].append(7), "not in COCO's format"),
    ],
)
def test_defects_of_the_file_are_refused_before_the_first_step(coco, change, message):
    coco.edit(change)
    with pytest.raises(DataError, match=message):
        coco.module().setup()


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_file_that_is_no_coco_json_is_refused(coco, content):
    (coco.root / "all.json").write_text(content)
    with pytest.raises(DataError, match=r"all\.json"):
        coco.module().setup()
    (coco.root / "all.json").unlink()
    with pytest.raises(DataError, match=r"There are no annotations .*all\.json"):
        coco.module().setup()


def test_a_recipe_can_name_a_folder(coco):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DetectionDataModule, "data")
    settings = {"images": str(coco.root / "images"), "annotations": str(coco.root / "all.json"), "classes": ["person"]}
    config = {"class_path": "pvision.datamodules.detection.CocoFolder", "init_args": settings}
    data = parser.instantiate_classes(parser.parse_object({"data": config})).data
    data.setup()
    assert data.class_names == ("person",)


def test_classes_as_one_word_and_twice_are_refused(coco):
    with pytest.raises(ConfigError, match=r"data\.classes must be a list of names.*Write \[person\]"):
        coco.module(classes="person")
    with pytest.raises(ConfigError, match="each once"):
        coco.module(classes=["dog", "dog"]).setup()


def voc(root, **settings):
    return VocFolder(images=str(root / "images"), annotations=str(root / "xml"), **settings)


def test_vocs_boxes_begin_at_one_and_include_their_end(voc_folder):
    data = ready(voc(voc_folder))
    assert data.class_names == ("dog", "person")
    targets = everything(data.test_sets["lwir"]).targets
    assert targets[0]["boxes"].tolist() == [[0, 0, 8, 8], [4, 4, 32, 24]]
    assert ready(voc(voc_folder, one_based=False)).train_set.targets[0]["boxes"][0].tolist() == [1, 1, 8, 8]


def test_boxes_of_a_tool_that_counts_from_zero_are_refused_as_vocs(voc_folder, make):
    make.voc(voc_folder / "xml/a3.xml", ("dog", 0, 0, 8, 8))
    with pytest.raises(DataError, match=r"a3\.xml: box 0 \(-1\.0, -1\.0, 8\.0, 8\.0\) leaves the image"):
        voc(voc_folder).setup()
    voc(voc_folder, one_based=False).setup()


def test_lists_divide_a_folder(voc_folder):
    (voc_folder / "test.txt").write_text("a6\na7\n")
    data = ready(voc(voc_folder, test_list=str(voc_folder / "test.txt")))
    assert data.test_sets["lwir"].names == ["a6", "a7"]
    assert sorted([*data.train_set.names, *data.val_set.names]) == [f"a{number}" for number in range(6)]
    (voc_folder / "train.txt").write_text("a0\na1\na6\n")
    with pytest.raises(DataError, match=r"'a6' is in .*train\.txt and in .*test\.txt"):
        voc(voc_folder, **{f"{kind}_list": str(voc_folder / f"{kind}.txt") for kind in ("train", "test")}).setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "is damaged"),
        ("<annotation><object><bndbox/></object></annotation>", "an object without <name>"),
        ("<annotation><object><name>dog</name></object></annotation>", "needs a number in <bndbox/xmin>"),
        (
            '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>',
            "declares a document type",
        ),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>', "document type"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_damaged_and_hostile_xml_is_refused_by_name(voc_folder, text, message, encoding):
    (voc_folder / "xml/a3.xml").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=rf"a3\.xml .*{message if encoding == 'utf-8' else ''}"):
        voc(voc_folder).setup()


def test_pythons_own_parser_would_expand_entities():
    text = '<!DOCTYPE a [<!ENTITY b "much">]><a>&b;</a>'
    assert ElementTree.fromstring(text).text == "much"  # the safeguard is needed


def test_an_empty_folder_of_annotations_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no XML files"):
        voc(tmp_path).setup()


def test_truncated_images_are_named_when_they_are_read(voc_folder):
    path = voc_folder / "images/a3.png"
    path.write_bytes(path.read_bytes()[:-30])
    data = ready(voc(voc_folder))
    sets = [data.train_set, data.val_set, *data.test_sets.values()]
    records = next(records for records in sets if "a3" in records.names)
    with pytest.raises(DataError, match=r"a3\.png cannot be read"):
        everything(records)


def test_rgb_images_of_ones_own_are_three_channels(voc_folder):
    data = ready(voc(voc_folder, modality="rgb"))
    assert everything(data.test_sets["rgb"]).images[0].shape == (3, 24, 32)
    assert data.test_modalities == ("rgb",)


def test_an_image_for_training_and_test_is_refused(coco):
    coco.make.coco(coco.root / "test.json", {"a/3.png": [PERSON]}, ["person", "dog"])
    with pytest.raises(DataError, match=r"3\.png is listed 2 times"):
        coco.module(test_annotations=str(coco.root / "test.json")).setup()


@pytest.mark.parametrize(
    ("kind", "twin", "message"),
    [("images", "1", "an image id twice"), ("categories", 1.0, "a category id twice")],
)
def test_ids_that_become_equal_are_refused(coco, kind, twin, message):
    def change(content):
        content[kind][0]["id"], content[kind][1]["id"] = 1, twin

    coco.edit(change)
    with pytest.raises(DataError, match=message):
        coco.module().setup()


def test_a_box_that_is_too_thin_for_float32_is_refused(coco):
    coco.edit(lambda content: content["annotations"][0].update(bbox=[20, 5, 1e-9, 5]))
    with pytest.raises(DataError, match="has no area"):
        coco.module().setup()
