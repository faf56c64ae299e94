"""CoDyRA: the schedule of the threshold, gates that shut exactly, and what is kept becomes part of the weights."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from small_methods import (
    SmallData,
    check_resumes,
    check_state_round_trip,
    check_two_ranks,
    experience,
    images,
    learn,
    on_one_of,
    small_vit,
    train,
)
from torch import nn

from pvision.adapters.methods.codyra import CoDyRA
from pvision.continual.scenarios import ClassIncremental
from pvision.datamodules.streams import DigitsStream
from pvision.errors import ConfigError
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream


def shrinking(network: nn.Module) -> CoDyRA:
    return CoDyRA(network, steps=6, rank=4, threshold=0.6, targets=("q", "v", "fc1"))


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(shrinking, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, shrinking)


def test_a_state_dict_is_complete() -> None:
    check_state_round_trip(shrinking)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    check_resumes(shrinking, tmp_path)


@pytest.mark.parametrize(("dense", "first"), [(0.5, 6), (0.0, 1), (0.75, 9)])
def test_the_threshold_rises_linearly_after_the_dense_part(dense: float, first: int) -> None:
    method = CoDyRA(small_vit(), threshold=0.3, dense=dense)
    method.before_experience(experience(0), SmallData(experience(0), steps=10))
    thresholds = [method.threshold_at(step) for step in range(1, 13)]
    assert [one > 0 for one in thresholds] == [step >= first for step in range(1, 13)]
    assert thresholds[9:] == [0.3] * 3
    rising = thresholds[first - 1 : 10]
    assert rising == pytest.approx([0.3 * (place + 1) / len(rising) for place in range(len(rising))])


def test_gates_stay_open_in_the_dense_part_and_shut_after_it() -> None:
    method = shrinking(small_vit())
    method.before_experience(experience(0), SmallData(experience(0)))
    gates = {name: one for name, one in method.adapted.trainable_parameters().items() if name.endswith("gates")}
    assert len(gates) == 6
    drawn = torch.cat([one.detach().clone() for one in gates.values()])
    assert drawn.min() < -0.5 < 0.5 < drawn.max()
    train(method, SmallData(experience(0)), steps=3)
    assert (torch.cat(list(gates.values())) - drawn).abs().max() < 0.05
    assert all(bool((one != 0).all()) for one in gates.values())
    train(method, SmallData(experience(0)), steps=3)
    shut = torch.cat(list(gates.values())) == 0
    assert bool(shut[drawn.abs() < 1.1].all())  # the thresholds add up to 1.2
    assert not bool(shut[drawn.abs() > 1.3].any())
    assert 0 < int(shut.sum()) < 24


def test_shut_ranks_contribute_exactly_nothing() -> None:
    method = shrinking(small_vit())
    method.before_experience(experience(0), SmallData(experience(0)))
    train(method, SmallData(experience(0)), steps=6)
    method.eval()
    shut = [(layer.adapters["codyra"], layer.adapters["codyra"].gates == 0) for layer in method.adapted.layers]
    assert sum(int(ranks.sum()) for _, ranks in shut) > 0
    before = method(images())
    with torch.no_grad():
        for adapter, ranks in shut:
            adapter.up[:, ranks] = 1e30
            adapter.down[ranks] = 1e30
    assert torch.equal(method(images()), before)
    with torch.no_grad():
        for adapter, ranks in shut:
            adapter.gates[ranks] = 1e-30
    assert not torch.equal(method(images()), before)


def test_what_is_kept_becomes_part_of_the_weights() -> None:
    method = CoDyRA(small_vit(), steps=12, rank=4, threshold=0.0, targets=("q", "v", "fc1"))
    method.before_experience(experience(0), SmallData(experience(0)))
    train(method, SmallData(experience(0)), steps=12)
    open_ranks = {layer.name: number % 5 for number, layer in enumerate(method.adapted.layers)}
    with torch.no_grad():
        for layer in method.adapted.layers:
            layer.adapters["codyra"].gates[open_ranks[layer.name] :] = 0
    method.eval()
    before = method(images())
    method.after_experience(experience(0), SmallData(experience(0)))
    assert (method(images()) - before).abs().max() <= 1e-11
    assert method.adapted.names == ()
    assert method.kept_ranks == [open_ranks]
    assert set(open_ranks.values()) == {0, 1, 2, 3, 4}


def test_an_experience_may_keep_no_rank_at_all() -> None:
    method = CoDyRA(small_vit(), steps=4, rank=2, threshold=5.0, dense=0.0)
    network = {name: one.clone() for name, one in method.adapted.base.state_dict().items()}
    learn(method, 0)
    assert set(method.kept_ranks[0].values()) == {0}
    assert all(torch.equal(one, network[name]) for name, one in method.adapted.base.state_dict().items())
    learn(method, 1)
    assert len(method.kept_ranks) == 2


def test_without_a_threshold_it_keeps_every_rank_and_learns() -> None:
    method = CoDyRA(small_vit(), steps=60, rank=4, threshold=0.0)
    data = learn(method, 0, steps=60)
    assert set(method.kept_ranks[0].values()) == {4}
    assert method.head.predictions(method(data.image)).eq(data.label).double().mean() > 0.9


def test_without_a_length_of_its_own_the_schedule_goes_over_the_steps_of_each_experience() -> None:
    method = CoDyRA(small_vit(), threshold=0.4)
    for index, steps in enumerate((4, 8)):
        method.before_experience(experience(index), SmallData(experience(index), steps=steps))
        assert method.threshold_at(steps // 2) == 0.0
        assert method.threshold_at(steps - 1) < method.threshold_at(steps) == 0.4
        method.after_experience(experience(index), SmallData(experience(index), steps=steps))


def test_a_schedule_that_would_not_get_to_its_end_is_refused() -> None:
    method = CoDyRA(small_vit(), steps=10)
    with pytest.raises(ConfigError, match=r"method\.steps is 10, but the optimizer takes 9 only"):
        method.before_experience(experience(0), SmallData(experience(0), steps=9))
    CoDyRA(small_vit(), steps=10).before_experience(experience(0), SmallData(experience(0), steps=10))
    with pytest.raises(ConfigError, match=r"method\.steps must be given"):
        CoDyRA(small_vit()).before_experience(experience(0), SmallData(experience(0)))


class Counting(pl.Callback):
    """Notes, at the end of each fit, κ after its last step, and after the one before."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, float, float]] = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        method, step = pl_module.method, trainer.global_step
        self.ends.append((method._step, method.threshold_at(step - 1), method.threshold_at(step)))


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 2 * 2),
        ({"max_epochs": 2, "limit_train_batches": 3}, 2 * 3),
        ({"max_epochs": 2, "max_steps": 5}, 5),
    ],
)
def test_the_schedule_ends_with_the_fit_whatever_its_length(settings: dict[str, Any], steps: int) -> None:
    counting = Counting()
    module = ContinualClassifier(
        small_vit(dtype=torch.float32, width=32), method=lambda network: CoDyRA(network, rank=2, threshold=0.3)
    )
    stream = DigitsStream(scenario=ClassIncremental(experiences=5), batch_size=64)
    trainer = pl.Trainer(
        **settings, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[counting],
    )  # fmt: skip
    fit_stream(trainer, module, stream)
    assert len(counting.ends) == 5
    for taken, before_last, last in counting.ends:
        assert taken == steps
        assert 0.0 < before_last < last == 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"method\.steps must be a whole number of at least 1"),
        ({"rank": 0}, r"method\.rank"),
        ({"rank": 65}, r"method\.rank must be at most 64 at blocks"),
        ({"targets": "query"}, r"method\.targets: no linear layer meets 'query'"),
        ({"alpha": -1.0}, r"method\.alpha"),
        ({"threshold": -0.1}, r"method\.threshold must be a finite number of at least 0"),
        ({"dense": 1.0}, r"method\.dense must be below 1, but 1\.0 came"),
        ({"dense": -0.1}, r"method\.dense"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CoDyRA(small_vit(), **{"steps": 10, **settings})
