"""RenderedModalities: its data module, its shipped scenes, the three simulated sensors, and the renderer.

Imports stand in the files: `datamodule` for training, `storage` for reading scenes, `sensors` for the pictures,
`render` (needs pybullet) for making scenes, ``python -m pvision.datamodules.rendered`` for making a set.
"""

__all__: list[str] = []
