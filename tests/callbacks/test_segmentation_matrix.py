"""The step × class matrix as files and as numbers, in any project that logs an IoU per class."""

import csv
import json

import lightning.pytorch as pl
import numpy as np
import pytest
from somebodys_iou import ROWS, Experiences, LogsIou

from pvision.callbacks import SegmentationMatrix
from pvision.callbacks._iou_history import IouHistory, Terms
from pvision.callbacks._matrix_plots import class_table
from pvision.errors import ConfigError


def trainer_for(folder, *callbacks):
    return pl.Trainer(
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=list(callbacks),
    )


def measured(folder, *, rows=3, evaluation="full", matrix=None, **settings):
    matrix = SegmentationMatrix(**{"plots": False, **settings}) if matrix is None else matrix
    for index in range(rows):
        data = Experiences(index, evaluation=evaluation)
        trainer_for(folder, matrix).test(LogsIou(index, evaluation), datamodule=data, verbose=False)
    return matrix


def test_rows_are_what_was_logged_and_files_hold_them(tmp_path):
    matrix = measured(tmp_path)
    np.testing.assert_allclose(matrix.matrix, ROWS, atol=1e-7)
    with (tmp_path / "segmentation_iou.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["after", "background", "cat", "dog", "bird", "fish"]
    assert [row[0] for row in rows[1:]] == ["cat, dog", "bird", "fish"]
    assert rows[1][4:] == ["", ""]
    record = json.loads((tmp_path / "segmentation_iou.json").read_text())
    assert (record["evaluation"], record["absent"], record["has_background"]) == ("full", "skip", True)
    assert [one["name"] for one in record["classes"]] == rows[0][1:]
    assert [one["experience"] for one in record["classes"]] == [0, 0, 0, 1, 2]
    assert record["steps"][0]["miou_new"] is None


def test_summaries_are_those_of_the_definitions(tmp_path):
    found = measured(tmp_path).summary_metrics()
    last = ROWS[2]
    assert found["segmentation/miou_old"] == pytest.approx(np.mean(last[:3]))
    assert found["segmentation/miou_new"] == pytest.approx(np.mean(last[3:]))
    assert found["segmentation/miou_all_without_background"] == pytest.approx(np.mean(last[1:]))
    assert found["segmentation/average_over_steps"] == pytest.approx(np.mean([np.nanmean(row) for row in ROWS]))
    # cat 0.6, 0.7, 0.4; dog 0.5, 0.3, 0.2; bird 0.4, 0.5; fish came last, and the background is no class
    assert found["segmentation/forgetting"] == pytest.approx((0.3 + 0.3 + 0.0) / 3)
    assert found["segmentation/forgetting_largest"] == pytest.approx(0.3)
    assert found["segmentation/learned_minus_final"] == pytest.approx((0.2 + 0.3 - 0.1) / 3)


def test_after_one_experience_nothing_is_forgotten_or_new(tmp_path):
    found = measured(tmp_path, rows=1).summary_metrics()
    assert "segmentation/average_over_steps" in found
    assert not {"segmentation/forgetting", "segmentation/miou_new", "segmentation/hiou"} & found.keys()


def test_a_row_that_is_measured_again_replaces_the_former(tmp_path):
    matrix = measured(tmp_path)
    measured(tmp_path, rows=3, matrix=matrix)
    np.testing.assert_allclose(matrix.matrix, ROWS, atol=1e-7)


def test_the_matrix_travels_with_checkpoints(tmp_path):
    matrix = measured(tmp_path / "one", rows=2)
    loaded = SegmentationMatrix(plots=False)
    loaded.load_state_dict(matrix.state_dict())
    data = Experiences(2)
    trainer_for(tmp_path / "two", loaded).test(LogsIou(2), datamodule=data, verbose=False)
    np.testing.assert_allclose(loaded.matrix, ROWS, atol=1e-7)
    assert loaded.state_key == matrix.state_key


def test_crops_have_names_of_their_own_and_never_go_on_a_matrix_of_whole_images(tmp_path):
    crops = measured(tmp_path / "crops", evaluation="crop")
    assert all(name.startswith("segmentation_crop/") for name in crops.summary_metrics())
    whole = measured(tmp_path / "whole", rows=2)
    with pytest.raises(ConfigError, match="cannot stand in one table"):
        trainer_for(tmp_path, whole).test(LogsIou(2, "crop"), datamodule=Experiences(2, evaluation="crop"))
    np.testing.assert_allclose(whole.matrix, [row[:4] for row in ROWS[:2]], atol=1e-7)


def test_a_picture_is_drawn_with_a_column_for_each_class(tmp_path):
    pytest.importorskip("matplotlib")
    measured(tmp_path, plots=True, rows=2)
    assert (tmp_path / "segmentation_iou.png").stat().st_size > 5000
    wide = IouHistory(Terms("full", "skip", has_background=False))
    wide.groups, wide.titles = [tuple(range(1, 151))], ["all"]
    wide.rows[0] = dict.fromkeys(range(1, 151), 0.5)
    figure = class_table(wide.matrix(), wide.titles, [wide.class_name(label) for label in wide.labels], title="IoU")
    assert len(figure.axes[0].get_xticks()) <= 40


def test_what_nobody_logged_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"'test/iou_0', but nobody logged it"):
        trainer_for(tmp_path, SegmentationMatrix()).test(LogsIou(0, "nowhere"), datamodule=Experiences(0))


def test_a_data_module_that_is_no_stream_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs a stream"):
        trainer_for(tmp_path, SegmentationMatrix()).test(LogsIou(0), Experiences(0).test_dataloader())
