"""Pseudo-labels: which pixels take the old model's class."""

import pytest
import torch
from small_segmentation import FIRST, SECOND, TinyNetwork, batch, begin, in_second
from torch.nn import functional as F

from pvision.continual.masks import VOID
from pvision.errors import ConfigError
from pvision.segmentation.methods import PseudoLabels
from pvision.segmentation.methods._sigmoid_terms import bce


def big_logits(method: PseudoLabels, image: torch.Tensor) -> torch.Tensor:
    return F.interpolate(method.head(method.network(image)), (8, 8), mode="bilinear")


def test_the_first_experience_has_the_labels_as_they_are() -> None:
    method, data = PseudoLabels(TinyNetwork()), batch(0, *FIRST, VOID)
    begin(method, 0, FIRST)
    torch.testing.assert_close(method.losses(data)["bce"], bce(big_logits(method, data.image), data.mask))


def test_background_pixels_take_the_class_the_old_model_is_sure_of() -> None:
    data = batch(0, *SECOND, VOID)
    method = in_second(PseudoLabels)
    old = method.teacher.scores(data.image)
    best, column = old.max(dim=1)
    method.threshold = float(best[(column > 0) & (data.mask == 0)].median())
    wanted = torch.where(data.mask == 5, 3, torch.where(data.mask == 3, 4, data.mask))
    sure = (data.mask == 0) & (column > 0) & (best >= method.threshold)
    assert sure.any()
    assert ((data.mask == 0) & ~sure).any()
    wanted[sure] = column[sure]
    torch.testing.assert_close(method.losses(data)["bce"], bce(big_logits(method, data.image), wanted))


def test_scores_are_probabilities_resized_after_the_sigmoid() -> None:
    method, image = in_second(PseudoLabels).eval(), batch(0).image
    wanted = F.interpolate(method.head(method.network(image)).sigmoid(), (8, 8), mode="bilinear")
    torch.testing.assert_close(method.scores(image), wanted)


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        PseudoLabels(TinyNetwork(), threshold=threshold)
