"""A LightningModule that knows nothing of privacy, trained by three changed lines."""

import math
from typing import Any

import pytest
import torch
from somebodys_project import RECORDS, Own, OwnByHand, fit, records, redact, statement
from torch import Tensor
from torch.utils.data import TensorDataset

from pvision.callbacks import TrainPrivately
from pvision.privacy import PrivacySpec

pytestmark = pytest.mark.usefixtures("quick")


def clipped_mean(module: Own, state: dict[str, Tensor], batch: Any, spec: PrivacySpec, *, residual: bool) -> Any:
    """The slow, obvious twin: one record at a time by plain autograd, clipped, summed, over the expected number."""
    twin = Own()
    twin.load_state_dict(state)
    total = {name: torch.zeros_like(one) for name, one in twin.named_parameters()}
    for index in range(len(batch[0])):
        one = [part[index : index + 1] for part in batch]
        twin.zero_grad()
        loss = twin.loss(one)
        if residual:
            loss = loss - twin.loss(redact([part.clone() for part in one]))
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in twin.parameters()))
        for name, parameter in twin.named_parameters():
            total[name] += parameter.grad * min(1.0, spec.max_grad_norm / max(norm, 1e-300))
    return {name: value / (spec.sample_rate * RECORDS) for name, value in total.items()}


@pytest.mark.parametrize("microbatch", [4, 100])
@pytest.mark.parametrize("engine", ["vmap", "loop"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_the_optimizer_gets_is_the_clipped_sum(by_hand: bool, engine: str, microbatch: int) -> None:
    spec = statement(steps=1)
    private = TrainPrivately(spec, engine=engine, microbatch=microbatch)
    module = OwnByHand(private) if by_hand else Own()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    fit(private, module)
    expected = clipped_mean(module, state, module.batches[0], spec, residual=False)
    assert len(module.gradients) == 1
    for name, value in module.gradients[0].items():
        assert value.abs().max() > 0
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    assert private.privacy_steps == 1


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_with_a_mask_a_step_is_public_gradient_plus_clipped_residuals(engine: str) -> None:
    spec = statement(mechanism="residual", steps=1, relation="zero_out")
    # All records in the public batch, so that it is known.
    private = TrainPrivately(spec, redact=redact, engine=engine, public_batch_size=RECORDS, residual_weight=0.5)
    module = Own()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    fit(private, module)
    residual = clipped_mean(module, state, module.batches[0], spec, residual=True)
    twin = Own()
    twin.load_state_dict(state)
    twin.loss(redact([part.clone() for part in records().tensors])).backward()
    for name, parameter in twin.named_parameters():
        expected = parameter.grad + 0.5 * residual[name]
        torch.testing.assert_close(module.gradients[0][name], expected, rtol=1e-4, atol=1e-6)


def test_with_one_batch_for_both_parts_the_public_part_is_its_sum_over_the_expected_size() -> None:
    spec = statement(mechanism="residual_shared_batch", steps=1, relation="zero_out")
    private, module = TrainPrivately(spec, redact=redact), Own()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    fit(private, module)
    batch = module.batches[0]
    residual = clipped_mean(module, state, batch, spec, residual=True)
    twin = Own()
    twin.load_state_dict(state)
    summed = twin.loss(redact([part.clone() for part in batch])) * len(batch[0]) / (spec.sample_rate * RECORDS)
    summed.backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(module.gradients[0][name], parameter.grad + residual[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("mechanism", "bound"), [("dp_sgd", 2.0), ("residual", 1.0), ("residual_shared_batch", 1.0)])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_one_record_moves_a_step_by_its_bound_at_most(mechanism: str, bound: float, scale: float) -> None:
    """Its sensitive content is exchanged or, under the residuals, removed; labels, sampling and noise stay."""
    spec = statement(mechanism=mechanism, steps=1, sample_rate=1.0, noise_seed=5, max_grad_norm=0.1)

    def step(content: float) -> Tensor:
        video, label = (part.clone() for part in records().tensors)
        video[7, 2] = content
        arguments: dict[str, Any] = {} if mechanism == "dp_sgd" else {"redact": redact}
        module = Own()
        torch.manual_seed(0)  # the order of the public batches
        with pytest.warns(UserWarning, match="NOT PRIVATE"):
            fit(TrainPrivately(spec, **arguments), module, TensorDataset(video, label))
        return torch.cat([value.flatten() for value in module.gradients[0].values()])

    moved = float((step(scale) - step(0.0)).norm()) * RECORDS
    assert 0 < moved <= bound * spec.max_grad_norm * (1 + 1e-4)


def test_a_redacted_record_has_no_residual_at_all() -> None:
    spec = statement(mechanism="residual", steps=1, sample_rate=1.0, noise_seed=5)
    video, label = (part.clone() for part in records().tensors)
    video[:, 2] = 0
    private, module = TrainPrivately(spec, redact=redact, public_batch_size=RECORDS), Own()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        fit(private, module, TensorDataset(video, label))
    twin = Own()
    twin.load_state_dict(state)
    twin.loss([video, label]).backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(module.gradients[0][name], parameter.grad, rtol=1e-5, atol=1e-7)


def test_units_are_clipped_as_one() -> None:
    spec = statement(unit="subject", steps=1, sample_rate=1.0, noise_seed=1, max_grad_norm=1e-3)
    module = Own()
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        fit(TrainPrivately(spec), module, loader={"units": ["ann"] * 12 + ["bob"] * 12})
    norm = math.sqrt(sum(float(value.square().sum()) for value in module.gradients[0].values()))
    assert norm <= 2 * spec.max_grad_norm / 2 * (1 + 1e-4), "two people over two, whatever their clips"


def test_nobody_drawn_of_people_with_several_clips() -> None:
    private, module = TrainPrivately(statement(unit="subject", sample_rate=0.05, steps=12)), Own()
    fit(private, module, loader={"units": [f"person {index % 8}" for index in range(RECORDS)]})
    assert private.privacy_steps == 12
    sizes = {len(batch[0]) for batch in module.batches}
    assert 0 in sizes, "with 0.95^8 = 0.66 each, one of twelve is empty but for one run in four hundred thousand"
    assert {size % 3 for size in sizes} == {0}, "a person comes with all their clips"


def test_two_engines_train_the_same_weights() -> None:
    spec, trained = statement(noise_multiplier=1.0, noise_seed=9), []
    for engine in ("vmap", "loop"):
        module = Own()
        with pytest.warns(UserWarning, match="NOT PRIVATE"):
            fit(TrainPrivately(spec, engine=engine), module)
        trained.append(module.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, Own().state_dict()[name])
