"""Every definition against matrices whose values are known to six decimals, one of them a published log."""

import numpy as np
import pytest

from pvision.continual import metrics
from pvision.continual.metrics import backward_transfer, definitions, forgetting, forward_transfer
from pvision.errors import ConfigError

GOLDEN = [[0.90, 0.20, 0.15, 0.10], [0.80, 0.85, 0.25, 0.15], [0.94, 0.70, 0.95, 0.30], [0.75, 0.65, 0.97, 0.92]]
BASELINE, REFERENCE, INDEPENDENT = [0.10, 0.12, 0.08, 0.10], [0.93, 0.90, 0.96, 0.97], [0.90, 0.91, 0.97, 0.95]
COUNTS = [100, 100, 200, 100]

# Positive backward transfer, and a matrix on which the variants differ.
POSITIVE = [[0.5, 0, 0], [0.6, 0.5, 0], [0.7, 0.6, 0.5]]
SEPARATING = [[0.5, 0, 0, 0], [0.8, 0.7, 0, 0], [0.7, 0.6, 0.9, 0], [0.4, 0.5, 0.6, 0.8]]

# The authors' log of TUNA on ImageNet-R in 10 tasks, in percent; it prints its own forgetting, 8.04555555555556.
TUNA_LOG = """
92.89
88.10 89.08
86.65 86.08 88.94
85.05 83.86 86.63 84.59
82.73 82.44 83.17 82.31 82.14
79.54 80.70 81.68 80.74 81.31 88.18
78.96 80.70 80.53 79.51 81.31 87.12 85.76
77.50 79.59 79.54 78.28 79.26 86.52 83.66 85.73
74.89 79.11 77.39 76.88 77.62 84.09 82.60 83.13 82.64
74.46 76.58 76.24 75.31 75.98 82.88 81.72 82.99 81.38 85.15
"""


def tuna(above=np.nan):
    """R of the log as fractions; the log has nothing above the diagonal."""
    matrix = np.full((10, 10), above)
    for row, line in enumerate(TUNA_LOG.split("\n")[1:-1]):
        matrix[row, : row + 1] = [float(value) / 100 for value in line.split()]
    return matrix


def six(value):
    return pytest.approx(value, abs=5e-7, nan_ok=True)


FORGETTING = {
    # definition: golden, positive, separating, TUNA in percent
    "chaudhry": (0.123333, -0.1, 0.3, 8.045556),
    "facil": (0.123333, -0.1, 0.3, 8.045556),
    "mammoth": (0.13, 0.0, 0.3, 8.045556),
    "pycil": (0.13, 0.0, 0.3, 8.045556),
    "avalanche": (0.11, -0.15, 0.2, 8.045556),
    "continuum-1.2.7": (0.116667, -0.1, 0.2, 7.905556),
    "libcontinual": (0.116667, -0.1, 0.1, 7.905556),
    "coda-prompt": (0.059444, -0.1, 0.011111, 2.024728),
}
BACKWARD = {
    "lopez-paz": (-0.11, 0.15, -0.2, -8.045556),
    "diaz-rodriguez": (-0.09, 0.133333, -0.033333, -6.818889),
    "continuum-1.2.7": (-0.051667, 0.066667, -0.016667, -6.369333),
    "libcontinual": (-0.051667, 0.066667, -0.016667, -6.369333),
}
FORWARD = {"lopez-paz": 0.15, "without-baseline": 0.25, "diaz-rodriguez": 0.191667, "continuum-1.2.7": 0.801667}


@pytest.mark.parametrize("definition", definitions("forgetting"))
def test_forgetting(definition):
    golden, positive, separating, percent = FORGETTING[definition]
    assert forgetting(GOLDEN, definition=definition) == six(golden)
    assert forgetting(POSITIVE, definition=definition) == six(positive)
    assert forgetting(SEPARATING, definition=definition) == six(separating)
    assert 100 * forgetting(tuna(), definition=definition) == six(percent)


@pytest.mark.parametrize("definition", definitions("backward_transfer"))
def test_backward_transfer(definition):
    golden, positive, separating, percent = BACKWARD[definition]
    assert backward_transfer(GOLDEN, definition=definition) == six(golden)
    assert backward_transfer(POSITIVE, definition=definition) == six(positive)
    assert backward_transfer(SEPARATING, definition=definition) == six(separating)
    assert 100 * backward_transfer(tuna(), definition=definition) == six(percent)


@pytest.mark.parametrize("definition", definitions("forward_transfer"))
def test_forward_transfer(definition):
    assert forward_transfer(GOLDEN, BASELINE, definition=definition) == six(FORWARD[definition])


def test_the_published_log_prints_the_same_forgetting():
    assert 100 * forgetting(tuna(), definition="pycil") == pytest.approx(8.04555555555556, abs=5e-14)


def test_one_run_has_five_values_of_forgetting():
    values = {round(forgetting(GOLDEN, definition=name), 6) for name in definitions("forgetting")}
    assert values == {0.059444, 0.11, 0.116667, 0.123333, 0.13}


def test_averages():
    assert metrics.average_accuracy(GOLDEN) == six(0.8225)
    assert metrics.average_accuracy(GOLDEN, counts=COUNTS) == six(0.852)
    assert metrics.average_incremental_accuracy(GOLDEN) == six(0.852708)
    assert metrics.average_incremental_accuracy(GOLDEN, counts=COUNTS) == six(0.8655)
    assert metrics.accuracy_diaz_rodriguez(GOLDEN) == six(0.843)
    assert metrics.accuracy_curve(GOLDEN) == six([0.9, 0.825, 0.863333, 0.8225])
    assert metrics.accuracy_curve(GOLDEN, counts=COUNTS) == six([0.9, 0.825, 0.885, 0.852])


def test_forgetting_curves():
    assert metrics.forgetting_curve(GOLDEN) == six([np.nan, 0.1, 0.055, 0.123333])
    assert metrics.forgetting_curve(POSITIVE) == six([np.nan, -0.1, -0.1])
    assert metrics.forgetting_curve(SEPARATING) == six([np.nan, -0.3, 0.1, 0.3])
    pairs = metrics.forgetting_matrix(GOLDEN)
    assert pairs[3] == six([0.19, 0.2, -0.02, np.nan])
    assert pairs[:2] == six(np.array([[np.nan] * 4, [0.1, np.nan, np.nan, np.nan]]))


def test_plasticity_and_stability():
    assert metrics.intransigence(GOLDEN, REFERENCE) == six(0.035)
    assert metrics.intransigence_curve(GOLDEN, REFERENCE) == six([0.03, 0.05, 0.01, 0.05])
    assert metrics.learning_accuracy(GOLDEN) == six(0.905)
    assert metrics.learning_accuracy_gap(GOLDEN, INDEPENDENT) == six(0.0275)
    assert metrics.stability(GOLDEN) == six(0.79)
    assert metrics.harmonic_accuracy(GOLDEN) == six(0.843599)
    assert metrics.relative_forgetting(GOLDEN) == six(0.13879)
    assert metrics.min_accuracy(GOLDEN) == six(0.79)
    assert metrics.worst_case_accuracy(GOLDEN) == six(0.8225)
    assert metrics.remembering(GOLDEN) == six(0.91)
    assert metrics.positive_backward_transfer(GOLDEN) == six(0.0)
    assert metrics.remembering(POSITIVE) == six(1.0)
    assert metrics.positive_backward_transfer(POSITIVE) == six(0.133333)


def test_the_cases_of_sign_and_separation():
    assert metrics.average_incremental_accuracy(POSITIVE) == six(0.55)
    assert metrics.average_accuracy(POSITIVE) == six(0.6)
    assert metrics.average_incremental_accuracy(SEPARATING) == six(0.639583)
    assert metrics.average_accuracy(SEPARATING) == six(0.575)


def test_the_real_run():
    matrix = tuna()
    curve = [92.89, 88.59, 87.223333, 85.0325, 82.558, 82.025, 81.984286, 81.26, 79.816667, 79.269]
    lost = [np.nan, 4.79, 4.62, 5.123333, 6.2125, 6.734, 6.281667, 6.747143, 7.7, 8.045556]
    assert 100 * metrics.accuracy_curve(matrix) == six(curve)
    assert 100 * metrics.forgetting_curve(matrix) == six(lost)
    assert 100 * metrics.average_accuracy(matrix) == six(79.269)
    assert 100 * metrics.average_incremental_accuracy(matrix) == six(84.064879)
    assert 100 * metrics.learning_accuracy(matrix) == six(86.51)
    assert 100 * metrics.stability(matrix) == six(78.615556)
    assert 100 * metrics.accuracy_diaz_rodriguez(matrix) == six(82.033091)
    assert metrics.relative_forgetting(matrix) == six(0.091183)


def test_percentages_are_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"fractions in \[0, 1\], or NaN, but 92\.89 came\. If these are percentages"):
        forgetting(100 * tuna())


def test_what_stands_above_the_diagonal_does_not_matter():
    for definition in definitions("forgetting"):
        assert forgetting(tuna(0.0), definition=definition) == forgetting(tuna(1.0), definition=definition)


def test_taking_the_upper_triangle_along_would_give_another_value():
    """The negative control of the mask: a maximum over whole columns sees accuracies of the untrained."""
    zero_shot = np.array([[0.6, 0.9, 0.0], [0.5, 0.7, 0.0], [0.4, 0.6, 0.8]])
    unmasked = (zero_shot[:-1].max(axis=0) - zero_shot[-1])[:-1].mean()
    assert forgetting(zero_shot) == six(0.15)
    assert unmasked == six(0.25)


def test_an_online_stream_by_hand():
    evaluations = [[0.4, 0.1], [0.8, 0.2], [0.5, 0.6], [0.7, 0.9]]  # two per experience
    current = [0, 0, 1, 1]
    assert metrics.anytime_average_accuracy(evaluations, current) == six((0.4 + 0.8 + 0.55 + 0.8) / 4)
    assert metrics.min_accuracy(evaluations, current) == six(0.5)
    assert metrics.worst_case_accuracy(evaluations, current) == six(0.9 / 2 + 0.5 / 2)
    assert metrics.anytime_average_accuracy(GOLDEN) == six(0.852708)


def test_minima_are_taken_over_all_evaluations_after_learning():
    matrix = [[0.9, 0, 0], [0.3, 0.8, 0], [0.5, 0.6, 0.7]]
    assert metrics.min_accuracy(matrix) == six(
        (0.3 + 0.6) / 2
    )  # the diagonal would not lower it, the last row would not find it
    assert metrics.worst_case_accuracy(matrix) == six(0.7 / 3 + 2 / 3 * 0.45)


def test_detection():
    assert metrics.relative_stability_deficit(0.80, 0.72) == six(0.1)
    assert metrics.relative_plasticity_deficit(0.75, 0.70) == six(0.066667)
    assert metrics.relative_stability_deficit(0.72, 0.80) < 0
    assert metrics.f_map(0.72, 0.70) == six(0.70985915)
    assert metrics.omega([0.80, 0.75, 0.70], [0.80, 0.78, 0.76]) == six(0.960864)
    groups = {"old": range(15), "new": range(15, 20), "all": range(20)}
    assert metrics.group_means([0.72] * 15 + [0.70] * 5, groups) == six({"old": 0.72, "new": 0.70, "all": 0.715})


def test_segmentation():
    confusion = [[80, 5, 3, 2], [4, 36, 0, 0], [6, 0, 24, 0], [10, 0, 0, 30]]
    assert metrics.iou_per_class(confusion) == six([0.727273, 0.8, 0.727273, 0.714286])
    assert metrics.mean_iou(confusion) == six(0.742208)
    assert metrics.mean_iou(confusion, [1, 2]) == six(0.763636)
    assert metrics.pixel_accuracy(confusion) == six(0.85)
    assert metrics.segmentation_summary(confusion, old=[1, 2], new=[3]) == six(
        {
            "miou_old": 0.751515,
            "miou_old_without_background": 0.763636,
            "miou_new": 0.714286,
            "miou_all": 0.742208,
            "miou_all_without_background": 0.747186,
            "hiou": 0.732428,
            "hiou_without_background": 0.738137,
            "pixel_accuracy": 0.85,
        }
    )
    assert metrics.mean_over_steps([0.78, 0.745, 0.71]) == six(0.745)


def test_iou_comes_from_one_confusion_matrix_not_from_a_mean_over_images():
    # Class 1: intersection 0 of union 1 in the first image, 10 of 15 in the second.
    images = [np.array([[9, 1], [0, 0]]), np.array([[0, 2], [3, 10]])]
    assert metrics.iou_per_class(sum(images))[1] == six(0.625)
    assert np.mean([metrics.iou_per_class(image)[1] for image in images]) == six(0.333333)


def test_the_summary_holds_all_of_it():
    values = metrics.summary(GOLDEN, COUNTS, BASELINE, REFERENCE, INDEPENDENT)
    assert values == six(
        {
            "continual/average_accuracy": 0.8225,
            "continual/average_accuracy_micro": 0.852,
            "continual/average_incremental_accuracy": 0.852708,
            "continual/average_incremental_accuracy_micro": 0.8655,
            "continual/accuracy_diaz_rodriguez": 0.843,
            "continual/forgetting": 0.123333,
            "continual/relative_forgetting": 0.13879,
            "continual/backward_transfer": -0.11,
            "continual/remembering": 0.91,
            "continual/positive_backward_transfer": 0.0,
            "continual/forward_transfer": 0.15,
            "continual/intransigence": 0.035,
            "continual/learning_accuracy": 0.905,
            "continual/learning_accuracy_gap": 0.0275,
            "continual/stability": 0.79,
            "continual/harmonic_accuracy": 0.843599,
            "continual/min_accuracy": 0.79,
            "continual/worst_case_accuracy": 0.8225,
        }
    )
    missing = values.keys() - metrics.summary(GOLDEN).keys()
    assert missing == {
        "continual/average_accuracy_micro",
        "continual/average_incremental_accuracy_micro",
        "continual/forward_transfer",
        "continual/intransigence",
        "continual/learning_accuracy_gap",
    }


def test_other_frameworks_values_have_keys_that_name_them():
    assert metrics.compatible(GOLDEN) == six(
        {
            **{
                f"continual/forgetting_{name.replace('-', '_').replace('.', '_')}": values[0]
                for name, values in FORGETTING.items()
                if name != "chaudhry"
            },
            "continual/backward_transfer_diaz_rodriguez": -0.09,
            "continual/backward_transfer_continuum_1_2_7": -0.051667,
            "continual/backward_transfer_libcontinual": -0.051667,
            "continual/forward_transfer_without_baseline": 0.25,
            "continual/forward_transfer_diaz_rodriguez": 0.191667,
            "continual/forward_transfer_continuum_1_2_7": 0.801667,
        }
    )
