"""What Opacus's samplers draw, alone and corrected, and which loaders ε is known for."""

import pytest
import torch
from opacus.data_loader import DPDataLoader
from opacus.utils.uniform_sampler import DistributedUniformWithReplacementSampler, UniformWithReplacementSampler
from torch.utils.data import DataLoader, TensorDataset

from pvision.callbacks._opacus_loader import draw_in_secret, read_loader
from pvision.errors import PrivacyError


class Nobody:
    """A witness that forgets."""

    def new_stream(self):
        pass

    def drawn(self, records):
        pass


# V2, V3: the samplers of several processes


@pytest.fixture
def sampler_of(monkeypatch):
    """Make Opacus's sampler as it is on one of several processes, under the seed that all of them share."""

    def make(rank, *, world=2, records=60, rate=0.5, steps=40, corrected):
        torch.manual_seed(11)  # as seed_everything does on every process
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        sampler = DistributedUniformWithReplacementSampler(
            total_size=records, sample_rate=rate, steps=steps, shuffle=False
        )
        if corrected:
            draw_in_secret(sampler, Nobody())
        return sampler

    return make


def inclusions(sampler, *, records=60):
    """Return who of a process's share was drawn, one row for each batch."""
    share = list(range(sampler.rank, records, sampler.num_replicas))
    rows = [[float(one in set(map(int, batch))) for one in share] for batch in sampler]
    return torch.tensor(rows)


def test_processes_draw_independently_under_one_seed(sampler_of):
    alike = [inclusions(sampler_of(rank, corrected=False)) for rank in (0, 1)]
    assert torch.equal(*alike)  # Opacus: whoever knows one process's batch knows the other's
    first, second = [inclusions(sampler_of(rank, corrected=True)) for rank in (0, 1)]
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()
    assert abs(correlation) < 4 / first.numel() ** 0.5
    assert not torch.equal(first, inclusions(sampler_of(0, corrected=True)))


def test_empty_batches_are_yielded_on_every_process(sampler_of):
    shape = {"rate": 0.01, "steps": 100}
    lengths = [len(list(sampler_of(rank, **shape, corrected=False))) for rank in (0, 1)]
    assert max(lengths) < 60  # Opacus: 100 were promised; where they differ, one process waits for ever
    for rank in (0, 1):
        assert len(list(sampler_of(rank, **shape, corrected=True))) == 100


def test_every_record_is_drawn_at_the_global_rate_by_exactly_one_process(sampler_of):
    drawn = torch.zeros(60)
    for rank in (0, 1):
        for batch in sampler_of(rank, rate=0.25, steps=400, corrected=True):
            drawn[batch] += 1
    assert drawn.mean().item() / 400 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400 / 60) ** 0.5)
    assert (drawn / 400).sub(0.25).abs().max() < 5.5 * (0.25 * 0.75 / 400) ** 0.5


def test_the_draws_of_one_process_do_not_follow_the_seed_either():
    def batches(corrected):
        torch.manual_seed(3)
        sampler = UniformWithReplacementSampler(num_samples=60, sample_rate=0.5, steps=3)
        if corrected:
            draw_in_secret(sampler, Nobody())
        return list(sampler)

    assert batches(False) == batches(False)
    assert batches(True) != batches(True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPDataLoader(TensorDataset(torch.eye(5)), sample_rate=0.5), None),
        (lambda: DPDataLoader(TensorDataset(torch.eye(5)), sample_rate=0.5, rand_on_empty=True), "rand_on_empty=True"),
        (
            lambda: DataLoader(
                TensorDataset(torch.eye(48)),
                batch_sampler=UniformWithReplacementSampler(num_samples=5, sample_rate=0.5),
            ),
            "draws from 5 records, and its data set has 48",
        ),
    ],
    ids=["good", "rand_on_empty", "other data"],
)
def test_a_poisson_loader_is_read_or_refused(make, message):
    if message is None:
        facts = read_loader(make(), None, world_size=1)
        assert facts[1:] == (0.5, 5, False)
    else:
        with pytest.raises(PrivacyError, match=message):
            read_loader(make(), None, world_size=1)


def test_in_several_processes_only_the_dividing_sampler_is_accepted(sampler_of):
    whole = DPDataLoader(TensorDataset(torch.eye(60)), sample_rate=0.5)
    with pytest.raises(PrivacyError, match="all would draw from all records"):
        read_loader(whole, None, world_size=2)
    divided = DataLoader(TensorDataset(torch.eye(60)), batch_sampler=sampler_of(1, corrected=False))
    assert read_loader(divided, None, world_size=2)[1:] == (0.5, 60, False)
    with pytest.raises(PrivacyError, match="to 2 processes, and 4 train"):
        read_loader(divided, None, world_size=4)


def test_an_invented_record_exchanges_a_gradient_instead_of_adding_one():
    """Why rand_on_empty is refused: with nobody drawn, a gradient is released all the same."""
    loader = DPDataLoader(TensorDataset(torch.ones(1, 4)), sample_rate=0.5, rand_on_empty=True)
    (real,) = loader.collate_fn([loader.dataset[0]])
    (invented,) = loader.collate_fn([])
    assert invented.shape == real.shape == (1, 4)
