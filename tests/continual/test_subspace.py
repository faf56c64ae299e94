"""Subspace memory: the energy rule, orthonormality, the complement, and exact protection of old outputs."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.features import FeatureFactor, FeatureGram
from pvision.continual.subspace import LayerSubspace, SubspaceMemory
from pvision.errors import ConfigError, DataError

DIM = 48


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def turn(dim=DIM, seed=9):
    return torch.linalg.qr(normal(dim, dim, seed=seed)).Q


def spectrum(strengths, *, count=200, seed=3):
    """Feature vectors ``(count, dim)`` whose singular values are exactly ``strengths``."""
    dim = len(strengths)
    left = torch.linalg.qr(normal(count, dim, seed=seed)).Q
    return left * torch.as_tensor(strengths, dtype=torch.float64) @ turn(dim)


def shared_tasks():
    """Three experiences: the first uses 11 directions, each further one 6 of these and 5 new ones."""
    directions = turn().T
    chosen = [list(range(11)), [*range(6), *range(11, 16)], [*range(6), *range(16, 21)]]
    return [normal(300, 11, seed=t) @ directions[columns] for t, columns in enumerate(chosen)]


def held(features, kind):
    moments = kind(features.shape[1])
    moments.add(features)
    return moments


def defect(basis):
    return float((basis.T @ basis - torch.eye(basis.shape[1], dtype=basis.dtype)).abs().max()) if basis.numel() else 0.0


def distance(one, other):
    """How far the projectors on two subspaces are apart, as the largest entry."""
    return float((one @ one.T - other @ other.T).abs().max())


# The energy rule


@pytest.mark.parametrize("kind", [FeatureFactor, FeatureGram])
def test_energy_is_that_of_the_features_not_of_their_gram_matrix(kind):
    strengths = 0.05 ** (torch.arange(DIM, dtype=torch.float64) / 41)  # the energy falls twentyfold in 20.5 directions
    features = spectrum(strengths)
    assert LayerSubspace(DIM).update(held(features, kind), energy=0.95) == 21
    # The control: the same rule on the Gram matrix' singular values, which are σ² already, keeps half as many.
    assert LayerSubspace(DIM).update(features.T @ features, energy=0.95) == 11


@given(share=st.floats(0.05, 0.999), seed=st.integers(0, 99))
def test_as_few_directions_as_hold_the_energy(share, seed):
    features = normal(40, 12, seed=seed) * 0.7 ** torch.arange(12)
    subspace = LayerSubspace(12)
    rank = subspace.update(features, energy=share)
    energies = torch.linalg.svdvals(features).square()
    assert float(energies[:rank].sum()) >= (share - 1e-12) * float(energies.sum())
    assert float(energies[: rank - 1].sum()) < (share + 1e-12) * float(energies.sum())
    kept = (features @ subspace.basis()).square().sum()
    assert float(kept) >= (share - 1e-12) * float(energies.sum())


def test_what_earlier_experiences_hold_counts_towards_the_energy():
    first, second, third = shared_tasks()
    subspace = LayerSubspace(DIM)
    assert [subspace.update(one, energy=1.0) for one in (first, second, third)] == [11, 5, 5]
    assert [subspace.update(one, energy=1.0) for one in (first, second, third)] == [0, 0, 0]


@pytest.mark.parametrize("kind", [FeatureFactor, FeatureGram])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_with_energy_1_rounding_is_no_direction(kind, scale):
    first = held(shared_tasks()[0] * scale, kind)
    subspace = LayerSubspace(DIM)
    assert subspace.update(first, energy=1.0) == 11
    assert subspace.update(first, energy=1.0) == 0


def test_float32_features_do_not_fill_the_memory_with_their_rounding():
    subspace = LayerSubspace(DIM)
    assert subspace.update(shared_tasks()[0].float(), energy=1.0) == 11
    assert subspace.update(shared_tasks()[0].double(), energy=1.0) == 0


def test_no_energy_fills_nothing_and_all_directions_fill_everything():
    subspace = LayerSubspace(5)
    assert subspace.update(torch.zeros(3, 5), energy=0.9) == 0
    assert subspace.update(normal(9, 5), energy=1.0) == 5
    assert subspace.complement().shape == (5, 0)
    assert subspace.update(normal(9, 5, seed=1), energy=1.0) == 0
    assert float(subspace.outside(normal(4, 5)).abs().max()) <= 1e-14


# Geometry


@pytest.mark.parametrize("compact", [False, True])
@given(seed=st.integers(0, 10_000), share=st.floats(0.3, 1.0), updates=st.integers(1, 8))
def test_memory_and_complement_are_orthonormal_and_orthogonal(compact, seed, share, updates):
    subspace, dim = LayerSubspace(20, compact=compact), 20
    for update in range(updates):
        mixing = normal(4, dim, seed=seed + update)
        subspace.update(normal(30, 4, seed=seed - update - 1) @ mixing, energy=share)
    inside, outside = subspace.basis(), subspace.complement()
    assert inside.shape[1] + outside.shape[1] == dim
    assert defect(inside) <= 1e-12
    assert defect(outside) <= 1e-12
    assert float((inside.T @ outside).abs().sum()) <= 1e-11


def test_orthonormality_survives_a_hundred_updates():
    subspace = LayerSubspace(250)
    for update in range(100):
        mixing = normal(2, 250, seed=update) + 1e3 * normal(2, 250, seed=0)  # nearly the same directions each time
        subspace.update(normal(10, 2, seed=500 + update) @ mixing, energy=1.0)
    assert subspace.rank == 200
    assert defect(subspace.basis()) <= 1e-12
    assert float((subspace.basis().T @ subspace.complement()).abs().max()) <= 1e-12


def test_a_compact_memory_is_the_same_subspace_in_no_more_bytes():
    whole, compact = LayerSubspace(DIM), LayerSubspace(DIM, compact=True)
    for update in range(8):
        features = normal(30, 7, seed=update) @ normal(7, DIM, seed=20 + update)
        assert whole.update(features, energy=0.999) == compact.update(features, energy=0.999)
        assert distance(whole.basis(), compact.basis()) <= 1e-12
        assert distance(whole.complement(), compact.complement()) <= 1e-12
        probe = normal(5, DIM, seed=90)
        assert float((whole.outside(probe) - compact.outside(probe)).abs().max()) <= 1e-12
        assert compact.nbytes == 8 * DIM * min(compact.rank, DIM - compact.rank)
    assert 2 * whole.rank > DIM, "the complement must have become the smaller one"


def test_keeping_the_wrong_half_would_be_seen():
    """The control: the strongest directions in place of the complement, as in a released code, protect nothing."""
    features = normal(60, 30, seed=1) @ normal(30, DIM, seed=2)
    compact = LayerSubspace(DIM, compact=True)
    assert 2 * compact.update(features, energy=1.0) > DIM
    wrong = torch.linalg.svd(features).Vh[: DIM - 30].T
    assert float((features @ compact.complement()).abs().max()) <= 1e-12
    assert float((features @ wrong).abs().max()) > 1


def test_the_projector_does_not_depend_on_how_features_are_held():
    features = shared_tasks()[0]
    bases = []
    for one in (features, held(features, FeatureFactor), held(features, FeatureGram)):
        subspace = LayerSubspace(DIM)
        subspace.update(one, energy=0.99)
        bases.append(subspace.basis())
    assert distance(bases[0], bases[1]) <= 1e-12
    assert distance(bases[0], bases[2]) <= 1e-10


# Residual bases


def test_a_residual_update_is_silent_on_earlier_experiences():
    tasks, subspace = shared_tasks(), LayerSubspace(DIM)
    for features in tasks:
        subspace.update(features, energy=1.0)
    for update in range(3):
        weights = normal(16, subspace.ranks[update], seed=update) @ subspace.residual_basis(update).T
        for earlier in range(update):
            features = tasks[earlier]
            moved = (features @ weights.T).norm(dim=1) / features.norm(dim=1)
            assert float(moved.max()) <= 1e-12
        assert float((tasks[update] @ weights.T).norm()) > 1


def test_the_shares_of_the_residual_bases_are_those_of_the_energy():
    tasks, subspace = shared_tasks(), LayerSubspace(DIM)
    for features in tasks:
        subspace.update(features, energy=1.0)
    for experience, features in enumerate(tasks):
        shares = subspace.shares(features)
        assert shares.shape == (300, 3)
        assert float((shares.sum(1) - 1).abs().max()) <= 1e-12
        assert float(shares[:, experience + 1 :].sum()) <= 1e-24 * 300
    assert float(subspace.shares(normal(50, DIM)).sum(1).max()) < 1
    assert subspace.shares(torch.zeros(1, DIM, dtype=torch.float64)).tolist() == [[0.0, 0.0, 0.0]]


def test_residual_bases_do_not_change_any_more():
    subspace = LayerSubspace(DIM)
    before = []
    for features in shared_tasks():
        subspace.update(features, energy=0.999)
        before.append(subspace.residual_basis())
    assert all(torch.equal(subspace.residual_basis(update), basis) for update, basis in enumerate(before))


def test_a_residual_basis_that_does_not_exist_is_refused():
    subspace, compact = LayerSubspace(4), LayerSubspace(4, compact=True)
    with pytest.raises(ConfigError, match="0 updates"):
        subspace.residual_basis()
    compact.update(torch.eye(4)[:1], energy=1.0)
    with pytest.raises(ConfigError, match="compact=False"):
        compact.residual_basis()


# Several layers, states, refusals


def filled(*, compact=False):
    memory = SubspaceMemory({"a": DIM, "b": 6}, compact=compact)
    for update, features in enumerate(shared_tasks()):
        memory.update({"a": features, "b": normal(2, 6, seed=update)}, energy=0.99)
    return memory


@pytest.mark.parametrize("compact", [False, True])
def test_the_state_comes_back_bit_for_bit_and_goes_on_alike(compact):
    memory, copied = filled(compact=compact), SubspaceMemory({"a": DIM, "b": 6}, compact=compact)
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    copied.load_state_dict(torch.load(file, weights_only=True))
    for name in memory:
        assert torch.equal(memory[name].complement(), copied[name].complement())
        assert torch.equal(memory[name].basis(), copied[name].basis())
    more = {"a": normal(3, DIM, seed=70)}
    assert memory.update(more, energy=1.0) == copied.update(more, energy=1.0) == {"a": 3}
    assert torch.equal(memory["a"].basis(), copied["a"].basis())


def test_the_state_is_not_tied_to_the_memory():
    memory = filled()
    state = memory.state_dict()
    state["layers"]["a"]["basis"].zero_()
    assert float(memory["a"].basis().abs().sum()) > 0


def spoiled(change):
    state = filled().state_dict()
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("layers"), "expected"),
        (lambda s: s.update(compact=True), "compact=True"),
        (lambda s: s["layers"]["a"].update(dim=7), "48 inputs, but 7"),
        (lambda s: s["layers"]["a"]["basis"].mul_(1.001), "orthonormal"),
        (lambda s: s["layers"]["a"].update(ranks=[1]), "damaged"),
        (lambda s: s["layers"]["a"].update(basis=s["layers"]["a"]["basis"].float()), "float64"),
        (lambda s: s["layers"]["b"].pop("basis"), "compact=False"),
        (lambda s: s["layers"]["a"].update(basis=s["layers"]["a"]["basis"] * torch.nan), "orthonormal"),
        (lambda s: s["layers"]["a"].update(basis=None), "NoneType"),
        (lambda s: s["layers"]["a"].update(ranks=[22, -1]), "ranks"),
        (lambda s: s["layers"]["a"].pop("ranks"), "ranks"),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_is_taken(change, told):
    memory = filled()
    before = memory["b"].basis()
    with pytest.raises(DataError, match=told):
        memory.load_state_dict(spoiled(change))
    assert torch.equal(memory["b"].basis(), before)


@pytest.mark.parametrize("energy", [0, -0.1, 1.01, float("nan"), True, "0.9", None])
def test_an_energy_that_is_no_share_is_refused(energy):
    with pytest.raises(ConfigError, match="energy"):
        LayerSubspace(4).update(torch.eye(4), energy=energy)


def test_wrong_features_and_layers_are_refused():
    memory = SubspaceMemory({"a": 4})
    with pytest.raises(DataError, match="4 entries"):
        memory.update({"a": torch.ones(2, 5)}, energy=0.9)
    with pytest.raises(DataError, match="0 with 4"):
        memory.update({"a": FeatureFactor(4)}, energy=0.9)
    with pytest.raises(ConfigError, match=r"no layer 'c'.*a"):
        memory.update({"c": torch.ones(2, 4)}, energy=0.9)
    with pytest.raises(ConfigError, match="'a' already"):
        memory.add("a", 4)
    assert memory["a"].rank == 0


# Several processes


def memory_of_rank(rank, sizes, together, kind="factor"):
    start = sum(sizes[:rank])
    features = {"factor": FeatureFactor, "gram": FeatureGram}[kind](DIM)
    features.add(spectrum(0.8 ** torch.arange(DIM), count=sum(sizes))[start : start + sizes[rank]])
    subspace = LayerSubspace(DIM)
    subspace.update(features.together() if together else features, energy=0.99)
    return subspace.basis().numpy()


@pytest.mark.parametrize("kind", ["factor", "gram"])
def test_two_processes_find_the_subspace_that_one_finds(ranks, kind):
    sizes = (1000, 797)
    alone = LayerSubspace(DIM)
    alone.update(spectrum(0.8 ** torch.arange(DIM), count=sum(sizes)), energy=0.99)
    (_, first), (_, second) = ranks(memory_of_rank, 2, sizes=sizes, together=True, kind=kind)
    assert (first == second).all(), "the same bits on both"
    assert distance(torch.from_numpy(first), alone.basis()) <= 1e-10


def test_without_exchange_two_processes_would_find_another_subspace(ranks):
    """The control: rank 0's own features alone."""
    sizes = (1000, 797)
    alone = LayerSubspace(DIM)
    alone.update(spectrum(0.8 ** torch.arange(DIM), count=sum(sizes)), energy=0.99)
    (_, first), _ = ranks(memory_of_rank, 2, sizes=sizes, together=False)
    assert distance(torch.from_numpy(first), alone.basis()) > 1e-3
