"""Heads and losses of class-incremental segmentation: not written yet; README.md states the status of every method."""

__all__: list[str] = []
