"""DetectionPictures: the first images of each test loader, drawn when the test ends."""

import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pvision.callbacks import _detection_drawing
from pvision.callbacks._figures import save
from pvision.callbacks.detection_pictures import DetectionPictures
from pvision.detection.records import DetectionBatch
from pvision.errors import ConfigError, MissingExtraError


class Images(pl.LightningDataModule):
    """Two images of counts with 14 bits, two in colour."""

    class_names = ("person", "traffic light")

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader([self.batch(name)] * 2, batch_size=None) for name in ("lwir", "rgb")]

    def batch(self, modality: str) -> DetectionBatch:
        noise = torch.rand(2, 3 if modality == "rgb" else 1, 48, 64, generator=torch.Generator().manual_seed(1))
        images = noise * 60 + 40 if modality == "rgb" else 7000 + 300 * noise
        images[:, :, 10:30, 12:24] += 120 if modality == "rgb" else 2000
        target = {"boxes": torch.tensor([[12.0, 10, 24, 30], [40, 20, 60, 44]]), "labels": torch.tensor([0, 1])}
        return DetectionBatch(list(images), [target, target], ["folder/one", "folder/two"], modality)


class Detects(pl.LightningModule):
    """Says what a module may say of a batch."""

    def __init__(self, *, more: bool = True) -> None:
        super().__init__()
        self.layer, self.more = nn.Linear(1, 1), more

    def test_step(self, batch: DetectionBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, list]:
        found = {"boxes": torch.tensor([[11.0, 11, 25, 29], [2, 2, 9, 9]]), "scores": torch.tensor([0.87, 0.1]),
                 "labels": torch.tensor([0, 1])}  # fmt: skip
        said = {"predictions": [found] * 2}
        if self.more:
            before = {**found, "boxes": found["boxes"] + 5}
            said |= {"predictions_before": [before] * 2, "seen": [torch.rand(3, 48, 64)] * 2}
        return said


class Silent(Detects):
    def test_step(self, batch: DetectionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        return None


def run(module: pl.LightningModule, callback: DetectionPictures, **changes: object) -> None:
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
                "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip
    pl.Trainer(**{**settings, "callbacks": [callback], **changes}).test(module, datamodule=Images(), verbose=False)


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[_detection_drawing.DrawnImage]]:
    """What was drawn, beside the drawing."""
    seen: list[list[_detection_drawing.DrawnImage]] = []
    draw = _detection_drawing.draw

    def note(images: list, *args: object, **kwargs: object) -> object:
        seen.append(images)
        return draw(images, *args, **kwargs)

    monkeypatch.setattr("pvision.callbacks.detection_pictures.draw", note)
    return seen


def test_each_modality_gets_a_picture_of_its_first_images(drawn: list) -> None:
    run(Detects(), DetectionPictures(3))
    assert sorted(path.name for path in Path().iterdir()) == ["detections_lwir.png", "detections_rgb.png"]
    assert [[image.name for image in images] for images in drawn] == [["folder/one", "folder/two", "folder/one"]] * 2
    picture = pixels("detections_lwir.png").reshape(-1, 3)
    for colour in _detection_drawing.COLOURS[:2]:
        wanted = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
        assert (np.abs(picture - wanted).max(axis=1) < 12).any(), colour


def test_what_is_not_known_is_left_out(drawn: list) -> None:
    run(Detects(more=False), DetectionPictures(1))
    assert drawn[0][0].seen is None
    narrow = pixels("detections_lwir.png").shape[1]
    run(Detects(), DetectionPictures(1))
    assert pixels("detections_lwir.png").shape[1] > narrow


def test_boxes_below_the_score_are_not_drawn() -> None:
    run(Detects(more=False), DetectionPictures(1, score=0.3))
    few = Path("detections_rgb.png").read_bytes()
    run(Detects(more=False), DetectionPictures(1, score=0.05))
    assert Path("detections_rgb.png").read_bytes() != few


def test_images_without_any_box_are_drawn_too() -> None:
    batch = Images().batch("lwir")
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = {**nothing, "scores": torch.zeros(0)}
    image = _detection_drawing.DrawnImage("$x$", batch.images[0], nothing, found, None, None)
    save(_detection_drawing.draw([image], (), score=0.5, modality="lwir"), Path("empty.png"))
    assert Path("empty.png").stat().st_size > 1000


def test_a_module_that_says_nothing_gets_one_warning_and_no_picture() -> None:
    with pytest.warns(UserWarning, match="no detections are drawn"):
        run(Silent(), DetectionPictures())
    assert not list(Path().iterdir())


def test_a_trial_run_leaves_nothing() -> None:
    run(Detects(), DetectionPictures(), fast_dev_run=True)
    assert not list(Path().iterdir())


def test_mlflow_gets_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Path] = []
    monkeypatch.setattr(
        "pvision.callbacks.detection_pictures.copy_to_mlflow", lambda trainer, path, tags: copies.append(path)
    )
    run(Detects(), DetectionPictures(1))
    assert [path.name for path in copies] == ["detections_lwir.png", "detections_rgb.png"]


@pytest.mark.parametrize(
    "raw",
    [torch.full((1, 4, 4), 300.0), torch.full((1, 4, 4), float("nan")), torch.arange(32.0).reshape(2, 4, 4)],
    ids=["constant", "unknown", "two channels"],
)
def test_any_raw_image_can_be_shown(raw: Tensor) -> None:
    picture = _detection_drawing.for_the_eye(raw)
    assert picture.shape == (4, 4)
    assert ((picture >= 0) & (picture <= 1)).all()


def test_colour_pictures_are_shown_as_they_are_and_counts_by_their_percentiles() -> None:
    colour = torch.tensor([255.0, 51.0, 0.0]).reshape(3, 1, 1).repeat(1, 2, 2)
    assert _detection_drawing.for_the_eye(colour)[0, 0] == pytest.approx([1, 0.2, 0])
    counts = 7000 + torch.arange(101.0).reshape(1, 1, 101)
    assert _detection_drawing.for_the_eye(counts)[0, 50] == pytest.approx(0.5)


@pytest.mark.parametrize("arguments", [{"images": 0}, {"score": 1.5}])
def test_wrong_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="detection_pictures"):
        DetectionPictures(**arguments)


def test_without_matplotlib_the_test_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pvision\[plots\]"):
        run(Silent(), DetectionPictures())
