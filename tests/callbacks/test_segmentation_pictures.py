"""Pictures of masks, and masks as files."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_streams_of_masks import SmallStream, segmenter, trainer_for

from pvision.callbacks import DetectionWriter, MaskWriter, PredictionWriter, SegmentationPictures
from pvision.callbacks import segmentation_pictures as pictures
from pvision.callbacks._label_colours import palette
from pvision.callbacks._segmentation_drawing import DrawnMask, draw_masks
from pvision.continual.masks import SegmentationBatch
from pvision.errors import ConfigError, DataError
from pvision.segmentation.methods import FineTuning
from pvision.training.streams import fit_stream


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Learn for a step each; return the module and its folder, in which pictures of 4 images lie."""
    folder, module = tmp_path_factory.mktemp("learned"), segmenter(FineTuning)
    trainer = trainer_for(folder, max_steps=1, enable_checkpointing=False, callbacks=[SegmentationPictures(4)])
    fit_stream(trainer, module, SmallStream())
    return module, folder


def test_a_picture_after_each_experience(learned):
    assert [path.name for path in sorted(learned[1].glob("*.png"))] == [f"segmentation_{n}.png" for n in (1, 2, 3)]


def test_images_are_those_of_the_set_and_overlays_have_the_colours_of_the_labels(monkeypatch, learned, tmp_path):
    drawn = []
    monkeypatch.setattr(
        pictures, "draw_masks", lambda images, *a, **k: drawn.append((images, a, k)) or draw_masks(images, *a, **k)
    )
    stream = SmallStream()
    trainer_for(tmp_path, callbacks=[SegmentationPictures(5)]).test(learned[0], datamodule=stream, verbose=False)
    ((images, (names,), told),) = drawn
    assert len(images) == 5
    assert names == stream.class_names
    assert told["learned"] == {1, 2}  # the stream stands at its beginning
    for position, one in enumerate(images):
        assert one.name == f"set2/{position}"
        torch.testing.assert_close(one.image, stream.test_source.image(position) / 255)
        assert torch.equal(one.truth, stream.test_source.mask(position).long())


def test_the_legend_tells_what_is_not_learned_yet_and_what_is_void():
    mask = torch.tensor([[0, 1], [2, 255]])
    figure = draw_masks([DrawnMask("a$b$", torch.zeros(3, 2, 2), mask, mask)], ["cat", "dog"], learned={1}, title="t")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "dog (not learned yet)", "void"]


def test_labels_have_colours_of_their_own():
    assert len(palette()) == 256
    assert len(set(palette()[:60])) == 60


def test_a_module_of_another_kind_is_left_alone_with_a_warning():
    with pytest.warns(UserWarning, match="no masks are drawn"):
        SegmentationPictures().on_test_batch_end(None, None, {}, torch.zeros(2, 2), 0)
    with pytest.raises(ConfigError, match="images"):
        SegmentationPictures(0)


def test_predicted_masks_are_files_that_hold_labels(learned, tmp_path, recwarn, capsys):
    trainer = trainer_for(tmp_path, callbacks=[PredictionWriter(), DetectionWriter(), MaskWriter()])
    batches = trainer.predict(learned[0], datamodule=SmallStream())
    labels = torch.cat([one["labels"] for one in batches])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        f"masks/set2/{position}.png" for position in range(7)
    ]
    for position, expected in enumerate(labels):
        with Image.open(tmp_path / "masks" / "set2" / f"{position}.png") as picture:
            assert picture.mode == "P"
            assert tuple(picture.getpalette()[3:6]) == palette()[1]
            assert np.array_equal(np.asarray(picture), expected.numpy())
    assert "Masks: " in capsys.readouterr().out
    assert not [one for one in recwarn if "predictions.csv" in str(one.message)]


class Names:
    def __init__(self, *names):
        self.names = names


class Data:
    def __init__(self, *names):
        self.test_source = Names(*names)


class Trainer:
    """As much of a Trainer as the writer asks for."""

    fast_dev_run, is_global_zero, loggers = False, True, ()

    def __init__(self, folder, *names):
        self.default_root_dir, self.datamodule, self.strategy = folder, Data(*names), self

    def broadcast(self, value):
        return value


def written(folder, *names, outputs=None):
    writer, trainer = MaskWriter(), Trainer(folder, *names)
    writer.on_predict_start(trainer, None)
    some = {"index": torch.arange(3), "labels": torch.zeros(3, 2, 2, dtype=torch.int64)}
    writer.on_predict_batch_end(trainer, None, some if outputs is None else outputs, None, 0)
    writer.on_predict_epoch_end(trainer, None)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_no_two_masks_share_a_file_and_none_leaves_the_folder(tmp_path):
    assert written(tmp_path / "a", "x/1.jpg", "x/1.png", "y.jpg") == [
        "masks/x/1.jpg.png",
        "masks/x/1.png.png",
        "masks/y.png",
    ]
    assert written(tmp_path / "b", "only.jpg") == ["masks/000001.png", "masks/000002.png", "masks/only.png"]
    for name in ("../up.jpg", "/etc/up.jpg"):
        with pytest.raises(DataError, match="lead out"):
            written(tmp_path / "c", name)


def test_other_predictions_are_another_writers_business(tmp_path, capsys):
    assert written(tmp_path, outputs={"index": torch.arange(3), "probabilities": torch.zeros(3, 2)}) == []
    assert capsys.readouterr().out == ""


def test_pictures_ask_for_images_and_masks_of_one_kind():
    batch = SegmentationBatch(
        torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    )
    assert pictures._for_the_eye(batch.image[0], None).shape == (3, 2, 2)
