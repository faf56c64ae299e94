"""Every recipe along a stream runs from the command, tracks itself in MLflow, and its checkpoints can be used.

Those with a network of 86 million weights are read and built, and one for each data set learns, all with a tiny one.
"""

import csv
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pvision.cli import main
from pvision.cli.recipes import names, text
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules import DigitsStream

LARGE = [
    name
    for name in names()
    if name.endswith(("_cifar100", "_imagenet_r", "_domainnet")) and name != "replay_cifar100"  # a small network
]
RECIPES = [
    name
    for name in names()
    if "Stream" in text(name) and "IncrementalSegmenter" not in text(name) and name not in LARGE
]
SMALL = {
    "trainer": {
        "max_epochs": 1,
        "limit_train_batches": 3,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
}


def make_cifar100(root):
    """Write CIFAR-100 in the layout of its archive, three training images and a test image of each class."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3072), np.uint8)
    for name, count in (("train", 300), ("test", 100)):
        labels = [position % 100 for position in range(count)]
        content = {b"data": pixels[:count], b"fine_labels": labels, b"coarse_labels": [0] * count}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"class {label:02}".encode() for label in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, protocol=2))


def make_folder(root):
    """Write the digits as coloured PNG files, a folder for each class."""
    digits = DigitsStream(scenario=ClassIncremental(experiences=1))
    digits.setup()
    for position in range(400):
        image = digits.train_source.image(position).expand(3, -1, -1).permute(1, 2, 0).numpy()
        folder = root / f"digit {digits.train_source.labels[position]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((20, 20)).save(folder / f"{position}.png")


def make_imagenet_r(root):
    """Write ImageNet-R in the layout of PILOT: four classes, three training images and a test image of each."""
    for label in ("n01443537", "n01484850", "n01494475", "n01498041"):
        for kind, count in (("train", 3), ("test", 1)):
            for number in range(count):
                write_noise(root / kind / label / f"art_{number}.jpg")


def make_domainnet(root):
    """Write DomainNet with its authors' lists: four classes, a training and a test image of each in each domain."""
    for domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"):
        for kind in ("train", "test"):
            images = [f"{domain}/class_{label}/{domain}_{label}_{kind}.jpg" for label in range(4)]
            for image in images:
                write_noise(root / image)
            lines = [f"{image} {label}\n" for label, image in enumerate(images)]
            (root / f"{domain}_{kind}.txt").write_text("".join(lines), encoding="utf-8")


def write_noise(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, (40, 40, 3), np.uint8)).save(path)


LAYOUTS = {"replay_cifar100": make_cifar100, "replay_image_folder": make_folder}


@pytest.fixture
def small(workplace):
    """Return the flags that run a recipe in seconds."""

    def flags(recipe):
        settings = dict(SMALL)
        if recipe in LAYOUTS:
            LAYOUTS[recipe](workplace / "mine")
            settings["data"] = {"init_args": {"root": "mine", "num_workers": 0}}
            settings["model"] = {"init_args": {"backbone": {"init_args": {"width": 4}}}}
        (workplace / "small.yaml").write_text(yaml.safe_dump(settings))
        return ["--config", recipe, "--config", "small.yaml"]

    return flags


def fit(flags, capsys):
    main(["fit", *flags])
    return Path(capsys.readouterr().out.strip().splitlines()[-1])


def mlflow_runs():
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlruns/mlflow.db")
    runs = client.search_runs(["1"], order_by=["attributes.start_time"])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return client, parents, [run for run in runs if run not in parents]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_learns_its_stream_and_its_checkpoint_can_be_used(recipe, small, capsys):
    flags = small(recipe)
    summary = fit(flags, capsys)
    trained = json.loads(summary.read_text())
    expected = {"average_accuracy", "average_incremental_accuracy", "forgetting", "backward_transfer"}
    assert {f"continual/{name}" for name in expected} <= trained["metrics"].keys()
    experiences = len(json.loads((summary.parent / "stream.json").read_text())["experiences"])
    last = summary.parent / "checkpoints" / f"experience_{experiences}" / "end.ckpt"

    main(["test", *flags, "--ckpt_path", str(last)])
    again = json.loads(Path(capsys.readouterr().out.strip().splitlines()[-1]).read_text())
    assert again["metrics"]["continual/average_accuracy"] == trained["metrics"]["continual/average_accuracy"]

    main(["predict", *flags, "--ckpt_path", str(summary.parent)])  # the folder: its latest
    written = Path(capsys.readouterr().out.strip().splitlines()[-1]).with_name("predictions.csv")
    with written.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["name"] for row in rows}) == len(rows) >= 75


@pytest.mark.slow
def test_mlflow_has_a_run_with_a_child_for_each_experience(small, capsys):
    summary = fit(small("finetune_digits"), capsys)
    client, (parent,), children = mlflow_runs()
    assert parent.info.run_id == summary.parent.name
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * 5
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert [child.info.run_name.partition(":")[0] for child in children] == [f"experience {n}" for n in range(1, 6)]
    assert all("train/loss" in child.data.metrics for child in children)
    history = client.get_metric_history(parent.info.run_id, "continual/average_accuracy")
    assert [point.step for point in history] == [0, 1, 2, 3, 4]
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {
        "accuracy_matrix.csv",
        "accuracy_matrix.json",
        "accuracy_matrix.png",
        "config.yaml",
        "stream.json",
    } <= artifacts


STOPPED = """
import os, signal, sys
import lightning.pytorch as pl

class CtrlC(pl.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.datamodule.current == 1:
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_in_its_mlflow_run(small, workplace, capsys):
    flags = small("finetune_digits")
    (workplace / "stopping.py").write_text(STOPPED)
    command = "import sys; from pvision.cli import main; main(sys.argv[1:])"
    stopped = subprocess.run(
        [sys.executable, "-c", command, "fit", *flags, "--trainer.callbacks+=stopping.CtrlC"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    client, (parent,), _ = mlflow_runs()
    assert parent.info.status == "KILLED"
    folder = workplace / "mlruns" / "1" / parent.info.run_id
    assert json.loads((folder / "summary.json").read_text())["status"] == "KILLED"

    summary = fit([*flags, "--ckpt_path", str(folder)], capsys)
    assert summary.parent.resolve() == folder
    _, (parent,), children = mlflow_runs()
    assert parent.info.status == "FINISHED"
    assert [child.info.run_name.partition(":")[0] for child in children] == [f"experience {n}" for n in range(1, 6)]
    history = client.get_metric_history(parent.info.run_id, "continual/average_accuracy")
    assert sorted(point.step for point in history) == [0, 1, 2, 3, 4]

    whole = json.loads(fit(flags, capsys).read_text())["metrics"]
    assert json.loads(summary.read_text())["metrics"]["continual/forgetting"] == whole["continual/forgetting"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.max_epochs=-1"], "trainer.max_epochs must say how many epochs each experience takes"),
        (["--data.init_args.scenario.init_args.experiences=11"], "11"),
        (["--data.init_args.batch_size=0"], "data.batch_size"),
        (["--data.init_args.scenario.init_args.class_order=[0,1]"], "class_order"),
        (["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["--ckpt_path=mlruns"], "holds no checkpoint of a stream to go on from"),
        (["--ckpt_path=last"], "a stream goes on from a file or from its run's folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_before_anything_is_written(flags, message, small, capsys, workplace):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *small("finetune_digits"), *flags])
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pvision: ")]
    assert message in line
    assert [path.name for path in (workplace / "mlruns").iterdir()] == ["mlflow.db"]


def test_a_model_that_is_none_for_streams_is_loaded_by_name_only(workplace, small, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, workplace / "other.ckpt")
    with pytest.raises(SystemExit):
        main(["test", *small("finetune_digits"), "--ckpt_path", "other.ckpt"])
    assert "holds no classes of a continual classifier" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_model_that_was_never_trained_is_not_evaluated(stage, small, capsys, workplace):
    with pytest.raises(SystemExit) as stop:
        main([stage, *small("finetune_digits")])
    assert stop.value.code == 2
    assert f"so there is nothing to {stage}" in capsys.readouterr().err
    assert [path.name for path in (workplace / "mlruns").iterdir()] == ["mlflow.db"]


def shrunk(recipe):
    """Return the settings of a recipe with a tiny, random network and two steps for each experience."""
    settings = yaml.safe_load(text(recipe))
    backbone = settings["model"]["init_args"]["backbone"]
    if backbone["class_path"].endswith("TimmBackbone"):
        backbone["init_args"] = {"name": "vit_tiny_patch16_224", "image_size": 32}
    settings["trainer"] |= SMALL["trainer"] | {"limit_train_batches": 2}
    settings["data"]["init_args"] |= {"root": "mine", "num_workers": 0}
    return settings


def complaint(settings, workplace, capsys):
    """Return what the command says about a configuration whose data is nowhere."""
    (workplace / "shrunk.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as stop:
        main(["validate", "--config", "shrunk.yaml"])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("recipe", LARGE)
def test_a_large_recipe_is_understood_and_asks_for_its_data(recipe, workplace, capsys):
    said = complaint(shrunk(recipe), workplace, capsys)  # data is looked for once all objects are made
    assert re.search(r"pvision: .*mine.* Get it at https://", said), said


def test_a_large_recipe_with_a_wrong_setting_does_not_get_so_far(workplace, capsys):
    settings = shrunk("inf_lora_cifar100")
    settings["model"]["init_args"]["method"]["init_args"]["rang"] = 10
    assert "rang" in complaint(settings, workplace, capsys)
    settings = shrunk("inf_lora_cifar100")
    settings["data"]["init_args"]["protocol"] = "cifar100_inflora_11"
    assert "cifar100_inflora_10" in complaint(settings, workplace, capsys)


def test_large_recipes_name_weights_that_timm_can_download():
    known = set(pytest.importorskip("timm").list_pretrained())
    backbones = [yaml.safe_load(text(recipe))["model"]["init_args"]["backbone"] for recipe in LARGE]
    named = [backbone["init_args"] for backbone in backbones if backbone["class_path"].endswith("TimmBackbone")]
    assert len(named) > 20
    for backbone in named:
        assert backbone["name"] in known
        assert backbone["pretrained"] is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "make", "method"),
    [
        ("dual_lora_cifar100", make_cifar100, {"energy": 0.95}),  # noise takes all directions where more is asked for
        ("coda_prompt_imagenet_r", make_imagenet_r, {}),
        ("inf_lora_domainnet", make_domainnet, {}),
    ],
)
def test_a_large_recipe_learns_a_tiny_version_of_its_data(recipe, make, method, workplace, capsys):
    make(workplace / "mine")
    settings = shrunk(recipe)
    settings["model"]["init_args"]["method"]["init_args"] |= method
    data = settings["data"]["init_args"]
    del data["protocol"]
    data["scenario"] = {"class_path": "ClassIncremental", "init_args": {"experiences": 2}}
    data["preprocessing"] = {"class_path": "Preprocessing", "init_args": {"resize": [32, 32]}}
    data["batch_size"] = 3
    (workplace / "shrunk.yaml").write_text(yaml.safe_dump(settings))
    summary = fit(["--config", "shrunk.yaml"], capsys)
    found = json.loads(summary.read_text())["metrics"]
    assert {"continual/average_accuracy", "continual/forgetting", "cost/gmacs_per_image"} <= found.keys()
    assert len(json.loads((summary.parent / "stream.json").read_text())["experiences"]) == 2
