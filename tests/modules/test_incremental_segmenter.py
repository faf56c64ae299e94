"""The module trains each experience as it says, and its numbers are those of all test pixels."""

import copy
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_streams_of_masks import SmallNetwork, SmallStream, segmenter, trainer_for

from pvision.callbacks import ExemplarFree, ForgettingMetrics, SegmentationMatrix, TrainingCost
from pvision.continual.metrics.iou import group_iou, iou_of_learned
from pvision.errors import ConfigError, PrivacyError
from pvision.modules import IncrementalSegmenter
from pvision.segmentation.methods import BARM, FineTuning, MiB
from pvision.training.streams import fit_stream, latest_checkpoint
from pvision.weights_hash import weights_sha256


class Watches(pl.Callback):
    def __init__(self):
        self.seen, self.rates, self.trained, self.logged = [], {}, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        self.rates.setdefault(trainer.datamodule.current, []).append(rates[0])

    def on_train_end(self, trainer, pl_module):
        self.seen.append((trainer.current_epoch, trainer.global_step, pl_module.method.teacher is not None))
        self.trained.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_test_end(self, trainer, pl_module):
        assert pl_module.method.teacher is None
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Learn three experiences once; return folder, module, stream and what was seen on the way."""
    folder = tmp_path_factory.mktemp("run")
    stream, watch = SmallStream(val_fraction=0.2), Watches()
    module = segmenter(MiB, base_epochs=3, increment_lr=0.004, poly_power=0.9)
    metrics, matrix = ForgettingMetrics("test/iou_{}", verbose=False, plots=False), SegmentationMatrix(plots=False)
    trainer = trainer_for(folder, max_epochs=2, callbacks=[watch, metrics, matrix, TrainingCost(), ExemplarFree()])
    fit_stream(trainer, module, stream)
    return folder, module, stream, watch, metrics, matrix


def slow_confusion(module, stream):
    counts = np.zeros((256, 256), dtype=np.int64)
    module.eval()
    for position in range(len(stream.test_source)):
        image = stream.preprocessing.eval(stream.test_source.image(position))
        with torch.no_grad():
            found = module(image[None])[0]
        np.add.at(counts, (stream.test_source.mask(position).numpy().ravel(), found.numpy().ravel()), 1)
    return counts


def test_epochs_teacher_and_learning_rates_follow_the_experience(run):
    watch = run[3]
    assert [epochs for epochs, _, _ in watch.seen] == [3, 2, 2]
    assert [teacher for _, _, teacher in watch.seen] == [False, True, True]
    for index, begin in enumerate([0.01, 0.004, 0.004]):
        steps = watch.seen[index][1]
        expected = [begin * (1 - step / steps) ** 0.9 for step in range(steps)]
        assert watch.rates[index] == pytest.approx(expected)


def test_the_test_logs_what_a_slow_count_of_all_pixels_gives(run):
    _, module, stream, watch, _, _ = run
    counts = slow_confusion(module, stream)
    assert np.array_equal(module.test_confusion.numpy(), counts)
    iou = iou_of_learned(counts, [1, 2, 3, 4])
    logged = watch.logged[-1]
    assert {name: value for name, value in logged.items() if name[:9] == "test/iou_"} == pytest.approx(
        {f"test/iou_{label}": value for label, value in iou.items()}
    )
    means = group_iou(iou, old=[1, 2], new=[3, 4])
    assert {name: logged[f"segmentation/{name}"] for name in means} == pytest.approx(means)
    assert logged["segmentation/parameters"] == sum(one.numel() for one in module.method.parameters())


def test_classes_to_come_have_no_iou_and_nothing_is_new_at_first(run):
    first = run[3].logged[0]
    assert "test/iou_3" not in first
    assert "segmentation/miou_new" not in first
    assert "segmentation/hiou" not in first
    assert first["segmentation/miou_old"] == first["segmentation/miou_all"]


def test_loss_terms_add_up(run):
    logged = run[3].trained[-1]
    assert logged["train/loss"] == pytest.approx(logged["train/cross_entropy"] + logged["train/distillation"])


def test_validation_counts_the_classes_that_its_masks_show(run):
    _, module, stream, watch, _, _ = run
    assert all(0 <= trained["val/miou"] <= 1 for trained in watch.trained)
    counts = np.zeros((256, 256), dtype=np.int64)
    for batch in stream.val_dataloader():  # of the last experience, which shows class 4 and calls all else background
        with torch.no_grad():
            np.add.at(counts, (batch.mask.numpy().ravel(), module.eval()(batch.image).numpy().ravel()), 1)
    assert watch.trained[-1]["val/miou"] == pytest.approx(iou_of_learned(counts, [4], background=None)[4])


def test_forgetting_is_measured_experience_by_experience_from_iou_per_class(run):
    metrics, matrix = run[4], run[5]
    classes = matrix.matrix[:, 1:]
    expected = np.stack([classes[:, :2].mean(1), classes[:, 2], classes[:, 3]], axis=1)
    np.testing.assert_allclose(metrics.matrix, expected, atol=1e-6)


def test_the_matrix_has_the_mean_over_steps(run):
    expected = np.mean([logged["segmentation/miou_all"] for logged in run[3].logged])
    assert run[5].summary_metrics()["segmentation/average_over_steps"] == pytest.approx(expected)


def test_what_it_costs_is_known(run):
    table = (run[0] / "cost.csv").read_text().splitlines()
    names = table[0].split(",")
    for row in table[1:]:
        values = dict(zip(names, row.split(","), strict=True))
        assert float(values["gmacs_per_image"]) > 0
        assert float(values["forwards_per_image"]) == 1
        assert float(values["parameters_trainable"]) > 0


class Stops(pl.Callback):
    """Ends the run in mid-experience, as a fault does."""

    def __init__(self, experience, step):
        self.at = (experience, step)

    def on_train_batch_end(self, trainer, *args):
        if (trainer.datamodule.current, trainer.global_step) == self.at:
            raise KeyError("stopped here")


@pytest.mark.parametrize(("method", "experience"), [(MiB, 0), (MiB, 1), (BARM, 2)])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_that_stops_in_mid_experience_ends_with_the_same_hash(method, experience, run, tmp_path):
    def learn(folder, *callbacks, ckpt_path=None):
        module = segmenter(method, base_epochs=3, increment_lr=0.004)
        saving = ModelCheckpoint(every_n_train_steps=2)
        trainer = trainer_for(folder, max_epochs=2, callbacks=[saving, *callbacks])
        fit_stream(trainer, module, SmallStream(val_fraction=0.2), ckpt_path=ckpt_path)
        return weights_sha256(module.method)

    with pytest.raises(KeyError, match="stopped here"):
        learn(tmp_path, Stops(experience, 3))  # the checkpoint of step 2 holds a teacher, but for the first experience
    expected = weights_sha256(run[1].method) if method is MiB else learn(tmp_path / "whole")
    assert learn(tmp_path, ckpt_path=latest_checkpoint(tmp_path)) == expected


def test_a_run_that_goes_on_after_an_experience_ends_as_if_it_had_not_stopped(run, tmp_path):
    folder, module, _, _, _, matrix = run
    resumed, again = segmenter(MiB, base_epochs=3, increment_lr=0.004), SegmentationMatrix(plots=False)
    checkpoint = folder / "checkpoints" / "experience_2" / "end.ckpt"
    trainer = trainer_for(tmp_path, max_epochs=2, callbacks=[again])
    fit_stream(trainer, resumed, SmallStream(val_fraction=0.2), ckpt_path=checkpoint)
    assert weights_sha256(resumed.method) == weights_sha256(module.method)
    np.testing.assert_array_equal(again.matrix, matrix.matrix)
    assert resumed.class_names == ("red", "green", "blue", "yellow")


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_finished_checkpoint_is_evaluated_and_predicts_without_the_run(run, tmp_path):
    folder, module, _, watch, _, _ = run
    checkpoint = folder / "checkpoints" / "experience_3" / "end.ckpt"
    fresh, stream = segmenter(MiB), SmallStream(val_fraction=0.2)
    callbacks = [ForgettingMetrics("test/iou_{}", verbose=False, plots=False), SegmentationMatrix(plots=False)]
    trainer = trainer_for(tmp_path, callbacks=[*callbacks, TrainingCost()])
    trainer.test(fresh, datamodule=stream, ckpt_path=checkpoint, verbose=False)
    assert torch.equal(fresh.test_confusion, module.test_confusion)
    assert trainer.callback_metrics["segmentation/hiou"] == pytest.approx(watch.logged[-1]["segmentation/hiou"])
    batches = trainer.predict(fresh, datamodule=stream)
    assert torch.cat([one["index"] for one in batches]).tolist() == list(range(7))
    assert {label for one in batches for label in one["labels"].unique().tolist()} <= {0, 1, 2, 3, 4}


def test_a_checkpoint_of_another_model_or_method_is_refused(run):
    held = torch.load(run[0] / "checkpoints" / "experience_3" / "end.ckpt", weights_only=True)
    with pytest.raises(ConfigError, match="MiB, but FineTuning"):
        segmenter(FineTuning).on_load_checkpoint(held)
    with pytest.raises(ConfigError, match="none of an IncrementalSegmenter"):
        segmenter(MiB).on_load_checkpoint({"state_dict": {}})


def test_checkpoints_hold_no_training_picture_and_one_that_does_is_not_written(run, tmp_path):
    assert '"exemplar_free": true' in (run[0] / "exemplar_free.json").read_text()
    stream, module = SmallStream(), segmenter(FineTuning)
    stream.setup()
    module.register_buffer("kept", stream.train_source.image(int(stream.experiences[0].train[0])))
    with pytest.raises(PrivacyError, match="training"):
        fit_stream(trainer_for(tmp_path, max_steps=1, callbacks=[ExemplarFree()]), module, stream)


def test_names_of_crops_are_others(tmp_path):
    stream, module = SmallStream(evaluation="crop"), segmenter(FineTuning)
    matrix = SegmentationMatrix(plots=False)
    trainer = trainer_for(tmp_path, max_steps=1, callbacks=[matrix], enable_checkpointing=False)
    fit_stream(trainer, module, stream)
    names = set(trainer.callback_metrics)
    assert {"test_crop/iou_0", "test_crop/iou_4", "segmentation_crop/miou_all", "segmentation_crop/hiou"} <= names
    assert not names & {"test/iou_0", "segmentation/miou_all", "segmentation/hiou"}
    assert "segmentation_crop/average_over_steps" in matrix.summary_metrics()
    assert module.test_confusion.sum() == 7 * 12 * 12


class NoBackground(SmallStream):
    """The same pictures; what was background is void."""

    has_background = False

    def prepare_sources(self):
        super().prepare_sources()
        for source in (self.train_source, self.test_source):
            source._masks[source._masks == 0] = 255


def test_without_a_background_there_is_no_iou_of_it_and_one_kind_of_mean(tmp_path):
    module = segmenter(FineTuning)
    trainer = trainer_for(tmp_path, max_steps=1, enable_checkpointing=False)
    fit_stream(trainer, module, NoBackground())
    names = {name for name in trainer.callback_metrics if name.startswith(("segmentation/", "test/"))}
    means = {"miou_old", "miou_new", "miou_all", "hiou", "parameters"}
    assert names == {f"test/iou_{label}" for label in (1, 2, 3, 4)} | {f"segmentation/{name}" for name in means}


class NeverFindsTheLast(pl.Callback):
    def on_test_start(self, trainer, pl_module):
        if len(pl_module.learned) == 3:
            pl_module.method.head.layers[-1].bias.data.fill_(-1e4)


@pytest.mark.parametrize("absent", ["skip", "zero"])
def test_a_class_that_is_neither_there_nor_found_is_skipped_unless_asked(tmp_path, absent):
    module, stream = segmenter(FineTuning, absent=absent), SmallStream()
    stream.setup()
    stream.test_source._masks[stream.test_source._masks == 4] = 255
    trainer = trainer_for(tmp_path, max_steps=1, enable_checkpointing=False, callbacks=[NeverFindsTheLast()])
    fit_stream(trainer, module, stream)
    values = [float(trainer.callback_metrics[f"test/iou_{label}"]) for label in range(5)]
    assert values[4] == 0 if absent == "zero" else math.isnan(values[4])
    counted = values if absent == "zero" else values[:4]
    assert trainer.callback_metrics["segmentation/miou_all"] == pytest.approx(np.mean(counted))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"poly_power": 0}, "model.poly_power"),
        ({"increment_lr": -1.0}, "model.increment_lr"),
        ({"base_epochs": 0}, "model.base_epochs"),
        ({"absent": "one"}, "model.absent"),
    ],
)
def test_a_wrong_setting_is_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        IncrementalSegmenter(SmallNetwork(), **settings)


def test_the_default_optimizer_is_that_of_the_field(tmp_path):
    module = IncrementalSegmenter(SmallNetwork(), poly_power=None)
    seen = copy.copy(module)
    fit_stream(trainer_for(tmp_path, max_steps=1, enable_checkpointing=False), module, SmallStream())
    optimizer = seen._optimizer([torch.nn.Parameter(torch.zeros(1))])
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (1e-2, 0.9, True, 1e-4)
