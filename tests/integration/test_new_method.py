"""The method on docs/new_method.md is short, runs as the page says, and keeps the promises of all methods."""

import json
import re
import sys
from pathlib import Path

import pytest
from small_methods import check_state_round_trip, check_two_ranks, images, learn, on_one_of, small_vit

from pvision.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "new_method.md"


def block(language):
    """Return the page's one block in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return found


def nearest_mean(network):
    """Make the page's method."""
    namespace = {"__name__": "page"}
    exec(compile(block("python"), str(PAGE), "exec"), namespace)  # the page's own lines
    return namespace["NearestMean"](network)


def on_rank_learn(rank):
    return on_one_of(nearest_mean, rank, 2)


def test_it_is_no_longer_than_sixty_lines():
    assert len(block("python").splitlines()) <= 60


@pytest.mark.slow
def test_it_runs_as_the_page_says(workplace, monkeypatch, capsys):
    (workplace / "nearest_mean.py").write_text(block("python"), encoding="utf-8")
    (workplace / "nearest_mean.yaml").write_text(block("yaml"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(workplace))
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    try:
        main(["fit", "--config", "nearest_mean.yaml", *quiet])
    finally:
        sys.modules.pop("nearest_mean", None)
    printed = capsys.readouterr().out.splitlines()
    shown = [line for line in block("text").splitlines() if line.startswith("After experience 5")]
    assert shown, "the page shows what is printed after the last experience"
    assert shown[0].partition(" Accuracy matrix")[0] in "\n".join(printed)
    found = json.loads(Path(printed[-1]).read_text(encoding="utf-8"))["metrics"]
    assert found["cost/forwards_per_image"] == 1
    assert found["continual/average_accuracy"] > 0.7  # chance is 0.1


def test_it_predicts_the_class_whose_mean_feature_is_closest_in_angle():
    method = nearest_mean(small_vit())
    records = [learn(method, index) for index in range(2)]
    means = [
        method.features(data.image[data.label == label]).mean(0)
        for data in records
        for label in data.experience.classes
    ]
    features = method.features(images())
    expected = [max(range(4), key=lambda label: float(one @ means[label] / means[label].norm())) for one in features]
    assert method.head.predictions(method(images())).tolist() == expected


def test_it_keeps_its_state():
    check_state_round_trip(nearest_mean)


def test_two_processes_are_one(ranks):
    check_two_ranks(ranks, on_rank_learn, nearest_mean)
