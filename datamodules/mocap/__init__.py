"""MocapActions: its data module, its shipped clips, and the renderer that makes them.

Imports stand in the files: `datamodule` for training, `storage` for reading clips, `render` (needs pybullet) for making
them, ``python -m pvision.datamodules.mocap`` for making a set.
"""

__all__: list[str] = []
