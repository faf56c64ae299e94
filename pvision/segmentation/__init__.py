"""Heads and losses of class-incremental segmentation. Not written yet; README.md states each method's status."""

__all__: list[str] = []
