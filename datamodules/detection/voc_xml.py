"""Reading of Pascal VOC annotations [0]: one XML file for each image.

[0] Everingham et al.: The Pascal Visual Object Classes (VOC) Challenge. IJCV 2010.
"""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from pvision.datamodules.detection.listed import Listed, NamedBox
from pvision.errors import DataError

__all__ = ["read_voc"]

_LONGEST = 8 * 2**20


def read_voc(path: Path, *, one_based: bool, name: str, image: Path, rgb: Path | None = None) -> Listed:
    """Return the objects of an image.

    A box is given by its corners, ``xmin`` to ``ymax``, or, as KAIST's are, by ``x``, ``y``, ``w`` and ``h``.

    Args:
        path: the XML file. Document types and entities are refused.
        one_based: whether the first pixel is 1 and ``xmax`` and ``ymax`` are inclusive, as VOC's own are; else corners
            are taken as they are.
        name: of the image.
        image: its file.
        rgb: the RGB image of the same scene.

    Raises:
        DataError: naming the file, if it is missing, damaged, or an object lacks its class or box.
    """
    root = _parsed(path)
    boxes = tuple(_box(element, path, one_based=one_based) for element in root.iter("object"))
    width, height = (_number(root, f"size/{side}", path, missing=0.0) for side in ("width", "height"))
    size = (int(height), int(width)) if 0 < width < math.inf and 0 < height < math.inf else None
    return Listed(name, image, boxes, str(path), rgb, size)


def _parsed(path: Path) -> ElementTree.Element:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except FileNotFoundError as error:
        raise DataError(
            f"There is no annotation {path}. An image without objects needs one too, without <object>."
        ) from error
    except OSError as error:
        raise DataError(f"The annotation {path} cannot be read ({error}).") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Entities multiply or read other files; what is parsed is this very text, whatever encoding it claims to have.
    if len(content) > _LONGEST or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"The annotation {path} declares a document type, or is longer than 8 MiB. It is not parsed.")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"The annotation {path} is damaged ({error}). Take it anew from its source.") from error


def _box(element: ElementTree.Element, path: Path, *, one_based: bool) -> NamedBox:
    label = (element.findtext("name") or "").strip()
    if not label:
        raise DataError(f"The annotation {path} has an object without <name>. Name its class, or remove it.")
    if element.find("bndbox/w") is not None:
        left, top, width, height = (_number(element, f"bndbox/{side}", path) for side in ("x", "y", "w", "h"))
        return NamedBox(left, top, left + width, top + height, label)
    left, top, right, bottom = (_number(element, f"bndbox/{side}", path) for side in ("xmin", "ymin", "xmax", "ymax"))
    shift = 1 if one_based else 0
    return NamedBox(left - shift, top - shift, right, bottom, label)


def _number(element: ElementTree.Element, place: str, path: Path, *, missing: float | None = None) -> float:
    text = element.findtext(place)
    if text is None and missing is not None:
        return missing
    try:
        return float(text or "")
    except ValueError as error:
        raise DataError(f"The annotation {path} needs a number in <{place}>, but {text!r} came. Mend it.") from error
