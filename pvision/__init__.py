"""Train vision models on footage of people under a privacy guarantee that holds.

Importing this package loads no torch: `pvision recipes list` answers at once. Import what you need from
`pvision.privacy`, `pvision.models`, `pvision.modules`, `pvision.datamodules` or `pvision.callbacks`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
