"""Rendered yards: small pictures of people, machines and things, with the class of each pixel.

Imports stand in the files: `storage` for reading the shipped pictures, `labels` for the classes, `render` (needs
pybullet) for making scenes, ``python -m pvision.datamodules.rendered_yard`` for making a set.
"""

__all__: list[str] = []
