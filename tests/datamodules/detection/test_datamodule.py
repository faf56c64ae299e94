"""The base of detection data modules: who sees which image when."""

from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.datamodules.batches import Share
from pvision.datamodules.detection.datamodule import DetectionDataModule
from pvision.datamodules.detection.training_images import draw, kept_share, mirrored
from pvision.detection.records import DetectionBatch, no_boxes
from pvision.errors import ConfigError, DataError


class Made:
    """Images whose pixels tell their position; every third has no boxes, and sizes differ."""

    def __init__(self, count, modality="lwir", prefix="image"):
        self.names, self.modality = [f"{prefix}{position}" for position in range(count)], modality

    def __len__(self):
        return len(self.names)

    def __getitem__(self, positions):
        return DetectionBatch(
            [self.image(position) for position in positions],
            [self.target(position) for position in positions],
            [self.names[position] for position in positions],
            self.modality,
        )

    def image(self, position):
        return torch.arange(12.0).reshape(1, 3, 4).repeat(1, 1 + position % 2, 1) + 100 * position

    def target(self, position):
        if position % 3 == 0:
            return no_boxes()
        return {"boxes": torch.tensor([[0.0, 1.0, 1.0 + position % 3, 3.0]]), "labels": torch.tensor([0])}


class MadeData(DetectionDataModule):
    class_names, modality = ("person",), "lwir"

    def __init__(self, *, counts=(10, 4, 7), paired=True, share=None, **settings):
        super().__init__(**settings)
        self.counts, self.paired, self.share = counts, paired, share
        self.prepared = 0

    def prepare_sets(self):
        self.prepared += 1
        train, val, test = self.counts
        self.train_set, self.val_set = Made(train), Made(val, prefix="val")
        self.test_sets = {self.modality: Made(test, self.modality, "test")}
        if self.paired:
            self.test_sets["rgb"] = Made(test, "rgb", "test")

    def _share(self):
        return self.share or super()._share()


def epoch(data, number=0, done=0):
    loader = data.train_dataloader()
    loader.sampler.begin(number, done)
    return list(torch.utils.data.DataLoader.__iter__(loader))


def assert_equal(one, other):
    assert [batch.names for batch in one] == [batch.names for batch in other]
    for left, right in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left.images, right.images, strict=True))
        pairs = zip(left.targets, right.targets, strict=True)
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in pairs)


def names_of(batches):
    return [name for batch in batches for name in batch.names]


def test_an_epoch_trains_on_each_image_once_those_without_boxes_too():
    batches = epoch(MadeData(batch_size=4))
    assert sorted(names_of(batches)) == sorted(Made(10).names)
    assert [len(batch.images) for batch in batches] == [4, 4, 2]
    assert sum(not len(target["boxes"]) for batch in batches for target in batch.targets) == 4
    assert all(isinstance(batch, DetectionBatch) and batch.modality == "lwir" for batch in batches)


def test_batches_are_a_function_of_seed_and_epoch():
    first = epoch(MadeData(seed=3, flip=True), 5)
    torch.rand(3)
    assert_equal(first, epoch(MadeData(seed=3, flip=True), 5))
    assert names_of(first) != names_of(epoch(MadeData(seed=3, flip=True), 6))
    assert names_of(first) != names_of(epoch(MadeData(seed=4, flip=True), 5))


def test_two_processes_together_see_the_batches_of_one():
    alone = epoch(MadeData(batch_size=4, flip=True), 2)
    first, second = (epoch(MadeData(batch_size=4, flip=True, share=Share(rank, 2)), 2) for rank in range(2))
    for whole, even, odd in zip(alone, first, second, strict=True):
        assert whole.names[::2] == even.names
        assert whole.names[1::2] == odd.names
        assert all(torch.equal(a, b) for a, b in zip(whole.images[::2], even.images, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(whole.images[1::2], odd.images, strict=True))


def test_a_batch_that_two_processes_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"data\.batch_size .* multiple of their number, 2, but 3 came"):
        MadeData(batch_size=3, share=Share(0, 2)).train_dataloader()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 23), st.integers(1, 9), st.integers(1, 3))
def test_every_image_is_scored_exactly_once_however_many_processes(count, size, world):
    if count < world:
        return
    shares = [MadeData(counts=(1, 1, count), eval_batch_size=size, share=Share(rank, world)) for rank in range(world)]
    for number in range(2):
        loaded = [list(data.test_dataloader()[number]) for data in shares]
        assert Counter(name for batches in loaded for name in names_of(batches)) == Counter(
            Made(count, "", "test").names
        )
        assert len({len(batches) for batches in loaded}) == 1


def test_going_on_in_mid_epoch_gives_the_rest_of_it():
    whole = epoch(MadeData(batch_size=3, flip=True), 4)
    assert_equal(whole[2:], epoch(MadeData(batch_size=3, flip=True), 4, 2))


class Recorder(pl.LightningModule):
    """Writes down what it is trained on."""

    def __init__(self, save_after=None):
        super().__init__()
        self.weight, self.seen, self.save_after = torch.nn.Parameter(torch.zeros(1)), [], save_after
        self.tested = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.names, float(sum(image[0, 0, 0] for image in batch.images))))
        return self.weight.sum()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.save_after == len(self.seen):
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/middle.ckpt")

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.tested.append((dataloader_idx, batch.modality, batch.names))

    def predict_step(self, batch):
        return batch.names

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def quiet(path, **settings):
    quietly = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=path, max_epochs=2, enable_checkpointing=False, **quietly, **settings)


def test_a_resumed_run_sees_what_an_uninterrupted_one_would_have_seen(tmp_path):
    whole = Recorder(save_after=5)  # in the middle of the second epoch of 4 batches
    quiet(tmp_path).fit(whole, datamodule=MadeData(batch_size=3, flip=True))
    assert len(whole.seen) == 8
    resumed = Recorder()
    quiet(tmp_path).fit(resumed, datamodule=MadeData(batch_size=3, flip=True), ckpt_path=tmp_path / "middle.ckpt")
    assert resumed.seen == whole.seen[5:]


def test_the_trainer_tests_each_modality_and_predicts_the_new_one(tmp_path):
    module, data = Recorder(), MadeData(eval_batch_size=3)
    quiet(tmp_path).test(module, datamodule=data, verbose=False)
    assert data.test_modalities == ("lwir", "rgb")
    assert [(place, modality, len(names)) for place, modality, names in module.tested] == [
        (place, modality, count) for place, modality in enumerate(["lwir", "rgb"]) for count in (3, 3, 1)
    ]
    predicted = quiet(tmp_path).predict(module, datamodule=data)
    assert [name for names in predicted for name in names] == Made(7, "", "test").names
    assert data.prepared == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_processes_change_nothing(workers):
    assert_equal(epoch(MadeData(flip=True)), epoch(MadeData(flip=True, num_workers=workers)))


@given(st.integers(1, 300), st.integers(0, 5))
def test_a_smaller_budget_is_part_of_a_larger_one(count, seed):
    names = [f"{number}.png" for number in range(count)]
    small, middle, everything = (kept_share(names, fraction, seed=seed) for fraction in (0.01, 0.1, 1.0))
    assert set(small) <= set(middle) <= set(everything)
    assert everything == list(range(count))
    assert len(small) == max(1, round(count / 100))
    assert len(middle) == max(1, round(count / 10))


def test_a_budget_is_drawn_by_seed_and_by_name_whatever_the_order():
    names = [f"{number}.png" for number in range(200)]
    kept = {names[position] for position in kept_share(names, 0.1, seed=1)}
    assert kept == {names[::-1][position] for position in kept_share(names[::-1], 0.1, seed=1)}
    assert kept != {names[position] for position in kept_share(names, 0.1, seed=2)}


def test_a_budget_limits_training_only():
    data = MadeData(label_fraction=0.2)
    assert len(names_of(epoch(data))) == len(data.training_positions) == 2
    assert len(names_of(data.val_dataloader())) == 4


def test_flipping_twice_gives_back_image_and_boxes():
    image = torch.rand(2, 5, 7)
    target = {"boxes": torch.tensor([[0.0, 1.0, 2.25, 5.0], [6.5, 0.0, 7.0, 1.5]]), "labels": torch.tensor([1, 0])}
    flipped, boxes = mirrored(image, target)
    assert torch.equal(boxes["boxes"], torch.tensor([[4.75, 1.0, 7.0, 5.0], [0.0, 0.0, 0.5, 1.5]]))
    again, back = mirrored(flipped, boxes)
    assert torch.equal(again, image)
    assert torch.equal(back["boxes"], target["boxes"])
    assert torch.equal(back["labels"], target["labels"])
    assert not torch.equal(flipped, image)


def test_a_box_covers_the_same_pixels_after_a_flip():
    image = torch.zeros(1, 6, 9)
    image[:, 2:4, 1:3] = 1
    flipped, target = mirrored(image, {"boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "labels": torch.tensor([0])})
    left, top, right, bottom = (int(value) for value in target["boxes"][0])
    assert flipped[:, top:bottom, left:right].sum() == image.sum()


def test_an_image_without_boxes_can_be_mirrored():
    assert mirrored(torch.rand(1, 2, 3), no_boxes())[1]["boxes"].shape == (0, 4)


def test_about_half_of_the_images_are_mirrored_and_others_in_each_epoch():
    made, flips = Made(100), []
    for number in range(2):
        pixels = {
            name: image
            for batch in epoch(MadeData(counts=(100, 1, 1), flip=True), number)
            for name, image in zip(batch.names, batch.images, strict=True)
        }
        flips.append({name for at, name in enumerate(made.names) if not torch.equal(pixels[name], made.image(at))})
        assert 30 < len(flips[-1]) < 70
    assert flips[0] != flips[1]


def test_evaluation_is_never_mirrored():
    data, made = MadeData(flip=True), Made(7, prefix="test")
    images = [image for batch in data.test_dataloader()[0] for image in batch.images]
    assert all(torch.equal(image, made.image(at)) for at, image in enumerate(images))


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_a_draw_lies_in_the_unit_interval_and_repeats_itself(what):
    assert 0 <= draw(*what) < 1
    assert draw(*what) == draw(*what)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be a whole number"),
        ({"eval_batch_size": True}, r"data\.eval_batch_size"),
        ({"label_fraction": 0.0}, r"data\.label_fraction must be a number above 0 and at most 1"),
        ({"label_fraction": 10}, r"data\.label_fraction"),
        ({"num_workers": -1}, r"data\.num_workers"),
        ({"seed": -1}, r"data\.seed"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        MadeData(**setting)


@pytest.mark.parametrize(
    ("counts", "kind"), [((0, 1, 1), "training"), ((1, 0, 1), "validation"), ((1, 1, 0), "lwir test")]
)
def test_an_empty_set_is_refused_before_any_loader_exists(counts, kind):
    with pytest.raises(DataError, match=f"MadeData found no {kind} images"):
        MadeData(counts=counts).setup()


def test_class_names_and_modality_are_checked():
    data = MadeData()
    data.class_names = ("person", "person")
    with pytest.raises(DataError, match="needs class names, each once"):
        data.setup()
    data = MadeData()
    data.modality = "LWIR"
    with pytest.raises(ConfigError, match=r"data\.modality must be a word of lower-case letters.*'LWIR' came"):
        data.setup()
