"""Fingerprints, and one data module in several processes."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F

from pvision.callbacks import PredictionWriter
from pvision.datamodules import Boxes, FixedRegions, MaskArrays, MocapActions, VideoFolder
from pvision.datamodules.mask_source import MaskSource
from pvision.datamodules.records import TensorRecords
from pvision.datamodules.video import VideoDataModule
from pvision.errors import ConfigError, DataError
from pvision.privacy import Redaction


class Numbers(VideoDataModule):
    """Records whose pixels say their position."""

    def __init__(self, train=30, evaluated=11, *, redaction=None, names=None, pixel=0, label=0, **settings):
        super().__init__(**{"batch_size": 8, "eval_batch_size": 3, **settings})
        self.train, self.evaluated, self.redaction = train, evaluated, redaction or Redaction("inside")
        self.names, self.pixel, self.label = names, pixel, label

    def prepare_sets(self):
        self.class_names = ["a", "b"]
        self.train_set = self.make(self.train, self.names)
        self.val_set, self.test_set = self.make(self.evaluated), self.make(self.evaluated)
        self.pretraining_set = self.make(7)

    def make(self, count, names=None):
        video = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 1, 2, 2, 3) + self.pixel
        mask = torch.zeros(count, 1, 2, 2, dtype=torch.bool)
        return TensorRecords(video, mask, torch.full((count,), self.label), self.redaction, names=names)

    def identity(self):
        return {"redaction": vars(self.redaction)}


class FakeStrategy:
    """What rank 0 says reaches everybody; everybody agrees if this one does."""

    def __init__(self, first=None):
        self.first = first

    def broadcast(self, value):
        return value if self.first is None else self.first

    def reduce_boolean_decision(self, decision, all=True):  # Lightning's name
        return decision


def share(data, rank, world_size, first=123):
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, strategy=FakeStrategy(first), lightning_module=None
    )
    return data


def ready(*args, **settings):
    data = Numbers(*args, **settings)
    data.setup()
    return data


def flat(batches):
    return [position for batch in batches for position in batch]


def positions(loader):
    return [getattr(batch, "public", batch).position.tolist() for batch in loader]


# Sharing


@pytest.mark.parametrize("which", ["public_loader", "full_loader", "train_dataloader"])
def test_processes_share_one_shuffle_whatever_their_own_seeds_are(which):
    parts = []
    for rank in range(2):
        torch.manual_seed(rank)
        parts.append(positions(getattr(share(ready(), rank, 2), which)()))
    assert [len(batch) for batch in parts[0]] == [len(batch) for batch in parts[1]] == [4, 4, 4, 3]
    assert sorted(flat(parts[0] + parts[1])) == list(range(30))


def test_the_next_loader_has_another_shuffle():
    data = ready()
    loaders = [positions(share(data, 0, 2, first=seed).public_loader()) for seed in (1, 2)]
    assert loaders[0] != loaders[1]


def test_without_the_broadcast_the_shares_would_overlap():
    """The control: two ranks that draw shuffles of their own see records twice and others never."""
    parts = [positions(share(ready(), rank, 2, first=rank).public_loader()) for rank in range(2)]
    assert sorted(flat(parts[0] + parts[1])) != list(range(30))


@pytest.mark.parametrize("which", ["val_dataloader", "test_dataloader", "predict_dataloader"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_record_once(which, world_size):
    parts = [positions(getattr(share(ready(), rank, world_size), which)()) for rank in range(world_size)]
    assert [flat(part) for part in parts] == [list(range(11))[rank::world_size] for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1


def test_what_is_given_and_what_must_be_whole_is_the_same_everywhere():
    given = [[3, 1], [], [2]]
    data = share(ready(), 1, 2)
    assert positions(data.two_view_loader(given)) == given
    assert flat(positions(data.two_view_loader())) == list(range(30))
    assert flat(positions(data.public_in_order_loader())) == list(range(30))
    assert flat(positions(data.pretraining_loader())) == list(range(7))


def test_chosen_records_of_the_public_view():
    assert sorted(flat(positions(ready().public_loader([4, 9, 2])))) == [2, 4, 9]


def test_processes_that_found_other_clips_are_refused():
    first = ready(names=[f"{n}.mp4" for n in range(30)]).fingerprint()
    share(Numbers(names=[f"{n}.mp4" for n in range(30)]), 1, 2, first).setup()
    with pytest.raises(DataError, match=r"2 processes.*found different training clips, here 29"):
        share(Numbers(29, names=[f"{n}.mp4" for n in range(29)]), 1, 2, first).setup()


def test_a_process_that_was_set_up_before_it_had_a_trainer_takes_part_in_the_agreement():
    """Otherwise the others, which were not, would wait for it for ever."""
    first = ready(names=[f"{n}.mp4" for n in range(30)]).fingerprint()
    data = ready(29, names=[f"{n}.mp4" for n in range(29)])
    with pytest.raises(DataError, match="found different training clips"):
        share(data, 1, 2, first).setup()


# Fingerprints


def test_equal_data_has_an_equal_fingerprint():
    assert ready().fingerprint() == ready().fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", ready().fingerprint())


@pytest.mark.parametrize(
    "other",
    [
        {"train": 29},
        {"redaction": Redaction("outside")},
        {"redaction": Redaction("inside", dilate=1)},
        {"names": [str(29 - n) for n in range(30)]},
    ],
)
def test_other_data_has_another_fingerprint(other):
    assert ready(**other).fingerprint() != ready().fingerprint()


@pytest.mark.parametrize("private", [{"pixel": 7}, {"label": 1}, {"batch_size": 2}, {"evaluated": 5}])
def test_no_pixel_or_label_is_covered(private):
    assert ready(**private).fingerprint() == ready().fingerprint()


def test_names_can_be_left_out():
    renamed = ready(names=[f"x{n}" for n in range(30)])
    assert renamed.fingerprint() != ready().fingerprint()
    assert renamed.fingerprint(names=False) == ready().fingerprint(names=False) != ready().fingerprint()


def test_a_fingerprint_needs_the_data():
    with pytest.raises(ConfigError, match=r"Call setup\(\) first"):
        Numbers().fingerprint()


def folder(root, masks, **settings):
    settings = {"redaction": Redaction("inside"), "frames": 4, "size": 16, **settings}
    data = VideoFolder(root=str(root), masks=masks, **settings)
    data.setup()
    return data


def boxes(path, rows, **settings):
    path.write_text(json.dumps(rows))
    return Boxes(str(path), **settings)


def test_where_the_folder_lies_changes_nothing_and_what_is_hidden_does(tmp_path, split_folders):
    fixed = FixedRegions([[0, 0, 0.5, 1]], unit="fraction")
    before = folder(split_folders, fixed).fingerprint()
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    split_folders.rename(moved)
    assert folder(moved, fixed).fingerprint() == before
    assert folder(moved, FixedRegions([[0, 0, 0.6, 1]], unit="fraction")).fingerprint() != before
    assert folder(moved, fixed, stride=3).fingerprint() != before
    assert folder(moved, fixed, seed=1).fingerprint() != before
    (moved / "train" / "walk" / "a.mp4").rename(moved / "train" / "walk" / "z.mp4")
    assert folder(moved, fixed).fingerprint() != before


def test_what_masks_say_is_not_covered(tmp_path, split_folders):
    names = [path.relative_to(split_folders).as_posix() for path in split_folders.rglob("*.*")]
    one = boxes(tmp_path / "one.json", {name: [[0, 1, 1, 9, 9]] for name in names})
    two = boxes(tmp_path / "two.json", {name: [] for name in names})
    three = boxes(tmp_path / "three.json", {name: [] for name in names}, missing="none_sensitive")
    prints = [folder(split_folders, masks).fingerprint() for masks in (one, two, three)]
    assert prints[0] == prints[1] != prints[2]


def test_every_mask_source_says_what_it_is():
    (Path.cwd() / "masks").mkdir()
    assert MaskArrays("masks").identity() == {"kind": "MaskArrays"}
    assert "identity" in vars(MaskSource)


def test_a_fingerprint_is_the_same_in_every_process_and_on_every_machine():
    class Fixed(Numbers):
        def identity(self):
            return {"shape": "box", "grid": 6}

    data = Fixed(names=[f"ü/{n}.mp4" for n in range(30)])
    data.setup()
    assert data.fingerprint() == "8a53f4aab02f935bf13b520c05d962d84be270d2c3d10cc9799635e6b312afb9"


def test_the_region_of_mocap_is_covered():
    prints = set()
    for region in ("head", "arms", "head"):
        data = MocapActions(
            redaction=Redaction("inside"), region=region, train_clips=15, eval_clips=15, pretraining_clips=0
        )
        data.setup()
        prints.add(data.fingerprint())
    assert len(prints) == 2


# The real thing


class Plain(pl.LightningModule):
    """Somebody's module, which writes down what it was given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(12, 2)
        self.seen = {"train": [], "val": [], "test": []}

    def _loss(self, stage, batch):
        self.seen[stage].append(batch.public.position.tolist())
        return F.cross_entropy(self.layer(batch.full.float().flatten(1)), batch.label)

    def training_step(self, batch, batch_idx):
        return self._loss("train", batch)

    def validation_step(self, batch, batch_idx):
        self._loss("val", batch)

    def test_step(self, batch, batch_idx):
        self._loss("test", batch)

    def predict_step(self, batch, batch_idx):
        probabilities = torch.full((len(batch.label), 2), 0.25)
        probabilities[:, 1] = batch.public.position / 100
        return {"index": batch.public.position, "probabilities": probabilities}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

    def on_fit_end(self):
        Path(f"fit_{self.global_rank}.json").write_text(json.dumps(self.seen))

    def on_test_end(self):
        Path(f"test_{self.global_rank}.json").write_text(json.dumps(self.seen))


def two_processes(stage, **settings):
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=Path.cwd(),
        **settings,
    )
    getattr(trainer, stage)(
        Plain(), datamodule=Numbers(), **({"return_predictions": False} if stage == "predict" else {})
    )
    return [json.loads(path.read_text()) for path in sorted(Path.cwd().glob(f"{stage}_*.json"))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # advice of Lightning about forked processes and its own samplers
def test_two_real_processes_share_training_evaluation_and_prediction():
    """With Lightning's default to put samplers of its own in place of others."""
    first, second = two_processes("fit", max_epochs=2)
    epochs = [flat(first["train"][k : k + 4] + second["train"][k : k + 4]) for k in (0, 4)]
    assert len(first["train"]) == len(second["train"]) == 8
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert sorted(flat(first["val"][:2] + second["val"][:2])) == list(range(11))
    two_processes("predict", callbacks=[PredictionWriter()])
    lines = Path("predictions.csv").read_text().splitlines()
    assert lines[0] == "name,predicted,probability"
    assert [line.split(",")[0] for line in lines[1:]] == [str(position) for position in range(11)]
    assert not list(Path.cwd().glob("predictions_*"))
