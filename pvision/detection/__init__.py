"""Modality translators in front of frozen detectors: not written yet; README.md states the status of every method."""

__all__: list[str] = []
