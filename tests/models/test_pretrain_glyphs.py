"""The program that makes the weights of GlyphViT, on classes too few to learn from."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from pvision.models import GlyphViT

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pretrain_glyphs.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pretrain_glyphs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(2)


def drawn(script, generator, *, classes=20, instances=10):
    control, present = script.make_classes(classes, generator)
    label = torch.arange(classes).repeat_interleave(instances)
    return script.draw(control[label], present[label], generator).unflatten(0, (classes, instances))


def test_glyphs_are_bright_strokes_on_dark(script, generator):
    images = drawn(script, generator)
    assert images.shape == (20, 10, 1, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.median() < 0.2
    assert (images.amax((-1, -2)) > 0.3).all()


def test_instances_differ_and_classes_differ_more(script, generator):
    images = drawn(script, generator).flatten(2)
    within = images.std(1).mean()
    assert within > 0.05
    # Enough is common to a class that its mean tells it apart.
    means = drawn(script, torch.Generator().manual_seed(2), instances=50).flatten(2).mean(1)
    nearest = torch.cdist(images.flatten(0, 1), means).argmin(1)
    assert (nearest == torch.arange(20).repeat_interleave(10)).float().mean() > 0.6


def test_a_class_fills_the_image_but_for_a_margin(script, generator):
    control, present = script.make_classes(50, generator)
    points = script._on_curves(control)[present]
    assert points.abs().max() <= 0.7501
    assert present.sum(1).unique().tolist() == [1, 2, 3]


def test_absent_strokes_are_not_drawn(script, generator):
    control, present = script.make_classes(1, generator)
    nothing = script.draw(control, torch.zeros_like(present), generator)
    assert nothing.max() < 0.2


def test_equal_seeds_give_equal_files_that_the_network_reads(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "BATCH", 32)
    digests = []
    for run in range(2):
        network, history = script.pretrain(steps=20, classes=4, seed=3)
        digests.append(script.write(network, tmp_path / f"{run}.safetensors", facts={"history": history}))
    assert digests[0] == digests[1]
    assert len(history) == 10
    assert history[-1]["loss"] < history[0]["loss"]
    with safe_open(str(tmp_path / "0.safetensors"), "pt") as file:
        assert json.loads(file.metadata()["pvision"]) == {"history": history}
    images = torch.rand(2, 1, 16, 16)
    again = GlyphViT(weights=str(tmp_path / "0.safetensors"))
    torch.testing.assert_close(again(images), network(images), rtol=0, atol=0.02)  # stored in half precision


def test_the_report_on_digits_runs(script, capsys):
    script.report_digits(GlyphViT(weights=None).eval(), "random weights")
    assert "digits by random weights: 5 nearest neighbours 0." in capsys.readouterr().out
