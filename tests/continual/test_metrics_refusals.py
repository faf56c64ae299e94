"""What the metrics refuse, each with one sentence that says how to mend it; and what importing them loads."""

import subprocess
import sys

import numpy as np
import pytest

from pvision.continual import metrics
from pvision.continual.metrics import definitions, forgetting, summary
from pvision.continual.metrics.registry import define
from pvision.errors import ConfigError


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5], [0.5, 0.5]], "must be a rectangular array of numbers.*Give rows of equal length, with NaN"),
        ([[0.5], [0.5]], r"2 row\(s\) and 1 column\(s\)\. It needs at least one row, and a column for every row"),
        (np.zeros((0, 3)), r"0 row\(s\)"),
        ([0.5, 0.5], r"must have 2 dimension\(s\), but its shape is \(2,\)"),
        (
            [[71.5]],
            r"must hold fractions in \[0, 1\], or NaN, but 71\.5 came\. If these are percentages, divide by 100",
        ),
        ([[-0.5]], r"but -0\.5 came\.$"),
        ([[np.inf]], "holds an infinite value"),
        ([["high"]], "must be a rectangular array of numbers"),
    ],
)
def test_what_is_no_accuracy_matrix_is_refused(matrix, message):
    for compute in (summary, metrics.compatible, metrics.forgetting_curve, forgetting, metrics.min_accuracy):
        with pytest.raises(ConfigError, match=message):
            compute(matrix)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"counts": [1, 2, 3]}, "counts must hold one number per experience, 2, but 3 came"),
        ({"counts": [1.5, 2]}, "counts must hold whole numbers of test records, none negative"),
        ({"counts": [-1, 2]}, "counts must hold whole numbers"),
        ({"counts": [np.nan, 2]}, "counts must hold whole numbers"),
        ({"baseline": [10, 10]}, r"baseline must hold fractions in \[0, 1\].*divide by 100"),
        ({"reference": [0.5]}, "reference must hold one number per experience, 2, but 1 came"),
        ({"independent": 0.5}, "independent must have 1 dimension"),
        ({"forgotten": [-1]}, "forgotten must be a whole number of at least 0"),
    ],
)
def test_what_does_not_fit_the_matrix_is_refused(extra, message):
    with pytest.raises(ConfigError, match=message):
        summary([[0.5, 0.5], [0.5, 0.5]], **extra)


def test_an_unknown_definition_is_refused_with_the_known_ones():
    known = "must be one of 'lopez-paz', 'diaz-rodriguez', 'continuum-1.2.7', 'libcontinual', but 'gem' came"
    with pytest.raises(ConfigError, match=f"definition of backward_transfer {known}"):
        metrics.backward_transfer([[0.5]], definition="gem")
    with pytest.raises(ConfigError, match="definition of forgetting must be one of 'chaudhry', 'facil', 'mammoth'"):
        forgetting([[0.5]], definition="Chaudhry")
    with pytest.raises(ConfigError, match="metric must be one of 'average_accuracy'"):
        definitions("accuracy")


def test_forward_transfer_without_its_baseline_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"needs baseline.*Measure it, or choose definition='without-baseline'"):
        metrics.forward_transfer([[0.5, 0.5], [0.5, 0.5]])


def test_a_definition_is_registered_once():
    with pytest.raises(ConfigError, match="forgetting has a definition 'mammoth' already"):
        define("forgetting", "mammoth", formula="0", source="nobody")(lambda measured: 0.0)
    with pytest.raises(ConfigError, match="metric must be one of"):
        define("memory", "mine", formula="0", source="nobody")(lambda measured: 0.0)
    assert forgetting([[1.0, 0.0], [0.5, 0.0]], definition="mammoth") == 0.5


def test_wrong_confusion_matrices_and_groups_are_refused():
    with pytest.raises(ConfigError, match=r"confusion must be square.*its shape is \(1, 2\)"):
        metrics.iou_per_class([[1, 2]])
    with pytest.raises(ConfigError, match=r"none negative.*smallest entry -1"):
        metrics.iou_per_class([[1, 0], [-1, 0]])
    with pytest.raises(ConfigError, match="confusion must be an array of whole numbers, but its type is float64"):
        metrics.pixel_accuracy([[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ConfigError, match=r"Each class belongs to one of old \[0, 1\], new \[1\] and background 2"):
        metrics.segmentation_summary(np.eye(3, dtype=int), old=[0, 1], new=[1], background=2)
    with pytest.raises(ConfigError, match=r"classes must lie in 0\.\.2, but \[3\] came"):
        metrics.mean_iou(np.eye(3, dtype=int), [3])
    with pytest.raises(ConfigError, match="classes must name each class once"):
        metrics.group_means([0.5, 0.5], {"old": [0, 0]})


def test_wrong_evaluations_are_refused():
    with pytest.raises(ConfigError, match=r"current must hold experiences in 0\.\.1 that never fall"):
        metrics.min_accuracy([[0.5, 0.5], [0.5, 0.5]], [1, 0])
    with pytest.raises(ConfigError, match="current must hold experiences"):
        metrics.worst_case_accuracy([[0.5, 0.5]], [2])
    with pytest.raises(ConfigError, match=r"current must have the shape \(1\), but it has \(2,\)"):
        metrics.anytime_average_accuracy([[0.5, 0.5]], [0, 1])
    with pytest.raises(ConfigError, match="at least one evaluation"):
        metrics.anytime_average_accuracy(np.zeros((0, 2)), [])


def test_detection_against_a_wrong_joint_model_is_refused():
    with pytest.raises(ConfigError, match="stream and joint must be equally long, but 2 and 1 came"):
        metrics.omega([0.5, 0.5], [0.5])
    with pytest.raises(ConfigError, match=r"the joint mAP must hold fractions.*but 80 came.*divide by 100"):
        metrics.relative_stability_deficit(80, 0.7)


def test_neither_scipy_nor_lightning_is_loaded():
    code = (
        "import sys, pvision.continual.metrics, pvision.continual.statistics;"
        "print([name for name in ('scipy', 'lightning', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_forgotten_experience_that_never_was_is_refused():
    matrix = [[0.9, 0, 0], [0.5, 0.8, 0], [0.5, 0.7, 0.6]]
    with pytest.raises(ConfigError, match="forgotten names column 3, but the accuracy matrix has 3"):
        summary(matrix, forgotten=[3])
