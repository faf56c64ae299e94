"""How pictures are begun and written, whatever they show."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pvision.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "literal", "new_figure", "require_plots", "save", "short_name"]

INK = "#22303c"
"""The colour of text and lines."""


def require_plots(what: str) -> None:
    """Refuse to go on without matplotlib.

    Args:
        what: needs it, the beginning of a sentence.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401  # asked for only
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", what) from error


def new_figure(what: str, *, width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches.

    Args:
        what: is drawn, as for `require_plots`.
        width: in inches.
        height: in inches.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    require_plots(what)
    from matplotlib.figure import Figure

    # Figure without pyplot: no window system, no global state.
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: "Figure", path: Path, *, dpi: int = 140) -> Path:
    """Write a figure as PNG and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the picture shows a box, the files the name
        figure.savefig(path, dpi=dpi)
    return path


def short_name(name: str) -> str:
    """Return at most 30 characters of an image's name or a class', as text for a figure."""
    return literal(name if len(name) <= 30 else f"…{name[-29:]}")  # the end of a path tells images apart


def literal(text: str) -> str:
    """Return text that matplotlib shows as it is: what stands between two $ it takes for a formula."""
    return text.replace("$", r"\$")
