"""pybullet, which only rendering needs: imported when it is used."""

import atexit
import importlib.util
from pathlib import Path
from typing import Any

from pvision.errors import MissingExtraError

__all__ = ["bullet", "bullet_data", "new_world", "require_bullet"]


def bullet() -> Any:
    """Return the module ``pybullet``, which has no types.

    Raises:
        MissingExtraError: if it is not installed.
    """
    require_bullet()
    import pybullet

    return pybullet


def new_world() -> Any:
    """Return a connection of its own, with pybullet's functions: what one world holds no other one draws.

    Raises:
        MissingExtraError: if pybullet is not installed.
    """
    world = bullet()
    from pybullet_utils.bullet_client import BulletClient

    client = BulletClient(connection_mode=world.DIRECT)
    atexit.register(lambda: client.disconnect())  # left to itself it complains when the interpreter ends
    return client


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
        raise MissingExtraError("pybullet", "render", "Rendering a set")
