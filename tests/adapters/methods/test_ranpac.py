"""RanPAC: order does not matter, what is forgotten is subtracted, and the sums are those of all records."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from small_methods import (
    CutError,
    SmallData,
    check_resumes,
    check_state_round_trip,
    check_two_ranks,
    experience,
    images,
    learn,
    on_one_of,
    small_vit,
)
from torch import Tensor, nn

from pvision.adapters.methods.ranpac import RanPAC
from pvision.continual.experience import Experience
from pvision.continual.ridge import RIDGES
from pvision.errors import ConfigError, DataError


def adapting(network: nn.Module) -> RanPAC:
    return RanPAC(network, projection=96, rank=2)


def solving(network: nn.Module) -> RanPAC:
    return RanPAC(network, projection=96, ridge=10.0, first_session=False)


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(adapting, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, adapting)


@pytest.mark.parametrize("make", [adapting, solving])
def test_a_state_dict_is_complete(make: Any) -> None:
    check_state_round_trip(make)


class CuttingEvaluation(pl.Callback):
    """Nothing is trained in the second experience, so the run is cut off as it is evaluated."""

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.datamodule.current == 1:
            raise CutError


class CuttingTraining(pl.Callback):
    """Cuts off the one training that there is."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 5:
            raise CutError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "cutting"), [(adapting, CuttingTraining), (adapting, CuttingEvaluation), (solving, CuttingEvaluation)]
)
def test_an_interrupted_run_goes_on(make: Any, cutting: type[pl.Callback], tmp_path: Path) -> None:
    check_resumes(make, tmp_path, cutting=cutting())


def in_order(method: RanPAC, order: tuple[int, ...]) -> Tensor:
    """Learn experiences 1 to 3, whose data do not depend on their place, and return logits by class."""
    for place, number in enumerate(order, start=1):
        method.before_experience(moved(number, place), SmallData(experience(number), size=24 + 8 * number))
        method.after_experience(moved(number, place), SmallData(experience(number), size=24 + 8 * number))
    return method.eval()(images())[:, sorted(range(len(method.head.classes)), key=method.head.classes.__getitem__)]


def moved(number: int, place: int) -> Experience:
    known = experience(number)
    return Experience(index=place, kind="learn", name=known.name, classes=known.classes, new_classes=known.classes)


class ChoosingOnTheNewest(RanPAC):
    """Chooses λ as the released code does: what was held out before counts as fitted, and no longer for the choice."""

    def after_experience(self, experience: Experience, data: Any) -> None:
        if self._sums:
            fitted, held = self._sums
            self._sums = [fitted.plus(held), held.plus(held, sign=-1)]
        super().after_experience(experience, data)


@pytest.mark.parametrize("settings", [{"ridge": 10.0}, {"ridge": 0.1, "rank": 4}, {"ridge": None}])
def test_the_order_of_what_comes_after_the_first_session_does_not_matter(settings: dict[str, Any]) -> None:
    logits = []
    for order in [(1, 2, 3), (3, 1, 2)]:
        torch.manual_seed(5)
        method = RanPAC(small_vit(), projection=96, **settings)
        learn(method, 0)
        logits.append(in_order(method, order))
    assert (logits[0] - logits[1]).abs().max() <= 1e-9
    assert logits[0].std() > 0.01


def test_choosing_on_the_newest_experience_makes_the_order_matter() -> None:
    answers = []
    for order in [(1, 2, 3), (3, 2, 1)]:
        method = ChoosingOnTheNewest(small_vit(), projection=96, first_session=False)
        learn(method, 0)
        answers.append((in_order(method, order), method.chosen_ridge))
    assert answers[0][1] != answers[1][1]
    assert (answers[0][0] - answers[1][0]).abs().max() > 1e-3


def test_weights_solve_the_regression_on_all_records_at_once() -> None:
    method = RanPAC(small_vit(), projection=96, ridge=2.0, first_session=False)
    data = [learn(method, index) for index in range(3)]
    rows = method.expand(method.features(torch.cat([one.image for one in data]))).detach()
    targets = torch.eye(6, dtype=torch.float64)[torch.cat([one.label for one in data])]
    # A least-squares problem with √λ I below, solved by QR: another way than the one that is tested.
    stacked = torch.cat([rows, 2.0**0.5 * torch.eye(96, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(stacked, torch.cat([targets, torch.zeros(96, 6, dtype=torch.float64)])).solution
    assert (method.weights - wanted).abs().max() <= 1e-10
    assert method.head.predictions(method(data[0].image)).eq(data[0].label).double().mean() > 0.9


def test_the_chosen_ridge_is_that_of_least_error_on_what_is_held_out() -> None:
    method = RanPAC(small_vit(), projection=96, first_session=False)
    data = [learn(method, index) for index in range(3)]
    rows = method.expand(method.features(torch.cat([one.image for one in data]))).detach()
    targets = torch.eye(6, dtype=torch.float64)[torch.cat([one.label for one in data])]
    position = torch.cat([one.batch().position for one in data])
    held = (position * 2654435761) % 2**32 < 0.2 * 2**32
    assert 0.1 < held.double().mean() < 0.3
    errors = {}
    for ridge in RIDGES:
        stacked = torch.cat([rows[~held], ridge**0.5 * torch.eye(96, dtype=torch.float64)])
        below = torch.zeros(96, 6, dtype=torch.float64)
        weights = torch.linalg.lstsq(stacked, torch.cat([targets[~held], below])).solution
        errors[ridge] = float((rows[held] @ weights - targets[held]).square().sum())
    assert errors[method.chosen_ridge] <= 1.001 * min(errors.values())
    assert max(errors.values()) > 1.5 * min(errors.values())


def test_what_is_forgotten_is_as_if_it_had_never_come() -> None:
    method, without = (RanPAC(small_vit(), projection=96, ridge=1.0, first_session=False) for _ in range(2))
    for index in range(3):
        learn(method, index)
    request = Experience(index=3, kind="forget", name="forget", classes=(2, 3))
    assert not torch.allclose(method.weights[:, :2], _weights(without, (0, 2))[:, :2])
    method.before_experience(request, SmallData(experience(1)))
    method.after_experience(request, SmallData(experience(1)))
    kept = method.weights[:, [0, 1, 4, 5]]
    assert (kept - without.weights).abs().max() <= 1e-9
    chosen = method.head.predictions(method(learned(1).image))
    assert not set(chosen.tolist()) & {2, 3}
    assert method(images())[:, 2:4].softmax(1).isfinite().all()


def _weights(method: RanPAC, experiences: tuple[int, ...]) -> Tensor:
    for number in experiences:
        learn(method, number)
    return method.weights


def learned(number: int) -> SmallData:
    return SmallData(experience(number))


def test_what_gradients_have_learned_is_not_forgotten() -> None:
    method = RanPAC(small_vit(), projection=96, ridge=1.0, rank=2)
    learn(method, 0)
    assert not method.unlearns
    request = Experience(index=1, kind="forget", name="forget", classes=(0,))
    with pytest.raises(ConfigError, match="first_session: false"):
        method.after_experience(request, SmallData(experience(0)))


def test_classes_that_come_again_add_up() -> None:
    method = RanPAC(small_vit(), projection=96, ridge=1.0, first_session=False)
    learn(method, 0)
    again = Experience(index=1, kind="learn", name="again", classes=(0, 1))
    method.before_experience(again, SmallData(experience(0), size=16))
    method.after_experience(again, SmallData(experience(0), size=16))
    assert [one.count.tolist() for one in method._sums] == [[20.0, 20.0]]
    assert method.weights.shape == (96, 2)


def test_only_the_first_experience_trains() -> None:
    method = adapting(small_vit())
    assert method.learns_by_gradient(experience(0))
    assert not method.learns_by_gradient(experience(1))
    assert not solving(small_vit()).learns_by_gradient(experience(0))
    method.before_experience(experience(0), SmallData(experience(0)))
    assert len(method.parameter_groups()) == 2
    method.after_experience(experience(0), SmallData(experience(0)))
    method.before_experience(experience(1), SmallData(experience(1)))
    assert method.parameter_groups() == []
    assert method.adapted.names == ()


def test_before_there_are_weights_the_linear_head_predicts_and_new_classes_wait_for_theirs() -> None:
    method = adapting(small_vit())
    method.before_experience(experience(0), SmallData(experience(0)))
    with torch.no_grad():
        assert torch.equal(method(images()), method.head(method.features(images())))
    method.after_experience(experience(0), SmallData(experience(0)))
    method.before_experience(experience(1), SmallData(experience(1)))
    logits = method(images())
    assert logits.shape == (5, 4)
    assert logits[:, 2:].max() == torch.finfo(torch.float64).min


def test_it_says_what_it_keeps() -> None:
    for ridge, parts in ((1.0, 1), (None, 2)):
        method = RanPAC(small_vit(), projection=96, ridge=ridge, first_session=False)
        learn(method, 0)
        assert method.stored_bytes == parts * 8 * (96 * 96 + 96 * 2 + 2)


def test_autocast_does_not_reach_the_regression() -> None:
    method = RanPAC(small_vit(dtype=torch.float32), projection=96, ridge=1.0, first_session=False)
    features = method.features(images().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = method.expand(features)
    assert torch.equal(inside, method.expand(features))


def test_features_that_are_not_finite_are_refused() -> None:
    method = solving(small_vit())
    data = SmallData(experience(0))
    data.image[3] = float("nan")
    method.before_experience(experience(0), data)
    with pytest.raises(DataError, match="Features must be finite"):
        method.after_experience(experience(0), data)


def test_a_ridge_below_rounding_is_refused() -> None:
    method = RanPAC(small_vit(), projection=96, ridge=1e-300, first_session=False)
    with pytest.raises(ConfigError, match=r"method\.ridge 1e-300 is too small"):
        learn(method, 0)


def test_a_checkpoint_without_held_out_records_cannot_go_on_choosing() -> None:
    fixed = solving(small_vit())
    learn(fixed, 0)
    with pytest.raises(ConfigError, match=r"method\.ridge is given here or where the checkpoint was written"):
        RanPAC(small_vit(), projection=96, first_session=False).load_state_dict(fixed.state_dict())


def test_nothing_held_out_is_refused() -> None:
    method = RanPAC(small_vit(), projection=96, held_out=1e-12, first_session=False)
    data = SmallData(experience(0))
    method.before_experience(experience(0), data)
    data.batch = lambda part=slice(None): SmallData.batch(data, part)._replace(position=data.label * 0 + 1)
    with pytest.raises(ConfigError, match="No record is held out"):
        method.after_experience(experience(0), data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"projection": 0}, r"method\.projection must be a whole number of at least 1"),
        ({"ridge": 0}, r"method\.ridge must be a finite number above 0"),
        ({"held_out": 1.0}, r"method\.held_out must be a number strictly between 0 and 1"),
        ({"seed": -1}, r"method\.seed"),
        ({"rank": 0}, r"method\.rank"),
        ({"alpha": 0}, r"method\.alpha must be a finite number above 0"),
        ({"targets": "query"}, r"method\.targets: no linear layer meets"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RanPAC(small_vit(), **settings)
