"""Per-record gradients of any loss: both engines, batches of any structure."""

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pvision.errors import ConfigError, PrivacyError
from pvision.privacy.record_batches import BatchRedaction, check_rows, rows_of, tensors_of
from pvision.privacy.step_gradients import StepGradients

Pair = namedtuple("Pair", ["video", "label"])


@dataclasses.dataclass(frozen=True)
class Item:
    video: Tensor
    label: Tensor


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def make(kind: str, records: int) -> Any:
    torch.manual_seed(records)
    video, label = torch.randn(records, 4, dtype=torch.float64), torch.randint(2, (records,))
    parts = {"video": video, "label": label}
    return {
        "dict": parts,
        "ordered": OrderedDict(parts),
        "user dict": UserDict(parts),
        "tuple": (video, label),
        "list": [video, [label]],
        "named tuple": Pair(video, label),
        "dataclass": Item(video, label),
        "constants": {**parts, "rate": 3.0, "split": "train", "none": None},
    }[kind]


KINDS = ("dict", "ordered", "user dict", "tuple", "list", "named tuple", "dataclass", "constants")


def rows(engine: str, batch: Any, records: int, **options: Any) -> dict[str, Tensor]:
    model = network()

    def loss(one: Any) -> tuple[Tensor, dict[str, Tensor]]:
        assert type(one) is type(batch)
        video, label = tensors_of(one)
        assert len(video) == len(label) == 1
        return nn.functional.cross_entropy(model(video), label), {}

    pieces = list(StepGradients(model, loss, batch, records=records, engine=engine, **options))
    return {name: torch.cat([piece.rows()[name] for piece in pieces]) for name in pieces[0].rows()}


@pytest.mark.parametrize("engine", ["vmap", "loop"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_record_has_its_own_gradient(kind: str, engine: str) -> None:
    batch, model = make(kind, 5), network()
    found = rows(engine, batch, 5, microbatch=2)
    video, label = tensors_of(batch)
    for index in range(5):
        model.zero_grad()
        nn.functional.cross_entropy(model(video[index : index + 1]), label[index : index + 1]).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][index], parameter.grad)


@given(records=st.integers(1, 9), microbatch=st.integers(1, 10))
def test_pieces_and_engines_make_no_difference(records: int, microbatch: int) -> None:
    batch = make("dict", records)
    one = rows("vmap", batch, records, microbatch=microbatch)
    other = rows("loop", batch, records, microbatch=100)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_shared_and_unused_parameters(engine: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.two = nn.Linear(2, 2, bias=False)
            self.two.weight = self.one.weight
            self.unused = nn.Linear(2, 2)
            self.frozen = nn.Linear(2, 2).requires_grad_(False)

        def forward(self, video: Tensor) -> Tensor:
            return self.frozen(self.two(self.one(video))).sum()

    model, video = Odd(), torch.randn(3, 2)
    pieces = StepGradients(model, lambda batch: (model(batch[0]), {}), [video], records=3, engine=engine)
    (found,) = (piece.rows() for piece in pieces)
    assert found.keys() == {"one.weight", "unused.weight", "unused.bias"}
    assert not found["unused.weight"].any()
    model(video).backward()
    torch.testing.assert_close(found["one.weight"].sum(0), model.one.weight.grad)


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_nobody_drawn_gives_no_gradients(engine: str) -> None:
    batch = rows_of(make("dict", 3), slice(0, 0), records=3)
    model = network()
    assert not list(StepGradients(model, lambda one: (model(one["video"]).sum(), {}), batch, records=0, engine=engine))


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_residual_is_zero_where_nothing_is_removed(engine: str) -> None:
    batch = make("dict", 4)
    batch["video"][:2, 3] = 0

    def redact(one: Any) -> Any:
        one["video"][:, 3] = 0
        return one

    model = network()

    def loss(one: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return nn.functional.cross_entropy(model(one["video"]), one["label"]), {}

    pieces = StepGradients(model, loss, batch, records=4, redact=BatchRedaction(redact), engine=engine)
    norms = torch.cat([piece.norms() for piece in pieces])
    assert (norms[:2] == 0).all(), "exactly, or clipping would not see it"
    assert (norms[2:] > 1e-6).all()
    assert (batch["video"][2:, 3] != 0).all(), "redact sees a copy"


def test_parameters_and_their_gradients_stay_as_they_were() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for engine in ("vmap", "loop"):
        list(
            StepGradients(model, lambda one: (model(one["video"]).sum(), {}), make("dict", 3), records=3, engine=engine)
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_without_gradient_is_refused() -> None:
    model = network()
    loss = lambda one: (model(one["video"]).sum().detach(), {})  # noqa: E731  # a one-liner is the point
    with pytest.raises(ConfigError, match="depends on no parameter"):
        list(StepGradients(model, loss, make("dict", 3), records=3, engine="loop"))


@pytest.mark.parametrize(
    ("batch", "kind", "words"),
    [
        ({"video": torch.zeros(3, 4), "mean": torch.tensor(1.0)}, PrivacyError, "one row for each record"),
        ({"video": torch.zeros(3, 4), "other": torch.zeros(2)}, PrivacyError, "one row for each record"),
        ({"video": torch.zeros(3, 4), "what": object()}, ConfigError, "holds a object"),
        ({"text": ["a", "b", "c"]}, ConfigError, "holds no tensor"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(batch: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        check_rows(batch, records=3)


def test_texts_are_cut_with_their_records() -> None:
    batch = {"video": torch.arange(3.0), "name": ["a", "b", "c"], "classes": ["x", "y"]}
    part = rows_of(batch, slice(1, 3), records=3)
    assert (part["video"].tolist(), part["name"], part["classes"]) == ([1, 2], ["b", "c"], ["x", "y"])
