"""The recipes of incremental segmentation are understood, and small ones run from the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pvision.cli import main
from pvision.cli.recipes import names, text

RENDERED = [name for name in names() if "RenderedYardStream" in text(name)]
SMALL = {
    "trainer": {
        "max_steps": 1,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "data": {"init_args": {"train_images": 60, "test_images": 6, "batch_size": 4}},
    "model": {"init_args": {"network": {"init_args": {"width": 4}}}},
}


@pytest.fixture
def flags(workplace):
    def of(recipe, **scenario):
        settings = json.loads(json.dumps(SMALL))
        if scenario:
            settings["data"]["init_args"]["scenario"] = {"init_args": scenario}
        (workplace / "small.yaml").write_text(yaml.safe_dump(settings))
        return ["--config", recipe, "--config", "small.yaml"]

    return of


def run(capsys, *words):
    main(list(words))
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    return path, json.loads(path.read_text())


def test_every_method_has_its_recipe():
    methods = {"barm", "dft", "dkd", "finetune", "ilt", "joint", "lwf", "mib", "plop", "pseudo_labels", "ssul"}
    tiny = {f"{method}_rendered_tiny" for method in ("barm", "mib", "finetune")}
    assert {f"{method}_rendered" for method in methods} | tiny <= set(RENDERED)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in RENDERED if not name.endswith("_tiny")])
def test_a_recipe_learns_its_stream(recipe, flags, capsys):
    path, summary = run(capsys, "fit", *flags(recipe, task="8-2"))
    assert summary["status"] == "FINISHED"
    assert {f"segmentation/{name}" for name in ("miou_old", "miou_new", "miou_all", "hiou")} <= summary[
        "metrics"
    ].keys()
    assert "continual/forgetting" in summary["metrics"]
    assert len(json.loads((path.parent / "segmentation_iou.json").read_text())["steps"]) == 2


@pytest.mark.slow
def test_a_tiny_recipe_learns_tests_and_predicts(flags, capsys):
    words = flags("barm_rendered_tiny")
    path, trained = run(capsys, "fit", *words)
    folder = path.parent
    with (folder / "segmentation_iou.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 7
    assert rows[0][1:] == ["background", *(one["name"] for one in _classes(folder)[1:])]
    assert (folder / "segmentation_iou.png").is_file()
    assert len(list(folder.glob("segmentation_[1-7].png"))) == 7
    assert trained["metrics"]["continual/exemplar_free"] == 1
    _, again = run(capsys, "test", *words, "--ckpt_path", str(folder))
    for name in ("segmentation/miou_old", "segmentation/hiou", "segmentation/average_over_steps"):
        assert again["metrics"][name] == trained["metrics"][name]
    last, _ = run(capsys, "predict", *words, "--ckpt_path", str(folder))
    masks = sorted((last.parent / "masks" / "test").glob("*.png"))
    assert len(masks) == 6
    assert np.asarray(Image.open(masks[0])).max() <= 10
    assert not list(last.parent.glob("predictions.csv"))


def _classes(folder):
    return json.loads((folder / "segmentation_iou.json").read_text())["classes"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.init_args.poly_power=-1"], "model.poly_power"),
        (["--model.init_args.base_epochs=0"], "model.base_epochs"),
        (["--data.init_args.evaluation=crop"], "eval_crop"),
        (["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt does not exist"),
    ],
)
def test_a_wrong_setting_is_said_in_one_sentence_before_anything_is_written(words, told, flags, workplace, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *flags("finetune_rendered_tiny"), *words])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in (workplace / "mlruns").iterdir()] == ["mlflow.db"]


def test_a_model_that_knows_no_class_is_not_evaluated(flags, capsys):
    with pytest.raises(SystemExit):
        main(["test", *flags("finetune_rendered_tiny")])
    assert "an IncrementalSegmenter knows no class" in capsys.readouterr().err
