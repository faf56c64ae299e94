"""How a labelled data set becomes a stream: which records come in which experience, and what is forgotten when."""

from pvision.continual.scenarios.blurry import Blurry
from pvision.continual.scenarios.class_incremental import ClassIncremental, TaskIncremental
from pvision.continual.scenarios.domain_incremental import DomainIncremental
from pvision.continual.scenarios.forgetting import ForgetRequest, insert_forgetting
from pvision.continual.scenarios.holdout import hold_out
from pvision.continual.scenarios.labels import StreamLabels
from pvision.continual.scenarios.lasting_holdout import hold_out_for_good
from pvision.continual.scenarios.long_tailed import LongTailed
from pvision.continual.scenarios.scenario import Part, Scenario
from pvision.continual.scenarios.segmentation import Presence, SegmentationScenario, visible_table

__all__ = [
    "Blurry",
    "ClassIncremental",
    "DomainIncremental",
    "ForgetRequest",
    "LongTailed",
    "Part",
    "Presence",
    "Scenario",
    "SegmentationScenario",
    "StreamLabels",
    "TaskIncremental",
    "hold_out",
    "hold_out_for_good",
    "insert_forgetting",
    "visible_table",
]
