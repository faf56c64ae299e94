"""Memories of training images to replay: reservoir, class-balanced and herding."""

from pvision.continual.replay.class_balanced import ClassBalancedMemory
from pvision.continual.replay.herding import HerdingMemory, herding_order
from pvision.continual.replay.memory import Candidates, Choice, ReplayMemory
from pvision.continual.replay.reservoir import ReservoirMemory

__all__ = [
    "Candidates",
    "Choice",
    "ClassBalancedMemory",
    "HerdingMemory",
    "ReplayMemory",
    "ReservoirMemory",
    "herding_order",
]
