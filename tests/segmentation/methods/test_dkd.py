"""DKD: the decomposition, the auxiliary output, and every term against a loop."""

import numpy as np
import pytest
import torch
from small_segmentation import FIRST, SECOND, TinyNetwork, batch, begin, first_learned, in_second, step
from torch import nn
from torch.nn import functional as F

from pvision.continual.masks import VOID
from pvision.errors import ConfigError
from pvision.segmentation.methods import DKD
from pvision.segmentation.methods.dkd import _reasons, _weights


def entropy(logits: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    probability = 1 / (1 + np.exp(-logits))
    return -(wanted * np.log(probability) + (1 - wanted) * np.log(1 - probability))


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_reasons_for_and_against_add_up_to_the_logit() -> None:
    method = in_second(DKD)
    features = method.network(batch(0).image)
    positive, negative = _reasons(features, _weights(method))
    bias = torch.cat([layer.bias for layer in method.head.layers])[1:]
    torch.testing.assert_close(positive + negative + bias[:, None, None], method.logits(features)[:, 1:])
    assert (positive >= 0).all()
    assert (negative <= 0).all()


def test_the_background_is_where_no_class_is_as_probable_as_half() -> None:
    method = in_second(DKD).eval()
    image = batch(0).image
    scores = method.scores(image)
    assert (scores[:, 0] == 0.5).all()
    with torch.no_grad():
        for layer in method.head.layers:
            layer.bias.fill_(-50.0)
    assert (method(image) == 0).all()


def test_new_classes_begin_as_the_auxiliary_output() -> None:
    method = in_second(DKD)
    first, new = method.head.layers
    assert torch.equal(new.weight, first.weight[:1].expand_as(new.weight))
    assert torch.equal(new.bias, first.bias[:1].expand_as(new.bias))


def test_the_auxiliary_output_says_no_and_trains_no_features() -> None:
    method = DKD(TinyNetwork(), class_weight=0.0)
    begin(method, 0, FIRST)
    data = batch(0, *FIRST)
    loss = method.losses(data)["auxiliary"]
    weight, bias = method.head.layers[0].weight[:1], method.head.layers[0].bias[:1]
    output = F.interpolate(F.conv2d(method.network(data.image), weight, bias), (8, 8), mode="bilinear")
    assert loss.item() == pytest.approx(entropy(output.detach().numpy(), np.zeros(1)).mean(), rel=1e-6)
    loss.backward()
    assert all(one.grad is None for one in method.network.parameters())
    assert method.head.layers[0].weight.grad[0].any()
    assert not method.head.layers[0].weight.grad[1:].any()


def test_every_term_against_a_loop() -> None:
    method = in_second(DKD, class_weight=2.0, positive_weight=35.0, distillation_weight=3.0,
                       positive_distillation_weight=4.0, negative_distillation_weight=6.0)  # fmt: skip
    step(method, batch(0, *SECOND, seed=3), lr=0.1)
    data = batch(0, *SECOND, VOID)
    losses = {name: loss.item() for name, loss in method.losses(data).items()}
    features, old_features = method.network(data.image), method.teacher.network(data.image)
    logits, old = (
        F.interpolate(one.logits(of), (8, 8), mode="bilinear").detach().numpy()
        for one, of in ((method, features), (method.teacher, old_features))
    )
    mask = data.mask.numpy()
    bce = []
    for b, i, j in np.ndindex(mask.shape):
        if mask[b, i, j] != VOID:
            wanted = np.array([mask[b, i, j] == 5, mask[b, i, j] == 3], dtype=float)
            each = entropy(logits[b, 3:, i, j], wanted)
            bce.append((each * np.where(wanted, 35.0, 1.0)).sum())
    assert losses["bce"] == pytest.approx(2 * np.mean(bce))
    each = entropy(logits[:, 1:3], sigmoid(old[:, 1:]))
    assert losses["distillation"] == pytest.approx(3 * each.sum(axis=1).mean())
    weights, old_weights = _weights(method)[:2, :, 0, 0].detach().numpy(), _weights(method.teacher)[:, :, 0, 0].numpy()
    x, old_x = (of.detach().numpy() for of in (features, old_features))
    for name, sign, factor in (("positive_distillation", 1, 4), ("negative_distillation", -1, 6)):
        now, then = (
            np.einsum("kc,bchw->bkhw", np.where(sign * w > 0, w, 0), f) for w, f in ((weights, x), (old_weights, old_x))
        )
        assert losses[name] == pytest.approx(factor * entropy(now, sigmoid(then)).sum(axis=1).mean())


def test_dropout_is_off_from_the_second_experience_on() -> None:
    network = TinyNetwork()
    network.neck.append(nn.Dropout(0.5))
    method = DKD(network)
    begin(method, 0, FIRST)
    assert method.network.neck[-1].training
    method.after_experience()
    begin(method, 1, SECOND)
    assert not method.network.neck[-1].training


def test_the_first_experience_has_no_distillation() -> None:
    method = DKD(TinyNetwork())
    begin(method, 0, FIRST)
    assert set(method.losses(batch(0, *FIRST))) == {"bce", "auxiliary"}


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="negative_distillation_weight"):
        first_learned(DKD, negative_distillation_weight=-1.0)
