"""Writers of tiny images and annotations in the formats of published detection sets."""

import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 32, 24


def picture(path, *, colour=False, seed=0, size=(HEIGHT, WIDTH)):
    """Write an image of 8 bits: coarse blocks, so that JPEG keeps them."""
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3)).astype(np.uint8)
    pixels = blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if colour else np.ascontiguousarray(pixels[..., 0])).save(path)


def depth(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(500, 10_000, (HEIGHT, WIDTH)).astype(np.uint16)
    Image.fromarray(values).save(path)
    return values


def voc(path, *boxes, size=(HEIGHT, WIDTH), corners=("xmin", "ymin", "xmax", "ymax")):
    """Write an XML file with boxes ``(class, four numbers)``."""
    objects = "".join(
        f"<object><name>{label}</name><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(corners, box, strict=True))
        + "</bndbox></object>"
        for label, *box in boxes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{objects}</annotation>"
    )


def coco(path, images, classes):
    """Write a JSON file: ``images`` maps file names to boxes ``(class, left, top, width, height)``."""
    rows = [{"id": 10 + n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(images)]
    numbers = {name: 3 + 2 * place for place, name in enumerate(classes)}
    annotations = [
        {"id": 7, "image_id": 10 + n, "category_id": numbers[label], "bbox": box, "iscrowd": 0}
        for n, boxes in enumerate(images.values())
        for label, *box in boxes
    ]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": rows, "annotations": annotations, "categories": categories}))
