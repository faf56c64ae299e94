"""Streams of experiences and the metrics of forgetting: not written yet; README.md states the status of every method."""

__all__: list[str] = []
