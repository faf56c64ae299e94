"""Every recipe of detection in another modality runs from the command line on a tiny real input."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from layouts import coco, depth, picture, voc

from pvision.cli import main
from pvision.cli.recipes import names, text

RECIPES = [name for name in names() if "ModalityDetector" in text(name)]
SIZE = (48, 64)
CLASSES = ["person", "bicycle", "car", "bed", "chair", "sink", "toilet"]
SMALL_DETECTOR = {"class_path": "CompactFCOS", "init_args": {"class_names": CLASSES, "width": 8, "weights": None}}


def make_llvip(root):
    for split, first, count in (("train", 10, 6), ("test", 90, 3)):
        for number in range(first, first + count):
            picture(root / "infrared" / split / f"{number:06}.jpg", seed=number, size=SIZE)
            picture(root / "visible" / split / f"{number:06}.jpg", seed=number, colour=True, size=SIZE)
            voc(root / "Annotations" / f"{number:06}.xml", ("person", 4, 4, 24, 40), size=SIZE)
    return {"root": str(root)}


def make_flir(root):
    for split, first, count in (("train", 1, 6), ("validation", 11, 2)):
        listed = [f"FLIR_{number:05}" for number in range(first, first + count)]
        for number, name in enumerate(listed):
            picture(root / f"JPEGImages/{name}_PreviewData.jpeg", seed=number, size=(64, 80))
            picture(root / f"JPEGImages/{name}_RGB.jpg", seed=number, colour=True, size=(64, 80))
            boxes = ("person", 0, 0, 20, 60), ("car", 30, 10, 60, 40)
            voc(root / f"Annotations/{name}_PreviewData.xml", *boxes, size=(64, 80))
        (root / f"align_{split}.txt").write_text("".join(f"{name}_PreviewData\n" for name in listed))
    return {"root": str(root)}


def make_kaist(root):
    for recording in ("set00/V000", "set00/V001", "set03/V000", "set07/V002"):
        for number in range(2):
            name = f"I{number * 20 + 19:05}"
            picture(root / recording / "lwir" / f"{name}.jpg", seed=number, size=SIZE)
            picture(root / recording / "visible" / f"{name}.jpg", seed=number, colour=True, size=SIZE)
            path = root / "annotations" / recording / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("% bbGt version=3\nperson 4 4 20 40 0 0 0 0 0 0 0\n")
    return {"root": str(root)}


def make_nyuv2(root):
    for split, count in (("train", 6), ("test", 2)):
        listed = [f"{number}.jpg" for number in range(count)]
        for number, name in enumerate(listed):
            picture(root / f"nyuv2_{split}_color" / name, colour=True, seed=number)
            depth(root / f"nyuv2_{split}_depth" / f"{number}.png", seed=number)
        boxes = ("bed", 2, 2, 10, 18), ("chair", 12, 4, 9, 9), ("sink", 1, 1, 8, 8), ("toilet", 5, 5, 9, 9)
        coco(root / f"{split}_gt_box.json", dict.fromkeys(listed, boxes), ["bed", "chair", "sink", "toilet"])
    return {"root": str(root)}


def make_coco(root):
    listed = [f"{number}.png" for number in range(10)]
    for number, name in enumerate(listed):
        picture(root / "images" / name, seed=number)
    coco(root / "boxes.json", dict.fromkeys(listed, (("person", 2, 2, 10, 18),)), ["person"])
    return {"images": str(root / "images"), "annotations": str(root / "boxes.json")}


def make_voc(root):
    for number in range(10):
        picture(root / "images" / f"a{number}.png", seed=number, size=SIZE)
        voc(root / "xml" / f"a{number}.xml", ("person", 4, 4, 24, 40), size=SIZE)
    return {"images": str(root / "images"), "annotations": str(root / "xml")}


LAYOUTS = {
    "modtr_llvip": make_llvip,
    "modtr_flir": make_flir,
    "modtr_kaist": make_kaist,
    "modtr_nyuv2": make_nyuv2,
    "modtr_coco": make_coco,
    "modtr_voc": make_voc,
}


@pytest.fixture
def flags(workplace):
    """Return the flags that run a recipe on a tiny input."""

    def of(recipe):
        trainer = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
        model, data = {}, {"batch_size": 4, "eval_batch_size": 4, "num_workers": 0}
        if recipe in LAYOUTS:
            data |= LAYOUTS[recipe](workplace / "data")
            model |= {"detector": SMALL_DETECTOR}
            model |= {"adaptation": {"init_args": {"network": "tiny", "encoder_weights": None}}}
        else:
            data |= {"train_images": 12, "eval_images": 6}
            data |= {"train_split": "train"} if recipe == "detector_rendered" else {}
        small = {"model": {"init_args": model}, "data": {"init_args": data}, "trainer": trainer}
        (workplace / "small.yaml").write_text(yaml.safe_dump(small))
        return ["--config", recipe, "--config", "small.yaml"]

    return of


def run(capsys, *words):
    main(list(words))
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    return path, json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_says_what_was_gained_and_kept(recipe, flags, capsys):
    _, summary = run(capsys, "fit", *flags(recipe))
    metrics = summary["metrics"]
    assert summary["status"] == "FINISHED"
    assert {"detection/map_new", "detection/map_new_before"} <= metrics.keys()
    if recipe == "detector_rendered":
        return
    assert metrics["detection/frozen_sha256"] == metrics["detection/frozen_sha256_before"]
    assert len(metrics["detection/frozen_sha256"]) == 64
    if recipe not in ("modtr_coco", "modtr_voc"):  # which have no RGB images
        assert metrics["detection/map_rgb"] == metrics["detection/map_rgb_before"]


@pytest.mark.slow
def test_a_checkpoint_validates_tests_predicts_and_goes_on(flags, capsys):
    words = flags("modtr_rendered_tiny")
    path, trained = run(capsys, "fit", *words)
    assert list(path.parent.glob("detections_*.png"))
    (checkpoint,) = (path.parent / "checkpoints").glob("*.ckpt")
    held = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert held
    assert not [name for name in held if "detector" in name]
    for stage in ("validate", "test"):
        _, again = run(capsys, stage, *words, "--ckpt_path", str(checkpoint))
        for name in ("detection/map_new", "detection/map_rgb") if stage == "test" else ():
            assert again["metrics"][name] == trained["metrics"][name]
    last, _ = run(capsys, "predict", *words, "--ckpt_path", str(checkpoint))
    found = json.loads((last.parent / "detections.json").read_text())
    assert {"image", "category", "bbox", "score"} <= found[0].keys() if found else True
    assert not list(last.parent.glob("predictions.csv"))
    _, resumed = run(capsys, "fit", *words, "--ckpt_path", str(checkpoint), "--trainer.max_epochs", "2")
    assert resumed["status"] == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["ZeroShot", "Inversion", "HistogramEqualisation", "InvertedEqualisation"])
def test_what_needs_no_training_is_tested_with_the_same_recipe(adaptation, flags, capsys):
    words = [*flags("modtr_rendered_tiny"), "--model.init_args.adaptation", adaptation]
    _, summary = run(capsys, "test", *words)
    assert summary["metrics"]["detection/map_rgb"] == summary["metrics"]["detection/map_rgb_before"]
    if adaptation == "ZeroShot":
        assert summary["metrics"]["detection/map_new"] == summary["metrics"]["detection/map_new_before"]


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["FineTuning", "DetectorLoRA", "WiSEFineTuning"])
def test_what_trains_the_detector_runs_with_the_same_recipe(adaptation, flags, capsys):
    words = [*flags("modtr_rendered_tiny"), "--model.init_args.adaptation", adaptation]
    _, summary = run(capsys, "fit", *words)
    assert "detection/frozen_sha256" not in summary["metrics"]
    assert "detection/map_rgb_before" in summary["metrics"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config", "modtr_llvip"], "data/LLVIP"),
        (["--config", "modtr_rendered", "--model.init_args.modality", "depth"], "data.modality"),
        (["--config", "modtr_rendered", "--model.init_args.adaptation.init_args.fusion", "mixed"], "product"),
        (["--config", "modtr_rendered", "--model.init_args.adaptation.init_args.in_channels", "2"], "channels"),
        (["--config", "modtr_rendered", "--data.init_args.train_images", "100000"], "train_images"),
        (["--config", "modtr_rendered", "--model.init_args.adaptation", "ZeroShot"], "pvision test"),
    ],
)
def test_a_wrong_setting_is_answered_with_exit_2_and_nothing_is_written(words, told, workplace, capsys):
    small = {"model": {"init_args": {"detector": SMALL_DETECTOR}}} if "modtr_llvip" in words else {}
    if "modtr_llvip" in words:
        small["model"]["init_args"]["adaptation"] = {"init_args": {"network": "tiny", "encoder_weights": None}}
    (workplace / "small.yaml").write_text(yaml.safe_dump(small))
    before = sorted(workplace.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, "--config", "small.yaml"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("pvision: ")
    assert told in message
    assert sorted(workplace.rglob("*")) == before
