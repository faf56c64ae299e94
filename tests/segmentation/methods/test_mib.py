"""MiB: how an experience begins, and that its terms are wired as written."""

import pytest
import torch
from small_segmentation import FIRST, SECOND, TinyNetwork, batch, begin, first_learned, in_second
from torch.nn import functional as F

from pvision.errors import ConfigError
from pvision.segmentation.methods import PLOP, FineTuning, MiB
from pvision.segmentation.methods import _softmax_terms as terms


@pytest.mark.parametrize("kind", [MiB, PLOP])
def test_new_classes_begin_with_equal_shares_of_the_background(kind) -> None:
    method = in_second(kind).eval()
    image = batch(0).image
    now, then = method.scores(image).softmax(dim=1), method.teacher.scores(image).softmax(dim=1)
    torch.testing.assert_close(now[:, [0, 3, 4]].sum(dim=1), then[:, 0])
    torch.testing.assert_close(now[:, 1:3], then[:, 1:3])
    torch.testing.assert_close(now[:, 3], now[:, 0])


def test_fine_tuning_does_not_begin_so() -> None:
    before = first_learned(FineTuning).eval()
    image = batch(0).image
    then = before.scores(image).softmax(dim=1)
    after = in_second(FineTuning).eval().scores(image).softmax(dim=1)
    assert (after[:, 1:3] - then[:, 1:3]).abs().max() > 0.01


def test_the_first_experience_is_plain_cross_entropy() -> None:
    method = MiB(TinyNetwork())
    begin(method, 0, FIRST)
    data = batch(0, *FIRST)
    losses = method.losses(data)
    assert list(losses) == ["cross_entropy"]
    torch.testing.assert_close(losses["cross_entropy"], F.cross_entropy(method.scores(data.image), data.mask))


def test_later_ones_have_both_unbiased_terms() -> None:
    method, data = in_second(MiB, distillation_weight=3.0), batch(0, *SECOND)
    losses = method.losses(data)
    logits, old = method.scores(data.image), method.teacher.scores(data.image)
    targets = torch.where(data.mask == 5, 3, torch.where(data.mask == 3, 4, 0))
    torch.testing.assert_close(losses["cross_entropy"], terms.unbiased_cross_entropy(logits, targets, old=3))
    torch.testing.assert_close(losses["distillation"], 3.0 * terms.unbiased_distillation(logits, old))


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="distillation_weight"):
        first_learned(MiB, distillation_weight=-1.0)
