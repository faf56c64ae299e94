"""What stands in a yard: kinds of objects, and the classes of their pixels."""

__all__ = ["CLASS_NAMES", "KINDS", "PARTS", "label_of"]

CLASS_NAMES = ("vehicle", "wheel", "table", "quadruped", "ball", "drum", "arm", "trousers", "shirt", "skin")
"""The classes in label order, from label 1; 0 is the background. Shoes belong to the trousers."""

PARTS: dict[str, tuple[str, ...]] = {
    "person": ("trousers", "shirt", "skin"),
    "quadruped": ("quadruped",),
    "vehicle": ("vehicle", "wheel"),
    "table": ("table",),
    "arm": ("arm",),
    "ball": ("ball",),
    "drum": ("drum",),
}
"""The classes that each kind of object is made of."""

KINDS = tuple(PARTS)
"""The kinds of objects. A scene holds each kind once at most, so no label is in a scene for two objects."""


def label_of(name: str) -> int:
    """Return the label of a class."""
    return 1 + CLASS_NAMES.index(name)
