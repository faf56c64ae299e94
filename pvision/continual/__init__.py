"""Streams of experiences and the metrics of forgetting. Not written yet; README.md states each method's status."""

__all__: list[str] = []
