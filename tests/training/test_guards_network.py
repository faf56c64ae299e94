"""Networks and optimizers that private training cannot take are refused; their safe siblings are not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim import SGD, Adam

from pvision.errors import PrivacyError
from pvision.privacy import PublicView, TwoViews, full_view_loss, record_gradients
from pvision.training import GUARDS, refuse_unsafe_network, refuse_unsafe_optimizers


def shared() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


def one_memory() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight.data = first.weight.data
    return nn.Sequential(first, second)


def frozen_and_shared() -> nn.Module:
    return shared().requires_grad_(False).append(nn.Linear(4, 4))


def holding(value: Any) -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))
    network.aside = value
    return network


def learning_buffer() -> nn.Module:
    network = nn.Linear(4, 4)
    network.register_buffer("scale", torch.ones(4, requires_grad=True))
    return network


def compiled_in_place() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))
    network[0].compile()
    return network


def hooked(register: str) -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))
    getattr(network[0], register)(lambda *values: None)
    return network


def watched() -> nn.Module:
    network = nn.Linear(4, 4)
    network.weight.register_hook(lambda gradient: None)
    return network


def accumulating() -> nn.Module:
    network = nn.Linear(4, 4)
    network.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    return network


def own_layer_in_a_list() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))
    network.aside = [network[0]]
    return network


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a new feature, says torch
        return nn.LazyLinear(4)


def norm_over_hooks() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and still in many models
        return nn.utils.weight_norm(nn.Linear(4, 4))


UNSAFE: list[tuple[str, str, Callable[[], nn.Module]]] = [
    ("layers", "BatchNorm1d", lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))),
    ("layers", "SyncBatchNorm", lambda: nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4))),
    (
        "layers",
        "InstanceNorm2d",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)),
    ),
    ("layers", "p=0.1", lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))),
    ("layers", "max_norm", lambda: nn.Embedding(4, 4, max_norm=1.0)),
    ("layers", "no size yet", lazy),
    ("layers", "complex64", lambda: nn.Linear(4, 4, dtype=torch.complex64)),
    ("shared_parameters", "0.weight and 1.weight", shared),
    ("shared_memory", "0.weight and 1.weight", one_memory),
    ("hidden_parameters", "aside holds", lambda: holding([nn.Linear(4, 4)])),
    ("hidden_parameters", "aside holds", lambda: holding({"head": [nn.Linear(4, 4)]})),
    ("hidden_parameters", "aside holds", lambda: holding(torch.ones(4, requires_grad=True))),
    ("hidden_parameters", "holds", learning_buffer),
    ("compiled", "is compiled", lambda: torch.compile(nn.Linear(4, 4))),
    ("compiled", "0 is compiled", compiled_in_place),
    ("data_parallel", "wrapped in DataParallel", lambda: nn.DataParallel(nn.Linear(4, 4))),
    ("module_hooks", "0 has the hook", lambda: hooked("register_forward_hook")),
    ("module_hooks", "0 has the hook", lambda: hooked("register_forward_pre_hook")),
    ("module_hooks", "0 has the hook", lambda: hooked("register_full_backward_hook")),
    ("module_hooks", "WeightNorm", norm_over_hooks),
    ("parameter_hooks", "weight has the hook", watched),
    ("parameter_hooks", "weight has the hook", accumulating),
    ("half_parameters", "float16", lambda: nn.Linear(4, 4).half()),
    ("sparse_gradients", "Embedding", lambda: nn.Embedding(4, 4, sparse=True)),
    ("no_parameters", "no trainable parameter", lambda: nn.Linear(4, 4).requires_grad_(False)),
]

SAFE: dict[str, Callable[[], nn.Module]] = {
    "group norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4)),
    "dropout of 0": lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)),
    "frozen parameters may be shared": frozen_and_shared,
    "registered lists of layers": lambda: holding(nn.ModuleList([nn.Linear(4, 4)])),
    "a frozen teacher in a list": lambda: holding([nn.Linear(4, 4).requires_grad_(False)]),
    "its own layer in a list": own_layer_in_a_list,
    "tensors that do not learn": lambda: holding(torch.ones(4)),
    "parametrized weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "bfloat16": lambda: nn.Linear(4, 4).bfloat16(),
    "dense embedding": lambda: nn.Embedding(4, 4),
    "a frozen half network below": lambda: nn.Sequential(nn.Linear(4, 4).half().requires_grad_(False), nn.Linear(4, 4)),
    "two parameters of no size": lambda: holding(nn.ParameterList([torch.ones(0), torch.ones(0)])),
}


@pytest.mark.parametrize(("name", "came", "network"), UNSAFE)
def test_an_unsafe_network_is_refused(name: str, came: str, network: Callable[[], nn.Module]) -> None:
    guard = next(one for one in GUARDS["network"] if one.name == name)
    with pytest.raises(PrivacyError) as refused:
        refuse_unsafe_network(network())
    for part in (came, guard.reason, guard.remedy):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value), "only this guard refuses"


@pytest.mark.parametrize("network", SAFE.values(), ids=SAFE.keys())
def test_a_safe_network_passes(network: Callable[[], nn.Module]) -> None:
    refuse_unsafe_network(network())


def test_every_guard_of_networks_is_seen_to_refuse() -> None:
    assert {name for name, _, _ in UNSAFE} == {guard.name for guard in GUARDS["network"]}


def test_a_check_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.Dropout(0.0)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    refuse_unsafe_network(network, sample=torch.rand(2, 4))
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Counting(nn.Linear):
    """Keeps a buffer that each record changes; its class is known to nobody."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.seen += x.detach().sum(0)
        return super().forward(x)


def test_a_sample_shows_what_no_name_tells() -> None:
    refuse_unsafe_network(Counting())
    with pytest.raises(PrivacyError, match="seen"):
        refuse_unsafe_network(Counting(), sample=torch.rand(2, 4))


def test_hooks_of_opacus_own_engine_are_its_own() -> None:
    grad_sample = pytest.importorskip("opacus.grad_sample")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = grad_sample.GradSampleModule(nn.Linear(4, 4))
    refuse_unsafe_network(network)
    network._module.weight.register_hook(lambda gradient: None)
    with pytest.raises(PrivacyError, match="weight has the hook"):
        refuse_unsafe_network(network)


def test_shared_parameters_pass_where_the_engine_sums_their_uses() -> None:
    refuse_unsafe_network(shared(), allow_shared=True)


class Flat(nn.Sequential):
    def forward(self, video):
        return super().forward(video.flatten(1))


def test_the_engine_of_pvision_sums_the_uses_of_a_shared_parameter() -> None:
    """What ``allow_shared`` claims of `record_gradients`, against backward() record by record."""
    network = Flat(*shared()).double()
    video, label, position = torch.rand(3, 1, 1, 2, 2, dtype=torch.float64), torch.arange(3), torch.arange(3)
    views = TwoViews(video, PublicView(video, torch.zeros(3, 1, 2, 2, dtype=torch.bool), label, position))
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    (taken,) = record_gradients(full_view_loss(network, {}), parameters, views, microbatch=3)
    for row in range(3):
        network.zero_grad()
        F.cross_entropy(network(video[row : row + 1]), label[row : row + 1]).backward()
        alone = taken.weighted_sum(F.one_hot(torch.tensor(row), 3).double())
        for name, value in network.named_parameters():
            torch.testing.assert_close(alone[name], value.grad)


class SAM(SGD):
    """Stands for sharpness-aware optimizers, which few libraries share."""


class TwoSteps(SGD):
    def first_step(self) -> None: ...


def network_and(*optimizers: Callable[..., Any]) -> tuple[list[Any], nn.Module]:
    network = nn.Linear(4, 4)
    return [optimizer(network.parameters()) for optimizer in optimizers], network


def foreign() -> tuple[list[Any], nn.Module]:
    network, other = nn.Linear(4, 4), nn.Linear(4, 4)
    return [SGD([*network.parameters(), *other.parameters()], lr=0.1)], network


UNSAFE_OPTIMIZERS: list[tuple[str, str, Callable[[], tuple[list[Any], nn.Module]]]] = [
    ("several_gradients", "LBFGS evaluates", lambda: network_and(torch.optim.LBFGS)),
    ("several_gradients", "SAM takes two", lambda: network_and(SAM)),
    ("several_gradients", "TwoSteps takes two", lambda: network_and(TwoSteps)),
    ("foreign_parameters", "holds 2 parameters", foreign),
    ("optimized_twice", "optimized twice", lambda: network_and(SGD, Adam)),
]


@pytest.mark.parametrize(("name", "came", "made"), UNSAFE_OPTIMIZERS)
def test_an_unsafe_optimizer_is_refused(name: str, came: str, made: Callable[[], Any]) -> None:
    guard = next(one for one in GUARDS["optimizers"] if one.name == name)
    with pytest.raises(PrivacyError) as refused:
        refuse_unsafe_optimizers(*made())
    for part in (came, guard.reason, guard.remedy):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value), "only this guard refuses"


def test_every_guard_of_optimizers_is_seen_to_refuse() -> None:
    assert {name for name, _, _ in UNSAFE_OPTIMIZERS} == {guard.name for guard in GUARDS["optimizers"]}


@pytest.mark.parametrize("kind", [SGD, Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_optimizer_of_one_gradient_a_step_passes(kind: type[torch.optim.Optimizer]) -> None:
    (optimizer,), network = network_and(kind)
    refuse_unsafe_optimizers(optimizer, network)
    refuse_unsafe_optimizers([LightningOptimizer(optimizer)], network)


def test_optimizers_may_share_a_network_between_them_and_hold_what_is_frozen() -> None:
    network, frozen = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
    refuse_unsafe_optimizers(
        [SGD([network.weight, *frozen.parameters()], lr=0.1), SGD([network.bias], lr=0.1)], network
    )


def test_lightnings_wrapper_hides_nothing() -> None:
    (optimizer,), network = network_and(torch.optim.LBFGS)
    with pytest.raises(PrivacyError, match="LBFGS"):
        refuse_unsafe_optimizers([LightningOptimizer(optimizer)], network)
