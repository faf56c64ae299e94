"""What ForgettingMetrics writes: the matrix as CSV and JSON, and its pictures."""

import csv
import json
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvision.callbacks._figures import save
from pvision.callbacks._forgetting_history import History
from pvision.callbacks._forgetting_report import Extras, metrics_of, scalars, write_files, write_plots
from pvision.callbacks._forgetting_stream import Place
from pvision.callbacks._matrix_plots import _apart, curves, heatmap
from pvision.continual.experience import Experience
from pvision.continual.metrics import forgetting

R = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.6, 0.5, 0.95]]


def counted(*, rows: int = 3, names: tuple[str, ...] = ("cats", "dogs", "birds")) -> History:
    """Ten records per experience, of the class with its number; the columns learned so far are evaluated."""
    history = History()
    for row in range(rows):
        found = {}
        for column in range(row + 1):
            right = round(10 * R[row][column])
            found[column] = Counter({(column, column): right, (column, (column + 1) % 3): 10 - right})
        history.record(Place(row, tuple(range(row + 1)), names), "agnostic", found)
    return history


def read(folder: Path) -> Any:
    return json.loads((folder / "accuracy_matrix.json").read_text())


def test_the_table_has_a_header_and_nothing_where_nothing_was_measured(tmp_path: Path) -> None:
    write_files(counted(), Extras(), folder=tmp_path, source="counted predictions")
    header, *rows = csv.reader((tmp_path / "accuracy_matrix.csv").read_text().splitlines())
    assert header == ["after", "cats", "dogs", "birds"]
    assert rows == [["cats", "0.9", "", ""], ["dogs", "0.7", "0.8", ""], ["birds", "0.6", "0.5", "1.0"]]


def test_the_record_holds_all_that_is_needed_to_compute_the_metrics_again(tmp_path: Path) -> None:
    history = counted()
    write_files(history, Extras(compatible=True), folder=tmp_path, source="counted predictions")
    record = read(tmp_path)
    table = np.array([[np.nan if value is None else value for value in row] for row in record["accuracy"]])
    stated = record["metrics"]["continual/forgetting"]
    assert stated["value"] == forgetting(table) == pytest.approx(0.3)
    assert (stated["definition"], record["metrics"]["continual/forgetting_pycil"]["definition"]) == (
        "chaudhry",
        "pycil",
    )
    assert "Chaudhry" in stated["source"]
    assert record["counts"] == [10, 10, 10]
    assert record["per_class"][-1] == [0.6, 0.5, 1.0]
    assert [0, 1, 4] in record["confusion"]["counts"]
    assert sum(count for _, _, count in record["confusion"]["counts"]) == 30
    assert record["not_measured"]["continual/forward_transfer"] == "needs baseline"
    assert record["source"] == "counted predictions"


def test_what_is_undefined_is_null_with_a_reason(tmp_path: Path) -> None:
    write_files(counted(rows=1), Extras(), folder=tmp_path, source="x")
    record = read(tmp_path)
    assert record["metrics"]["continual/forgetting"]["value"] is None
    assert record["not_measured"]["continual/forgetting"].startswith("undefined")


def test_values_without_counts_have_no_counts(tmp_path: Path) -> None:
    history = History()
    for row in range(2):
        history.record(Place(row, (0, 1)), "agnostic", [R[row][0], R[row][1]])
    write_files(history, Extras(), folder=tmp_path, source="logged metric test/map")
    record = read(tmp_path)
    assert record["accuracy"] == [[0.9, 0.2], [0.7, 0.8]]
    assert record["counts"] is record["confusion"] is record["per_class"] is None
    assert record["experiences"] == ["0", "1"], "no names, so numbers"


def test_vectors_of_the_user_may_be_longer_or_shorter_than_the_stream_so_far() -> None:
    history = counted(rows=2)
    longer = metrics_of(history, Extras(reference=[0.95, 0.9, 0.9, 0.9]))
    assert longer["continual/intransigence"] == pytest.approx((0.05 + 0.1) / 2)
    assert np.isnan(metrics_of(history, Extras(reference=[0.95]))["continual/intransigence"])


def test_a_state_that_was_saved_says_the_same(tmp_path: Path) -> None:
    event = Experience(5, "forget", "forget cats", (0,), train=np.arange(7))
    history = counted()
    history.record(
        Place(2, (0, 1, 2), ("cats", "dogs", "birds"), forgotten=(0,), event=event), "agnostic", [0.1, 0.5, 0.9]
    )
    again = History()
    again.load_state_dict(json.loads(json.dumps(history.state_dict())))
    for name, one in (("a", history), ("b", again)):
        write_files(one, Extras(compatible=True), folder=tmp_path / name, source="x")
    assert (tmp_path / "a" / "accuracy_matrix.json").read_text() == (
        tmp_path / "b" / "accuracy_matrix.json"
    ).read_text()
    record = read(tmp_path / "a")
    assert record["events"][0]["accuracy"]["agnostic"] == {"0": 0.1, "1": 0.5, "2": 0.9}
    assert record["metrics"]["continual/forgotten_accuracy"]["value"] == 0.1
    assert record["metrics"]["continual/average_accuracy"]["value"] == pytest.approx((0.5 + 1.0) / 2)


def test_after_a_request_to_forget_all_that_is_written_is_what_the_metrics_were_computed_from(tmp_path: Path) -> None:
    """Class 1 of the first experience is forgotten; records of it, right or wrong, count nowhere any more."""
    history = History()
    classes = ((0, 1), (2,))
    event = Experience(1, "forget", "forget dogs", (1,), train=np.arange(3))
    learned = {"names": ("pets", "birds"), "classes": classes}
    history.record(Place(0, (0,), **learned), "agnostic", {0: Counter({(0, 0): 8, (0, 2): 2, (1, 1): 10})})
    gone = {**learned, "forgotten_classes": (1,)}
    history.record(Place(0, (0,), **gone, event=event), "agnostic", {0: Counter({(0, 0): 8, (0, 2): 2, (1, 0): 10})})
    after = {0: Counter({(0, 0): 6, (0, 2): 4, (1, 0): 10}), 1: Counter({(2, 2): 10})}
    history.record(Place(1, (0, 1), **gone), "agnostic", after)
    history.note(row=1, step=30)
    write_files(history, Extras(), folder=tmp_path, source="counted predictions")
    record, (_, *rows) = read(tmp_path), csv.reader((tmp_path / "accuracy_matrix.csv").read_text().splitlines())
    assert record["accuracy"] == [[0.8, None], [0.6, 1.0]]
    assert rows == [["pets", "0.8", ""], ["birds", "0.6", "1.0"]]
    assert record["counts"] == [10, 10]
    assert record["forgotten_classes"] == [1]
    assert list(scalars(history, 1).values()) == [0.6, 1.0]
    assert record["during_fits"][0]["accuracy"] == [0.6, 1.0]
    table = np.array([[np.nan if value is None else value for value in row] for row in record["accuracy"]])
    assert record["metrics"]["continual/forgetting"]["value"] == pytest.approx(forgetting(table))
    assert record["metrics"]["continual/average_accuracy"]["value"] == pytest.approx(0.8)
    assert record["per_class"][-1] == [0.6, 0.0, 1.0], "class by class, all are there"


def test_an_evaluation_of_the_same_request_replaces_what_was_measured() -> None:
    event = Experience(1, "forget", "forget cats", (0,))
    history = counted(rows=1)
    for value in (0.4, 0.2):
        history.record(Place(0, (0,), forgotten=(0,), event=event), "agnostic", [value])
    assert [one["accuracy"]["agnostic"] for one in history.events] == [{"0": 0.2}]


@pytest.mark.parametrize("count", [1, 2, 9, 20])
def test_pictures_are_drawn_for_any_number_of_experiences(count: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = History()
    for row in range(count):
        columns = tuple(range(row + 1))
        names = tuple(f"experience {place}" for place in range(count))
        history.record(Place(row, columns, names), "agnostic", [0.5] * (row + 1))
    for path in write_plots(history, folder=tmp_path, measure="accuracy"):
        assert path.stat().st_size > 5000


def test_pictures_survive_rows_that_nobody_measured() -> None:
    pytest.importorskip("matplotlib")
    table = np.full((3, 3), np.nan)
    heatmap(table, ["a", "b", "c"])
    table[2, :2] = 0.5
    assert curves(table, ["a", "b", "c"]) is not None


def test_the_picture_shows_the_lower_triangle_in_percent() -> None:
    pytest.importorskip("matplotlib")
    table, averages = heatmap(np.array(R), ["a", "b", "c"]).axes
    written = [text.get_text() for text in table.texts]
    assert written == ["90.0", "70.0", "80.0", "60.0", "50.0", "95.0"], "and not what stands above the diagonal"
    assert [text.get_text() for text in averages.texts] == ["90.0", "75.0", "68.3"]


def test_pictures_leave_out_of_averages_what_was_forgotten_on_request() -> None:
    pytest.importorskip("matplotlib")
    averages = heatmap(np.array(R), ["a", "b", "c"], forgotten=[1]).axes[1]
    assert [text.get_text() for text in averages.texts] == ["90.0", "70.0", "77.5"]
    lines = curves(np.array(R), ["a", "b", "c"], forgotten=[1]).axes[0].get_lines()
    np.testing.assert_allclose(lines[-1].get_ydata(), [90, 70, 77.5])


def test_names_of_any_kind_can_be_drawn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("matplotlib")
    save(heatmap(np.array(R), [r"$\frac$", "顔", "x" * 300]), tmp_path / "a.png")
    assert [str(one.message) for one in recwarn if issubclass(one.category, UserWarning)] == []


def test_without_matplotlib_there_are_files_but_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level("INFO"):
        assert write_plots(counted(), folder=tmp_path, measure="accuracy") == []
    assert "pip install 'pvision[plots]'" in caplog.text
    assert len(write_files(counted(), Extras(), folder=tmp_path, source="x")) == 2


@given(st.lists(st.floats(0, 100), min_size=1, max_size=25).map(sorted))
def test_names_beside_the_lines_never_overlap_and_stay_on_the_page(values: list[float]) -> None:
    gap = 3.0
    heights = _apart(values, gap)
    assert all(later - earlier >= gap - 1e-9 for earlier, later in pairwise(heights))
    assert heights[-1] <= 102 + 1e-9
    assert heights[0] >= -2 - 1e-9
    if len(values) == 1:
        assert heights == values


@pytest.mark.slow
def test_mlflow_gets_the_files_and_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow.tracking import MlflowClient
    from torch.utils.data import DataLoader

    from pvision.callbacks.forgetting_metrics import ForgettingMetrics

    class Sure(pl.LightningModule):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return {"preds": batch, "target": batch}

    store = f"sqlite:///{tmp_path}/mlflow.db"
    logger = MLFlowLogger("kept", tracking_uri=store, artifact_location=str(tmp_path / "artifacts"))
    callback = ForgettingMetrics()
    callback._fits = 1
    trainer = pl.Trainer(accelerator="cpu", logger=logger, callbacks=[callback], enable_progress_bar=False)
    trainer.test(Sure(), [DataLoader(list(range(4))), DataLoader(list(range(4)))], verbose=False)
    client = MlflowClient(store)
    names = {artifact.path for artifact in client.list_artifacts(logger.run_id)}
    assert {"accuracy_matrix.csv", "accuracy_matrix.json", "accuracy_matrix.png", "accuracy_curves.png"} <= names
    (entry,) = client.get_metric_history(logger.run_id, "continual/average_accuracy")
    assert (entry.value, entry.step) == (1.0, 0)


def test_pictures_of_many_experiences_number_them_from_one_as_the_run_prints_them() -> None:
    pytest.importorskip("matplotlib")
    accuracy = np.tril(np.full((10, 10), 0.7))
    table, averages = heatmap(accuracy, [f"classes {place}" for place in range(10)]).axes
    axis = curves(accuracy, [f"classes {place}" for place in range(10)]).axes[0]
    numbers = [str(number) for number in range(1, 11)]
    for labels in (table.get_xticklabels(), table.get_yticklabels(), axis.get_xticklabels()):
        assert [label.get_text() for label in labels] == numbers
    assert {text.get_color() for text in averages.texts} == {"#22303c"}, "dark on the middle blue: 5:1, white 2.6:1"
