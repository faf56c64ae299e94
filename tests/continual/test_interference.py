"""What an update does to old outputs: layers as they are, with wrappers and hooks, and bounds against brute force."""

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pvision.adapters import LoRA, add_adapters
from pvision.continual.feature_recorder import FeatureRecorder
from pvision.continual.features import FeatureFactor, FeatureGram
from pvision.continual.interference import affine_map, interference, token_margin
from pvision.continual.subspace import LayerSubspace
from pvision.errors import ConfigError, DataError


class Wrapped(nn.Module):
    """A layer with an adapter, which drops out and is scaled, as libraries write them."""

    def __init__(self, base, *, gate=False):
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(6, 2, bias=False), nn.Linear(2, 4, bias=False)
        self.dropout, self.gate = nn.Dropout(0.5), gate
        self.in_features, self.out_features, self.weight = 6, 4, base.weight

    def forward(self, x):
        added = self.up(self.down(self.dropout(x)))
        return self.base(x) + (added * added.mean(-1, keepdim=True) if self.gate else 3 * added)


def layers():
    hooked = nn.Linear(6, 4)
    hooked.register_forward_hook(lambda layer, args, output: output + args[0][..., :4])
    return {
        "plain": nn.Linear(6, 4),
        "no bias": nn.Linear(6, 4, bias=False),
        "wrapped": Wrapped(nn.Linear(6, 4)),
        "hooked": hooked,
    }


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_map_of_a_layer_gives_its_outputs(name, dtype):
    layer = layers()[name].to(dtype).train()
    found = affine_map(layer)
    inputs = torch.randn(9, 6, dtype=dtype)
    assert found.dtype == torch.float64
    assert layer.training
    outputs = layer.eval()(inputs).double()
    tolerance = 30 * torch.finfo(dtype).eps
    assert torch.allclose(inputs.double() @ found[:, :-1].T + found[:, -1], outputs, atol=tolerance, rtol=tolerance)


def test_reading_a_layer_leaves_its_modes_as_they_were():
    layer = Wrapped(nn.Linear(6, 4))
    layer.dropout.eval()
    affine_map(layer)
    assert (layer.training, layer.dropout.training, layer.base.training) == (True, False, True)


def test_a_layer_that_is_not_linear_is_refused():
    with pytest.raises(ConfigError, match="Wrapped are no linear function"):
        affine_map(Wrapped(nn.Linear(6, 4), gate=True))


@pytest.mark.parametrize("how", ["beside", "merged", "absorbed"])
def test_adapters_in_thirds_of_a_fused_layer_are_seen_however_they_run(how):
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 0}
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, **settings).double()
    adapted, images = add_adapters(vit, LoRA(rank=2, alpha=2), targets=("q", "v")), torch.randn(1, 3, 32, 32).double()
    layer = vit.blocks[0].attn.qkv
    with FeatureRecorder({"qkv": layer}, ones=True) as recorder, torch.no_grad():
        adapted(images)
    old, before, subspace = recorder.together()["qkv"], affine_map(layer), LayerSubspace(32)
    subspace.update(old.leading(32), energy=1.0)
    thirds = {one.place.role: one.adapters["adapter"] for one in adapted.layers}
    for adapter in thirds.values():
        adapter.confine_to(subspace.complement())
        torch.nn.init.normal_(adapter.up)
    expected = before[:, :-1].clone()
    expected[:32] += thirds["q"].delta_weight().detach()
    expected[64:] += thirds["v"].delta_weight().detach()
    if how != "beside":
        adapted.merge() if how == "merged" else adapted.absorb("adapter")
    found = interference(before, affine_map(layer), old, subspace.basis())
    assert torch.allclose(affine_map(layer)[:, :-1], expected, atol=1e-12)
    assert found.update > 0.1
    assert found.leak <= 1e-12
    assert found.change <= 1e-12


@given(
    seed=st.integers(0, 999), share=st.floats(0.3, 1.0), gram=st.booleans(), confined=st.booleans(), bias=st.booleans()
)
def test_change_and_bound_are_those_of_the_inputs_themselves(seed, share, gram, confined, bias):
    made = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    inputs = normal(30, 6) * 0.5 ** torch.arange(6)
    subspace = LayerSubspace(6)
    subspace.update(inputs, energy=share)
    old = (FeatureGram if gram else FeatureFactor)(7)
    old.add(torch.cat([inputs, torch.ones(30, 1)], dim=1))
    before, delta = normal(4, 7), normal(4, 7)
    delta[:, -1] *= bias
    delta[:, :-1] = subspace.outside(delta[:, :-1]) if confined else delta[:, :-1]
    found = interference(before, before + delta, old, subspace.basis())
    size = (inputs @ before[:, :-1].T).norm()
    moved = inputs @ delta[:, :-1].T + delta[:, -1]
    outside = subspace.outside(inputs).norm(dim=1)
    spectral = torch.linalg.matrix_norm(delta[:, :-1], 2)
    assert found.change == pytest.approx((moved.norm() / size).item(), rel=1e-6, abs=1e-7)
    assert found.bound == pytest.approx((spectral * outside.norm() / size).item(), rel=1e-6, abs=1e-7)
    margin = token_margin(before, before + delta, inputs, subspace.basis())
    largest = (inputs @ before[:, :-1].T).norm(dim=1).max()
    assert margin == pytest.approx(((moved.norm(dim=1) - spectral * outside).max() / largest).item(), abs=1e-9)
    if confined and not bias:
        assert found.holds(1e-9)
        assert margin <= 1e-9
        assert found.leak <= 1e-12


def test_without_weights_before_the_values_are_absolute():
    old = FeatureFactor(3)
    old.add(torch.tensor([[3.0, 4.0, 1.0]]))
    after = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    found = interference(torch.zeros(1, 3, dtype=torch.float64), after, old, torch.zeros(2, 0, dtype=torch.float64))
    assert (found.change, found.bound, found.leak) == pytest.approx((3.0, 5.0, 0.0))


def test_weights_that_diverged_are_refused():
    old, basis = FeatureFactor(3), torch.zeros(2, 0, dtype=torch.float64)
    old.add(torch.ones(1, 3))
    with pytest.raises(DataError, match="diverged"):
        interference(torch.ones(1, 3), torch.full((1, 3), torch.nan), old, basis)
