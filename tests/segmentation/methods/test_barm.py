"""BARM: which gradients flow where, what an experience begins with, and that residuals are what lets it learn."""

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from pvision.continual.experience import Experience
from pvision.continual.masks import VOID, SegmentationBatch
from pvision.errors import ConfigError
from pvision.segmentation.methods import BARM
from pvision.segmentation.methods import _sigmoid_terms as terms
from pvision.segmentation.networks import CompactSegmenter, SegmentationNetwork

FIRST, SECOND, THIRD = (1, 2), (3,), (5, 4)


def experience(index: int, classes: tuple[int, ...]) -> Experience:
    return Experience(index, "learn", str(index), classes, classes)


def method(**options: float | bool) -> BARM:
    torch.manual_seed(0)
    return BARM(CompactSegmenter(4), **options)


def batch(*labels: int, seed: int = 1) -> SegmentationBatch:
    """Return two images of 16 x 16 pixels whose masks hold just these labels, in blocks of 4 x 4."""
    noise = torch.Generator().manual_seed(seed)
    blocks = torch.tensor(labels)[torch.randint(len(labels), (2, 4, 4), generator=noise)]
    mask = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return SegmentationBatch(torch.randn(2, 3, 16, 16, generator=noise), mask, torch.arange(2))


def step(method: BARM, data: SegmentationBatch, *, lr: float = 0.01) -> dict[str, Tensor]:
    groups = [{"params": one["params"], "lr": lr * one["lr_factor"]} for one in method.parameter_groups()]
    losses = dict(method.losses(data))
    torch.stack(list(losses.values())).sum().backward()
    torch.optim.SGD(groups, lr=lr).step()
    method.zero_grad()
    return losses


def after_two(**options: float | bool) -> BARM:
    """Return a method that has learned the first experience a little and is ready for the second."""
    made = method(**options)
    made.before_experience(experience(0, FIRST))
    for seed in range(3):
        step(made, batch(0, *FIRST, VOID, seed=seed))
    made.after_experience()
    made.before_experience(experience(1, SECOND))
    return made


def balance(made: BARM, data: SegmentationBatch) -> None:
    """Let the residual be negative on half of the pixels."""
    with torch.no_grad():
        residual = made.head.outputs(made.head.branch_features(made.network(data.image)))[-1][:, 0]
        made.head.layers[-1].bias[0] -= residual.median()


def test_the_first_experience_is_plain_binary_cross_entropy() -> None:
    made, data = method(), batch(0, *FIRST, VOID)
    made.before_experience(experience(0, FIRST))
    losses = made.losses(data)
    logits = nn.functional.interpolate(made.logits(made.network(data.image)), (16, 16), mode="bilinear")
    assert list(losses) == ["bce"]
    assert torch.equal(losses["bce"], terms.bce(logits, data.mask))


def test_scores_are_probabilities_at_the_images_size() -> None:
    made, data = after_two().eval(), batch(0)
    small = made.head(made.network(data.image)).sigmoid()
    scores = made.scores(data.image)
    assert torch.equal(scores, nn.functional.interpolate(small, (16, 16), mode="bilinear"))
    assert small.shape[-1] < scores.shape[-1] == 16
    assert set(made(data.image).unique().tolist()) <= {0, *FIRST, *SECOND}


def test_cross_entropy_reaches_the_residual_and_new_classes_only() -> None:
    made = after_two()
    made.losses(batch(0, *SECOND))["bce"].backward()
    old, new = made.head.layers
    assert old.weight.grad is None
    assert all(one.grad is None for one in made.head.branches[0].parameters())
    assert new.weight.grad.flatten(1).any(dim=1).all()
    assert all(one.grad is None for one in made.teacher.parameters())


def test_later_on_older_residuals_are_constant_too() -> None:
    made = after_two()
    step(made, batch(0, *SECOND))
    made.before_experience(experience(2, THIRD))
    made.losses(batch(0, *THIRD))["bce"].backward()
    assert [layer.weight.grad is None for layer in made.head.layers] == [True, True, False]


def test_a_step_leaves_statistics_and_teacher_alone() -> None:
    made = after_two()
    still = {name: value.clone() for name, value in made.named_buffers()}
    teacher = {name: value.clone() for name, value in made.teacher.named_parameters()}
    norms = [layer for layer in made.modules() if isinstance(layer, nn.BatchNorm2d)]
    affine = [layer.weight.clone() for layer in norms]
    before = made.network.stages[0][0][0].weight.clone()
    step(made.train(), batch(0, *SECOND))
    assert all(torch.equal(value, still[name]) for name, value in made.named_buffers())
    assert all(torch.equal(value, teacher[name]) for name, value in made.teacher.named_parameters())
    assert all(torch.equal(layer.weight, one) for layer, one in zip(norms, affine, strict=True))
    assert not torch.equal(made.network.stages[0][0][0].weight, before)


def test_what_optimizers_are_given_excludes_what_stays() -> None:
    made = method(shared_lr_factor=0.1, neck_lr_factor=0.5, first_backbone_lr_factor=0.2)
    made.before_experience(experience(0, FIRST))
    assert [one["lr_factor"] for one in made.parameter_groups()] == [1.0, 1.0, 0.2]
    everything = {id(one) for one in made.parameters()}
    assert {id(one) for group in made.parameter_groups() for one in group["params"]} == everything
    made.before_experience(experience(1, SECOND))
    groups = {group["lr_factor"]: {id(one) for one in group["params"]} for group in made.parameter_groups()}
    convolutions = {
        1.0: [made.head.branches[1][0], made.head.layers[1]],
        0.5: [layer[0] for layer in made.network.decoder],
        0.1: [
            made.head.branches[0][0],
            made.head.layers[0],
            *(one for one in made.network.stages.modules() if isinstance(one, nn.Conv2d)),
        ],
    }
    assert groups == {
        factor: {id(one) for layer in layers for one in layer.parameters()} for factor, layers in convolutions.items()
    }


def test_distillation_begins_where_the_old_model_is() -> None:
    made = after_two()
    losses = made.losses(batch(0, *SECOND, VOID))
    assert losses["feature_distillation"] == 0
    assert losses["group_distillation"] > 0.1  # the entropy of what is distilled
    losses["group_distillation"].backward()
    assert made.head.layers[0].weight.grad.abs().max() < 1e-6
    made.zero_grad()
    with torch.no_grad():
        made.head.layers[0].weight += 0.1
    made.losses(batch(0, *SECOND, VOID))["group_distillation"].backward()
    assert made.head.layers[0].weight.grad.abs().max() > 1e-4


def test_weights_scale_their_terms() -> None:
    weights = {"positive_weight": 2.0, "negative_weight": 3.0, "feature_weight": 5.0, "group_weight": 7.0}
    names = ("background_positive", "background_negative", "feature_distillation", "group_distillation")
    plain, scaled = after_two(**dict.fromkeys(weights, 1.0)), after_two(**weights)
    data = batch(0, *SECOND)
    step(plain, data)  # away from where features are those of the teacher
    balance(plain, data)
    scaled.load_state_dict(plain.state_dict())
    one, many = plain.losses(data), scaled.losses(data)
    assert list(one) == ["bce", *names]
    for name, weight in zip(names, weights.values(), strict=True):
        assert one[name] > 0
        assert many[name].item() == pytest.approx(weight * one[name].item(), rel=1e-5)


@pytest.mark.parametrize(("threshold", "changed"), [(0.7, {"bce"}), (1.0, set())])
def test_pseudo_labels_enter_the_cross_entropy_only(threshold: float, changed: set[str]) -> None:
    made, data = after_two(pseudo_threshold=threshold), batch(0, *SECOND, VOID)
    before = made.losses(data)
    with torch.no_grad():
        made.teacher.head.layers[0].bias[:2] = torch.tensor([-9.0, 2.0])  # the first old class, surely
    losses = made.losses(data)
    assert {name for name in losses if not torch.equal(losses[name], before[name])} == {"group_distillation", *changed}


def test_in_a_batch_of_void_only_the_groups_distillation_counts() -> None:
    losses = step(after_two(), batch(VOID))
    assert {name for name, loss in losses.items() if loss != 0} == {"group_distillation"}
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("labels", [SECOND, (*SECOND, VOID)])
def test_a_batch_without_background_stays_finite(labels: tuple[int, ...]) -> None:
    made = after_two()
    losses = step(made, batch(*labels))
    assert losses["background_negative"] == 0
    assert losses["background_positive"] > 0
    assert all(one.isfinite().all() for one in made.parameters())


def test_void_is_not_background() -> None:
    made = after_two()
    balance(made, batch(*SECOND, 0))
    void, background = made.losses(batch(*SECOND, VOID)), made.losses(batch(*SECOND, 0))
    assert {name for name in void if torch.equal(void[name], background[name])} >= {"background_positive"}
    assert not torch.equal(void["bce"], background["bce"])
    assert void["background_negative"] < background["background_negative"]


def test_without_a_residual_there_is_neither_its_output_nor_its_terms() -> None:
    terms_of_it = {"background_positive", "background_negative"}
    for residual in (True, False):
        made = after_two(residual=residual)
        assert made.head.layers[1].out_channels == len(SECOND) + residual
        assert set(made.losses(batch(0, *SECOND))) & terms_of_it == (terms_of_it if residual else set())


@pytest.mark.parametrize("options", [{}, {"residual": False}, {"clamp": False}])
def test_a_state_dict_is_complete(options: dict[str, bool]) -> None:
    made, fresh = after_two(**options), method(**options)
    step(made, batch(0, *SECOND))
    state = made.state_dict()
    fresh.set_extra_state(state["_extra_state"])
    fresh.load_state_dict(state)
    data = batch(0, *SECOND, seed=7)
    assert torch.equal(made.eval().scores(data.image), fresh.eval().scores(data.image))
    losses = fresh.losses(data)
    assert all(torch.equal(one, losses[name]) for name, one in made.losses(data).items())


def test_the_whole_model_is_one_graph() -> None:
    made, data = after_two().eval(), batch(0)
    made.after_experience()
    exported = torch.export.export(made, (data.image,)).module()
    assert torch.equal(exported(data.image), made(data.image))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pseudo_threshold", 0),
        ("pseudo_threshold", 1.5),
        ("positive_weight", -1),
        ("negative_weight", -1),
        ("feature_weight", float("nan")),
        ("group_weight", "1"),
        ("shared_lr_factor", -0.1),
        ("neck_lr_factor", -0.1),
        ("first_backbone_lr_factor", -0.1),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        method(**{name: value})


class Channels(SegmentationNetwork):
    """The image's own channels are the features, so that nothing is learned but branches and outputs."""

    feature_dim = 6

    @override
    def levels(self, image: Tensor) -> list[Tensor]:
        return [image]

    @override
    def backbone_parameters(self) -> list[nn.Parameter]:
        return []


def colours(*hidden: int, seed: int) -> SegmentationBatch:
    """Return scenes of background and classes 1 and 2, each lighting a channel; ``hidden`` ones have the label 0.

    Class 2 lights the background's channel too: to who has not learned it, it is background.
    """
    noise = torch.Generator().manual_seed(seed)
    truth = torch.randint(3, (8, 4, 4), generator=noise).repeat_interleave(3, 1).repeat_interleave(3, 2)
    lit = nn.functional.one_hot(truth, 6).movedim(-1, 1).float()
    lit[:, 0] += lit[:, 2]
    mask = torch.where(torch.isin(truth, torch.tensor(hidden)), 0, truth)
    return SegmentationBatch(2 * lit + 0.3 * torch.randn(lit.shape, generator=noise), mask, torch.arange(8))


def iou_of_new_class(residual: bool) -> tuple[BARM, float]:
    """Learn class 1, then class 2 with all that is old frozen; return the IoU of class 2."""
    torch.manual_seed(0)
    made = BARM(Channels(), residual=residual, shared_lr_factor=0, neck_lr_factor=0)
    for index, (shown, hidden, steps, lr) in enumerate([(1, 2, 150, 0.05), (2, 1, 80, 0.02)]):
        made.before_experience(experience(index, (shown,)))
        groups = [{"params": one["params"], "lr": lr * one["lr_factor"]} for one in made.parameter_groups()]
        optimizer = torch.optim.Adam(groups)
        for seed in range(steps):
            optimizer.zero_grad()
            torch.stack(list(made.losses(colours(hidden, seed=seed)).values())).sum().backward()
            optimizer.step()
    data = colours(seed=1000)
    found, true = made.eval()(data.image) == 2, data.mask == 2
    return made, float((found & true).sum() / (found | true).sum())


def test_a_frozen_network_learns_a_class_by_its_residual_and_not_without() -> None:
    with_residual, learned = iou_of_new_class(residual=True)
    without, missed = iou_of_new_class(residual=False)
    for made in (with_residual, without):
        for part in ("branches", "layers"):
            old, kept = getattr(made.teacher.head, part)[0], getattr(made.head, part)[0]
            assert all(torch.equal(one, kept.state_dict()[name]) for name, one in old.state_dict().items())
    assert torch.equal(with_residual.head.layers[0].weight, without.head.layers[0].weight)
    assert learned > 0.8
    assert missed < 0.05
