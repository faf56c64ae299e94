"""Experiences that are learned in closed form, without a fit, are evaluated and counted like all others."""

from functools import partial

import pytest
import torch
from small_streams import Watches, classifier, stream_of, trainer_for
from torch import nn

from pvision.adapters.methods.ranpac import RanPAC
from pvision.callbacks import ForgettingMetrics, TrainingCost
from pvision.continual.scenarios import ForgetRequest
from pvision.errors import ConfigError
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream

CLOSED = partial(RanPAC, projection=200, ridge=1.0, first_session=False)


def test_every_experience_has_its_row_and_none_a_fit(tmp_path):
    metrics, watch = ForgettingMetrics(), Watches()
    module = classifier(method=CLOSED)
    fit_stream(trainer_for(tmp_path, callbacks=[metrics, TrainingCost(), watch]), module, stream_of())
    assert watch.seen == [("test", 0), ("test", 1)]
    assert metrics.matrix.shape == (2, 2)
    assert metrics.matrix[0, 0] > 0.5
    assert 0 <= metrics.values()["continual/forgetting"] < 0.5


def test_a_run_without_fits_goes_on_after_its_last_experience(tmp_path):
    whole = classifier(method=CLOSED)
    fit_stream(trainer_for(tmp_path / "whole"), whole, stream_of())
    ends = sorted((tmp_path / "whole").rglob("end.ckpt"))
    again = classifier(method=CLOSED)
    fit_stream(trainer_for(tmp_path / "again"), again, stream_of(), ckpt_path=ends[0])
    assert torch.equal(again.method.weights, whole.method.weights)


def test_a_request_to_forget_is_met_exactly(tmp_path):
    request = [ForgetRequest(after=1, classes=[1])]
    forgot = classifier(method=CLOSED)
    fit_stream(trainer_for(tmp_path / "a"), forgot, stream_of(forget=request))
    kept = classifier(method=CLOSED)
    fit_stream(trainer_for(tmp_path / "b"), kept, stream_of())
    images = torch.rand(20, 1, 8, 8)
    assert (forgot(images).argmax(1) != forgot.head.classes.index(1)).all()
    assert not torch.equal(forgot(images), kept(images))
    # As if the class had never come: its records are out of both sums.
    total = [sum(one.gram for one in module.method._sums) for module in (forgot, kept)]
    assert total[0].trace() < total[1].trace()


class Encoder(nn.Sequential):
    feature_dim = 12

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 12))


def test_one_that_was_trained_by_gradients_cannot_forget(tmp_path):
    module = ContinualClassifier(Encoder(), method=partial(RanPAC, projection=200, ridge=1.0, targets="1"))
    with pytest.raises(ConfigError, match="cannot"):
        fit_stream(trainer_for(tmp_path), module, stream_of(forget=[ForgetRequest(after=1, classes=[1])]))
