"""Streams of experiences: how they are divided, what is replayed, how forgetting is measured.

Import from the modules: `scenarios`, `replay`, `metrics`, `statistics`, `manifest`, `experience`, `head`. Nothing is
imported here, so that `pvision compare` can use the metrics and the statistics without loading torch.
"""

__all__: list[str] = []
