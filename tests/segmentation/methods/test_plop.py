"""PLOP: thresholds from one pass over the records, what becomes of background pixels, and Local POD."""

import math

import numpy as np
import pytest
import torch
from small_segmentation import SECOND, TinyNetwork, batch, experience, first_learned, in_second
from torch.nn import functional as F

from pvision.continual.masks import VOID
from pvision.errors import ConfigError
from pvision.segmentation.methods import PLOP
from pvision.segmentation.methods import _feature_terms as terms


def unsure(method: PLOP, image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the old model's uncertainties and classes."""
    old = method.teacher.scores(image).softmax(dim=1).detach().numpy()
    return -(old * np.log(old)).mean(axis=1) / math.log(3) / math.log(5), old.argmax(axis=1)


def test_thresholds_are_medians_of_the_background_pixels_of_each_class() -> None:
    method = first_learned(PLOP)
    method.before_experience(experience(1, SECOND))
    assert method.thresholds == []
    data = [batch(0, *SECOND, VOID, seed=seed, size=16) for seed in range(3)]
    method.look_through(iter(data))
    values, columns = zip(*(unsure(method, one.image) for one in data), strict=True)
    background = np.stack([one.mask.numpy() == 0 for one in data])
    seen = 0
    for column, found in enumerate(method.thresholds):
        chosen = np.stack(values)[background & (np.stack(columns) == column)]
        seen += len(chosen) > 10
        wanted = np.median(chosen) if len(chosen) else 0.0
        assert found == pytest.approx(max(wanted, 1e-3), rel=0.05)
    assert seen, "the old model predicts nothing, so nothing is tested"


def test_the_first_experience_needs_no_pass_and_later_ones_do() -> None:
    method = PLOP(TinyNetwork())
    method.before_experience(experience(0, (1,)))
    method.look_through(iter([batch(0, 1)]))
    assert method.thresholds == []
    assert list(method.losses(batch(0, 1))) == ["cross_entropy"]
    method.before_experience(experience(1, SECOND))
    with pytest.raises(ConfigError, match="look_through"):
        method.losses(batch(0, *SECOND))


def test_background_pixels_take_the_sure_class_or_are_left_out() -> None:
    method, data = in_second(PLOP), batch(0, *SECOND, VOID)
    values, columns = unsure(method, data.image)
    method.thresholds = [float(np.median(values))] * 3
    log = -method.scores(data.image).log_softmax(dim=1).detach().numpy()
    mask = data.mask.numpy()
    parts, kept = [], 0
    for image in range(2):
        background = mask[image] == 0
        sure = background & (values[image] < method.thresholds[0])
        share = sure.sum() / background.sum()
        for i, j in zip(*np.nonzero(mask[image] != VOID), strict=True):
            if background[i, j]:
                parts.append(share * log[image, columns[image, i, j], i, j] * sure[i, j])
            else:
                parts.append(share * log[image, {5: 3, 3: 4}[mask[image, i, j]], i, j])
        kept += sure.sum()
    assert 0 < kept < (mask == 0).sum()
    assert method.losses(data)["cross_entropy"].item() == pytest.approx(np.mean(parts))


def test_an_image_without_background_counts_in_full() -> None:
    method, data = in_second(PLOP), batch(*SECOND)
    targets = torch.where(data.mask == 5, 3, 4)
    wanted = F.cross_entropy(method.scores(data.image), targets)
    torch.testing.assert_close(method.losses(data)["cross_entropy"], wanted)


def test_pod_is_over_levels_and_logits_with_new_classes_as_background() -> None:
    method, data = in_second(PLOP, feature_weight=2.0, logit_weight=3.0), batch(0, *SECOND)
    with torch.no_grad():
        for parameter in (*method.network.parameters(), *method.head.parameters()):
            parameter += 0.1 * torch.randn_like(parameter)
    new, old = method.network.levels(data.image), method.teacher.network.levels(data.image)
    logits, old_logits = method.head(new[-1]), method.teacher.head(old[-1])
    merged = torch.stack([logits[:, 0] + logits[:, 3] + logits[:, 4], logits[:, 1], logits[:, 2]], dim=1)
    features = sum(2.0 * terms.local_pod(now, then) for now, then in zip(new, old, strict=True))
    wanted = math.sqrt(5 / 2) * (features + 3.0 * terms.local_pod(merged, old_logits)) / 3
    torch.testing.assert_close(method.losses(data)["pod"], wanted)


def test_thresholds_travel_in_the_state_and_end_with_the_experience() -> None:
    method = in_second(PLOP)
    state = method.get_extra_state()
    assert state["thresholds"] == method.thresholds
    assert len(method.thresholds) == 3
    method.after_experience()
    assert method.thresholds == []


def test_a_number_below_zero_is_refused() -> None:
    for name in ("feature_weight", "logit_weight", "least_threshold"):
        with pytest.raises(ConfigError, match=name):
            PLOP(TinyNetwork(), **{name: -1.0})
