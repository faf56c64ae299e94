"""Published data sets, read on tiny copies of their layouts."""

import pytest
import torch
from PIL import Image

from pvision.datamodules.detection import KAIST, LLVIP, FLIRAligned, NYUv2Detection
from pvision.errors import ConfigError, DataError


def everything(records):
    return records[range(len(records))]


def boxes_of(records):
    batch = everything(records)
    return {name: target["boxes"].tolist() for name, target in zip(batch.names, batch.targets, strict=True)}


def ready(data):
    data.setup()
    return data


def test_llvip_has_pairs_for_the_test_and_a_seeded_fifth_for_validation(llvip):
    data = ready(LLVIP(root=str(llvip)))
    assert (data.class_names, data.modality, data.test_modalities) == (("person",), "lwir", ("lwir", "rgb"))
    assert (len(data.train_set), len(data.val_set), len(data.test_sets["lwir"])) == (8, 2, 3)
    assert not set(data.train_set.names) & set(data.val_set.names)
    infrared, visible = (everything(data.test_sets[modality]) for modality in data.test_modalities)
    assert infrared.images[0].shape == (1, 24, 32)
    assert visible.images[0].shape == (3, 24, 32)
    assert infrared.names == visible.names == ["test/000090.jpg", "test/000091.jpg", "test/000092.jpg"]
    assert [len(target["boxes"]) for target in infrared.targets] == [1, 0, 1]
    assert infrared.targets[0]["boxes"].tolist() == [[1, 2, 9, 20]]


def test_validation_is_drawn_by_the_seed(llvip):
    drawn = {seed: tuple(ready(LLVIP(root=str(llvip), seed=seed)).val_set.names) for seed in (1, 1, 2, 3, 4)}
    assert drawn[1] == tuple(ready(LLVIP(root=str(llvip), seed=1)).val_set.names)
    assert len(set(drawn.values())) > 1


def test_llvip_leaves_out_boxes_of_five_square_pixels_or_less_unless_told_otherwise(llvip, make):
    make.voc(llvip / "Annotations/000090.xml", ("person", 1, 1, 6, 2), ("person", 1, 1, 7, 2))
    assert boxes_of(ready(LLVIP(root=str(llvip))).test_sets["lwir"])["test/000090.jpg"] == [[1, 1, 7, 2]]
    both = boxes_of(ready(LLVIP(root=str(llvip), size_filter="none")).test_sets["lwir"])["test/000090.jpg"]
    assert len(both) == 2


def test_boxes_that_leave_the_image_are_cut_or_refused_by_name(llvip, make):
    make.voc(llvip / "Annotations/000090.xml", ("person", -2, 3, 40, 20))
    assert boxes_of(ready(LLVIP(root=str(llvip))).test_sets["lwir"])["test/000090.jpg"] == [[0, 3, 32, 20]]
    with pytest.raises(DataError, match=r"000090\.xml: box 0 .* leaves the image of 32 x 24 pixels"):
        LLVIP(root=str(llvip), clip_boxes=False).setup()


def test_rgb_alone_can_be_learned_without_infrared(llvip):
    for split in ("train", "test"):
        for path in (llvip / "infrared" / split).iterdir():
            path.unlink()
    data = ready(LLVIP(root=str(llvip), modality="rgb"))
    assert data.test_modalities == ("rgb",)
    assert everything(data.train_set).images[0].shape == (3, 24, 32)


def test_infrared_without_rgb_can_be_learned_if_the_pairs_are_not_wanted(llvip):
    (llvip / "visible/test/000091.jpg").unlink()
    with pytest.raises(DataError, match=r"infrared/test/000091\.jpg has no RGB partner: .*visible/test/000091\.jpg"):
        LLVIP(root=str(llvip)).setup()
    assert ready(LLVIP(root=str(llvip), with_rgb=False)).test_modalities == ("lwir",)


def test_pairs_of_unequal_size_are_refused(llvip, make):
    make.picture(llvip / "visible/test/000091.jpg", colour=True, size=(24, 16))
    with pytest.raises(DataError, match=r"000091\.jpg has 32 x 24 pixels, but its RGB partner .* has 16 x 24"):
        LLVIP(root=str(llvip)).setup()


@pytest.mark.parametrize("stored_as", ["grey", "three equal channels"])
def test_swapped_folders_are_refused_before_the_first_step(llvip, stored_as):
    if stored_as != "grey":
        for path in (llvip / "infrared").rglob("*.jpg"):
            Image.open(path).convert("RGB").save(path)
        LLVIP(root=str(llvip)).setup()  # as such they are fine
    (llvip / "infrared").rename(llvip / "other")
    (llvip / "visible").rename(llvip / "infrared")
    (llvip / "other").rename(llvip / "visible")
    for channels in (1, None):
        with pytest.raises(DataError, match=r"Are the folders swapped|Is it the RGB image"):
            LLVIP(root=str(llvip), channels=channels).setup()


def test_missing_data_is_explained_once_and_for_all(tmp_path):
    for kind, words in [
        (LLVIP, "LLVIP"),
        (FLIRAligned, "FLIR aligned"),
        (NYUv2Detection, "NYUv2"),
        (KAIST, "KAIST"),
    ]:
        with pytest.raises(
            DataError, match=rf"{words}: there is no .*nowhere.* Expected is .*ROOT.* https://.* licence"
        ):
            kind(root=str(tmp_path / "nowhere")).setup()


def test_an_image_without_annotation_and_an_empty_split_are_refused(llvip):
    (llvip / "Annotations/000012.xml").unlink()
    with pytest.raises(DataError, match=r"There is no annotation .*000012\.xml"):
        LLVIP(root=str(llvip)).setup()
    for path in (llvip / "infrared/test").iterdir():
        path.unlink()
    (llvip / "infrared/train/000012.jpg").unlink()
    with pytest.raises(DataError, match="none of the 0 images for test"):
        LLVIP(root=str(llvip)).setup()


def test_a_modality_that_the_data_does_not_have_is_refused(tmp_path):
    for kind in (LLVIP, FLIRAligned, NYUv2Detection, KAIST):
        with pytest.raises(ConfigError, match=r"data\.modality must be one of"):
            kind(root=str(tmp_path), modality="sonar")


@pytest.fixture
def flir(tmp_path, make):
    root = tmp_path / "align"
    for split, first, count in (("train", 1, 5), ("validation", 11, 2)):
        names = [f"FLIR_{number:05}" for number in range(first, first + count)]
        for number, name in enumerate(names):
            make.picture(root / f"JPEGImages/{name}_PreviewData.jpeg", seed=number, size=(64, 80))
            make.picture(root / f"JPEGImages/{name}_RGB.jpg", seed=number, colour=True, size=(64, 80))
            make.voc(
                root / f"Annotations/{name}_PreviewData.xml",
                ("person", 0, 0, 20, 50),
                ("person", 0, 0, 20, 51),
                ("car", 0, 0, 9, 10),
                ("bicycle", 0, 0, 9, 11),
                ("bicycle", 0, 0, 5, 2),
                ("dog", 1, 1, 20, 60),
                size=(64, 80),
            )
        # The published lists name the infrared image; a carriage return must not matter.
        (root / f"align_{split}.txt").write_text("".join(f"{name}_PreviewData\r\n" for name in names))
    return root


def test_flir_filters_sizes_as_published_results_do_only_when_asked_to(flir):
    data = ready(FLIRAligned(root=str(flir), size_filter="flir"))
    assert data.class_names == ("person", "bicycle", "car")
    assert data.test_modalities == ("lwir", "rgb")
    target = everything(data.test_sets["lwir"]).targets[0]
    assert target["boxes"].tolist() == [[0, 0, 20, 51], [0, 0, 9, 11]]
    assert target["labels"].tolist() == [0, 1]
    assert all(len(boxes) == 4 for boxes in boxes_of(data.train_set).values())
    plain = ready(FLIRAligned(root=str(flir)))
    assert all(len(boxes) == 5 for boxes in boxes_of(plain.test_sets["rgb"]).values())


def test_flirs_raw_sixteen_bits_can_be_taken_instead(flir, make):
    for path in list((flir / "JPEGImages").glob("*_PreviewData.jpeg")):
        stem = path.name.removesuffix("_PreviewData.jpeg")
        (flir / "raw").mkdir(exist_ok=True)
        values = torch.arange(64 * 80, dtype=torch.int32).reshape(64, 80).numpy().astype("uint16") + 7000
        Image.fromarray(values).save(flir / "raw" / f"{stem}.tiff")
    image = everything(ready(FLIRAligned(root=str(flir), sixteen_bit="raw")).train_set).images[0]
    assert (image.min(), image.max()) == (7000, 7000 + 64 * 80 - 1)


def test_chosen_classes_have_the_order_asked_for(flir):
    data = ready(FLIRAligned(root=str(flir), classes=["dog", "person"]))
    assert data.class_names == ("dog", "person")
    assert everything(data.test_sets["lwir"]).targets[0]["labels"].tolist() == [1, 1, 0]
    with pytest.raises(ConfigError, match=r"\['boat'\] are unknown.*bicycle, car, dog, person"):
        FLIRAligned(root=str(flir), classes=["boat"]).setup()


@pytest.fixture
def nyu(tmp_path, make):
    for split, count in (("train", 5), ("test", 2)):
        names = [f"{number}.jpg" for number in range(count)]
        for number, name in enumerate(names):
            make.picture(tmp_path / f"nyuv2_{split}_color" / name, colour=True, seed=number)
            make.depth(tmp_path / f"nyuv2_{split}_depth" / f"{number}.png", seed=number)
        boxes = {name: [("sofa", 1.5, 2, 10, 20.25)] for name in names}
        make.coco(tmp_path / f"{split}_gt_box.json", boxes, ["bed", "sofa"])
    return tmp_path


def test_nyu_depth_is_in_millimetres_and_its_boxes_become_corners(nyu, make, tmp_path):
    data = ready(NYUv2Detection(root=str(nyu)))
    assert (data.class_names, data.test_modalities) == (("bed", "sofa"), ("depth", "rgb"))
    batch = everything(data.test_sets["depth"])
    assert torch.equal(batch.images[1][0], torch.from_numpy(make.depth(tmp_path / "x.png", seed=1)).float())
    assert batch.targets[0]["boxes"].tolist() == [[1.5, 2, 11.5, 22.25]]
    assert batch.targets[0]["labels"].tolist() == [1]
    assert ready(NYUv2Detection(root=str(nyu), modality="rgb")).test_modalities == ("rgb",)


@pytest.fixture
def kaist(tmp_path, make):
    root = tmp_path / "kaist"
    for recording, frames in [("set00/V000", 2), ("set00/V001", 2), ("set03/V000", 2), ("set07/V002", 3)]:
        for number in range(frames):
            name = f"I{number * 20 + 19:05}"
            for offset in (0, 3):  # the second is no twentieth frame
                frame = f"I{number * 20 + 19 + offset:05}"
                make.picture(root / recording / "lwir" / f"{frame}.jpg", seed=number)
                make.picture(root / recording / "visible" / f"{frame}.jpg", seed=number, colour=True)
            path = root / "annotations" / recording / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "% bbGt version=3\nperson 2 3 6 12 0 0 0 0 0 0 0\npeople 1 1 9 9 0 0 0 0 0 0 0\n"
                "person 4 4 5 5 0 0 0 0 0 1 0\n"
            )
    return root


def test_kaist_takes_every_twentieth_frame_and_never_divides_a_recording(kaist):
    data = ready(KAIST(root=str(kaist)))
    recordings = [{name.rpartition("/")[0] for name in records.names} for records in (data.train_set, data.val_set)]
    assert not recordings[0] & recordings[1]
    assert len(data.train_set) + len(data.val_set) == 6
    assert data.test_sets["rgb"].names == [f"set07/V002/I{number:05}" for number in (19, 39, 59)]
    assert boxes_of(data.test_sets["lwir"])["set07/V002/I00019"] == [[2, 3, 8, 15]]


def test_kaist_reads_lists_and_sanitised_xml(kaist, make):
    frames = ["set00/V000/I00022", "set00/V001/I00022", "set07/V002/I00022"]
    for frame in frames:
        make.voc(kaist / f"clean/{frame}.xml", ("person", 2, 3, 6, 12), corners="xywh", size=(0, 0))
    (kaist / "train.txt").write_text("\n".join(frames[:2]))
    (kaist / "test.txt").write_text(frames[2])
    data = ready(KAIST(root=str(kaist), annotations="clean", train_list="train.txt", test_list="test.txt"))
    assert boxes_of(data.test_sets["lwir"]) == {frames[2]: [[2, 3, 8, 15]]}
    assert len(data.train_set) == len(data.val_set) == 1


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/passwd", "set00/V000/J1"])
def test_kaists_lists_stay_below_the_folder(kaist, line):
    (kaist / "train.txt").write_text(line)
    with pytest.raises(DataError, match=r"leaves the data's folder|must be named as"):
        KAIST(root=str(kaist), train_list="train.txt").setup()


def test_damaged_text_annotations_are_named(kaist):
    (kaist / "annotations/set00/V000/I00019.txt").write_text("person 1 2 3\n")
    with pytest.raises(DataError, match=r"I00019\.txt: a line must be a class and left, top, width, height"):
        KAIST(root=str(kaist)).setup()


def test_flirs_lists_stay_in_their_folder(flir):
    (flir / "align_train.txt").write_text("../../elsewhere_PreviewData\n")
    with pytest.raises(DataError, match="leaves the data's folder"):
        FLIRAligned(root=str(flir)).setup()
