"""Second moments of features: streaming, in any order, by any number of processes, without losing small directions."""

import copy
import io

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pvision.continual.feature_recorder import FeatureRecorder, InputRecorder, find_linears, record_features
from pvision.continual.features import FeatureFactor, FeatureGram
from pvision.errors import ConfigError, DataError

KINDS = pytest.mark.parametrize("kind", [FeatureFactor, FeatureGram])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def vectors(count, dim, *, seed=0, decay=0.8):
    """Feature vectors whose directions have strengths that fall geometrically."""
    rows = torch.randn(count, dim, generator=generator(seed), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator(1), dtype=torch.float64)).Q
    return rows * decay ** torch.arange(dim) @ turn


def error(features, rows):
    root = features.root()
    gram = rows.T @ rows
    return float((root.T @ root - gram).abs().max() / gram.abs().max())


@KINDS
@given(cuts=st.lists(st.integers(0, 90), max_size=6), batch=st.booleans())
def test_batches_of_any_sizes_give_the_moments_of_all_vectors(kind, cuts, batch):
    rows = vectors(90, 7)
    features = kind(7)
    for part in torch.tensor_split(rows, sorted(cuts)):
        features.add(part.reshape(1, -1, 7) if batch else part)
    assert features.count == 90
    assert error(features, rows) <= 1e-13


@KINDS
def test_merging_is_adding(kind):
    rows = vectors(60, 9)
    one, other = kind(9), kind(9)
    one.add(rows[:25])
    other.add(rows[25:])
    one.merge(other)
    assert one.count == 60
    assert error(one, rows) <= 1e-13


def test_a_factor_sees_directions_that_a_gram_matrix_loses():
    rows = torch.diag(torch.tensor([1.0, 1e-4, 1e-10], dtype=torch.float64))
    factor, gram = FeatureFactor(3), FeatureGram(3)
    factor.add(rows)
    gram.add(rows)
    assert torch.linalg.svdvals(factor.root())[-1].item() == pytest.approx(1e-10, rel=1e-5)
    assert len(gram.root()) == 2


def test_the_resolution_is_that_of_the_coarsest_features():
    features = FeatureFactor(4)
    features.add(torch.ones(2, 4, dtype=torch.float64))
    fine = features.resolution
    features.add(torch.ones(2, 4, dtype=torch.float32))
    assert fine < 1e-14 < 5e-7 < features.resolution < 5e-6


@KINDS
def test_the_root_does_not_depend_on_which_device_or_order_it_is_asked_in(kind):
    rows = vectors(30, 5)
    asked, silent = kind(5), kind(5)
    for part in rows.split(3):
        asked.add(part)
        asked.root()
        silent.add(part)
    assert torch.allclose(asked.root().T @ asked.root(), silent.root().T @ silent.root(), rtol=1e-12, atol=0)


@KINDS
def test_the_state_comes_back_bit_for_bit_through_a_weights_only_file(kind):
    features, copied = kind(6), kind(6)
    features.add(vectors(20, 6).float())
    file = io.BytesIO()
    torch.save(features.state_dict(), file)
    file.seek(0)
    copied.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(copied.root(), features.root())
    assert (copied.count, copied.resolution) == (features.count, features.resolution)
    features.add(vectors(9, 6, seed=2))
    copied.add(vectors(9, 6, seed=2))
    assert torch.equal(copied.root(), features.root())


@KINDS
@pytest.mark.parametrize(
    ("came", "told"),
    [
        (torch.ones(3, 5), r"6 entries.*\(3, 5\)"),
        (torch.full((2, 6), torch.nan), "NaN"),
        (torch.tensor(1.0), "6 entries"),
        (torch.ones(2, 6, dtype=torch.complex64), "real"),
    ],
)
def test_wrong_features_are_refused_and_leave_nothing(kind, came, told):
    features = kind(6)
    with pytest.raises(DataError, match=told):
        features.add(came)
    assert features.count == 0


@KINDS
@pytest.mark.parametrize("spoil", ["missing", "narrow", "float32"])
def test_a_damaged_state_is_refused(kind, spoil):
    features = kind(6)
    features.add(vectors(20, 6))
    state = features.state_dict()
    name = next(key for key, value in state.items() if isinstance(value, torch.Tensor))
    if spoil == "missing":
        del state[name]
    else:
        state[name] = state[name][:, :4] if spoil == "narrow" else state[name].float()
    with pytest.raises(DataError, match=f"{name!r} with 6 columns"):
        kind(6).load_state_dict(state)


@KINDS
@pytest.mark.parametrize("change", [{"count": -1}, {"count": None}, {"precision": None}, {"precision": float("nan")}])
def test_a_state_with_impossible_numbers_is_refused(kind, change):
    features = kind(6)
    features.add(vectors(20, 6))
    with pytest.raises(DataError, match="damaged"):
        kind(6).load_state_dict({**features.state_dict(), **change})


@KINDS
def test_a_state_that_is_not_finite_is_refused(kind):
    features = kind(6)
    features.add(vectors(20, 6))
    state = {
        name: one * torch.nan if isinstance(one, torch.Tensor) else one for name, one in features.state_dict().items()
    }
    with pytest.raises(DataError, match="finite"):
        kind(6).load_state_dict(state)


def test_features_of_another_size_are_not_merged():
    with pytest.raises(DataError, match=r"5 entries.*6"):
        FeatureFactor(6).merge(FeatureFactor(5))


# Hooks


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.last = nn.Linear(3, 2, bias=False)

    def forward(self, x):
        h = self.first(input=x)
        return self.last(self.attention(h, h, h)[0])


@KINDS
def test_hooks_collect_the_inputs_of_the_layers_chosen(kind):
    network, image = Network(), torch.randn(5, 7, 4)
    with FeatureRecorder(find_linears(network, ["first", "last"]), kind=kind) as recorder:
        network(image)
        network(image)
    found = recorder.together()
    rows = image.reshape(-1, 4).double().repeat(2, 1)
    assert list(found) == ["first", "last"]
    assert error(found["first"], rows) <= 1e-13
    assert found["last"].count == 70
    network(image)
    assert recorder.features["first"].count == 70, "hooks must be gone"


def test_with_ones_the_mean_is_kept_too():
    network = nn.Sequential(nn.Linear(4, 2))
    rows = torch.randn(9, 4, dtype=torch.float64)
    with FeatureRecorder(find_linears(network), ones=True) as recorder:
        network(rows.float())
    root = recorder.features["0"].root()
    assert torch.allclose((root.T @ root)[-1], torch.cat([rows.sum(0), torch.tensor([9.0])]).double(), atol=1e-5)
    assert recorder.features["0"].leading(4).count == 9


@KINDS
def test_what_is_done_in_place_afterwards_changes_nothing(kind):
    network = nn.Sequential(nn.Linear(4, 3, dtype=torch.float64))
    image = vectors(6, 4)
    expected = image.clone()
    with FeatureRecorder(find_linears(network), kind=kind) as recorder, InputRecorder(find_linears(network)) as inputs:
        network(image)
        image.zero_()
    assert error(recorder.together()["0"], expected) <= 1e-13
    assert torch.equal(inputs.inputs["0"][0], expected)


def test_hooks_are_removed_when_the_network_fails():
    network = nn.Linear(4, 2)
    with pytest.raises(RuntimeError), InputRecorder({"it": network}):
        network(torch.ones(1, 3))
    assert not network._forward_pre_hooks


def test_a_layer_whose_weights_are_used_directly_is_named():
    network = Network()
    with FeatureRecorder(find_linears(network)) as recorder:
        network(torch.randn(1, 2, 4))
    with pytest.raises(ConfigError, match=r"attention\.out_proj were never called.*MultiheadAttention"):
        recorder.together()


def test_a_pattern_without_a_layer_names_those_that_exist():
    with pytest.raises(ConfigError, match=r"'blocks\.\*'.*first, attention\.out_proj, last"):
        find_linears(Network(), ["first", "blocks.*"])


def test_layers_inside_an_adapted_layer_belong_to_it():
    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.down = base, nn.Linear(4, 1)
            self.in_features, self.out_features = 4, 3
            self.weight = base.weight

    network = Network()
    network.first = Adapted(network.first)
    assert "first" in find_linears(network)
    assert not any(name.startswith("first.") for name in find_linears(network))


def test_the_features_of_all_batches_are_recorded_in_evaluation_mode():
    network = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.9), nn.Linear(6, 2)).double()
    network[2].eval()
    rows = vectors(10, 4)
    with torch.no_grad():
        expected = network[0](rows)
    found = record_features(network, ["0", "2"], rows.split(3))
    assert error(found["2"], expected) <= 1e-13
    assert [module.training for module in network] == [True, True, False]
    assert record_features(network, ["2"], [rows], forward=lambda batch: network(batch[:4]))["2"].count == 4
    with pytest.raises(ConfigError, match="never called"):
        record_features(network, ["2"], [])


def test_modes_come_back_when_the_network_fails():
    network = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(DataError, match="4 entries"):
        record_features(network, ["0"], [torch.ones(1, 3)])
    assert network.training
    assert not network[0]._forward_pre_hooks


# Several processes


def share_of_rank(rank, kind, sizes, together=True):
    start = sum(sizes[:rank])
    features = {"factor": FeatureFactor, "gram": FeatureGram}[kind](24)
    features.add(vectors(sum(sizes), 24)[start : start + sizes[rank]])
    joined = features.together() if together else features
    return joined.count, joined.root().numpy(), dist.get_world_size()


@pytest.mark.parametrize("kind", ["factor", "gram"])
@pytest.mark.parametrize("sizes", [(1000, 797), (5, 0)])
def test_two_processes_with_unequal_shares_know_what_one_knows(ranks, kind, sizes):
    rows = vectors(sum(sizes), 24)
    answers = ranks(share_of_rank, 2, kind=kind, sizes=sizes)
    roots = [torch.from_numpy(value[1]) for status, value in answers if status == "returned"]
    assert len(roots) == 2
    assert torch.equal(roots[0], roots[1]), "the same bits on both"
    gram = rows.T @ rows
    assert float((roots[0].T @ roots[0] - gram).abs().max() / gram.abs().max()) <= 1e-13
    assert [value[0] for _, value in answers] == [sum(sizes)] * 2


def test_a_copy_goes_on_by_itself():
    features = FeatureFactor(3)
    features.add(torch.ones(2, 3))
    other = copy.deepcopy(features)
    other.add(torch.ones(2, 3))
    assert (features.count, other.count) == (2, 4)
