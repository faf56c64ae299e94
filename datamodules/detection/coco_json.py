"""Reading of annotations in COCO's format [0]: one JSON file for all images.

[0] Lin et al.: Microsoft COCO: Common Objects in Context. ECCV 2014, and https://cocodataset.org/#format-data
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pvision.datamodules.detection.listed import Listed, NamedBox, relative
from pvision.errors import DataError

__all__ = ["read_coco"]


def read_coco(
    path: Path, *, files: Callable[[str], tuple[Path, Path | None]], dropped: Counter[str]
) -> tuple[list[str], list[Listed]]:
    """Return the names of the classes in the order of their ids, and the images with their objects.

    Args:
        path: the JSON file. ``bbox`` is left, top, width, height in pixels.
        files: returns an image's file and that of its RGB partner by ``file_name``.
        dropped: counts the regions of crowds (``iscrowd``), which are left out.

    Raises:
        DataError: naming the file, if it is missing, damaged, or refers to images or classes that it does not have.
    """
    content = _parsed(path)
    try:
        names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        images = {int(image["id"]): image for image in content["images"]}
        if len(images) < len(content["images"]):
            raise DataError(f"{path} lists an image id twice. Give every image its own.")
        if len(names) < len(content["categories"]):
            raise DataError(f"{path} lists a category id twice. Give every category its own.")
        boxes: dict[int, list[NamedBox]] = {number: [] for number in images}
        for annotation in content["annotations"]:
            if annotation.get("iscrowd"):
                dropped["crowd"] += 1
                continue
            boxes[int(annotation["image_id"])].append(_box(annotation, names, path))
        rows = [_row(image, boxes[number], path, files) for number, image in images.items()]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not in COCO's format, or refers to an image or class that it does not list: "
            f"{type(error).__name__} {error}. Expected are images, annotations and categories with their ids."
        ) from error
    if len({row.name for row in rows}) < len(rows):
        raise DataError(f"{path} lists a file_name twice. Join the entries.")
    return [names[number] for number in sorted(names)], rows


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"There are no annotations {path}. Expected is a JSON file in COCO's format.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"The annotations {path} cannot be read ({error}). Expected is COCO's format.") from error


def _box(annotation: Mapping[str, Any], names: Mapping[int, str], path: Path) -> NamedBox:
    try:
        left, top, width, height = (float(value) for value in annotation["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: the annotation {annotation.get('id')} of the image {annotation.get('image_id')} needs a bbox of "
            f"left, top, width and height, but {annotation.get('bbox')!r} came."
        ) from error
    return NamedBox(left, top, left + width, top + height, names[int(annotation["category_id"])])


def _row(
    image: Mapping[str, Any], boxes: list[NamedBox], path: Path, files: Callable[[str], tuple[Path, Path | None]]
) -> Listed:
    name = relative(str(image["file_name"]), path)
    file, rgb = files(name)
    size = (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
    return Listed(name, file, tuple(boxes), f"{path}, {name}", rgb, size)
