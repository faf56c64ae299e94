"""A wrong key, type, value or path: exit code 2, one message that names it, no traceback, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

NET = "model.init_args.network.init_args"


def wrong(**changes: object) -> dict[str, object]:
    return changes


# What is changed in a configuration that works: the words that the message must contain.
SETTINGS: list[tuple[dict[str, object], list[str]]] = [
    # Keys
    (wrong(**{"model.init_args.lrr": 1}), ["--model.init_args.lrr does not exist", "mean --model.init_args.lr?"]),
    (wrong(**{f"{NET}.widht": 1}), [f"--{NET}.widht does not exist in Net", f"did you mean --{NET}.width?"]),
    (wrong(**{"data.init_args.batchsize": 1}), ["--data.init_args.batchsize", "--data.init_args.batch_size?"]),
    (wrong(**{"data.init_args.zzz": 1}), ["--data.init_args.zzz does not exist in ToyData", "--data.init_args.root"]),
    (wrong(**{"trainer.max_epoch": 1}), ["--trainer.max_epoch does not exist", "--trainer.max_epochs?"]),
    (wrong(**{"trainr.max_epochs": 1}), ["--trainr.max_epochs does not exist", "--trainer.max_epochs?"]),
    (wrong(modle={"class_path": "toy_project.ToyModule"}), ["--modle", "did you mean --model?"]),
    (wrong(**{"privacy_accounting.budgt": 1}), ["--privacy_accounting.budgt", "--privacy_accounting.budget?"]),
    (wrong(**{"run_summary.nam": "x"}), ["--run_summary.nam", "--run_summary.name?"]),
    (wrong(optimizer={"class_path": "SGD"}), ["--optimizer"]),
    (wrong(**{"model.lr": 0.1}), ["--model", "beside class_path and init_args"]),
    (wrong(model={"lr": 0.1}), ["--model.lr", "Name the class too", "class_path"]),
    (wrong(**{"trainer.callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitr": "x"}}]}),
     ["--trainer.callbacks", "monitr does not exist in EarlyStopping", "monitor?"]),
    (wrong(**{"trainer.logger": {"class_path": "MLFlowLogger", "init_args": {"experiment": "x"}}}),
     ["--trainer.logger", "experiment does not exist in MLFlowLogger", "experiment_name?"]),
    (wrong(fit={"model": {"class_path": "toy_project.ToyModule"}}), ["The settings stand under fit"]),
    # Types and values that the signature refuses
    (wrong(**{"model.init_args.lr": "fast"}), ["--model.init_args.lr must be float", "'fast' came"]),
    (wrong(**{f"{NET}.width": 1.5}), [f"--{NET}.width must be int", "'1.5' came"]),
    (wrong(**{f"{NET}.activation": "tanh"}), [f"--{NET}.activation must be one of 'relu', 'gelu'", "'tanh' came"]),
    (wrong(**{"model.init_args.scales": 3}), ["--model.init_args.scales must be list[float] or null", "'3' came"]),
    (wrong(**{"trainer.max_epochs": "two"}), ["--trainer.max_epochs must be int or null", "'two' came"]),
    (wrong(trainer=[1]), ["--trainer"]),
    (wrong(seed_everything="abc"), ["--seed_everything must be bool or int", "'abc' came"]),
    (wrong(ckpt_path=3), ["--ckpt_path must be str"]),
    # Classes
    (wrong(**{"model.class_path": "toy_project.ToyModul"}), ["--model", "toy_project.ToyModul", "mean ToyModule?"]),
    (wrong(**{"model.class_path": "ToyModul"}), ["--model", "ToyModul", "did you mean ToyModule?"]),
    (wrong(**{"model.class_path": "toy_projekt.ToyModule"}), ["--model", "No module named 'toy_projekt'"]),
    (wrong(**{"model.class_path": "toy_project.ToyData"}), ["--model", "subclass of LightningModule"]),
    (wrong(**{"trainer.callbacks": [{"class_path": "ErlyStopping"}]}), ["--trainer.callbacks", "EarlyStopping?"]),
    (wrong(model=None), ["--model is missing", "pvision recipes list"]),
    (wrong(data=None), ["--data is missing", "pvision recipes list"]),
    (wrong(**{"model.init_args.network": None}), ["network"]),
    # What constructors refuse
    (wrong(**{"model.init_args.lr": -1}), ["model.lr must be above 0, but -1.0 came."]),
    (wrong(**{f"{NET}.width": 99}), ["Net: width 99 is too much", "toy_project.py, line"]),
    (wrong(**{"privacy_accounting.budget": -1}), ["privacy_accounting.budget", "above 0", "-1"]),
    (wrong(**{"trainer.accelerator": "quantum"}), ["--trainer (Trainer)", "quantum"]),
    (wrong(**{"trainer.limit_train_batches": 1.5}), ["--trainer (Trainer)", "limit_train_batches"]),
    (wrong(**{"trainer.callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "x", "mode": "up"}}]}),
     ["--trainer.callbacks (EarlyStopping)", "up"]),
    # What data and model refuse together
    (wrong(**{f"{NET}.classes": 3}), ["model.network.classes is 3, but the data has 2"]),
    (wrong(**{"data.init_args.root": "nowhere"}), ["data.root: nowhere does not exist"]),
    (wrong(**{"data.class_path": "toy_project.FilesData"}), ["--data", "missing.csv"]),
    # Paths
    (wrong(ckpt_path="nowhere.ckpt"), ["--ckpt_path nowhere.ckpt does not exist"]),
    (wrong(ckpt_path="toy.yaml"), ["--ckpt_path toy.yaml"]),
    (wrong(ckpt_path="https://example.org/a.ckpt"), ["--ckpt_path", "Download it first"]),
    (wrong(**{"trainer.logger.init_args.tracking_uri": "sqlite:///toy.yaml/x.db"}), ["--trainer.logger", "toy.yaml"]),
]  # fmt: skip

FILES: list[tuple[str | bytes, list[str]]] = [
    ("model: {class_path: [", ["--config broken.yaml", "line 1"]),
    ("- a\n- b\n", ["--config broken.yaml holds no settings"]),
    ("", ["--config broken.yaml holds no settings"]),
    ("just words", ["--config broken.yaml holds no settings"]),
    (b"\xff\xfe\x00", ["--config broken.yaml", "UTF-8"]),
    ("trainer: {max_epochs: 1, max_epochs: 2}", ["--trainer.max_epochs is given twice"]),
    ("model: !!python/object/apply:os.mkdir [bomb]", ["--model has the tag", "python/object"]),
    ("model: !!python/name:os.system ''", ["--model has the tag"]),
    ("model: &a {b: *a}", ["--model"]),
]

FLAGS: list[tuple[list[str], list[str]]] = [
    (["fit", "--config"], ["--config needs a value"]),
    (["fit", "--config", "nowhere.yaml"], ["--config nowhere.yaml does not exist"]),
    (["fit", "--config=no_such_recipe"], ["there is no recipe 'no_such_recipe'"]),
    (["fit", "-c", "."], ["--config . is a folder"]),
    (["fit"], ["--model and --data are missing"]),
    (["fit", "--config", "toy.yaml", "--trainer.max_epoch=3"], ["--trainer.max_epoch does not exist", "max_epochs?"]),
    (["fit", "--config", "toy.yaml", "--modle=X"], ["--modle does not exist", "--model?"]),
    (["fit", "--config", "toy.yaml", "--model.lrr=3"], ["--model.init_args.lrr does not exist", "init_args.lr?"]),
    (["fit", "--config", "toy.yaml", "--model.lr=fast"], ["--model.init_args.lr must be float", "'fast' came"]),
    (["fit", "--config", "toy.yaml", "--model.init_args.lr"], ["--model", "no value"]),
    (["fit", "--config", "toy.yaml", "stray"], ["stray is not expected"]),
    (["fit", "--config", "toy.yaml", "--weights_only=false"], ["--weights_only does not exist"]),
    (["fitt"], ["fitt is no command", "did you mean fit?"]),
    (["recipes"], ["pvision recipes list"]),
    (["recipes", "show", "no_such_recipe"], ["there is no recipe 'no_such_recipe'"]),
]  # fmt: skip


def assert_refused(outcome: tuple[int, str, str], words: list[str], written: set[Path]) -> None:
    code, out, err = outcome
    assert code == 2, f"{out}{err}"
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert "usage:" not in err
    messages = [line for line in err.splitlines() if line.startswith("pvision: ")]
    assert len(messages) == 1
    assert err.splitlines()[-1] == messages[0]
    assert out == ""
    assert set(Path().rglob("*")) == written, "something was written"


@pytest.mark.parametrize(("changes", "words"), SETTINGS, ids=lambda value: str(value)[:60])
def test_a_wrong_setting_is_refused_by_its_name(
    changes: dict[str, object], words: list[str], pvision: Callable, toy: Callable
) -> None:
    config = toy(**changes)
    assert_refused(pvision("fit", "--config", config), words, {config})


@pytest.mark.parametrize(("text", "words"), FILES, ids=lambda value: str(value)[:40])
def test_a_file_without_settings_is_refused(text: str | bytes, words: list[str], pvision: Callable) -> None:
    path = Path("broken.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(pvision("fit", "--config", path), words, {path})


@pytest.mark.parametrize(("args", "words"), FLAGS, ids=lambda value: " ".join(value)[:60])
def test_a_wrong_flag_is_refused(args: list[str], words: list[str], pvision: Callable, toy: Callable) -> None:
    config = toy()
    assert_refused(pvision(*args), words, {config})


def test_the_configuration_that_the_wrong_ones_change_is_right(pvision: Callable, toy: Callable) -> None:
    code, _, err = pvision("fit", "--config", toy(), "--trainer.logger=false")
    assert code == 0, err


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_every_stage_refuses(stage: str, pvision: Callable, toy: Callable) -> None:
    config = toy(**{"model.init_args.lrr": 1})
    assert_refused(pvision(stage, "--config", config), ["--model.init_args.lrr"], {config})


def test_a_missing_mlflow_is_named_with_both_ways_out(
    pvision: Callable, toy: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else find(name, *rest)
    )
    config = toy()
    words = ["pvision[mlflow]", "--trainer.logger=false"]
    assert_refused(pvision("fit", "--config", config), words, {config})


def test_a_tracking_server_that_does_not_answer_is_one_message(pvision: Callable, toy: Callable) -> None:
    config = toy(**{"trainer.logger.init_args.tracking_uri": "http://127.0.0.1:9"})
    assert_refused(pvision("fit", "--config", config), ["--trainer.logger", "--trainer.logger=false"], {config})


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(pvision: Callable, toy: Callable) -> None:
    torch.save({"state_dict": {}, "payload": Bomb()}, "bomb.ckpt")
    config = toy()
    for stage in ("fit", "test"):
        outcome = pvision(stage, "--config", config, "--ckpt_path", "bomb.ckpt")
        assert_refused(outcome, ["--ckpt_path bomb.ckpt", "could run code"], {config, Path("bomb.ckpt")})


def test_the_bomb_of_these_tests_is_one() -> None:
    torch.save({"payload": Bomb()}, "bomb.ckpt")
    torch.load("bomb.ckpt", weights_only=False)
    assert Path("exploded").exists()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"network.linear.weight": torch.zeros(5, 4)}, ["network.linear.weight", "(5, 4)", "(2, 4)"]),
        ({"other.weight": torch.zeros(1)}, ["has no tensor of ToyModule"]),
    ],
)
def test_a_checkpoint_of_another_model_names_both_sides(
    tensors: dict[str, torch.Tensor], words: list[str], pvision: Callable, toy: Callable
) -> None:
    torch.save({"state_dict": tensors, "pytorch-lightning_version": "2.6.6"}, "other.ckpt")
    config = toy()
    outcome = pvision("test", "--config", config, "--ckpt_path", "other.ckpt")
    assert_refused(outcome, [*words, "--ckpt_path other.ckpt", "--model"], {config, Path("other.ckpt")})


def test_a_cut_checkpoint_is_refused(pvision: Callable, toy: Callable) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, "cut.ckpt")
    Path("cut.ckpt").write_bytes(Path("cut.ckpt").read_bytes()[:900])
    config = toy()
    outcome = pvision("test", "--config", config, "--ckpt_path", "cut.ckpt")
    assert_refused(outcome, ["--ckpt_path cut.ckpt", "broken"], {config, Path("cut.ckpt")})


def test_the_messages_stay_one_line_each(pvision: Callable, toy: Callable) -> None:
    long = "x" * 500
    _, _, err = pvision("fit", "--config", toy(**{"model.init_args.lr": long}))
    assert len(err.strip().splitlines()) == 1
    assert len(err) < 250


def test_unicode_and_spaces_in_paths_work(pvision: Callable, toy: Callable) -> None:
    folder = Path("läufe und mehr")
    folder.mkdir()
    config = toy(str(folder / "mein modell.yaml"))
    code, out, err = pvision(
        "fit", "--config", config, "--trainer.logger=false", f"--trainer.default_root_dir={folder}"
    )
    assert code == 0, err
    assert Path(out.splitlines()[-1]) == folder / "summary.json"
    assert yaml.safe_load((folder / "config.yaml").read_text())["run_summary"]["name"] == "mein modell"
