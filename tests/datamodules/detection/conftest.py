"""Tiny data sets in the layouts of the published ones."""

import pytest
from layouts import HEIGHT, WIDTH, coco, depth, picture, voc


class Makers:
    picture, depth, voc, coco = staticmethod(picture), staticmethod(depth), staticmethod(voc), staticmethod(coco)
    width, height = WIDTH, HEIGHT


@pytest.fixture
def make():
    """Writers of images and annotations."""
    return Makers


@pytest.fixture
def llvip(tmp_path):
    """Ten training and three test pairs; the second of each split shows nobody."""
    root = tmp_path / "LLVIP"
    for split, first, count in (("train", 10, 10), ("test", 90, 3)):
        for number in range(first, first + count):
            picture(root / "infrared" / split / f"{number:06}.jpg", seed=number)
            picture(root / "visible" / split / f"{number:06}.jpg", seed=number + 500, colour=True)
            boxes = [] if number % 10 == 1 else [("person", 1, 2, 9 + number % 3, 20)]
            voc(root / "Annotations" / f"{number:06}.xml", *boxes)
    return root


@pytest.fixture
def voc_folder(tmp_path):
    """Eight 8-bit images of two classes, ``a0`` to ``a7``, in VOC's format; no pairs."""
    for number in range(8):
        picture(tmp_path / "images" / f"a{number}.png", seed=number)
        label = "dog" if number % 2 else "person"
        voc(tmp_path / "xml" / f"a{number}.xml", (label, 1, 1, 8, 8), ("person", 5, 5, 32, 24))
    return tmp_path
