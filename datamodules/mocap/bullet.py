"""pybullet, which only rendering needs: imported when it is used."""

import importlib.util
from pathlib import Path
from typing import Any

from pvision.errors import MissingExtraError

__all__ = ["bullet", "bullet_data", "require_bullet"]


def bullet() -> Any:
    """Return the module ``pybullet``, which has no types.

    Raises:
        MissingExtraError: if it is not installed.
    """
    require_bullet()
    import pybullet

    return pybullet


def bullet_data() -> Path:
    """Return the folder of the models and motions that come with pybullet.

    Raises:
        MissingExtraError: if it is not installed.
    """
    require_bullet()
    import pybullet_data

    return Path(pybullet_data.getDataPath())


def require_bullet() -> None:
    """Refuse to go on without pybullet.

    Raises:
        MissingExtraError: if it is not installed.
    """
    if importlib.util.find_spec("pybullet") is None:
        raise MissingExtraError("pybullet", "render", "Rendering MocapActions")
