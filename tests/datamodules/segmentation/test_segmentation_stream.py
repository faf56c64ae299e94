"""Streams of images with masks: which images come in which batch, whoever asks, and what their masks show."""

from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules.segmentation import ArraySegmentation, SegmentationPreprocessing, SegmentationStream
from pvision.errors import ConfigError, DataError
from pvision.training.streams import fit_stream, latest_checkpoint

CLASSES, TRAIN, TEST, SIDE = 4, 40, 13, 6
ORDER = [2, 4, 1, 3]
PLAIN = SegmentationPreprocessing(flip=False, mean=(0, 0, 0), std=(1, 1, 1))
NOISY = SegmentationPreprocessing(scale=(0.5, 1.5), crop=5, eval_crop=4)


def masks_of(count, seed, lowest=0):
    """Masks with two classes each at random, and a void corner."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(lowest, CLASSES + 1, (count, 2, 1)).repeat(3, 1).repeat(6, 2).astype(np.uint8)
    masks[:, 0, 0] = 255
    return masks


class TinyMasks(SegmentationStream):
    """Images whose pixels tell their position."""

    class_names = tuple("abcd")
    lowest = 0

    def prepare_sources(self):
        self.train_source = self.source(TRAIN, "train", 0)
        self.test_source = self.source(TEST, "test", 100)

    def source(self, count, prefix, offset):
        pixels = (np.arange(count) + offset).astype(np.uint8)
        images = np.broadcast_to(pixels[:, None, None, None], (count, 3, SIDE, SIDE)).copy()
        return ArraySegmentation(images, masks_of(count, offset, self.lowest), num_classes=CLASSES, prefix=prefix)


class NoBackground(TinyMasks):
    has_background = False
    lowest = 1


def stream(
    cls=TinyMasks, *, rank=0, world_size=1, epoch=0, done=0, index=0, setting="overlapped", mib=False, **arguments
):
    scenario = SegmentationScenario(setting=setting, task="2-1", class_order=ORDER, void_as_background=mib)
    given_ = {"scenario": scenario, "batch_size": 8, "preprocessing": PLAIN, "seed": 5, **arguments}
    made = cls(**given_)
    made.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        fit_loop=SimpleNamespace(
            epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch)),
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=done))),
        ),
    )
    made.begin(index)
    return made


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def positions_of(loader):
    return [position for batch in loader for position in batch.position.tolist()]


def rows(batch):
    """What a batch says of each image, by its position."""
    return {
        int(position): (image.flatten().tolist(), mask.flatten().tolist())
        for image, mask, position in zip(*batch, strict=True)
    }


@pytest.mark.parametrize("setting", ["overlapped", "disjoint", "partitioned", "sequential"])
def test_batches_hold_the_records_of_the_experience_with_visible_labels(setting):
    for index, shown in enumerate([{2, 4}, {1}, {3}]):
        data = stream(setting=setting, index=index)
        if setting == "sequential":
            shown |= {label for one in data.experiences[:index] for label in one.classes}
        batches = list(data.train_dataloader())
        assert sorted(positions_of(batches)) == data.experiences[index].train.tolist()
        for batch in batches:
            assert batch.image.dtype == torch.float32
            assert torch.equal((batch.image[:, 0, 0, 0] * 255).round().long(), batch.position)
            truth = torch.from_numpy(masks_of(TRAIN, 0))[batch.position].long()
            kept = torch.isin(truth, torch.tensor([255, *shown]))
            assert torch.equal(batch.mask, torch.where(kept, truth, 0))
            assert (batch.mask[:, 0, 0] == 255).all()


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_processes_together_have_the_batches_of_one(world_size):
    def made(rank, size):
        return list(stream(rank=rank, world_size=size, preprocessing=NOISY, index=1).train_dataloader())

    alone, parts = made(0, 1), [made(rank, world_size) for rank in range(world_size)]
    for step, whole in enumerate(alone):
        shares = [part[step] for part in parts]
        assert len({len(share.position) for share in shares}) == 1
        together = {key: value for share in shares for key, value in rows(share).items()}
        expected = rows(whole)
        # Only what fills up the last batch may be beyond it.
        assert {key: together[key] for key in expected} == expected
        assert len(whole.position) < 8 or together.keys() == expected.keys()


def test_workers_change_nothing():
    batches = [list(stream(num_workers=workers, preprocessing=NOISY).train_dataloader()) for workers in (0, 2)]
    assert all(equal(left, right) for left, right in zip(*batches, strict=True))


@given(index=st.integers(0, 2), epoch=st.integers(0, 3), noise=st.integers(0, 99))
@settings(max_examples=10)
def test_batches_are_a_function_of_seed_experience_and_epoch(index, epoch, noise):
    first = list(stream(epoch=epoch, index=index, preprocessing=NOISY).train_dataloader())
    torch.manual_seed(noise)
    second = stream(epoch=epoch, index=index, preprocessing=NOISY).train_dataloader()
    assert all(equal(left, right) for left, right in zip(first, second, strict=True))


@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 1}])
def test_seed_and_epoch_change_order_and_augmentation(change):
    def drawn(**settings):
        batches = list(stream(preprocessing=NOISY, **settings).train_dataloader())
        return positions_of(batches), {key: value for batch in batches for key, value in rows(batch).items()}

    (order, augmented), (other_order, other) = drawn(), drawn(**change)
    assert order != other_order
    assert any(augmented[position] != other[position] for position in order)


def test_an_interrupted_epoch_goes_on_with_the_same_batches():
    whole = list(stream(preprocessing=NOISY, epoch=2).train_dataloader())
    rest = list(stream(preprocessing=NOISY, epoch=2, done=1).train_dataloader())
    assert len(rest) == len(whole) - 1
    assert all(equal(left, right) for left, right in zip(whole[1:], rest, strict=True))


def test_joint_training_has_all_records_and_labels_so_far():
    data = stream(training_set="seen", index=1)
    batches = list(data.train_dataloader())
    expected = np.union1d(data.experiences[0].train, data.experiences[1].train)
    assert sorted(positions_of(batches)) == expected.tolist()
    assert set(torch.cat([batch.mask.unique() for batch in batches]).tolist()) == {0, 1, 2, 4, 255}


def test_held_out_records_show_visible_labels_and_are_trained_in_no_experience():
    held, trained = set(), set()
    for index in range(3):
        data = stream(index=index, val_fraction=0.3)
        batches = list(data.val_dataloader())
        assert positions_of(batches) == data.experiences[index].val.tolist()
        assert set(torch.cat([b.mask.unique() for b in batches]).tolist()) <= {0, 255, *data.experiences[index].classes}
        held.update(positions_of(batches))
        trained.update(positions_of(data.train_dataloader()))
    assert held
    assert not held & trained
    assert stream().val_dataloader() == []


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_sees_every_test_image_once_with_all_labels(world_size):
    found = {}
    for rank in range(world_size):
        data = stream(rank=rank, world_size=world_size, index=1, eval_batch_size=4)
        assert data.evaluated == [0, 1]
        for batch in data.test_dataloader():
            assert torch.equal((batch.image[:, 0, 0, 0] * 255).round().long(), batch.position + 100)
            assert not found.keys() & rows(batch).keys()
            found |= rows(batch)
    masks = masks_of(TEST, 100)
    assert {position: mask for position, (_, mask) in found.items()} == {
        position: mask.flatten().tolist() for position, mask in enumerate(masks)
    }


def test_prediction_has_the_test_images():
    assert positions_of(stream().predict_dataloader()) == list(range(TEST))


def test_void_can_be_background_in_training_and_stays_void_in_evaluation():
    data = stream(mib=True, val_fraction=0.3)
    assert all((batch.mask != 255).all() for batch in data.train_dataloader())
    assert all((batch.mask[:, 0, 0] == 255).all() for batch in data.val_dataloader())
    assert all((batch.mask[:, 0, 0] == 255).all() for batch in data.test_dataloader())


def test_what_lies_outside_of_an_image_stays_void_where_void_is_background():
    wide = SegmentationPreprocessing(crop=SIDE + 2)
    masks = torch.cat([batch.mask for batch in stream(mib=True, preprocessing=wide).train_dataloader()])
    assert ((masks == 255).sum((1, 2)) == (SIDE + 2) ** 2 - SIDE**2).all()


def test_crops_are_evaluated_only_on_request_and_make_another_stream():
    full, crop = stream(preprocessing=NOISY), stream(preprocessing=NOISY, evaluation="crop")
    assert next(iter(full.test_dataloader())).mask.shape == (1, SIDE, SIDE)
    assert next(iter(crop.test_dataloader())).mask.shape == (1, 4, 4)
    assert next(iter(crop.test_dataloader())).image.shape == (1, 3, 4, 4)
    with pytest.raises(DataError, match="the setting evaluation is 'crop 4', not 'full'"):
        crop.load_state_dict(full.state_dict())
    with pytest.raises(ConfigError, match=r"data\.evaluation 'crop' needs data\.preprocessing\.eval_crop"):
        stream(evaluation="crop")


def test_a_data_set_may_have_no_background():
    data = stream(NoBackground, index=1)
    assert set(torch.cat([batch.mask.unique() for batch in data.train_dataloader()]).tolist()) == {0, 1, 255}
    assert set(torch.cat([batch.mask.unique() for batch in data.test_dataloader()]).tolist()) == {1, 2, 3, 4, 255}
    assert data.manifest().settings["has_background"] is False


def test_a_background_that_must_not_be_is_refused():
    class Wrong(TinyMasks):
        has_background = False

    with pytest.raises(DataError, match=r"has no background, but the mask of train/\d+ holds the label 0\. Map"):
        stream(Wrong)


def test_records_in_order_come_whole_to_every_process_with_visible_labels():
    wanted = [7, 3, 39, 0]
    for rank in range(2):
        data = stream(rank=rank, world_size=2, preprocessing=NOISY, index=1, eval_batch_size=3)
        batches = list(data.in_order_loader(wanted))
        assert [len(batch.position) for batch in batches] == [3, 1]
        assert positions_of(batches) == wanted
        assert all(set(batch.mask.unique().tolist()) <= {0, 1, 255} for batch in batches)
        assert all(batch.mask.shape[1:] == (SIDE, SIDE) for batch in batches)


def test_a_run_goes_on_from_its_state_and_not_from_that_of_another_stream(tmp_path):
    before = stream(index=2, preprocessing=NOISY)
    before.consolidate(None)
    torch.save(before.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    after = stream(preprocessing=NOISY)
    after.load_state_dict(state)
    assert after.current == 2
    assert all(
        equal(left, right) for left, right in zip(before.train_dataloader(), after.train_dataloader(), strict=True)
    )
    with pytest.raises(DataError, match="the scenario's setting is 'disjoint', not 'overlapped'"):
        stream(setting="disjoint").load_state_dict(state)


def test_a_state_holds_no_pixels():
    data = stream(index=1)
    list(data.train_dataloader())
    data.consolidate(None)

    def tensors(value):
        if isinstance(value, dict):
            return [one for entry in value.values() for one in tensors(entry)]
        if isinstance(value, list | tuple):
            return [one for entry in value for one in tensors(entry)]
        return [value] if isinstance(value, torch.Tensor | np.ndarray | bytes) else []

    assert tensors(data.state_dict()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size"),
        ({"eval_batch_size": 0}, r"data\.eval_batch_size"),
        ({"val_fraction": 1.0}, r"data\.val_fraction"),
        ({"training_set": "all"}, r"data\.training_set"),
        ({"evaluation": "centre"}, r"data\.evaluation"),
        ({"seed": -1}, r"data\.seed"),
        ({"val_fraction": 0.001}, "holds no record out of experience 'b, d'"),
        ({"val_fraction": 0.97}, "leaves no training image of the class"),
        ({"index": 3}, "has the experiences 0 to 2, but 3 is asked for"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        stream(**arguments)


def test_class_names_that_come_twice_are_refused():
    class Twice(TinyMasks):
        class_names = tuple("abca")

    with pytest.raises(ConfigError, match="the name of each class once"):
        stream(Twice)


def test_images_and_masks_of_several_sizes_are_refused_by_name():
    class Sizes(TinyMasks):
        def prepare_sources(self):
            super().prepare_sources()
            image, mask = self.train_source.image, self.train_source.mask
            self.train_source.image = lambda n: image(n)[:, : 3 if n in self.small else SIDE]
            self.train_source.mask = lambda n: mask(n)[: 3 if n in self.small and not self.torn else SIDE]

        small, torn = (7,), False

    class Torn(Sizes):
        torn = True

    def batches(cls):
        return list(stream(cls, batch_size=TRAIN, training_set="seen", index=2).train_dataloader())

    with pytest.raises(DataError, match=r"must have one size, but train/\d+ has .* Set|For training set data\.prep"):
        batches(Sizes)
    with pytest.raises(DataError, match="image train/7 has 6 x 3 pixels and its mask 6 x 6"):
        batches(Torn)


class PixelLinear(pl.LightningModule):
    """A classifier of single pixels."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, CLASSES + 1, 1)
        self.begun, self.tested = [], []

    def before_experience(self, experience, stream):
        self.begun.append(experience.new_classes)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch.image), batch.mask, ignore_index=255)

    def validation_step(self, batch, batch_idx):
        self.log("val/count", float(len(batch.position)), batch_size=1)

    def test_step(self, batch, batch_idx):
        self.tested.append(len(batch.position))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Interrupt(pl.Callback):
    """Stops a run in the second epoch of the second experience."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.datamodule.current, trainer.current_epoch, batch_idx) == (1, 1, 1):
            raise InterruptedError


def learn(folder, *callbacks, resume=False):
    torch.manual_seed(1)
    module = PixelLinear()
    trainer = pl.Trainer(
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[pl.callbacks.ModelCheckpoint(every_n_train_steps=1, save_top_k=-1), *callbacks],
    )
    data = TinyMasks(
        scenario=SegmentationScenario(task="2-1", class_order=ORDER),
        batch_size=8,
        eval_batch_size=4,
        val_fraction=0.2,
        preprocessing=NOISY,
        seed=5,
    )
    path = latest_checkpoint(folder) if resume else None
    fit_stream(trainer, module, data, ckpt_path=path)
    return module, path


def test_a_stream_is_learned_and_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    whole, _ = learn(tmp_path / "whole")
    assert whole.begun == [(2, 4), (1,), (3,)]
    assert sum(whole.tested) == 3 * TEST
    with pytest.raises(InterruptedError):
        learn(tmp_path / "part", Interrupt())
    resumed, path = learn(tmp_path / "part", resume=True)
    assert path.parent.name == "experience_2"
    assert path.name != "end.ckpt"
    assert torch.equal(resumed.layer.weight, whole.layer.weight)
