"""LoRA and its gated form: what is trained, confined, shut and pruned."""

import pytest
import torch
from torch import nn

from pvision.adapters import GatedLoRA, GatedLowRank, LoRA, LowRank, add_adapters, shrink_gates
from pvision.errors import ConfigError


def one_layer(method, *, features: int = 10, name: str = "adapter"):
    network = nn.Sequential(nn.Linear(features, 6)).double()
    adapted = add_adapters(network, method, targets="0", name=name)
    return adapted, adapted.layers[0].adapters[name]


def fit(adapted, parameters, *, steps: int = 150, after_step=lambda: None) -> None:
    """Minimise a loss that pulls A and B everywhere, with AdamW and weight decay."""
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-2)
    tokens = torch.randn(32, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    target = torch.randn(32, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for _ in range(steps):
        optimizer.zero_grad()
        (adapted(tokens) - target).square().mean().backward()
        after_step() if optimizer.state else None
        optimizer.step()


def test_lora_is_alpha_over_rank_times_b_a():
    adapted, adapter = one_layer(LoRA(rank=2, alpha=6))
    nn.init.normal_(adapter.up)
    tokens = torch.randn(3, 10, dtype=torch.float64)
    linear = adapted.base[0]
    expected = linear.weight @ tokens.T + linear.bias[:, None] + 6 / 2 * adapter.up @ (adapter.down @ tokens.T)
    assert torch.allclose(adapted(tokens), expected.T, atol=1e-12)


def old_and_free(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """An orthonormal basis of four old directions, and one of the six that are left."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64, generator=generator)).Q
    return whole[:, :4], whole[:, 4:]


@pytest.mark.parametrize("way", ["fixed", "confined"])
def test_a_confined_a_leaves_old_inputs_alone_under_adamw(way):
    old, free = old_and_free()
    adapted, adapter = one_layer(LoRA(rank=3))
    adapter.confine_to(free) if way == "confined" else adapter.fix_down(free[:, :3].T)
    before = adapter.down.detach().clone()
    fit(adapted, adapted.parameters())
    assert torch.equal(adapter.down, before) == (way == "fixed")
    assert (adapter.delta_weight() @ free).norm() > 0.1, "it must have learned, or nothing is tested"
    assert (adapter.delta_weight() @ old).abs().max() <= 1e-12


def test_a_projected_gradient_does_not_survive_adamw():
    old, free = old_and_free()
    adapted, adapter = one_layer(LoRA(rank=3))
    with torch.no_grad():
        adapter.down.copy_(adapter.down @ free @ free.T)

    def project() -> None:
        adapter.down.grad = adapter.down.grad @ free @ free.T

    fit(adapted, adapted.parameters(), after_step=project)
    assert (adapter.delta_weight() @ old).abs().max() > 1e-3


def test_a_fixed_a_is_never_thawed():
    adapted, adapter = one_layer(LoRA(rank=3))
    adapter.fix_down(torch.ones(3, 10))
    assert list(adapted.train_only("adapter").trainable_parameters()) == ["0/adapter/up"]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda adapter: adapter.fix_down(torch.ones(3, 9)), r"matrix must have the shape \(3, 10\), but \(3, 9\)"),
        (lambda adapter: adapter.confine_to(torch.eye(10)[:, :2]), r"\(10, k\) with k of at least 3"),
        (lambda adapter: adapter.confine_to(torch.ones(10, 4)), "orthonormal columns"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(attempt, message):
    _, adapter = one_layer(LoRA(rank=3))
    with pytest.raises(ConfigError, match=message):
        attempt(adapter)


def test_the_proximal_step_is_soft_thresholding():
    adapted, adapter = one_layer(GatedLoRA(rank=5))
    with torch.no_grad():
        adapter.gates.copy_(torch.tensor([0.5, -0.5, 0.1, -0.1, 0.05], dtype=torch.float64))
    assert shrink_gates(adapted, threshold=0.1) == 3
    assert torch.allclose(adapter.gates, torch.tensor([0.4, -0.4, 0, 0, 0], dtype=torch.float64))
    assert adapter.gates[2:].eq(0).all()


def test_frozen_gates_are_not_shrunk():
    adapted, adapter = one_layer(GatedLoRA(rank=2), name="old")
    adapted.add(GatedLoRA(rank=2), name="new", targets="0")
    shrink_gates(adapted, threshold=0.25)
    assert adapter.gates.eq(1).all()
    assert adapted.layers[0].adapters["new"].gates.eq(0.75).all()


def test_a_wrong_threshold_is_refused():
    with pytest.raises(ConfigError, match="threshold must be"):
        shrink_gates(nn.Linear(1, 1), threshold=-0.1)


def shut(adapter: GatedLowRank, which: list[int]) -> None:
    with torch.no_grad():
        adapter.gates[which] = 0


def test_shut_ranks_contribute_exactly_nothing(network, images, randomise):
    with torch.no_grad():
        adapted = randomise(add_adapters(network, GatedLoRA(rank=4)))
        adapters = [adapter for layer in adapted.layers for adapter in layer.adapters.values()]
        for adapter in adapters:
            shut(adapter, [1, 3])
        half = adapted(images)
        for adapter in adapters:
            adapter.up[:, [1, 3]] = 1e6
            adapter.down[[1, 3]] = -1e6
            assert adapter.delta_weight().abs().max() < 1e3
        assert torch.equal(adapted(images), half), "what a shut rank holds cannot matter"
        for adapter in adapters:
            shut(adapter, [0, 2])
            assert adapter.delta_weight().eq(0).all()
        before = [layer.weight.clone() for layer in adapted.layers]
        adapted.merge()
        merged = [site.weight for site in adapted.sites.all() if site.kept is not None]
        assert merged
        assert all(torch.equal(site.weight, site.kept) for site in adapted.sites.all() if site.kept is not None)
        assert all(torch.equal(layer.weight, old) for layer, old in zip(adapted.layers, before, strict=True))


def test_an_open_rank_does_contribute(make_network, images, randomise):
    adapted = randomise(add_adapters(make_network(), GatedLoRA(rank=4)))
    before = adapted(images)
    with torch.no_grad():
        for layer in adapted.layers:
            layer.adapters["adapter"].up[:, 1] = 3
    assert not torch.allclose(adapted(images), before, atol=1e-3)


def test_pruning_keeps_the_function_and_drops_the_ranks(network, images, randomise):
    adapted = randomise(add_adapters(network, GatedLoRA(rank=4)))
    for layer in adapted.layers:
        shut(layer.adapters["adapter"], [0, 2] if layer.place.block else [0, 1, 2, 3])
    before, count = adapted(images), len(adapted.layers)
    assert adapted.prune() == 2 * (count * 2 // 3) + 4 * (count // 3)
    assert {layer.place.block for layer in adapted.layers} == {1, 2}, "an adapter of which nothing is left goes"
    assert {layer.adapters["adapter"].rank for layer in adapted.layers} == {2}
    assert (adapted(images) - before).abs().max() <= 1e-6
    assert adapted.prune() == 0
    assert all(tensor.requires_grad for tensor in adapted.trainable_parameters().values())


def test_plain_lora_is_pruned_where_a_or_b_is_zero():
    adapted, adapter = one_layer(LoRA(rank=4))
    nn.init.normal_(adapter.up)
    with torch.no_grad():
        adapter.up[:, 0] = 0
        adapter.down[2] = 0
    before = adapter.delta_weight()
    assert adapted.prune() == 2
    assert torch.allclose(adapter.delta_weight(), before, atol=1e-15)


def test_pruning_keeps_what_is_fixed():
    adapted, adapter = one_layer(LoRA(rank=3))
    nn.init.normal_(adapter.up)
    adapter.fix_down(torch.eye(10)[[0, 1, 2]] * torch.tensor([[1.0], [0.0], [1.0]]))
    assert adapted.prune() == 1
    assert not isinstance(adapter.down, nn.Parameter)
    assert isinstance(adapter, LowRank)
    assert adapter.rank == 2
