"""Methods that learn a stream of classes with one network: one file each, all of them a `ContinualMethod`."""

from pvision.adapters.methods.classifier import Classifier
from pvision.adapters.methods.data import ExperienceData
from pvision.adapters.methods.method import ContinualMethod

__all__ = ["Classifier", "ContinualMethod", "ExperienceData"]
