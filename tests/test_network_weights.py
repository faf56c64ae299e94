import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from pvision.errors import ConfigError, DataError
from pvision.network_weights import is_weights_path, load_exactly, load_with_own_head, read_weights


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pyth", ".safetensors"])
def test_tensors_come_back_as_saved(tmp_path, network, suffix):
    path, state = tmp_path / f"weights{suffix}", network.state_dict()
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    read = read_weights(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_code_in_a_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "evil.pth")
    with pytest.raises(DataError, match="holds code, which is never run"):
        read_weights("evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="never run"):
        read_weights("plain.pth")
    assert not (tmp_path / "evil-was-here").exists()


@settings(max_examples=25, deadline=None)
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".pth", ".safetensors"]))
def test_arbitrary_bytes_are_refused_as_damaged(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("damage") / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="weights"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_cut_file_is_refused(tmp_path, network, suffix):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError):
        read_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, value):
    save_file({"good": torch.zeros(2), "bad": torch.tensor([1.0, value])}, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match="not finite in bad"):
        read_weights(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(DataError, match="holds no state dict"):
        read_weights(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("name", "message"), [("none.pth", "there is no file"), ("notes.txt", "must be a .safetensors")]
)
def test_other_paths_are_refused(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=message):
        read_weights(tmp_path / name)


def test_all_differences_are_listed_and_nothing_is_loaded(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = {
        "0.weight": torch.zeros(3, 5),
        "0.bias": torch.zeros(3),
        "1.weight": torch.zeros(4, 3),
        "extra": torch.ones(1),
    }
    with pytest.raises(ConfigError) as error:
        load_exactly(network, state, source="file.pth")
    assert "only the network has 1.bias" in str(error.value)
    assert "only file.pth has extra" in str(error.value)
    assert "0.weight (3, 2) (3, 5)" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_long_list_of_differences_is_shortened(network):
    state = {**network.state_dict(), **{f"extra{index}": torch.ones(1) for index in range(50)}}
    with pytest.raises(ConfigError, match="and 44 more"):
        load_exactly(network, state, source="file.pth")


def test_only_the_number_of_classes_may_differ(network):
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 7)).state_dict()
    head = network[1].weight.clone()
    load_with_own_head(network, other, head="1", source="file.pth")
    assert torch.equal(network[0].weight, other["0.weight"])
    assert torch.equal(network[1].weight, head)
    with pytest.raises(ConfigError, match=r"1\.weight \(4, 3\) \(4, 9\)"):
        load_with_own_head(network, {**other, "1.weight": torch.zeros(4, 9)}, head="1", source="file.pth")


def test_a_head_of_equal_size_is_loaded(network):
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)).state_dict()
    load_with_own_head(network, other, head="1", source="file.pth")
    assert torch.equal(network[1].weight, other["1.weight"])


@pytest.mark.parametrize(
    ("weights", "path"),
    [("a.pth", True), ("a.safetensors", True), ("dir/a", True), ("KINETICS400_V1", False), ("DEFAULT", False)],
)
def test_paths_and_names_are_told_apart(weights, path):
    assert is_weights_path(weights) is path
