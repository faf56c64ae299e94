"""Where the images of a stream come from: arrays and files, and what is wrong with them."""

import numpy as np
import pytest
import torch

from pvision.datamodules.streams import ArrayImages, FileImages, ImageSource
from pvision.errors import DataError


def test_arrays_and_files_are_sources(tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "a b" / "ü"
    folder.mkdir(parents=True)
    paths = [folder / f"{n}.png" for n in range(3)]
    for value, path in enumerate(paths):
        image.new("L", (5, 4), value).save(path)
    files = FileImages(paths, np.array([0, 1, 1]), root=tmp_path)
    assert isinstance(files, ImageSource)
    assert isinstance(ArrayImages(np.zeros((1, 1, 4, 4), np.uint8), np.array([0]), prefix="train"), ImageSource)
    assert files.names == ["a b/ü/0.png", "a b/ü/1.png", "a b/ü/2.png"]
    assert files.image(2).shape == (3, 4, 5)
    assert files.image(2).dtype == torch.uint8
    assert files.image(2).unique().tolist() == [2]
    paths[1].write_bytes(paths[1].read_bytes()[:20])
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image"):
        files.image(1)
    with pytest.raises(DataError, match="lies outside of"):
        FileImages(["/elsewhere/x.png"], np.array([0]), root=tmp_path)
    with pytest.raises(DataError, match="listed twice"):
        FileImages([paths[0], paths[0]], np.array([0, 0]), root=tmp_path)
    with pytest.raises(DataError, match="has 2 images and 1 domains"):
        FileImages(paths[:2], np.array([0, 0]), root=tmp_path, domains=["a"])


def test_arrays_of_another_form_are_refused():
    images = np.zeros((2, 1, 4, 4), np.uint8)
    for wrong in (images[:, 0], images.astype(float), torch.from_numpy(images)):
        with pytest.raises(DataError, match=r"must be a NumPy array, uint8 \(N, C, H, W\), but \w+ of \S+ and shape"):
            ArrayImages(wrong, np.array([0, 1]), prefix="train")
    for labels in (np.array([0]), np.array([0.0, 1.0])):
        with pytest.raises(DataError, match="2 images and labels of shape"):
            ArrayImages(images, labels, prefix="train")


def test_images_of_more_than_eight_bits_are_refused_instead_of_cut_off(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, pixels in (
        ("thermal.png", np.full((4, 4), 30_000, np.uint16)),
        ("depth.tif", np.ones((4, 4), np.float32)),
    ):
        image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(DataError, match=f"{name} has more than 8 bits per pixel .*Scale"):
            FileImages([tmp_path / name], np.array([0]), root=tmp_path).image(0)
