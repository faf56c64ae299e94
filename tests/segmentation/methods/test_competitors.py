"""What holds for every competitor: finite losses, honest freezing, checkpoints, growth, and any number of processes."""

import io

import pytest
import torch
from small_segmentation import (
    FIRST,
    SECOND,
    THIRD,
    TinyNetwork,
    batch,
    begin,
    experience,
    first_learned,
    in_second,
    step,
    total,
)
from torch import Tensor

from pvision.continual.masks import VOID, SegmentationBatch
from pvision.errors import ConfigError, DataError
from pvision.segmentation.methods import (
    DFT,
    DKD,
    ILT,
    PLOP,
    SSUL,
    FineTuning,
    LwF,
    LwFMC,
    MiB,
    PseudoLabels,
    SegmentationMethod,
)

KINDS = [FineTuning, LwF, LwFMC, ILT, MiB, PLOP, DKD, SSUL, DFT, PseudoLabels]
FROZEN_NETWORK = (SSUL, DFT)
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def tensors(method: SegmentationMethod) -> dict[str, Tensor]:
    state = method.state_dict().items()
    return {name: one.clone() for name, one in state if isinstance(one, Tensor)}


def trained_names(method: SegmentationMethod) -> list[list[str]]:
    names = {id(one): name for name, one in method.named_parameters()}
    return [[names[id(one)] for one in group["params"]] for group in method.parameter_groups()]


@every
@pytest.mark.parametrize(
    "labels", [(0, *SECOND, VOID), SECOND, (0,), (VOID,)], ids=["mixed", "no_background", "0", "void"]
)
def test_losses_and_gradients_are_finite(kind: type[SegmentationMethod], labels: tuple[int, ...]) -> None:
    method = in_second(kind)
    losses = method.losses(batch(*labels))
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() and loss >= 0 for loss in losses.values()), losses
    for name, parameter in method.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    if labels == (VOID,):
        assert all(losses[name] == 0 for name in ("cross_entropy", "bce") if name in losses)


@every
def test_a_step_moves_what_is_trained_and_nothing_else(kind: type[SegmentationMethod]) -> None:
    method = in_second(kind)
    names = {name for group in trained_names(method) for name in group}
    before = tensors(method)
    step(method, batch(0, *SECOND, VOID), lr=1.0)
    after = tensors(method)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == names
    assert not any(name.startswith("teacher") or "stage.1" in name for name in moved)
    assert any(name.startswith("network") for name in moved) is not issubclass(kind, FROZEN_NETWORK)


@every
def test_what_is_trained_is_known_before_there_is_an_optimizer(kind: type[SegmentationMethod]) -> None:
    method = in_second(kind)
    total(method, batch(0, *SECOND, VOID)).backward()
    for name, parameter in method.named_parameters():
        assert parameter.requires_grad is (parameter.grad is not None), f"{name} would make distributed training wait"


@every
def test_the_head_grows_and_labels_are_those_learned(kind: type[SegmentationMethod]) -> None:
    method = in_second(kind)
    method.after_experience()
    assert method.teacher is None
    begin(method, 2, THIRD)
    method.eval()
    data = batch(0, *FIRST, *SECOND, *THIRD)
    assert method.scores(data.image).shape == (2, 6, 8, 8)
    labels = method(data.image)
    assert labels.shape == data.mask.shape
    assert set(labels.unique().tolist()) <= {0, *FIRST, *SECOND, *THIRD}


@every
def test_a_label_of_another_experience_is_refused(kind: type[SegmentationMethod]) -> None:
    with pytest.raises(DataError, match="holds the label 4"):
        in_second(kind).losses(batch(0, 4))


@every
def test_a_checkpoint_in_mid_experience_goes_on_as_if_nothing_had_been(kind: type[SegmentationMethod]) -> None:
    method = in_second(kind)
    step(method, batch(0, *SECOND, seed=2))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)

    torch.manual_seed(5)
    resumed = kind(TinyNetwork())
    resumed.set_extra_state(state["_extra_state"])
    resumed.load_state_dict(state)
    resumed.train()
    assert trained_names(resumed) == trained_names(method), "an optimizer would be handed something else"
    for one in (method, resumed):
        step(one, batch(0, *SECOND, VOID, seed=3))
    assert same(tensors(method), tensors(resumed))
    for one in (method, resumed):
        one.after_experience()
        begin(one, 2, THIRD)
    assert trained_names(resumed) == trained_names(method)


@every
def test_another_methods_checkpoint_is_refused(kind: type[SegmentationMethod]) -> None:
    other = FineTuning if kind is not FineTuning else MiB
    with pytest.raises(ConfigError, match=other.__name__):
        kind(TinyNetwork()).set_extra_state(first_learned(other).get_extra_state())


def test_only_what_compares_with_the_old_model_keeps_it() -> None:
    assert [kind for kind in KINDS if in_second(kind).teacher is None] == [FineTuning, DFT]


def test_fine_tuning_forgets_and_pseudo_labels_do_not_make_it_worse() -> None:
    """The safeguard is at work: the same steps on the same images, with and without the old model's labels."""
    images = [batch(0, *SECOND, seed=seed) for seed in range(30)]
    kept = {}
    for threshold in (0.01, 1.0):
        method = in_second(PseudoLabels, threshold=threshold)
        with torch.no_grad():  # an old model that is sure of class 1 everywhere
            method.teacher.head.layers[0].bias.copy_(torch.tensor([-9.0, 9.0, -9.0]))
            method.head.layers[0].load_state_dict(method.teacher.head.layers[0].state_dict())
        for data in images:
            step(method, data, lr=0.2)
        kept[threshold] = float((method(images[0].image) == 1).float().mean())
    assert kept[0.01] > kept[1.0] + 0.3, kept


# Several processes: their functions stand in one file, which each of them loads once


def half(data: SegmentationBatch, rank: int) -> SegmentationBatch:
    """Return a share: one image for the first of two processes, three for the second."""
    share = slice(0, 1) if rank == 0 else slice(1, None)
    return SegmentationBatch(*(one[share] for one in data))


def gradients(method: SegmentationMethod, data: SegmentationBatch) -> dict[str, list[float]]:
    total(method, data).backward()
    return {name: one.grad.flatten().tolist() for name, one in method.named_parameters() if one.grad is not None}


def uneven() -> SegmentationBatch:
    data = batch(0, *SECOND, VOID, images=4, seed=11)
    data.mask[0] = VOID
    data.mask[0, :2] = SECOND[0]  # no background, and few pixels that count
    return data


def on_rank_gradients(rank: int) -> dict[str, dict[str, list[float]]]:
    return {kind.__name__: gradients(in_second(kind), half(uneven(), rank)) for kind in KINDS}


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(ranks) -> None:
    answers = ranks(on_rank_gradients, 2)
    assert [answer[0] for answer in answers] == ["returned"] * 2, answers
    first, second = (answer[1] for answer in answers)
    for kind in KINDS:
        alone = gradients(in_second(kind), uneven())
        both = (first[kind.__name__], second[kind.__name__])
        naive = [gradients(in_second(kind), half(uneven(), rank)) for rank in (0, 1)]
        assert distance(alone, both) < 1e-6, kind
        assert distance(alone, naive) > 1e-4, "averaging each process' own mean is something else, or nothing is tested"


def on_rank_thresholds(rank: int) -> list[float]:
    method = first_learned(PLOP)
    method.before_experience(experience(1, SECOND))
    method.look_through(batch(0, *SECOND, seed=seed) for seed in range(0 if rank else 3))
    assert isinstance(method, PLOP)
    return method.thresholds


@pytest.mark.slow
def test_a_process_without_records_has_the_thresholds_of_all(ranks) -> None:
    answers = ranks(on_rank_thresholds, 2)
    assert [answer[0] for answer in answers] == ["returned"] * 2, answers
    assert answers[0][1] == answers[1][1] == on_rank_thresholds(0)
    assert answers[0][1] != on_rank_thresholds(1)


def distance(one: dict[str, list[float]], shares) -> float:
    assert all(one.keys() == share.keys() for share in shares)
    double = torch.float64
    return max(
        float(
            (torch.tensor(one[name], dtype=double) - torch.tensor([s[name] for s in shares], dtype=double).mean(0))
            .abs()
            .max()
        )
        for name in one
    )
