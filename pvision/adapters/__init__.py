"""Parameter-efficient adapters for vision transformers. Not written yet; README.md states each method's status."""

__all__: list[str] = []
