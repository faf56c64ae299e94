"""Every recipe on video runs `fit`, `validate`, `test` and `predict` on a tiny real input."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pvision.cli import main
from pvision.cli.recipes import names, text

Clips = Callable[[int], list[torch.Tensor]]
Writer = Callable[[Path, torch.Tensor], None]
TINY_BACKBONE = {"name": "mvit_tiny", "weights": None, "clip": [4, 32, 32]}


def write_boxes(path: Path, clips: list[str]) -> None:
    """Say that the middle of each frame of each clip is sensitive."""
    boxes = {clip: [[frame, 16, 8, 32, 40] for frame in range(8)] for clip in clips}
    path.write_text(json.dumps(boxes), encoding="utf-8")


def make_ucf101(root: Path, clips: Clips, write: Writer) -> list[str]:
    """Write a UCF101 of three classes and six groups in its official layout."""
    classes, listed = ("Walk", "Jump", "Kick"), {"train": [], "test": []}
    for label, name in enumerate(classes):
        for group, frames in enumerate(clips(label)[:6], 1):
            clip = f"{name}/v_{name}_g{group:02d}_c01.avi"
            write(root / "UCF-101" / clip, frames)
            listed["test" if group > 4 else "train"].append((clip, label + 1))
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(classes, 1)))
    (lists / "trainlist01.txt").write_text("".join(f"{clip} {label}\n" for clip, label in listed["train"]))
    (lists / "testlist01.txt").write_text("".join(f"{clip}\n" for clip, _ in listed["test"]))
    return [clip for part in listed.values() for clip, _ in part]


def make_hmdb51(root: Path, clips: Clips, write: Writer) -> list[str]:
    """Write an HMDB51 of three classes in its official layout."""
    made, splits = [], root / "testTrainMulti_7030_splits"
    splits.mkdir(parents=True)
    for label, name in enumerate(("walk", "jump", "kick")):
        rows = []
        for number, frames in enumerate(clips(label)[:6]):
            clip = f"film{number}_{name}_f_cm_np1_ba_med_0.avi"
            write(root / name / clip, frames)
            made.append(f"{name}/{clip}")
            rows.append(f"{clip} {2 if number > 3 else 1}")
        (splits / f"{name}_test_split1.txt").write_text("\n".join(rows))
    return made


def make_folder(root: Path, clips: Clips, write: Writer) -> list[str]:
    """Write two class folders."""
    made = []
    for label, name in enumerate(("walk", "jump")):
        for number, frames in enumerate(clips(label)[:12]):
            write(root / name / f"{number}.mp4", frames)
            made.append(f"{name}/{number}.mp4")
    return made


LAYOUTS = {"maskdp_ucf101": make_ucf101, "maskdp_hmdb51": make_hmdb51, "maskdp_folder": make_folder}


def shrink(recipe: str, root: Path) -> dict:
    """Return what to lay over a recipe so that it takes seconds."""
    settings = yaml.safe_load(text(recipe))
    model: dict = {"public_epochs": min(1, settings["model"]["init_args"]["public_epochs"])}
    if "privacy" in settings["model"]["init_args"]:
        model["privacy"] = {"steps": 3}
    if recipe not in LAYOUTS:
        return {
            "model": {"init_args": model},
            "data": {"init_args": {"train_clips": 60, "eval_clips": 30, "pretraining_clips": 60}},
        }
    model |= {"projection_dim": 8, "privacy": {"steps": 3, "delta": 1e-3}}
    data: dict = {"root": str(root), "masks": {"init_args": {"path": str(root / "boxes.json")}}}
    data |= {"frames": 4, "stride": 1, "size": 32, "num_workers": 0, "batch_size": 4}
    data["redaction"] = {"grid": 4, "dilate": 1}  # with the recipe's, a box would cover all of these small frames
    if recipe == "maskdp_folder":
        data |= {"val_fraction": 0.3, "test_fraction": 0.3}
    else:
        data |= {"val_groups": 1} if recipe == "maskdp_ucf101" else {}
        for network in ("network", "encoder"):
            model[network] = {"init_args": {**TINY_BACKBONE, "num_classes": 3}}
    return {"model": {"init_args": model}, "data": {"init_args": data}}


@pytest.fixture
def tiny(workplace: Path, clips: Callable[[int], list[torch.Tensor]], write_video) -> Callable[[str], list[str]]:
    """Return the flags that run a recipe on a tiny real input."""

    def flags(recipe: str) -> list[str]:
        root = workplace / "data"
        if recipe in LAYOUTS:
            write_boxes_for = LAYOUTS[recipe](root, clips, write_video)
            write_boxes(root / "boxes.json", write_boxes_for)
        quiet = {"trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}}
        (workplace / "small.yaml").write_text(yaml.safe_dump({**shrink(recipe, root), **quiet}))
        return ["--config", recipe, "--config", "small.yaml"]

    return flags


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [name for name in names() if "Stream" not in text(name) and "ModalityDetector" not in text(name)]
)
def test_a_recipe_trains_and_its_checkpoint_validates_tests_and_predicts(
    recipe: str, tiny: Callable[[str], list[str]], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tiny(recipe)
    main(["fit", *flags])
    summary = Path(capsys.readouterr().out.strip().splitlines()[-1])
    trained = json.loads(summary.read_text())
    assert {"test/accuracy", "test/accuracy_redacted"} <= trained["metrics"].keys()
    assert_epsilon(recipe, trained)

    (checkpoint,) = (summary.parent / "checkpoints").glob("*.ckpt")
    for stage in ("validate", "test", "predict"):
        main([stage, *flags, "--ckpt_path", str(checkpoint)])
        last = Path(capsys.readouterr().out.strip().splitlines()[-1])
        again = json.loads(last.read_text())
        assert again["privacy"]["steps"] == trained["privacy"]["steps"]
        if stage == "test":
            assert again["metrics"]["test/accuracy"] == trained["metrics"]["test/accuracy"]
        if stage == "predict":
            with (last.parent / "predictions.csv").open(encoding="utf-8") as file:
                assert list(csv.DictReader(file))


def assert_epsilon(recipe: str, summary: dict) -> None:
    """Hold the reported ε against the recipe's promise."""
    zero_out = float(summary["privacy"]["epsilon_zero_out"])
    settings = yaml.safe_load(text(recipe))["model"]["init_args"]
    if "privacy" in settings:
        target = settings["privacy"]["target_epsilon"]
        assert 0.99 * target < zero_out <= target
        assert summary["privacy"]["steps"] == 3
    else:
        assert zero_out == (math.inf if recipe.startswith("nonprivate") else 0.0)
