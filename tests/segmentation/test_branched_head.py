"""The unified background: what residuals do to it in training and in evaluation, and what a new branch begins with."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pvision.segmentation.branched_head import BranchedHead

SIZE = (2, 8, 5, 7)
STREAM = [(3, 1), (2,), (7, 9, 4)]


def grown(groups: list[tuple[int, ...]] = STREAM, *, residual: bool = True, clamp: bool = True) -> BranchedHead:
    torch.manual_seed(1)
    head = BranchedHead(SIZE[1], residual=residual, clamp=clamp)
    for group in groups:
        head.grow(group)
    for layer in head.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return head.eval()


def outputs_of(head: BranchedHead, features: Tensor) -> list[Tensor]:
    return head.outputs(head.branch_features(features))


def features() -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("experiences", [1, 2, 3])
@pytest.mark.parametrize("clamp", [True, False])
def test_the_evaluated_background_is_the_first_one_and_all_residuals(experiences: int, clamp: bool) -> None:
    head = grown(STREAM[:experiences], clamp=clamp)
    outputs = [one.detach().numpy() for one in outputs_of(head, features())]
    background = outputs[0][:, 0].copy()
    for one in outputs[1:]:
        background += one[:, 0].clip(max=0) if clamp else one[:, 0]
    evaluated = head(features()).detach().numpy()
    assert abs(evaluated[:, 0] - background).max() < 1e-6
    assert evaluated.shape[1] == 1 + len(head.classes)
    for label, column in head.columns().items():
        for group, one in zip(head.groups, outputs, strict=True):
            if label in group:
                assert (evaluated[:, column] == one[:, 1 + group.index(label)]).all()


def test_training_differs_from_evaluation_by_what_the_clamp_cuts_off() -> None:
    head = grown()
    outputs = outputs_of(head, features())
    latest = outputs[-1][:, 0]
    difference = head.trained(outputs) - head.evaluated(outputs)
    assert (latest > 0).any()
    assert (latest < 0).any()
    assert torch.allclose(difference[:, 0], latest.clamp(min=0), atol=1e-6)
    assert not difference[:, 1:].any()


def test_a_residual_at_or_above_zero_changes_nothing_that_is_old() -> None:
    head, shorter = grown(), grown(STREAM[:2])
    shorter.load_state_dict(head.state_dict(), strict=False)
    with torch.no_grad():
        head.layers[-1].bias[0] += 100
    assert torch.equal(head(features())[:, : 1 + 3], shorter(features()))


def backgrounds(residuals: list[float], *, clamp: bool) -> list[Tensor]:
    """Return the evaluated background after each experience of a stream with such residuals, noise added."""
    head, noise, outputs, found = BranchedHead(SIZE[1], clamp=clamp), torch.Generator().manual_seed(3), [], []
    for residual in [0.0, *residuals]:
        outputs.append(torch.randn(1, 2, 3, 3, generator=noise) + residual)
        found.append(head.evaluated(outputs)[:, 0])
    return found


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=5))
def test_residuals_never_raise_the_background(residuals: list[float]) -> None:
    found = backgrounds(residuals, clamp=True)
    assert all((after <= before).all() for before, after in pairwise(found))


def test_without_the_clamp_they_do() -> None:
    before, after = backgrounds([5.0], clamp=False)
    assert (after > before).any()


def test_without_residuals_the_first_background_stays() -> None:
    head = grown(residual=False)
    outputs = outputs_of(head, features())
    assert [one.shape[1] for one in outputs] == [3, 1, 3]
    assert torch.equal(head(features())[:, 0], outputs[0][:, 0])
    assert torch.equal(head.trained(outputs), head(features()))


def test_training_teaches_the_latest_outputs_only() -> None:
    head = grown()
    outputs = [one.detach().requires_grad_() for one in outputs_of(head, features())]
    head.trained(outputs).square().sum().backward()
    assert all(one.grad is None for one in outputs[:-1])
    assert (outputs[-1].grad != 0).all()


def test_a_new_branch_is_a_copy_of_the_first_with_its_statistics() -> None:
    head = grown(STREAM[:1])
    head.branches[0].requires_grad_(False)
    head.grow((5,))
    first, new = head.branches[0].state_dict(), head.branches[1].state_dict()
    assert all(torch.equal(first[name], new[name]) for name in first)
    assert first["1.running_mean"].any()
    assert not {one.data_ptr() for one in first.values()} & {one.data_ptr() for one in new.values()}
    assert all(one.requires_grad for one in head.branches[1].parameters())


@pytest.mark.parametrize("classes", [1, 3])
def test_an_experience_adds_a_branch_and_its_outputs(classes: int) -> None:
    head = BranchedHead(256)
    head.grow([99])
    before = sum(one.numel() for one in head.parameters())
    head.grow(range(1, 1 + classes))
    added = sum(one.numel() for one in head.parameters()) - before
    assert added == 589_824 + 512 + 257 * (classes + 1)
    assert round(added / 1e6, 2) == 0.59
