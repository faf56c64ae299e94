"""ModalityDetector: nothing but the adaptation is trained, checkpoints, scores before and after, bad input."""

import copy
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from small_detectors import small_fcos
from small_scenes import SmallScenes

from pvision.callbacks import ForgettingMetrics, FrozenGuard
from pvision.detection import (
    DetectorLoRA,
    FineTuning,
    FixedRange,
    ImageInput,
    ModalityTranslator,
    WiSEFineTuning,
    ZeroShot,
)
from pvision.errors import ConfigError
from pvision.modules import ModalityDetector
from pvision.weights_hash import weights_sha256

LWIR = partial(ImageInput, 1, scaling=FixedRange(29_000, 30_000))
DEPTH = partial(ImageInput, 2, scaling=FixedRange(29_000, 30_000))


def module_with(adaptation=None, *, modality="lwir", image_input=None, lr=1e-2):
    torch.manual_seed(5)
    adaptation = adaptation() if callable(adaptation) and not isinstance(adaptation, torch.nn.Module) else adaptation
    return ModalityDetector(
        small_fcos(),
        modality=modality,
        input=image_input or LWIR(),
        adaptation=adaptation or ModalityTranslator(1, network="tiny"),
        optimizer=partial(torch.optim.AdamW, lr=lr),
    )


def trainer_with(tmp_path, *callbacks, epochs=1, **settings):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **{"enable_checkpointing": False, **settings},
    )


def rgb_images():
    data = SmallScenes()
    data.setup()
    return data.test_sets["rgb"][list(range(7))].images


def same(one, other):
    return all(
        torch.equal(mine[name], yours[name])
        for mine, yours in zip(one, other, strict=True)
        for name in ("boxes", "scores", "labels")
    )


def test_training_changes_the_translator_and_not_one_bit_of_the_detector(tmp_path):
    module = module_with()
    detector, translator = weights_sha256(module.detector), weights_sha256(module.adaptation)
    before = module(rgb_images(), "rgb")
    trainer_with(tmp_path, FrozenGuard(every_n_steps=1)).fit(module, datamodule=SmallScenes())
    assert weights_sha256(module.detector) == detector
    assert weights_sha256(module.adaptation) != translator
    assert same(module(rgb_images(), "rgb"), before)


def test_fine_tuning_changes_the_detector_and_what_it_finds_in_rgb(tmp_path):
    module = module_with(FineTuning())
    detector, before = weights_sha256(module.detector), module(rgb_images(), "rgb")
    assert module.frozen_modules() == {}
    trainer_with(tmp_path).fit(module, datamodule=SmallScenes())
    assert weights_sha256(module.detector) != detector
    assert not same(module(rgb_images(), "rgb"), before)


def test_the_detector_without_its_evaluation_mode_is_caught(tmp_path):
    class Forgetful(ModalityDetector):
        def on_train_batch_start(self, batch, batch_idx):
            for part in self.detector.modules():
                part.training = True

    module = module_with()
    module.__class__ = Forgetful
    with pytest.raises(ConfigError, match="detector"):
        trainer_with(tmp_path, FrozenGuard()).fit(module, datamodule=SmallScenes())


def test_the_test_scores_both_modalities_now_and_before(tmp_path):
    module = module_with()
    trainer = trainer_with(tmp_path)
    trainer.fit(module, datamodule=SmallScenes())
    trainer.test(module, datamodule=SmallScenes(), verbose=False)
    metrics = trainer.callback_metrics
    for name in ("map", "map_50", "map_75"):
        for which in ("new", "rgb"):
            assert {f"detection/{name}_{which}", f"detection/{name}_{which}_before"} <= metrics.keys()
    assert metrics["detection/map_rgb"] == metrics["detection/map_rgb_before"]
    assert {"test/map/dataloader_idx_0", "test/map/dataloader_idx_1"} <= metrics.keys()
    assert metrics["test/map/dataloader_idx_0"] == pytest.approx(float(metrics["detection/map_new"]), nan_ok=True)


def test_before_is_the_detector_as_it_was_given_whatever_training_did(tmp_path):
    module = module_with(FineTuning())
    untrained = trainer_with(tmp_path)
    untrained.test(module_with(ZeroShot()), datamodule=SmallScenes(), verbose=False)
    trainer = trainer_with(tmp_path)
    trainer.fit(module, datamodule=SmallScenes())
    trainer.test(module, datamodule=SmallScenes(), verbose=False)
    for name in ("detection/map_new", "detection/map_rgb"):
        expected = float(untrained.callback_metrics[name])
        assert float(trainer.callback_metrics[f"{name}_before"]) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_scores_do_not_depend_on_the_batch_size(tmp_path, size):
    module = module_with()
    found = []
    for batch in (size, 3):
        trainer = trainer_with(tmp_path)
        trainer.test(module, datamodule=SmallScenes(eval_batch_size=batch), verbose=False)
        found.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert found[0] == pytest.approx(found[1], abs=1e-6, nan_ok=True)


def test_every_image_is_scored(tmp_path):
    seen = []

    class Counting(pl.Callback):
        def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            seen.extend((batch.modality, name) for name in batch.names)

    trainer_with(tmp_path, Counting()).test(module_with(), datamodule=SmallScenes(eval_batch_size=4), verbose=False)
    assert sorted(seen) == sorted((modality, f"test/{n}") for modality in ("lwir", "rgb") for n in range(7))


def test_predictions_do_not_change_when_targets_are_permuted():
    module = module_with()
    data = SmallScenes()
    data.setup()
    batch = data.test_sets["lwir"][[0, 1, 2]]
    permuted = batch._replace(targets=[batch.targets[place] for place in (2, 0, 1)])
    one, other = (module.predict_step(each, 0)["predictions"] for each in (batch, permuted))
    assert same(one, other)
    assert sum(len(found["boxes"]) for found in one) > 0


def test_the_same_seed_gives_the_same_translator(tmp_path):
    hashes = set()
    for _ in range(2):
        module = module_with()
        trainer_with(tmp_path).fit(module, datamodule=SmallScenes())
        hashes.add(weights_sha256(module.adaptation))
    assert len(hashes) == 1


def test_a_checkpoint_holds_the_translator_and_only_the_hash_of_the_detector(tmp_path):
    module = module_with()
    trainer = trainer_with(tmp_path, FrozenGuard())
    trainer.fit(module, datamodule=SmallScenes())
    path = tmp_path / "end.ckpt"
    trainer.save_checkpoint(path)
    held = torch.load(path, weights_only=True)
    assert not [name for name in held["state_dict"] if "detector" in name]
    assert held["modality_detector"]["detector_sha256"] == weights_sha256(module.detector)
    fresh = module_with()
    trainer_with(tmp_path, FrozenGuard()).test(
        fresh, datamodule=SmallScenes(), ckpt_path=path, verbose=False, weights_only=True
    )
    assert weights_sha256(fresh) == weights_sha256(module)


def test_another_detector_cannot_take_a_checkpoint(tmp_path):
    module = module_with()
    trainer = trainer_with(tmp_path)
    trainer.fit(module, datamodule=SmallScenes())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    other = module_with()
    with torch.no_grad():
        next(other.detector.parameters()).add_(1)
    with pytest.raises(ConfigError, match="sha256"):
        trainer_with(tmp_path).test(
            other, datamodule=SmallScenes(), ckpt_path=tmp_path / "end.ckpt", verbose=False, weights_only=True
        )


@pytest.mark.parametrize("adaptation", [partial(ModalityTranslator, 1, network="tiny"), FineTuning, WiSEFineTuning])
def test_a_resumed_run_ends_as_one_without_a_break(tmp_path, adaptation):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "broken.ckpt")
                raise KeyError("as if killed")

    whole = module_with(adaptation)
    trainer_with(tmp_path, epochs=2).fit(whole, datamodule=SmallScenes(flip=True))
    with pytest.raises(KeyError):
        trainer_with(tmp_path, Stop(), epochs=2).fit(module_with(adaptation), datamodule=SmallScenes(flip=True))
    resumed = module_with(adaptation)
    trainer_with(tmp_path, epochs=2).fit(
        resumed, datamodule=SmallScenes(flip=True), ckpt_path=tmp_path / "broken.ckpt", weights_only=True
    )
    assert weights_sha256(resumed) == weights_sha256(whole)


def test_weights_are_interpolated_once_whoever_asks(tmp_path):
    tuned, halved = module_with(WiSEFineTuning(interpolation=1.0)), module_with(WiSEFineTuning(interpolation=0.5))
    given = copy.deepcopy(halved.detector.state_dict())
    for module in (tuned, halved):
        trainer = trainer_with(tmp_path)
        trainer.fit(module, datamodule=SmallScenes())
        trainer.test(module, datamodule=SmallScenes(), verbose=False)
    found, whole = halved.detector.state_dict(), tuned.detector.state_dict()
    for name, before in given.items():
        if before.is_floating_point():
            assert torch.allclose(found[name], (before + whole[name]) / 2, atol=1e-6), name


def test_a_second_modality_leaves_the_first_as_it_is(tmp_path):
    module, forgetting = module_with(), ForgettingMetrics("test/map", plots=False, verbose=False)
    first, second = SmallScenes(), SmallScenes("depth")
    trainer_with(tmp_path, FrozenGuard(), forgetting).fit(module, datamodule=first)
    trainer_with(tmp_path, FrozenGuard(), forgetting).test(module, [first.test_dataloader()[0]], verbose=False)
    before = weights_sha256(module.router.adaptations["lwir"])
    images = first.test_sets["lwir"][[0, 1]].images
    found = module(images, "lwir")
    module.learn("depth", DEPTH(), ModalityTranslator(2, network="tiny"))
    trainer_with(tmp_path, FrozenGuard(), forgetting).fit(module, datamodule=second)
    loaders = [first.test_dataloader()[0], second.test_dataloader()[0]]
    trainer_with(tmp_path, FrozenGuard(), forgetting).test(module, loaders, verbose=False)
    assert weights_sha256(module.router.adaptations["lwir"]) == before
    assert same(module(images, "lwir"), found)
    assert forgetting.matrix.shape == (2, 2)
    assert forgetting.matrix[1, 0] == forgetting.matrix[0, 0]
    assert forgetting.values()["continual/forgetting"] == 0


def test_rgb_itself_can_be_trained_but_not_translated(tmp_path):
    rgb = ImageInput(3, scaling=FixedRange(0, 255))
    module = module_with(FineTuning(3, norm="train"), modality="rgb", image_input=rgb)
    before = weights_sha256(module.detector)
    trainer_with(tmp_path).fit(module, datamodule=SmallScenes("rgb"))
    assert weights_sha256(module.detector) != before
    with pytest.raises(ConfigError, match="'rgb'"):
        module_with(ModalityTranslator(3, network="tiny"), modality="rgb", image_input=rgb)


def test_what_does_not_fit_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.modality"):
        trainer_with(tmp_path).fit(module_with(), datamodule=SmallScenes("depth"))
    with pytest.raises(ConfigError, match="pvision test"):
        trainer_with(tmp_path).fit(module_with(ZeroShot()), datamodule=SmallScenes())
    strange = SmallScenes()
    strange.class_names = ("person", "unicorn")
    with pytest.raises(ConfigError, match="unicorn"):
        trainer_with(tmp_path).fit(module_with(), datamodule=strange)


@pytest.mark.parametrize("adaptation", [DetectorLoRA, partial(WiSEFineTuning, interpolation=0.3)])
def test_a_test_before_training_changes_nothing_and_training_goes_on_from_there(tmp_path, adaptation):
    module = module_with(adaptation)
    before = weights_sha256(module.detector)
    trainer_with(tmp_path).test(module, datamodule=SmallScenes(), verbose=False)
    assert weights_sha256(module.detector) == before
    trainer_with(tmp_path).fit(module, datamodule=SmallScenes())
    assert weights_sha256(module.detector) != before


def test_a_frozen_detector_takes_no_weights_from_a_checkpoint(tmp_path):
    tuned = module_with(FineTuning())
    trainer = trainer_with(tmp_path)
    trainer.fit(tuned, datamodule=SmallScenes())
    trainer.save_checkpoint(tmp_path / "tuned.ckpt")
    module = module_with(ZeroShot())
    before = weights_sha256(module.detector)
    with pytest.raises(ConfigError, match="frozen"):
        trainer_with(tmp_path).test(
            module, datamodule=SmallScenes(), ckpt_path=tmp_path / "tuned.ckpt", verbose=False, weights_only=True
        )
    assert weights_sha256(module.detector) == before


def test_validation_alone_measures_what_the_test_measures(tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / "tuned.ckpt")

    module = module_with(WiSEFineTuning(interpolation=0.5))
    trainer_with(tmp_path, Stop(), max_steps=1).fit(module, datamodule=SmallScenes())
    fresh = module_with(WiSEFineTuning(interpolation=0.5))
    trainer_with(tmp_path).validate(
        fresh, datamodule=SmallScenes(), ckpt_path=tmp_path / "tuned.ckpt", verbose=False, weights_only=True
    )
    assert weights_sha256(fresh.detector) == weights_sha256(module.detector)


def test_a_refused_modality_leaves_the_last_one_in_training():
    module = module_with()
    with pytest.raises(ConfigError, match="known already"):
        module.learn("lwir", LWIR(), ModalityTranslator(1, network="tiny"))
    assert module.trained_parameters() == list(module.adaptation.parameters())


def test_loaders_without_a_data_module_get_names_of_their_own(tmp_path):
    module, data = module_with(), SmallScenes()
    trainer = trainer_with(tmp_path)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.test(module, [data.test_dataloader()[0]], verbose=False)  # Lightning still knows the data module
    assert "detection/map_loader_0" in trainer.callback_metrics
    assert "detection/map_rgb" not in trainer.callback_metrics


def test_rgb_takes_no_other_input():
    with pytest.raises(ConfigError, match=r"model\.input"):
        module_with(FineTuning(3), modality="rgb", image_input=ImageInput(3, scaling=FixedRange(0, 1)))
