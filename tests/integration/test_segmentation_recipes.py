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
from pvision.modules import IncrementalSegmenter

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
    ours = {"barm", "plastic_barm"}
    methods = ours | {"dft", "dkd", "finetune", "ilt", "joint", "lwf", "mib", "plop", "pseudo_labels", "ssul"}
    tiny = {f"{method}_rendered_tiny" for method in ("barm", "mib", "finetune")}
    assert {f"{method}_rendered" for method in methods} | tiny <= set(RENDERED)


@pytest.mark.parametrize("recipe", [name for name in RENDERED if not name.endswith("_tiny")])
def test_a_recipe_takes_a_step_in_each_of_two_experiences(recipe, flags, workplace, monkeypatch):
    learned, step = [], IncrementalSegmenter.training_step

    def noted(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        learned.append((self.method.current, bool(loss.isfinite())))
        return loss

    monkeypatch.setattr(IncrementalSegmenter, "training_step", noted)
    main(["fit", *flags(recipe, task="8-2"), "--trainer.fast_dev_run=1"])
    assert learned == [(0, True), (1, True)]
    assert [path.name for path in (workplace / "mlruns").iterdir()] == ["mlflow.db"]


@pytest.mark.slow
def test_a_tiny_recipe_learns_tests_and_predicts(flags, capsys):
    words = flags("barm_rendered_tiny", task="6-2")
    path, trained = run(capsys, "fit", *words)
    folder = path.parent
    with (folder / "segmentation_iou.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 3
    assert rows[0][1:] == ["background", *(one["name"] for one in _classes(folder)[1:])]
    assert (folder / "segmentation_iou.png").is_file()
    assert len(list(folder.glob("segmentation_[1-3].png"))) == 3
    assert trained["metrics"]["continual/exemplar_free"] == 1
    assert {"segmentation/miou_new", "segmentation/miou_all", "continual/forgetting"} <= trained["metrics"].keys()
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
