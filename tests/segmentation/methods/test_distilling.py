"""LwF, LwF-MC and ILT: their terms are wired as written."""

import numpy as np
import pytest
import torch
from small_segmentation import SECOND, batch, in_second, step
from torch.nn import functional as F

from pvision.continual.masks import VOID
from pvision.errors import ConfigError
from pvision.segmentation.methods import ILT, LwF, LwFMC
from pvision.segmentation.methods import _softmax_terms as terms


def targets(mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask == 5, 3, torch.where(mask == 3, 4, mask))


def moved(kind, **options):
    """Return a method that is no longer its teacher."""
    method = in_second(kind, **options)
    step(method, batch(0, *SECOND, seed=4), lr=0.5)
    return method


def test_lwf() -> None:
    method, data = moved(LwF, distillation_weight=7.0), batch(0, *SECOND, VOID)
    losses = method.losses(data)
    logits, old = method.scores(data.image), method.teacher.scores(data.image)
    wanted = F.cross_entropy(logits, targets(data.mask), ignore_index=VOID)
    torch.testing.assert_close(losses["cross_entropy"], wanted)
    torch.testing.assert_close(losses["distillation"], 7.0 * terms.distillation(logits, old))
    assert (logits[:, :3] - old).abs().max() > 1e-3


def test_lwf_mc() -> None:
    method, data = moved(LwFMC, distillation_weight=7.0), batch(0, *SECOND, VOID)
    losses = method.losses(data)
    probabilities, old = (
        F.interpolate(one.logits(one.network(data.image)), (8, 8), mode="bilinear").sigmoid().detach().numpy()
        for one in (method, method.teacher)
    )
    mask = targets(data.mask).numpy()
    bce, distilled = [], []
    for b, i, j in np.ndindex(mask.shape):
        p, q = probabilities[b, :, i, j], old[b, :, i, j]
        distilled.append(-(q * np.log(p[:3]) + (1 - q) * np.log(1 - p[:3])).sum())
        if mask[b, i, j] != VOID:
            wanted = np.arange(5) == mask[b, i, j]
            bce.append(-np.log(np.where(wanted, p, 1 - p)).sum())
    assert losses["bce"].item() == pytest.approx(np.mean(bce))
    assert losses["distillation"].item() == pytest.approx(7 * np.mean(distilled))


def test_ilt() -> None:
    method, data = moved(ILT, distillation_weight=7.0, feature_weight=3.0), batch(0, *SECOND, VOID)
    losses = method.losses(data)
    logits, old = method.scores(data.image), method.teacher.scores(data.image)
    torch.testing.assert_close(losses["distillation"], 7.0 * terms.distillation(logits, old))
    change = method.network.stage(data.image) - method.teacher.network.stage(data.image)
    torch.testing.assert_close(losses["feature_distillation"], 3.0 * change.square().mean())
    assert losses["feature_distillation"] > 0


@pytest.mark.parametrize("kind", [LwF, LwFMC, ILT])
def test_a_weight_below_zero_is_refused(kind) -> None:
    with pytest.raises(ConfigError, match="distillation_weight"):
        in_second(kind, distillation_weight=-1.0)
