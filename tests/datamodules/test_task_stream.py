"""Streams: which images come in which batch, whoever asks; replay, forgetting, evaluation, resumption."""

import random
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.continual.replay import ReservoirMemory
from pvision.continual.scenarios import ClassIncremental, DomainIncremental, ForgetRequest
from pvision.datamodules.streams import ArrayImages, Preprocessing, TaskStream
from pvision.errors import DataError

CLASSES, TRAIN, TEST = 6, 60, 24


class TinyStream(TaskStream):
    """Images whose pixels tell their position; labels go round."""

    class_names = tuple("abcdef")
    domains: tuple[str, ...] | None = None

    def prepare_sources(self):
        self.train_source = source(TRAIN, "train", 0, self.domains)
        self.test_source = source(TEST, "test", 100, self.domains)


def source(count, prefix, offset, domains=None):
    pixels = (np.arange(count) + offset).astype(np.uint8)
    images = np.broadcast_to(pixels[:, None, None, None], (count, 1, 4, 4)).copy()
    names = None if domains is None else [domains[n // CLASSES % len(domains)] for n in range(count)]
    return ArrayImages(images, np.arange(count) % CLASSES, prefix=prefix, domains=names)


class Trainer:
    """As much of a Trainer as a stream asks for."""

    def __init__(self, rank=0, world_size=1, epoch=0, done=0):
        self.global_rank, self.world_size = rank, world_size
        self.fit_loop = SimpleNamespace(
            epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch)),
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=done))),
        )


def stream(cls=TinyStream, *, rank=0, world_size=1, epoch=0, done=0, **arguments):
    arguments = {
        "scenario": ClassIncremental(experiences=3),
        "batch_size": 8,
        "eval_batch_size": 8,
        "seed": 5,
        **arguments,
    }
    made = cls(**arguments)
    made.trainer = Trainer(rank, world_size, epoch, done)
    return made


NOISY = Preprocessing(brightness=0.5, augment="flip")


def learned(data, until):
    """Go through the experiences up to one, which then is the current one."""
    for index in range(until):
        data.begin(index)
        data.consolidate()
    data.begin(until)
    return data


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_the_batches_of_an_experience_hold_its_records_once():
    data = stream()
    for index, experience in enumerate(data.experiences):
        data.begin(index)
        batches = list(data.train_dataloader())
        assert [len(batch.label) for batch in batches] == [8, 8, 4]
        positions = torch.cat([batch.position for batch in batches])
        assert sorted(positions.tolist()) == experience.train.tolist()
        for batch in batches:
            assert batch.image.dtype == torch.float32
            assert torch.equal((batch.image[:, 0, 0, 0] * 255).round().long(), batch.position)
            assert torch.equal(batch.label, batch.position % CLASSES)
            assert (batch.experience == index).all()


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_processes_together_have_the_batches_of_one(world_size, replay):
    def made(rank, size):
        memory = {"replay": ReservoirMemory(10), "replay_batch_size": 4} if replay else {}
        return learned(stream(rank=rank, world_size=size, preprocessing=NOISY, **memory), 1)

    alone = list(made(0, 1).train_dataloader())
    parts = [list(made(rank, world_size).train_dataloader()) for rank in range(world_size)]
    for step, whole in enumerate(alone):
        shares = [part[step] for part in parts]
        assert len({len(share.label) for share in shares}) == 1
        for new in (True, False):
            mine = {row[0]: row[1:] for share in shares for row in rows(share, new)}
            assert mine == {row[0]: row[1:] for row in rows(whole, new)}
            if len(whole.label) == 8 + 4 * replay:
                assert sum(len(rows(share, new)) for share in shares) == len(rows(whole, new))


def rows(batch, new):
    """What a batch says of each image, by the image itself."""
    return [
        (tuple(image.flatten().tolist()), int(label), int(experience), int(position))
        for image, label, experience, position in zip(*batch, strict=True)
        if (position >= 0) == new
    ]


def test_workers_change_nothing():
    batches = [list(stream(num_workers=workers, preprocessing=NOISY).train_dataloader()) for workers in (0, 2)]
    assert all(equal(left, right) for left, right in zip(*batches, strict=True))


@given(experience=st.integers(0, 2), epoch=st.integers(0, 3), noise=st.integers(0, 99))
@settings(max_examples=10)
def test_batches_are_a_function_of_seed_experience_and_epoch(experience, epoch, noise):
    first = stream(epoch=epoch, preprocessing=NOISY)
    first.begin(experience)
    batches = list(first.train_dataloader())
    torch.manual_seed(noise)
    second = stream(epoch=epoch, preprocessing=NOISY)
    second.begin(experience)
    assert all(equal(left, right) for left, right in zip(batches, second.train_dataloader(), strict=True))


@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 1}])
def test_seed_and_epoch_change_order_and_augmentation(change):
    def images(**settings):
        batches = list(stream(preprocessing=NOISY, **settings).train_dataloader())
        positions = torch.cat([batch.position for batch in batches])
        return positions, torch.cat([batch.image for batch in batches])[positions.argsort()]

    (order, augmented), (other_order, other_augmented) = images(), images(**change)
    assert not torch.equal(order, other_order)
    assert not torch.equal(augmented, other_augmented)


def test_an_interrupted_epoch_goes_on_with_the_same_batches():
    whole = list(stream(preprocessing=NOISY, epoch=2).train_dataloader())
    rest = list(stream(preprocessing=NOISY, epoch=2, done=1).train_dataloader())
    assert len(rest) == len(whole) - 1
    assert all(equal(left, right) for left, right in zip(whole[1:], rest, strict=True))


def draws():
    """Numbers from the global generators of all three libraries."""
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002  # the global one


def seed_all():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002  # the global one
    random.seed(3)


def test_loading_leaves_the_global_generators_as_they_were():
    seed_all()
    expected = draws()
    seed_all()
    list(stream(preprocessing=NOISY).train_dataloader())
    assert draws() == expected


def test_an_augmentation_may_draw_from_any_library():
    class Mixed:
        def train(self, image):
            return image.float() + torch.rand(()) + sum(draws()[1]) + random.random()

        def eval(self, image):
            return image.float()

    first, second = (list(stream(preprocessing=Mixed(), num_workers=n).train_dataloader()) for n in (0, 1))
    assert all(equal(left, right) for left, right in zip(first, second, strict=True))
    assert (first[0].image[:, 0, 0, 0] - first[0].position).unique().numel() == 8


def test_joint_training_takes_all_records_seen_so_far():
    data = stream(training_set="seen")
    data.begin(1)
    positions = torch.cat([batch.position for batch in data.train_dataloader()])
    expected = np.concatenate([e.train for e in data.experiences[:2]])
    assert sorted(positions.tolist()) == sorted(expected.tolist())
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.experience, batch.label // 2)


def test_a_batch_with_replay_has_both_parts():
    data = learned(stream(replay=ReservoirMemory(12), replay_batch_size=6), 2)
    assert len(data.replay) == 12
    for batch in data.train_dataloader():
        current, replayed = batch.position >= 0, batch.position < 0
        assert int(replayed.sum()) == 6
        assert (batch.experience[current] == 2).all()
        assert (batch.label[current] // 2 == 2).all()
        assert (batch.label[replayed] // 2 == batch.experience[replayed]).all()
        pixels = (batch.image[replayed][:, 0, 0, 0] * 255).round().long()
        assert torch.equal(pixels % CLASSES, batch.label[replayed])


def test_without_a_size_replay_doubles_the_batch_and_the_first_experience_has_none():
    data = stream(replay=ReservoirMemory(12))
    assert [len(batch.label) for batch in data.train_dataloader()] == [8, 8, 4]
    learned(data, 1)
    assert [len(batch.label) for batch in data.train_dataloader()] == [16, 16, 12]


def test_held_out_records_are_neither_trained_nor_replayed():
    data = stream(val_fraction=0.3, replay=ReservoirMemory(1000))
    held = set()
    for index, experience in enumerate(data.experiences):
        data.begin(index)
        validation = torch.cat([batch.position for batch in data.val_dataloader()]).tolist()
        assert validation == experience.val.tolist()
        assert len(validation) == 6
        held.update(validation)
        trained = torch.cat([batch.position for batch in data.train_dataloader()]).tolist()
        assert not held & set(trained)
        data.consolidate()
    assert len(data.replay) == TRAIN - len(held)
    assert not held & set(data.replay.positions.tolist())


def test_without_validation_records_there_is_no_loader():
    assert stream().val_dataloader() == []


def test_joint_validation_has_what_was_held_out_so_far():
    data = stream(val_fraction=0.3, training_set="seen")
    data.begin(1)
    positions = torch.cat([batch.position for batch in data.val_dataloader()]).tolist()
    assert positions == sorted(np.concatenate([e.val for e in data.experiences[:2]]).tolist())


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_has_one_loader_for_each_experience_and_counts_every_record_once(world_size):
    found = {0: [], 1: []}
    for rank in range(world_size):
        data = stream(rank=rank, world_size=world_size)
        data.begin(1)
        assert data.evaluated == [0, 1]
        for index, loader in zip(data.evaluated, data.test_dataloader(), strict=True):
            for batch in loader:
                assert (batch.experience == index).all()
                assert torch.equal((batch.image[:, 0, 0, 0] * 255).round().long(), batch.position + 100)
                found[index] += batch.position.tolist()
    assert [sorted(found[index]) for index in (0, 1)] == [e.test.tolist() for e in stream().experiences[:2]]


@pytest.mark.parametrize(
    ("scenario", "evaluate", "expected"),
    [
        (ClassIncremental(experiences=3), None, [0]),
        (ClassIncremental(experiences=3), "all", [0, 1, 2]),
        (DomainIncremental(), None, [0, 1]),
        (DomainIncremental(), "seen", [0]),
    ],
)
def test_what_is_evaluated(scenario, evaluate, expected):
    class Domains(TinyStream):
        domains = ("p", "q")

    assert stream(Domains, scenario=scenario, evaluate=evaluate).evaluated == expected


FORGET = [ForgetRequest(after=1, classes=[0])]


def test_forgetting_is_an_event_after_which_nothing_of_it_is_left():
    data = stream(forget=FORGET, replay=ReservoirMemory(1000))
    learned(data, 1)
    data.consolidate()
    assert 0 in data.replay.labels
    data.begin(2)
    assert data.experiences[2].kind == "forget"
    assert 0 not in data.replay.labels
    trained = list(data.train_dataloader())
    positions = torch.cat([batch.position for batch in trained])
    labels = torch.cat([batch.label for batch in trained])
    assert set(labels[positions >= 0].tolist()) == {0}
    assert set(torch.cat([batch.experience for batch in trained])[positions >= 0].tolist()) == {0}
    assert 0 not in labels[positions < 0]
    data.consolidate()
    data.begin(3)
    assert data.evaluated == [0, 1, 3]
    assert 0 not in torch.cat([batch.label for batch in data.train_dataloader()])


def test_joint_training_leaves_out_what_is_forgotten():
    data = stream(forget=FORGET, training_set="seen")
    for index in (2, 3):
        data.begin(index)
        labels = torch.cat([batch.label for batch in data.train_dataloader()])
        assert 0 not in labels
        assert 1 in labels


def test_records_in_order_come_whole_to_every_process_and_without_augmentation():
    wanted = [7, 3, 59, 0, 12, 13, 14, 15, 16]
    for rank in range(2):
        data = stream(rank=rank, world_size=2, preprocessing=NOISY)
        batches = list(data.in_order_loader(wanted))
        assert [len(batch.label) for batch in batches] == [8, 1]
        positions = torch.cat([batch.position for batch in batches])
        assert positions.tolist() == wanted
        pixels = torch.cat([batch.image for batch in batches])[:, 0, 0, 0]
        assert torch.equal((pixels * 255).round().long(), positions)


def test_a_run_goes_on_from_its_state(tmp_path):
    before = learned(stream(replay=ReservoirMemory(9), preprocessing=NOISY), 2)
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after = stream(replay=ReservoirMemory(9), preprocessing=NOISY)
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert after.current == 2
    for left, right in zip(before.train_dataloader(), after.train_dataloader(), strict=True):
        assert equal(left, right)
    before.consolidate()
    after.consolidate()
    assert before.replay.positions.tolist() == after.replay.positions.tolist()


def test_images_of_several_sizes_are_refused_by_name():
    class Sizes(TinyStream):
        def prepare_sources(self):
            super().prepare_sources()
            image = self.train_source.image
            self.train_source.image = lambda place: image(place)[:, : 3 if place == 7 else 4]

    data = stream(Sizes)
    data.begin(0)
    with pytest.raises(
        DataError, match=r"must have one shape, but train/.* \(1, [34], 4\).* Set data\.preprocessing\.resize"
    ):
        list(data.train_dataloader())


def test_a_plain_trainer_takes_it(tmp_path):
    class Linear(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen, self.held = torch.nn.Linear(16, CLASSES), [], []

        def training_step(self, batch, batch_idx):
            self.seen += batch.position.tolist()
            return torch.nn.functional.cross_entropy(self.layer(batch.image.flatten(1)), batch.label)

        def validation_step(self, batch, batch_idx):
            self.held += batch.position.tolist()

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("n", float(len(batch.label)), reduce_fx="sum")

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    module, data = Linear(), stream(val_fraction=0.3)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    data.begin(1)
    trainer.fit(module, datamodule=data)
    assert sorted(module.seen) == data.experiences[1].train.tolist()
    assert module.held == data.experiences[1].val.tolist()
    trainer.test(module, datamodule=data, verbose=False)
    assert [trainer.callback_metrics[f"n/dataloader_idx_{column}"].item() for column in (0, 1)] == [8, 8]
