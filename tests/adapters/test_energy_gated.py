"""LoRA that each image opens as far as its class token lies in the adapter's subspace."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pvision.adapters import (
    AdaptedModel,
    EnergyGatedLoRA,
    LoRA,
    add_adapters,
    export_peft,
    find_places,
    load_adapters,
    record_shares,
    save_adapters,
)
from pvision.errors import ConfigError

WIDTH = 24
TARGETS = ("v", "fc1")


def orthonormal(columns: int = 5, *, seed: int = 0, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, columns, dtype=torch.float64, generator=generator)).Q


def method(network: nn.Module, *, rank: int = 3, **settings) -> EnergyGatedLoRA:
    """Settings with another basis for each place."""
    places = [place for place in find_places(network) if place.role in TARGETS]
    bases = {place.name: orthonormal(seed=seed) for seed, place in enumerate(places)}
    return EnergyGatedLoRA(rank=rank, bases=bases, **settings)


def gated(network: nn.Module, randomise, **settings) -> AdaptedModel:
    return randomise(add_adapters(network, method(network, **settings), targets=TARGETS))


def one_layer(**settings):
    network = nn.Sequential(nn.Linear(WIDTH, 6)).double()
    adapted = add_adapters(network, EnergyGatedLoRA(rank=3, bases={"0": orthonormal()}, **settings), targets="0")
    adapter = adapted.layers[0].adapters["adapter"]
    nn.init.normal_(adapter.up)
    return adapted, adapter


def tokens(batch: int = 4, count: int = 7) -> torch.Tensor:
    return torch.randn(batch, count, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def test_the_output_is_the_share_of_the_class_tokens_energy_times_the_low_rank_map():
    adapted, adapter = one_layer(alpha=6)
    x, phi = tokens(), adapter.basis
    share = (x[:, 0] @ phi).square().sum(-1) / x[:, 0].square().sum(-1)
    change = share[:, None, None] * 6 / 3 * (x @ phi @ adapter.down.T @ adapter.up.T)
    plain = nn.functional.linear(x, adapted.base[0].weight, adapted.base[0].bias)
    assert torch.allclose(adapted(x), plain + change, atol=1e-12)
    assert share.min() > 0.05
    assert share.max() < 0.9, "neither end, or nothing is tested"
    assert torch.allclose(adapter.share(x), share, atol=1e-15)
    assert torch.allclose(adapter.share(x[:, 0]), share, atol=1e-15), "without other tokens, each input is its own"


def test_it_is_silent_on_what_is_orthogonal_to_its_basis():
    _, adapter = one_layer()
    phi, x = adapter.basis, tokens()
    outside = x - x @ phi @ phi.T
    mixed = torch.cat([x[:, :1] @ phi @ phi.T, outside[:, 1:]], 1)
    assert adapter.share(mixed).sub(1).abs().max() <= 1e-12, "the gate is wide open"
    assert adapter(mixed)[:, 1:].abs().max() <= 1e-12
    shut = torch.cat([outside[:, :1], x[:, 1:]], 1)
    assert adapter(shut).abs().max() <= 1e-12, "the class token shuts it for all tokens of an image"
    adapter.gated = False
    assert adapter(shut).abs().max() > 0.1


def test_an_image_whose_class_token_is_zero_gets_exactly_nothing():
    _, adapter = one_layer()
    x = tokens()
    x[1, 0] = 0
    x.requires_grad_(True)
    change = adapter(x)
    assert change[1].eq(0).all()
    assert change[0].abs().max() > 0
    change.sum().backward()
    assert x.grad.isfinite().all()


def test_the_gate_is_for_each_image_alone():
    _, adapter = one_layer()
    x = tokens()
    alone = torch.cat([adapter(image[None]) for image in x])
    assert torch.allclose(adapter(x), alone, atol=1e-12)


def test_optimizers_leave_its_rows_in_the_subspace():
    adapted, adapter = one_layer()
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.01, weight_decay=0.1)
    before = adapter.down_matrix().detach().clone()
    for _ in range(20):
        optimizer.zero_grad()
        adapted(tokens()).square().mean().backward()
        optimizer.step()
    after, phi = adapter.down_matrix(), adapter.basis
    assert (after - before).abs().max() > 0.01
    assert (after - after @ phi @ phi.T).abs().max() <= 1e-12


def test_a_new_one_changes_nothing(network, images):
    with torch.no_grad():
        plain = network(images)
        fresh = add_adapters(network, method(network), targets=TARGETS)(images)
    assert (fresh - plain).abs().max() <= 1e-6


@pytest.mark.parametrize("on", [True, False])
def test_it_survives_states_files_copies_and_pickles(network, images, randomise, tmp_path, on):
    adapted = gated(network, randomise)
    for layer in adapted.layers:
        layer.adapters["adapter"].gated = on
    expected = adapted(images)
    save_adapters(adapted, tmp_path / "adapters.safetensors")
    state, copied = copy.deepcopy(adapted.state_dict()), copy.deepcopy(adapted)
    assert torch.equal(copied(images), expected)
    randomise(copied, seed=4)
    assert not torch.equal(copied(images), expected)
    assert torch.equal(adapted(images), expected)
    adapted.remove("adapter")
    adapted.load_state_dict(state)
    assert torch.equal(adapted(images), expected)
    adapted.remove("adapter")
    loaded = load_adapters(adapted.base, tmp_path / "adapters.safetensors")
    assert torch.equal(loaded(images), expected)
    assert {layer.adapters["adapter"].gated for layer in loaded.layers} == {on}


def test_a_pickle_holds_it(make_network, images, randomise):
    adapted = gated(make_network(), randomise)
    assert torch.equal(pickle.loads(pickle.dumps(adapted))(images), adapted(images))


def test_it_merges_with_its_gate_off_only(network, images, randomise, tmp_path):
    adapted = gated(network, randomise)
    for attempt in (adapted.merge, lambda: adapted.absorb("adapter")):
        with pytest.raises(ConfigError, match="EnergyGatedLowRank"):
            attempt()
    with pytest.raises(ConfigError, match="has a gate"):
        export_peft(adapted, tmp_path)
    with torch.no_grad():
        open_gate = adapted(images)
        for layer in adapted.layers:
            layer.adapters["adapter"].gated = False
        unmerged = adapted(images)
        assert (unmerged - open_gate).abs().max() > 1e-3
        assert (adapted.merge()(images) - unmerged).abs().max() <= 2e-5
        assert torch.equal(adapted.unmerge()(images), unmerged)


def test_shares_are_recorded_layer_by_layer(network, images, randomise):
    adapted = gated(network, randomise)
    adapted.add(LoRA(rank=2), name="plain").add(method(network), name="second", targets="fc1")
    seen: list[torch.Tensor] = []
    handles = [layer.on_input(seen.append) for layer in adapted.layers if "adapter" in layer.adapters]
    with record_shares(adapted) as shares:
        adapted(images)
    assert {name: len(each) for name, each in shares.items()} == {"adapter": 6, "second": 3}
    layers = [layer for layer in adapted.layers if "adapter" in layer.adapters]
    for layer, x, share in zip(layers, seen, shares["adapter"], strict=True):
        inside = x[:, 0] @ layer.adapters["adapter"].basis
        assert torch.allclose(share, inside.square().sum(-1) / x[:, 0].square().sum(-1), atol=1e-6)
    for handle in handles:
        handle.remove()
    adapted(images)
    assert len(shares["adapter"]) == 6, "nothing is recorded after the block"
    with adapted.disabled(), record_shares(adapted, "second") as alone:
        adapted(images)
    assert list(alone) == ["second"]
    assert len(alone["second"]) == 3, "also of adapters that do not run"


def test_recording_ends_with_an_error_too(make_network, images, randomise):
    adapted = gated(make_network(), randomise)
    with pytest.raises(RuntimeError), record_shares(adapted):
        adapted(images[:, :1])
    assert not any(layer.module._forward_pre_hooks for layer in adapted.layers)


def test_shares_stay_shares_under_autocast():
    _, adapter = one_layer()
    adapter.float()
    inside = (tokens() @ adapter.basis.double() @ adapter.basis.double().T).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        share = adapter.share(inside)
        half = adapter(inside)
    assert share.dtype == torch.float32
    assert share.sub(1).abs().max() <= 1e-5
    assert half.isfinite().all()


def test_a_place_with_few_directions_gets_fewer_ranks(make_network):
    network = make_network()
    bases = {f"blocks.{block}.mlp.fc1": orthonormal(block + 1) for block in range(3)}
    adapted = add_adapters(network, EnergyGatedLoRA(rank=2, alpha=4, bases=bases), targets="fc1")
    adapters = [layer.adapters["adapter"] for layer in adapted.layers]
    assert [(adapter.rank, adapter.scaling) for adapter in adapters] == [(1, 4.0), (2, 2.0), (2, 2.0)]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda network: EnergyGatedLoRA(rank=2), "bases must map names"),
        (lambda network: EnergyGatedLoRA(rank=0, bases={"0": orthonormal()}), "rank must be"),
        (lambda network: add_adapters(network, method(network), targets=("o",)), r"bases has none for blocks\.0"),
        (lambda network: add_adapters(network, method(network), targets=("v",)).layers[0].adapters["adapter"].fix_down(
            torch.ones(3, WIDTH)), "take the basis away"),
        (lambda network: add_adapters(network, method(network), targets=("v",)).layers[0].adapters["adapter"].share(
            torch.ones(2, 3, 3, WIDTH)), "class token first"),
        (lambda network: record_shares(add_adapters(network, LoRA(rank=2))).__enter__(), "no adapter of EnergyGated"),
        (lambda network: record_shares(add_adapters(network, LoRA(rank=2)), "x").__enter__(), "no adapter 'x'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(make_network, attempt, message):
    with pytest.raises(ConfigError, match=message):
        attempt(make_network())
