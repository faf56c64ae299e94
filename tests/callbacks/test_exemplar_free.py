"""ExemplarFree in runs that hide training images somewhere, and in honest ones."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks.exemplar_free import ExemplarFree
from pvision.continual.experience import Experience
from pvision.continual.replay import ReservoirMemory
from pvision.errors import ConfigError, PrivacyError

IMAGES = torch.randint(256, (80, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
HIDDEN = slice(20, 40)


def prepared(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.5) / torch.tensor([0.2, 0.3, 0.4]).reshape(3, 1, 1)


class Net(pl.LightningModule):
    """Somebody's module. Trained in batches, its first layer's gradients are sums over images."""

    def __init__(self, note: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layers(batch[0]).square().mean()

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("score", 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


class InBuffer(Net):
    def on_train_batch_end(self, outputs: Any, batch: list[Tensor], batch_idx: int) -> None:
        if not hasattr(self, "kept"):
            self.register_buffer("kept", prepared(IMAGES[HIDDEN]).half())


class InOptimizer(Net):
    def on_train_batch_end(self, outputs: Any, batch: list[Tensor], batch_idx: int) -> None:
        weight = self.layers[0].weight
        self.optimizers().optimizer.state[weight]["memory"] = prepared(IMAGES[HIDDEN]).permute(0, 2, 3, 1).clone()


class InCheckpointHook(Net):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["extra"] = {"deep": [IMAGES[HIDDEN].numpy().tobytes()]}


class InFolder(Net):
    def on_train_end(self) -> None:
        folder = Path(self.trainer.loggers[0].log_dir) / "notes"
        folder.mkdir(parents=True)
        np.savez_compressed(folder / "data.npz", x=IMAGES[HIDDEN].numpy())


class AtTest(Net):
    def on_test_end(self) -> None:
        torch.save(prepared(IMAGES[HIDDEN]), Path(self.trainer.loggers[0].log_dir) / "seen.pt")


class Hoards(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"images": list(prepared(IMAGES[HIDDEN]).bfloat16())}


def loader(images: Tensor = IMAGES) -> DataLoader:
    return DataLoader(TensorDataset(prepared(images)), batch_size=40)


def trainer(*callbacks: Callback, **changes: Any) -> pl.Trainer:
    settings = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": CSVLogger("logs"),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**settings, **changes})


def report() -> dict[str, Any]:
    (path,) = Path("logs").rglob("exemplar_free.json")
    return json.loads(path.read_text())


def checkpoints() -> list[Path]:
    return list(Path().rglob("*.ckpt"))


GUILTY: dict[str, tuple[Any, str]] = {
    "buffer": (InBuffer, r"in state_dict\.kept \(row 0 of a float16 tensor"),
    "optimizer": (InOptimizer, r"in optimizer_states\[0\]\.state\.0\.memory .*pixels in order H, W, C"),
    "hyper-parameters": (lambda: Net(note={"mean": IMAGES[HIDDEN].clone()}), r"in hyper_parameters\.note\.mean"),
    "checkpoint hook": (InCheckpointHook, r"in extra\.deep\[0\] \(a run of uint8 pixels\)"),
}


@pytest.mark.parametrize("way", GUILTY)
def test_a_checkpoint_with_training_pixels_is_refused_before_it_is_written(way: str) -> None:
    module, where = GUILTY[way]
    callback = ExemplarFree(images=IMAGES)
    with pytest.raises(PrivacyError, match=f"would hold training pixels and is not written: .*{where}"):
        trainer(callback, ModelCheckpoint()).fit(module(), loader())
    assert checkpoints() == []
    assert report()["exemplar_free"] is False
    assert {finding["position"] for finding in report()["findings"]} == set(range(20, 40))
    assert callback.summary_metrics() == {"continual/exemplar_free": 0.0}


@pytest.mark.parametrize("way", GUILTY)
def test_without_the_search_the_same_runs_pass(way: str) -> None:
    trainer(ModelCheckpoint()).fit(GUILTY[way][0](), loader())
    assert len(checkpoints()) == 1


def test_the_state_of_other_callbacks_is_searched() -> None:
    with pytest.raises(PrivacyError, match=r"in callbacks\.Hoards\.images\[0\] \(row 0 of a bfloat16 tensor"):
        trainer(ExemplarFree(images=IMAGES), Hoards(), ModelCheckpoint()).fit(Net(), loader())
    assert checkpoints() == []


def test_weights_alone_are_searched_too() -> None:
    with pytest.raises(PrivacyError, match=r"state_dict\.kept"):
        trainer(ExemplarFree(images=IMAGES), ModelCheckpoint(save_weights_only=True)).fit(InBuffer(), loader())
    assert checkpoints() == []


def test_a_checkpoint_that_is_saved_by_hand_after_the_run_is_refused() -> None:
    one, module = trainer(ExemplarFree(images=IMAGES), enable_checkpointing=False), InBuffer()
    one.fit(module, loader())
    with pytest.raises(PrivacyError, match=r"the checkpoint would hold training pixels"):
        one.save_checkpoint("late.ckpt")
    assert checkpoints() == []


def test_the_gradient_of_one_image_in_the_optimizer_is_named_as_what_it_is() -> None:
    class Pixels(Net):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))

    single = DataLoader(TensorDataset(prepared(IMAGES[:1])), batch_size=1)
    with pytest.raises(
        PrivacyError, match=r"exp_avg .* a layer's gradient by one image is that image: save weights only"
    ):
        trainer(ExemplarFree(images=IMAGES), ModelCheckpoint()).fit(Pixels(), single)


def test_a_file_in_the_folder_fails_the_run_at_its_end() -> None:
    with pytest.raises(PrivacyError, match=r"its folder holds training pixels: training image 20 in .*data\.npz"):
        trainer(ExemplarFree(images=IMAGES)).fit(InFolder(), loader())
    assert report()["exemplar_free"] is False


def test_a_file_that_a_test_writes_fails_the_test() -> None:
    callback, module = ExemplarFree(images=IMAGES), AtTest()
    one = trainer(callback)
    one.fit(module, loader())
    assert callback.summary_metrics() == {"continual/exemplar_free": 1.0}
    with pytest.raises(PrivacyError, match=r"seen\.pt"):
        one.test(module, loader(), verbose=False)


def test_a_checkpoint_folder_elsewhere_is_searched() -> None:
    class Elsewhere(Net):
        def on_train_end(self) -> None:
            Path("elsewhere/x.raw").write_bytes(IMAGES[3].numpy().tobytes())

    with pytest.raises(PrivacyError, match=r"training image 3 in .*elsewhere/x\.raw"):
        trainer(ExemplarFree(images=IMAGES), ModelCheckpoint(dirpath="elsewhere")).fit(Elsewhere(), loader())


def test_an_honest_run_passes_and_says_what_was_searched() -> None:
    callback = ExemplarFree(images=[*IMAGES, torch.zeros(3, 8, 8)])
    one, module = trainer(callback, ModelCheckpoint(), max_epochs=2), Net()
    one.fit(module, loader())
    one.test(module, loader(), verbose=False)
    assert len(checkpoints()) == 1
    assert callback.summary_metrics() == {"continual/exemplar_free": 1.0}
    told = report()
    assert told["exemplar_free"] is True
    assert told["findings"] == []
    assert (told["training_images"], told["images_searched_for"], told["images_without_content"]) == (81, 80, 1)
    assert told["tensors"] > 10
    assert told["files"] > 0
    assert told["unread"] == []
    assert any("augmented" in limit for limit in told["cannot_see"])
    assert "save_checkpoint" not in vars(one.strategy)


def test_images_in_floating_point_serve_as_well() -> None:
    with pytest.raises(PrivacyError, match=r"state_dict\.kept"):
        trainer(ExemplarFree(images=prepared(IMAGES)), ModelCheckpoint()).fit(InBuffer(), loader())


def test_a_part_of_a_large_training_set_is_searched_for() -> None:
    callback = ExemplarFree(images=IMAGES, max_images=30)
    with pytest.raises(PrivacyError, match=r"state_dict\.kept"):
        trainer(callback, ModelCheckpoint()).fit(InBuffer(), loader())
    assert report()["images_searched_for"] == 30
    assert 0 < len(report()["findings"]) < 20


def test_a_trial_run_leaves_nothing() -> None:
    trainer(ExemplarFree(images=IMAGES), ModelCheckpoint(), fast_dev_run=True).fit(InBuffer(), loader())
    assert not list(Path().rglob("*.json"))


def test_unknown_training_images_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"has to know the training images.*Give it images="):
        trainer(ExemplarFree()).fit(Net(), loader())


def test_files_from_before_a_run_without_a_logger_are_not_its_own() -> None:
    Path("data.raw").write_bytes(IMAGES.numpy().tobytes())
    os.utime("data.raw", (1, 1))
    trainer(ExemplarFree(images=IMAGES), logger=False, enable_checkpointing=False).fit(Net(), loader())
    Path("data.raw").write_bytes(IMAGES.numpy().tobytes())
    one = trainer(callback := ExemplarFree(images=IMAGES), logger=False, enable_checkpointing=False)
    callback._began = 0.0
    with pytest.raises(PrivacyError, match=r"data\.raw"):
        one.fit(Net(), loader())


class Source:
    def __len__(self) -> int:
        return len(IMAGES)

    def image(self, position: int) -> Tensor:
        return IMAGES[position].clone()


@dataclass
class Prepares:
    side: int = 8
    calls: list[int] = field(default_factory=list)

    def eval(self, image: Tensor) -> Tensor:
        self.calls.append(1)
        return prepared(nn.functional.interpolate(image[None].float(), (self.side, self.side), mode="bilinear")[0])


class Stream(pl.LightningDataModule):
    """As much of a pvision stream as the callback asks for."""

    def __init__(self, side: int = 8, replay: Any = None) -> None:
        super().__init__()
        self.preprocessing, self.replay, self.current = Prepares(side), replay, 0
        parts = np.arange(80).reshape(4, 20)
        self.experiences = [
            Experience(k, "forget" if k == 2 else "learn", f"e{k}", (k,), train=part[:15], val=part[15:])
            for k, part in enumerate(parts)
        ]

    def setup(self, stage: str) -> None:
        self.train_source = Source()

    def train_dataloader(self) -> DataLoader:
        return loader(IMAGES[self.experiences[self.current].train])


def test_in_a_stream_the_images_so_far_are_searched_for() -> None:
    callback, stream = ExemplarFree(), Stream()
    trainer(callback, ModelCheckpoint()).fit(Net(), datamodule=stream)
    assert (report()["training_images"], report()["images_searched_for"]) == (60, 20)
    stream.current = 1
    with pytest.raises(PrivacyError, match="training image 20 "):
        trainer(callback, ModelCheckpoint()).fit(InBuffer(), datamodule=stream)
    assert callback._search.searched.images == 40


def test_in_a_stream_with_a_resize_the_prepared_images_are_searched_for_too() -> None:
    class Resized(Net):
        def on_train_start(self) -> None:
            self.register_buffer("kept", torch.stack([self.trainer.datamodule.preprocessing.eval(IMAGES[7])]))

    with pytest.raises(PrivacyError, match=r"training image 7 in state_dict\.kept .*as prepared for training"):
        trainer(ExemplarFree(), ModelCheckpoint()).fit(Resized(), datamodule=Stream(side=12))


def test_a_stream_that_replays_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"the stream replays from ReservoirMemory\(size=5\)"):
        trainer(ExemplarFree()).fit(Net(), datamodule=Stream(replay=ReservoirMemory(5)))


class RawBytes(Net):
    def on_train_end(self) -> None:
        folder = Path(self.trainer.loggers[0].log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cache").write_bytes(b"head" + IMAGES[HIDDEN].numpy().tobytes())


def test_bytes_are_found_of_images_that_were_given_as_fractions() -> None:
    callback = ExemplarFree(images=IMAGES / 255)
    with pytest.raises(PrivacyError, match=r"cache \(a run of uint8 pixels\)"):
        trainer(callback, enable_checkpointing=False).fit(RawBytes(), loader())
