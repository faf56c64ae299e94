"""Modality translators in front of frozen detectors. Not written yet; README.md states each method's status."""

__all__: list[str] = []
