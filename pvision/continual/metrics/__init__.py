"""Metrics of continual learning, each with a named definition.

R[t, j] is the accuracy, or mAP, or mIoU, on the test set of experience j after training on experience t: a fraction,
NaN where nothing was measured. ``definitions("forgetting")`` lists the definitions of a metric;
docs/continual_metrics.md gives their formulas, sources and values on one matrix.
"""

from pvision.continual.metrics.accuracy_matrix import AccuracyMatrix
from pvision.continual.metrics.anytime import anytime_average_accuracy, min_accuracy, worst_case_accuracy
from pvision.continual.metrics.averages import (
    accuracy_curve,
    accuracy_diaz_rodriguez,
    average_accuracy,
    average_incremental_accuracy,
)
from pvision.continual.metrics.class_groups import group_means
from pvision.continual.metrics.detection import (
    f_map,
    omega,
    relative_plasticity_deficit,
    relative_stability_deficit,
)
from pvision.continual.metrics.forgetting_measures import (
    forgetting,
    forgetting_curve,
    forgetting_matrix,
    relative_forgetting,
)
from pvision.continual.metrics.plasticity import (
    harmonic_accuracy,
    intransigence,
    intransigence_curve,
    learning_accuracy,
    learning_accuracy_gap,
    stability,
)
from pvision.continual.metrics.registry import Definition, all_definitions, definition_of, definitions, metrics
from pvision.continual.metrics.segmentation import (
    iou_per_class,
    mean_iou,
    mean_over_steps,
    pixel_accuracy,
    segmentation_summary,
)
from pvision.continual.metrics.summaries import compatible, summary
from pvision.continual.metrics.transfer import (
    backward_transfer,
    forward_transfer,
    positive_backward_transfer,
    remembering,
)

__all__ = [
    "AccuracyMatrix",
    "Definition",
    "accuracy_curve",
    "accuracy_diaz_rodriguez",
    "all_definitions",
    "anytime_average_accuracy",
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "compatible",
    "definition_of",
    "definitions",
    "f_map",
    "forgetting",
    "forgetting_curve",
    "forgetting_matrix",
    "forward_transfer",
    "group_means",
    "harmonic_accuracy",
    "intransigence",
    "intransigence_curve",
    "iou_per_class",
    "learning_accuracy",
    "learning_accuracy_gap",
    "mean_iou",
    "mean_over_steps",
    "metrics",
    "min_accuracy",
    "omega",
    "pixel_accuracy",
    "positive_backward_transfer",
    "relative_forgetting",
    "relative_plasticity_deficit",
    "relative_stability_deficit",
    "remembering",
    "segmentation_summary",
    "stability",
    "summary",
    "worst_case_accuracy",
]
