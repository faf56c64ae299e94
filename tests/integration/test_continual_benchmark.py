"""The comparison of methods: what it runs, what it leaves, and that the pages are what their generator writes."""

import copy
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pvision.adapters.methods import ContinualMethod
from pvision.cli.recipes import names, text
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules import DigitsStream
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.datamodules.streams.protocols import PROTOCOLS
from pvision.models.vision_transformer import VisionTransformer

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads((ROOT / "docs" / "results" / "published_continual.json").read_text(encoding="utf-8"))
TINY = {"patch_size": 4, "channels": 1, "width": 32, "depth": 2, "heads": 2}


@pytest.fixture
def script(monkeypatch):
    """Import a script from benchmarks/, where it finds its neighbours."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith(("continual_", "_continual_")):
            del sys.modules[name]


@pytest.fixture
def methods(script):
    return script("_continual_methods")


@pytest.fixture
def results(script):
    return script("continual_results")


# What is compared


def test_every_method_can_be_built_and_takes_its_learning_rate_from_a_method_that_tries_some(methods, script):
    for name, contender in methods.METHODS.items():
        network = VisionTransformer(image_size=8, **{**TINY, "width": 120})
        assert isinstance(methods.build(contender.method, network), ContinualMethod), name
        assert contender.family in methods.FAMILIES
        assert contender.family in script("_continual_plot").STYLES
        source = methods.METHODS[contender.rate_of or name]
        assert source.rate_of is None, name
        parameter = torch.nn.Parameter(torch.zeros(1))
        assert methods.build(contender.optimizer, [parameter], lr=source.rates[0]).param_groups[0]["lr"] > 0


def test_a_run_counts_as_done_until_code_or_settings_change_but_not_with_a_comment(methods, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for number, body in enumerate(('"""A."""\nx = 1', '"""B."""\nx = 1  # one', '"""A."""\nx = 2')):
        path = tmp_path / f"code_{number}.py"
        path.write_text(body)
        digests.append(methods._source(str(path)))
    assert digests[0] == digests[1] != digests[2]
    lora, sd_lora = (methods.METHODS[name].method for name in ("lora", "sd_lora"))
    assert methods.code_digest(lora) != methods.code_digest(sd_lora)
    path = importlib.import_module("pvision.adapters.methods.dual_lora").__file__
    made_of = {Path(part).stem for part in methods._parts(path)}
    assert "alignment" in made_of  # what decides on its results
    assert "method" not in made_of  # what all methods share


# Runs


@pytest.fixture
def runs(script, tmp_path, monkeypatch):
    """Return the script, with digits and a tiny network in place of the real ones, and the start of a run."""
    module = script("continual_adapters")

    def digits(run):
        return DigitsStream(
            scenario=ClassIncremental(experiences=2, class_order_seed=run.seed),
            preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
            batch_size=256,
            seed=run.seed,
        )

    for name, value in {"SIDE": 8, "BACKBONE": TINY, "FEATURE_BLOCK": -1, "make_stream": digits}.items():
        monkeypatch.setattr(module, name, value)
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file(VisionTransformer(image_size=8, **TINY).state_dict(), weights)
    return module, module.Run("lora", 1e-3, 0, weights, tmp_path, tmp_path / "out")


def test_a_run_leaves_all_that_is_needed_to_judge_it(runs):
    module, run = runs
    assert not run.is_done()
    line = module.execute(run)
    found = json.loads(run.path.read_text())
    assert line.startswith("lora-0: average accuracy 0.")
    assert {"continual/average_accuracy", "continual/forgetting", "continual/backward_transfer"} <= found[
        "metrics"
    ].keys()
    assert found["cost"]["cost/forwards_per_image"] == 1
    assert found["cost"]["cost/gmacs_per_image"] > 0
    assert found["settings"]["lr"] == 1e-3
    assert len(found["accuracy_matrix"]) == 2
    assert found["accuracy_matrix"][0][1] is None  # not measured, and JSON knows no NaN
    assert found["steps"] == 6
    assert found["bytes_beside_backbone"] > 4 * found["cost"]["cost/parameters_trainable"]
    for name in ("backbone_sha256", "code_sha256"):
        assert len(found["settings"][name]) == 64
    assert len(found["stream_sha256"]) == 64
    assert run.is_done()
    assert not module.replace(run, lr=2e-3).is_done()
    found["settings"]["code_sha256"] = "older"
    run.path.write_text(json.dumps(found))
    assert not run.is_done()


def test_a_learning_rate_is_the_best_on_the_seed_for_that(runs, methods):
    module, run = runs
    rates = methods.METHODS["lora"].rates
    tuning = module.tuning_runs(["lora_joint_head", "lora"], run)  # which takes over what lora chooses
    assert [(one.method, one.lr, one.seed) for one in tuning] == [("lora", rate, 99) for rate in rates]
    for place, one in enumerate(tuning):
        one.path.parent.mkdir(parents=True, exist_ok=True)
        one.path.write_text(json.dumps({"metrics": {"continual/average_accuracy": 0.1 * (place + 1)}}))
    assert module.chosen_rate("lora_joint_head", run.out)[0] == rates[-1]
    reported = list(module.reported_runs(["lora"], [0, 1], run))
    assert [(one.lr, one.seed) for one in reported] == [(rates[-1], 0), (rates[-1], 1)]


# Means


def made_run(method, seed, accuracy, **settings):
    """Return what a run of two experiences would have left."""
    return {
        "method": method,
        "seed": seed,
        "settings": {
            "method": {},
            "optimizer": {},
            "lr": 0.1,
            "training": "stream",
            "epochs": 1,
            "seed": seed,
            "code_sha256": "a" * 64,
            "batch_size": 8,
            **settings,
        },
        "git_commit": "0123456789",
        "versions": {"torch": "2"},
        "threads": 1,
        "stream_sha256": str(seed),
        "steps": 20,
        "metrics": {"continual/average_accuracy": accuracy, "continual/forgetting": None},
        "accuracy_matrix": [[0.9, None], [0.5, 0.7]],
        "cost": {"cost/gmacs_per_image": 0.2},
        "bytes_beside_backbone": 100,
        "cpu_seconds": 1.0,
    }


def write_runs(folder, *runs):
    folder.mkdir(exist_ok=True)
    for run in runs:
        (folder / f"{run['method']}-{run['seed']}.json").write_text(json.dumps(run))
    return folder


def test_means_come_with_intervals_and_differences_with_pairs(results, tmp_path):
    pairs = ((0.50, 0.40), (0.60, 0.52), (0.55, 0.43))
    made = [made_run(*one) for seed, (a, b) in enumerate(pairs) for one in (("dual_lora", seed, a), ("lora", seed, b))]
    found = results.aggregate(write_runs(tmp_path / "runs", *made))
    accuracy = found["methods"]["dual_lora"]["metrics"]["continual/average_accuracy"]
    assert accuracy["mean"] == pytest.approx(0.55)
    assert accuracy["high"] - accuracy["mean"] == pytest.approx(4.302653 * 0.05 / 3**0.5, abs=1e-6)  # Student's t
    assert found["methods"]["lora"]["metrics"]["continual/forgetting"]["mean"] is None
    assert found["methods"]["lora"]["curve"] == [0.9, 0.6]
    assert found["compared"]["lora"]["difference"] == pytest.approx(0.1)
    assert found["compared"]["lora"]["pairs"] == 3
    assert found["common"] == {"batch_size": 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch_size": 16}, "another batch_size"), ({"lr": 0.2}, "runs of different lr"), (None, "no runs")],
)
def test_runs_that_do_not_belong_together_are_refused(results, tmp_path, change, message):
    made = [] if change is None else [made_run("lora", 0, 0.5), made_run("lora", 1, 0.5, **change)]
    with pytest.raises(SystemExit, match=message):
        results.aggregate(write_runs(tmp_path / "runs", *made))


# Pages


def test_the_pages_are_what_the_generator_writes(results):
    for path, wanted in results.pages().items():
        assert path.read_text(encoding="utf-8") == wanted, f"{path}: run python benchmarks/continual_results.py"


def test_a_changed_figure_changes_the_page(results, script):
    ours = results.read("continual_adapters.json")
    changed = copy.deepcopy(ours)
    changed["methods"]["lora"]["metrics"]["continual/average_accuracy"]["mean"] = 0.98765
    page = script("_continual_pages").results
    assert "98.8" in page(changed, PUBLISHED)
    assert "98.8" not in page(ours, PUBLISHED)


def test_what_we_ran_stands_below_the_published_row(script):
    page = script("_continual_pages")
    published = copy.deepcopy(PUBLISHED)
    (row,) = [one for one in published["rows"] if one["recipe"] == "sd_lora_cifar100"]
    row["ours"] = {"last": 86.54, "average": 91.23}
    text_ = "\n".join(page._published(published))
    assert "86.54 / 91.23 ([recipe](../recipes/sd_lora_cifar100.yaml))" in text_
    assert "not run here" in text_
    assert "86.54" not in "\n".join(page._published(PUBLISHED))


def test_the_picture_is_drawn(script, results, tmp_path):
    script("_continual_plot").draw(results.read("continual_adapters.json"), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_published_rows_belong_to_a_block_and_say_how_we_know():
    settings = {block["id"]: block["settings"] for block in PUBLISHED["blocks"]}
    seen = set()
    for row in PUBLISHED["rows"]:
        assert row["setting"] in settings[row["block"]]
        assert row["evidence"] in PUBLISHED["evidence"]
        assert row["source"]
        assert row["backbone"]
        assert row["split"]
        assert row["protocol"] is None or row["protocol"] in PROTOCOLS
        key = (row["block"], row["method"], row["setting"])
        assert key not in seen
        seen.add(key)
        ends = [value for name in ("last", "average") if row[name] is not None for value in _ends(row[name])]
        assert ends
        assert all(0 < value < 100 for value in ends)


def _ends(value):
    return value if isinstance(value, list) else [value]


def test_recipes_beside_published_rows_exist_and_have_their_protocol():
    for row in PUBLISHED["rows"]:
        if row["recipe"] is None:
            continue
        assert row["recipe"] in names()
        data = yaml.safe_load(text(row["recipe"]))["data"]["init_args"]
        if row["protocol"] is not None and row["setting"].endswith("_10"):
            assert data["protocol"] == row["protocol"]
