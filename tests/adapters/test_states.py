"""State dicts and files: an adapted model comes back as it was, or not at all."""

import copy
import io

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pvision.adapters import (
    AdaptedModel,
    Bottleneck,
    GatedLoRA,
    LoRA,
    Masked,
    Prefix,
    add_adapters,
    load_adapters,
    save_adapters,
)
from pvision.adapters.adapter import ADAPTER_KINDS
from pvision.errors import ConfigError, DataError

METHODS = [LoRA(rank=3, alpha=2), GatedLoRA(rank=3), Masked(density=0.1), Bottleneck(width=4), Prefix(length=2)]


def full(network: nn.Module, randomise) -> AdaptedModel:
    """All kinds at once, frozen and trained, fixed and confined, scaled, pruned, one of them idle."""
    adapted = AdaptedModel(network)
    for method in METHODS:
        adapted.add(method, name=type(method).__name__)
    randomise(adapted)
    low = [layer.adapters["LoRA"] for layer in adapted.layers if "LoRA" in layer.adapters]
    low[0].fix_down(torch.ones(3, 24))
    low[1].confine_to(torch.eye(24)[:, :5])
    low[2].keep_ranks(torch.tensor([True, False, True]))
    adapted.scale((0.5, 1.0, 2.0), "LoRA", "Bottleneck")
    return adapted.activate("LoRA", "Masked", "Bottleneck", "Prefix")


def facts(adapted: AdaptedModel) -> list[object]:
    return [adapted.names, adapted.active, list(adapted.trainable_parameters())]


def test_a_state_dict_rebuilds_the_adapters_it_holds(network, images, randomise):
    adapted = full(network, randomise)
    buffer = io.BytesIO()
    torch.save(adapted.state_dict(), buffer)
    buffer.seek(0)
    other = AdaptedModel(_untouched(network, adapted))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert facts(other) == facts(adapted)
    assert torch.equal(other(images), adapted(images))


def _untouched(network: nn.Module, adapted: AdaptedModel) -> nn.Module:
    """A copy of the network without adapters and with other weights."""
    other = copy.deepcopy(adapted)
    other.remove(*other.names)
    with torch.no_grad():
        for parameter in other.base.parameters():
            parameter.zero_()
    return other.base


def test_double_precision_survives_a_state_dict(make_network, randomise):
    adapted = randomise(add_adapters(make_network().double(), LoRA(rank=2)))
    other = AdaptedModel(make_network().double())
    other.load_state_dict(adapted.state_dict())
    pairs = zip(adapted.trainable_parameters().values(), other.trainable_parameters().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_loading_the_same_adapters_keeps_the_parameters(network, randomise):
    adapted = full(network, randomise)
    before = list(adapted.parameters())
    state = copy.deepcopy(adapted.state_dict())
    adapted.activate("LoRA").scale(3.0, "LoRA")
    adapted.load_state_dict(state)
    assert all(one is two for one, two in zip(adapted.parameters(), before, strict=True)), "an optimizer holds them"
    assert adapted.active == ("LoRA", "Masked", "Bottleneck", "Prefix")
    assert adapted.layers[0].place.block == 0
    assert {adapter.factor for layer in adapted.layers for n, adapter in layer.adapters.items() if n == "LoRA"} == {
        0.5,
        1,
        2,
    }


def test_a_state_dict_holds_unmerged_weights(network, images, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=("q", "o", "fc1")))
    unmerged, output = copy.deepcopy(adapted.state_dict()), adapted(images)
    merged = adapted.merge().state_dict()
    assert merged.keys() == unmerged.keys()
    assert all(torch.equal(tensor, unmerged[key]) for key, tensor in merged.items())
    with pytest.raises(ConfigError, match="Call unmerge"):
        adapted.load_state_dict(merged)
    adapted.unmerge().load_state_dict(merged)
    assert torch.equal(adapted(images), output)


def test_the_networks_own_state_dict_is_what_it_was(network, randomise):
    names = list(network.state_dict())
    adapted = randomise(add_adapters(network, LoRA(rank=2)))
    assert list(network.state_dict()) == names
    assert {key.split(".")[0] for key in adapted.state_dict()} == {"base", "sites", "_extra_state"}


def test_a_state_of_another_network_is_refused(make_network):
    state = add_adapters(make_network("timm"), LoRA(rank=2)).state_dict()
    other = AdaptedModel(make_network("torchvision"))
    with pytest.raises(ConfigError, match=r"blocks\.0\.attn\.qkv\.q, which this network lacks"):
        other.load_state_dict(state)
    assert other.names == ()


def test_a_file_brings_all_adapters_back(network, images, randomise, tmp_path):
    adapted = full(network, randomise)
    expected, before = adapted(images), facts(adapted)
    path = tmp_path / "folder" / "adapters.safetensors"
    save_adapters(adapted, path)
    adapted.remove(*adapted.names)
    assert list(path.parent.iterdir()) == [path], "nothing temporary is left"
    loaded = load_adapters(adapted.base, path)
    assert facts(loaded) == before
    assert torch.equal(loaded(images), expected)


def test_a_file_stacks_on_what_is_there(make_network, images, randomise, tmp_path):
    path = tmp_path / "second.safetensors"
    adapted = add_adapters(make_network(), LoRA(rank=2), name="first").add(LoRA(rank=3), name="second")
    both = randomise(adapted)(images)
    save_adapters(adapted, path, names=("second",))
    adapted.remove("second")
    assert load_adapters(adapted, path) is adapted
    assert torch.equal(adapted(images), both)
    with pytest.raises(ConfigError, match="'second' exists"):
        load_adapters(adapted, path)


def test_bad_files_are_refused_and_change_nothing(make_network, tmp_path):
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_adapters(add_adapters(make_network(), LoRA(rank=2)), good)
    network = make_network()
    with pytest.raises(ConfigError, match="There is no file"):
        load_adapters(network, bad)
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        load_adapters(network, tmp_path / "adapters.pt")
    bad.write_bytes(good.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged"):
        load_adapters(network, bad)
    save_file({"x": torch.ones(1)}, bad)
    with pytest.raises(DataError, match="not written by save_adapters"):
        load_adapters(network, bad)
    with pytest.raises(ConfigError, match="which this network lacks"):
        load_adapters(make_network("torchvision"), good)
    with pytest.raises(ConfigError, match="no adapters"):
        save_adapters(AdaptedModel(network), bad)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_header_that_tells_of_other_tensors_is_refused(make_network, tmp_path):
    path, adapted = tmp_path / "a.safetensors", add_adapters(make_network(), LoRA(rank=2))
    save_adapters(adapted, path)
    path.write_bytes(path.read_bytes().replace(rb"\"rank\": 2", rb"\"rank\": 3"))
    adapted.remove("adapter")
    with pytest.raises(DataError, match="its header tells of"):
        load_adapters(adapted, path)
    assert adapted.names == ()


def test_an_unknown_kind_asks_for_its_module(make_network, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_adapters(add_adapters(make_network(), Bottleneck(width=2)), path)
    monkeypatch.delitem(ADAPTER_KINDS, "bottleneck")
    with pytest.raises(ConfigError, match="Import the module that defines it"):
        load_adapters(make_network(), path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (rb"\"format\": 1", rb"\"format\": 2", "has format 2, but this version reads 1"),
        (rb"\"names\"", rb"\"nemas\"", "describes no adapters"),
        (rb"\"settings\": {\"rank\"", rb"\"settings\": {\"rink\"", "settings of the low_rank at .* are damaged"),
        (rb"\"dtype\": \"float32\"", rb"\"dtype\": \"float99\"", "are damaged"),
    ],
)
def test_a_damaged_header_is_refused_in_one_sentence(make_network, tmp_path, old, new, message):
    path = tmp_path / "a.safetensors"
    save_adapters(add_adapters(make_network(), LoRA(rank=2)), path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    network = make_network()
    with pytest.raises(DataError, match=message):
        load_adapters(network, path)
    assert not any(module._forward_hooks for module in network.modules())


def test_parameters_come_back_in_one_order_whatever_was_added_and_removed(network, images, randomise):
    adapted = add_adapters(network, LoRA(rank=2), name="gone", targets="fc1").add(LoRA(rank=2), name="v", targets="v")
    adapted.add(LoRA(rank=2), name="more", targets=("fc2", "q", "v", "fc1"), blocks=[1, 2]).remove("gone")
    randomise(adapted).train_only("more", "v")
    expected, state = adapted(images), copy.deepcopy(adapted.state_dict())
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    adapted.remove(*adapted.names)
    other = AdaptedModel(adapted.base)
    other.load_state_dict(state)
    assert [name for name, parameter in other.named_parameters() if parameter.requires_grad] == names
    assert torch.equal(other(images), expected), "sums are taken in one order, too"


def test_a_run_that_stops_inside_an_experience_goes_on_bit_by_bit(make_network, images, randomise):
    def steps(adapted: AdaptedModel, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            adapted(images).square().mean().backward()
            optimizer.step()

    def new_optimizer(adapted: AdaptedModel) -> torch.optim.Optimizer:
        return torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=0.01, weight_decay=0.1)

    adapted = randomise(add_adapters(make_network(), LoRA(rank=2), name="gone", targets="fc1"))
    adapted.add(LoRA(rank=3), name="frozen").add(GatedLoRA(rank=2), name="new", targets=("q", "fc1")).remove("gone")
    for layer in adapted.layers:
        if "new" in layer.adapters and layer.place.role == "q":
            layer.adapters["new"].confine_to(torch.eye(24)[:, :5])
    optimizer = new_optimizer(adapted)
    steps(adapted, optimizer, 3)
    states = copy.deepcopy((adapted.state_dict(), optimizer.state_dict()))
    steps(adapted, optimizer, 3)
    resumed = AdaptedModel(make_network(seed=5))
    resumed.load_state_dict(states[0])
    optimizer = new_optimizer(resumed)
    optimizer.load_state_dict(states[1])
    steps(resumed, optimizer, 3)
    assert torch.equal(resumed(images), adapted(images))


def test_a_basis_laid_out_by_columns_gives_the_same_bits_after_loading(make_network, images, randomise):
    adapted = randomise(add_adapters(make_network(), LoRA(rank=3)))
    orthonormal = torch.linalg.qr(torch.randn(24, 9, generator=torch.Generator().manual_seed(0))).Q
    for layer in adapted.layers:
        adapter = layer.adapters["adapter"]
        adapter.confine_to(orthonormal) if layer.place.role == "q" else adapter.fix_down(orthonormal[:, :3].T)
    randomise(adapted)
    other = AdaptedModel(make_network())
    other.load_state_dict(adapted.state_dict())
    assert torch.equal(other(images), adapted(images))
    assert all(tensor.is_contiguous() for tensor in adapted.sites.state_dict().values() if tensor.ndim == 2)
