"""One trainable number for all layers of an adapter."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pvision.adapters import AdaptedModel, Bottleneck, LoRA, Prefix, add_adapters, load_adapters, save_adapters
from pvision.errors import ConfigError

TARGETS = ("q", "v", "fc1")


def stacked(network: nn.Module, randomise, *, start: float = 0.8) -> AdaptedModel:
    """Two low-rank adapters, of which the first is frozen, both with a magnitude."""
    adapted = add_adapters(network, LoRA(rank=2), name="first", targets=TARGETS)
    adapted.add(LoRA(rank=2), name="second", targets=TARGETS)
    adapted.add_magnitude("first", start=start).add_magnitude("second", start=start)
    return randomise(adapted)


def fit(adapted: AdaptedModel, images: torch.Tensor, *, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(adapted.trainable_parameters().values(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        adapted(images).square().mean().backward()
        optimizer.step()


def test_it_multiplies_what_all_layers_of_its_adapter_add(network, images, randomise):
    network, images = network.double(), images.double()
    adapted = stacked(network, randomise, start=0.8)
    other = copy.deepcopy(adapted)
    other.remove("second")
    with torch.no_grad():
        adapted.magnitudes["second"].fill_(0)
        half = adapted(images)
        for layer in other.layers:
            layer.adapters["first"].up *= 0.8
        other.magnitudes["first"].data.fill_(1)
        assert (other(images) - half).abs().max() <= 1e-12
        other.magnitudes["first"].data.fill_(0.5)
        assert (other(images) - half).abs().max() > 1e-3


def test_its_gradient_is_the_sum_over_the_layers(make_network, images, randomise):
    adapted = stacked(make_network().double(), randomise)
    images, step, value = images.double(), 1e-6, adapted.magnitudes["first"]

    def loss(moved: float) -> torch.Tensor:
        with torch.no_grad():
            value.fill_(0.8 + moved)
        return adapted(images).square().mean()

    loss(0).backward()
    slope = (loss(step) - loss(-step)).item() / (2 * step)
    assert value.grad.item() == pytest.approx(slope, rel=1e-5)


def test_it_is_trained_while_its_adapter_is_frozen(network, images, randomise):
    adapted = stacked(network, randomise)
    assert "magnitudes/first" in adapted.trainable_parameters()
    assert not any("/first/" in name for name in adapted.trainable_parameters())
    assert len(set(adapted.trainable_parameters().values())) == len(adapted.trainable_parameters())
    frozen = {name: tensor.clone() for name, tensor in adapted.sites.state_dict().items() if ".first." in name}
    before = [value.item() for value in adapted.magnitudes.values()]
    fit(adapted, images)
    assert all(old != value.item() for old, value in zip(before, adapted.magnitudes.values(), strict=True))
    after = adapted.sites.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())


def test_train_only_freezes_what_it_is_not_told_of(make_network, randomise):
    adapted = stacked(make_network(), randomise)
    assert adapted.train_only().trainable_parameters() == {}
    assert list(adapted.train_only(magnitudes=["first"]).trainable_parameters()) == ["magnitudes/first"]
    adapted.add(LoRA(rank=2), name="third")
    assert {name.split("/")[1] for name in adapted.trainable_parameters()} == {"third"}
    with pytest.raises(ConfigError, match=r"'third' has none.*first, second"):
        adapted.train_only(magnitudes=adapted.names)
    assert {name.split("/")[1] for name in adapted.trainable_parameters()} == {"third"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_merged_is_unmerged(network, images, randomise, dtype, tolerance):
    adapted = stacked(network.to(dtype), randomise, start=0.3).scale((0.5, 1.0, 2.0))
    with torch.no_grad():
        unmerged = adapted(images.to(dtype))
        assert (adapted.merge()(images.to(dtype)) - unmerged).abs().max() <= tolerance
        assert torch.equal(adapted.unmerge()(images.to(dtype)), unmerged)
        adapted.absorb("first", "second")
        assert (adapted(images.to(dtype)) - unmerged).abs().max() <= tolerance
    assert adapted.magnitudes == {}
    assert not any("magnitudes" in key for key in adapted.state_dict())


def test_a_run_resumes_with_the_same_parameters_in_the_same_order(network, images, randomise, tmp_path):
    adapted = stacked(network, randomise).train_only("second", magnitudes=["first", "second"])
    fit(adapted, images)
    expected = adapted(images)
    torch.save(adapted.state_dict(), tmp_path / "state.pt")
    save_adapters(adapted, tmp_path / "adapters.safetensors")
    names, everything = list(adapted.trainable_parameters()), [name for name, _ in adapted.named_parameters()]
    adapted.remove("first", "second")
    resumed = AdaptedModel(adapted.base)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(resumed(images), expected)
    assert list(resumed.trainable_parameters()) == names
    assert [name for name, _ in resumed.named_parameters()] == everything
    kept = resumed.magnitudes["first"]
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.magnitudes["first"] is kept, "an optimizer holds it"
    resumed.remove("first", "second")
    loaded = load_adapters(resumed.base, tmp_path / "adapters.safetensors")
    assert torch.equal(loaded(images), expected)
    assert list(loaded.trainable_parameters()) == names


def test_replaced_parameters_are_followed(make_network, images, randomise):
    adapted = stacked(make_network(), randomise)
    state = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    state["_magnitudes.first.value"] = torch.tensor(5.0)
    before = adapted(images)
    adapted.load_state_dict(state, assign=True)
    assert (adapted(images) - before).abs().max() > 1e-3
    assert adapted.magnitudes["first"].item() == 5


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_its_own(make_network, images, randomise, again):
    adapted = stacked(make_network(), randomise)
    before = adapted(images)
    other = again(adapted)
    assert torch.equal(other(images), before)
    with torch.no_grad():
        other.magnitudes["first"].fill_(9)
    assert not torch.equal(other(images), before)
    assert torch.equal(adapted(images), before)


def test_a_network_in_half_precision_has_it_in_full(make_network, images, randomise):
    adapted = add_adapters(make_network().bfloat16(), LoRA(rank=2)).add_magnitude("adapter", start=0.8)
    assert adapted.magnitudes["adapter"].dtype == torch.float32
    assert randomise(adapted)(images.bfloat16()).dtype == torch.bfloat16


def test_what_cannot_have_one_is_refused(make_network):
    adapted = add_adapters(make_network(), LoRA(rank=2)).add(Prefix(length=2), name="prefix")
    adapted.add(Bottleneck(width=2), name="narrow").add_magnitude("narrow")
    for name, start, message in [
        ("other", 1.0, "no adapter 'other'"),
        ("prefix", 1.0, "PrefixAdapter.*cannot be scaled"),
        ("narrow", 1.0, "has a magnitude"),
        ("adapter", float("nan"), "start must be"),
    ]:
        with pytest.raises(ConfigError, match=message):
            adapted.add_magnitude(name, start=start)
    with pytest.raises(ConfigError, match="Call unmerge"):
        adapted.merge("adapter").add_magnitude("adapter")
    assert list(adapted.unmerge().magnitudes) == ["narrow"]
    adapted.prune("adapter")
    with pytest.raises(ConfigError, match="nothing is left"):
        adapted.add_magnitude("adapter")


def test_one_whose_adapter_was_pruned_away_survives_a_state_dict(make_network):
    adapted = add_adapters(make_network(), LoRA(rank=2)).add_magnitude("adapter", start=0.5)
    adapted.prune()
    other = AdaptedModel(make_network())
    other.load_state_dict(adapted.state_dict())
    assert (other.names, other.layers, other.magnitudes["adapter"].item()) == (("adapter",), (), 0.5)
