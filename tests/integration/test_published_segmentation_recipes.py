"""The recipes of published segmentation sets: all are parsed, and run on tiny copies of the layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pvision.cli import main

RECIPES = [
    "barm_voc_15_1",
    "barm_voc_10_1",
    "mib_voc_15_1",
    "barm_ade_100_5",
    "barm_ade_100_50",
    "barm_cityscapes_14_1",
    "barm_folder",
]
NETWORK = {"class_path": "pvision.segmentation.networks.CompactSegmenter", "init_args": {"width": 2}}


def save(path, values, *, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)[None].repeat(12, 0)).convert(mode).save(path)


def make_voc(root):
    lists = {"train_aug": range(1, 5), "val": range(5, 7)}
    for name, numbers in lists.items():
        for number in numbers:
            save(root / f"JPEGImages/{number}.jpg", range(21), mode="RGB")
            save(root / f"SegmentationClass{'Aug' if name != 'val' else ''}/{number}.png", range(21))
        path = root / f"ImageSets/Segmentation/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(str, numbers)))
    (root / "SegmentationClass").mkdir(exist_ok=True)
    return {"task": "19-1", "complete": False}


def make_ade(root):
    for split in ("training", "validation"):
        for number in range(2):
            save(root / f"images/{split}/{split}_{number}.jpg", range(151), mode="RGB")
            save(root / f"annotations/{split}/{split}_{number}.png", range(151))
    return {"task": "145-5", "complete": False}


def make_cityscapes(root):
    for split in ("train", "val"):
        for number in range(2):
            save(root / f"leftImg8bit/{split}/ulm/{split}_{number}_leftImg8bit.png", range(34), mode="RGB")
            save(root / f"gtFine/{split}/ulm/{split}_{number}_gtFine_labelIds.png", range(34))
    return {"task": "18-1", "complete": False}


def make_folder(root):
    for split in ("train", "test"):
        for number in range(4):
            save(root / f"{split}/images/{number}.jpg", range(16), mode="RGB")
            save(root / f"{split}/masks/{number}.png", [0, 1, 2, 3] * 4)
    return {"val_fraction": 0.0}


LAYOUTS = {
    "mib_voc_15_1": make_voc,
    "barm_ade_100_5": make_ade,
    "barm_cityscapes_14_1": make_cityscapes,
    "barm_folder": make_folder,
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("workplace")
def test_a_recipe_is_understood(recipe, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", recipe, "--print_config"])
    assert not ended.value.code
    read = yaml.safe_load(capsys.readouterr().out)
    assert read["data"]["init_args"]["preprocessing"]["crop"] in (512, 513)
    assert read["model"]["init_args"]["poly_power"] == 0.9


@pytest.mark.slow
@pytest.mark.parametrize("recipe", LAYOUTS)
def test_a_recipe_runs(recipe, workplace, capsys):
    data = {"root": str(workplace / "data"), "batch_size": 2, "num_workers": 0, **LAYOUTS[recipe](workplace / "data")}
    data["preprocessing"] = {"crop": 16, "eval_crop": 8}
    model = {"network": NETWORK} | ({} if recipe == "mib_voc_15_1" else {"base_epochs": 1})
    trainer = {"accelerator": "cpu", "precision": "32-true", "max_epochs": 1, "enable_progress_bar": False}
    small = {"model": {"init_args": model}, "data": {"init_args": data}, "trainer": trainer}
    (workplace / "small.yaml").write_text(yaml.safe_dump(small))
    main(["fit", "--config", recipe, "--config", "small.yaml"])
    summary = json.loads(Path(capsys.readouterr().out.strip().splitlines()[-1]).read_text())
    assert summary["status"] == "FINISHED"
    crop = "" if recipe in ("barm_cityscapes_14_1", "barm_folder") else "_crop"
    assert 0 <= summary["metrics"][f"segmentation{crop}/miou_all"] <= 1
