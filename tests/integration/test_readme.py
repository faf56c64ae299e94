"""The README's Python example runs."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_example_trains_and_prints_the_guarantee(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pvision.datamodules

    # The last is a sketch of what examples/own_project does in full.
    example, *_ = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    whole = pvision.datamodules.MocapActions

    def part(**settings: object) -> pvision.datamodules.MocapActions:
        return whole(train_clips=60, eval_clips=30, pretraining_clips=60, **settings)

    monkeypatch.setattr(pvision.datamodules, "MocapActions", part)
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("public_epochs=6", "public_epochs=1"), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"ε (1|0\.99\d*) \(content or nothing behind the mask\)", printed)
    assert "NOT PRIVATE" not in printed


@pytest.mark.slow
def test_the_example_of_a_stream_learns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, example, adapters, *_ = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    quiet = example.replace("max_epochs=3", "max_epochs=1, accelerator='cpu', logger=False, log_every_n_steps=1")
    names: dict[str, object] = {}
    exec(compile(quiet, "README.md", "exec"), names)
    exec(compile(adapters, "README.md", "exec"), names)
    assert len((tmp_path / "accuracy_matrix.csv").read_text().splitlines()) == 6


def test_the_example_of_another_modality_predicts() -> None:
    *_, modality, _, _ = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(modality, "README.md", "exec"), names)
    (found,) = names["found"]  # type: ignore[misc]  # a list of one image's detections
    assert {"boxes", "scores", "labels"} <= found.keys()


def test_the_example_of_segmentation_makes_a_stream_and_a_module() -> None:
    *_, segmentation, _ = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(segmentation, "README.md", "exec"), names)
    assert [one.classes for one in names["stream"].experiences] == [(1, 2, 3, 4), (5,), (6,), (7,), (8,), (9,), (10,)]
    assert type(names["module"].method) is names["BARM"]
