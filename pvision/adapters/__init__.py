"""Parameter-efficient adapters for vision transformers: not written yet; README.md states the status of every method."""

__all__: list[str] = []
