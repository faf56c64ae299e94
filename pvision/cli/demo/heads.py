"""The private heads that the demo compares, on features that are computed once."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from pvision.models import MotionNet
from pvision.modules import MaskDP
from pvision.privacy import (
    GaussianMechanism,
    PrivacySpec,
    TailAverage,
    TwoViews,
    as_floats,
    clip_rows,
    noisy_head_gradient,
)
from pvision.privacy import whitening as fit_whitening
from pvision.privacy.accounting import Relation
from pvision.privacy.spec import Mechanism

__all__ = ["Features", "HeadProblem", "HeadSettings", "Outcome", "head_problems", "train_head"]

_BIAS = 0.3  # a constant feature, small so that it takes little of the clipping bound


@dataclass(frozen=True)
class Features:
    """What the networks make of one set of clips.

    Attributes:
        full: φ of the full view, ``(N, d)``.
        public: φ of the redacted view, ``(N, d)``.
        same: where the views are equal, bool, ``(N,)``.
        base: logits of the public network on the redacted view, ``(N, classes)``.
        base_full: its logits on the full view, for which it was not trained.
        inner_full: features of the public network before its head, full view.
        inner_public: the same, redacted view.
        label: class indices, ``(N,)``.
    """

    full: Tensor
    public: Tensor
    same: Tensor
    base: Tensor
    base_full: Tensor
    inner_full: Tensor
    inner_public: Tensor
    label: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, module: MaskDP, batches: Iterable[TwoViews]) -> "Features":
        """Compute them with a trained module."""
        network = cast(MotionNet, module.network)
        columns = []
        for views in batches:
            full, public = module.encoder_features(views)
            inner = [network.features(as_floats(video)) for video in (views.full, views.public.video)]
            logits = [network.head(features) for features in inner]
            same = (views.full == views.public.video).flatten(1).all(1)
            columns.append((full, public, same, logits[1], logits[0], inner[0], inner[1], views.label))
        return cls(*(torch.cat(column) for column in zip(*columns, strict=True)))


@dataclass(frozen=True)
class HeadSettings:
    """Settings of the noisy steps of one head."""

    learning_rate: float
    max_grad_norm: float
    momentum: float = 0.9


@dataclass(frozen=True)
class HeadProblem:
    """A linear head to be trained privately: inputs, logits to add to, and what to evaluate.

    Attributes:
        name: the method's name in tables.
        relation: the relation in which ε is made equal between methods.
        mechanism: how the head's ε is accounted.
        train: inputs of the training clips, ``(N, d)``.
        train_base: logits to which the head adds, ``(N, classes)``.
        label: of the training clips.
        full: inputs and logits of the evaluated clips' full view.
        redacted: the same of their redacted view.
        start: the head's first weight.
    """

    name: str
    mechanism: Mechanism
    train: Tensor
    train_base: Tensor
    label: Tensor
    full: tuple[Tensor, Tensor]
    redacted: tuple[Tensor, Tensor]
    start: Tensor
    relation: Relation = "zero_out"

    def evaluated_on(self, keep: Tensor) -> "HeadProblem":
        """Return the problem with only some of the evaluated clips."""
        return replace(
            self,
            full=(self.full[0][keep], self.full[1][keep]),
            redacted=(self.redacted[0][keep], self.redacted[1][keep]),
        )


@dataclass(frozen=True)
class Outcome:
    """One private run of one head."""

    accuracy: float
    accuracy_redacted: float
    seconds: float


def train_head(problem: HeadProblem, spec: PrivacySpec, settings: HeadSettings, test_label: Tensor) -> Outcome:
    """Train a head with fresh noise and evaluate it on both views."""
    began = time.perf_counter()
    mechanism = GaussianMechanism(spec, num_records=len(problem.label))
    weight = problem.start.clone()
    optimizer = torch.optim.SGD(
        [weight], lr=settings.learning_rate * (1 - settings.momentum), momentum=settings.momentum
    )
    average = TailAverage(steps=spec.steps)
    for batch in mechanism.batches:
        index = torch.tensor(batch)
        inputs = (problem.train[index], problem.train_base[index], problem.label[index])
        weight.grad = noisy_head_gradient(weight, mechanism, *inputs, index=index)
        optimizer.step()
        average.update(weight, step=mechanism.steps)
    average.copy_to(weight)
    seconds = time.perf_counter() - began

    def accuracy(inputs: Tensor, base: Tensor) -> float:
        return float(((base + inputs @ weight.T).argmax(1) == test_label).float().mean())

    return Outcome(accuracy(*problem.full), accuracy(*problem.redacted), seconds)


def head_problems(module: MaskDP, public: Features, train: Features, test: Features) -> list[HeadProblem]:
    """Fit MaskDP's projection on public clips; return its head and those of its competitors, on the same features."""
    classes, dim = module.head.weight.shape
    module.head.fit_projection(public.full - public.public)

    def difference(features: Features) -> Tensor:
        return module.head.features(features.full, features.public, same=features.same)

    center = public.full.mean(0)
    projection = fit_whitening(public.full - center, dim)

    def probe(features: Tensor) -> Tensor:
        rows = clip_rows((features - center) @ projection)
        return torch.cat([rows, torch.full((len(rows), 1), _BIAS)], 1)

    inputs, full, redacted = probe(train.full), probe(test.full), probe(test.public)
    beside = HeadProblem(
        name="DP-SGD head + public network",
        mechanism="redact_then_dp_sgd",
        train=inputs,
        train_base=train.base,
        label=train.label,
        full=(full, test.base),
        redacted=(redacted, test.base),
        start=torch.zeros(classes, dim + 1),
    )
    nothing = torch.zeros_like(test.base)
    alone = replace(
        beside,
        name="DP-SGD linear probe",
        mechanism="dp_sgd",
        train_base=torch.zeros_like(train.base),
        full=(full, nothing),
        redacted=(redacted, nothing),
    )
    maskdp = HeadProblem(
        name="MaskDP",
        mechanism="residual",
        train=difference(train),
        train_base=train.base,
        label=train.label,
        full=(difference(test), test.base),
        redacted=(torch.zeros(len(test.label), dim), test.base),
        start=torch.zeros(classes, dim),
    )
    return [
        maskdp,
        replace(maskdp, name="MaskDP, ε for replace", relation="replace"),
        beside,
        alone,
        _fine_tuned_head(module, train, test),
    ]


def _fine_tuned_head(module: MaskDP, train: Features, test: Features) -> HeadProblem:
    """Return redact-then-DP-SGD of the public network's own head, in standardised features."""
    head = cast(MotionNet, module.network).head
    center, deviation = train.inner_public.mean(0), train.inner_public.std(0) + 1e-3
    size = train.inner_public.shape[1] ** 0.5

    def standard(features: Tensor) -> Tensor:
        rows = 2 * clip_rows((features - center) / deviation / size / 2)
        return torch.cat([rows, torch.ones(len(rows), 1)], 1)

    bias = head.bias + head.weight @ center
    return HeadProblem(
        name="redact, then DP-SGD head",
        mechanism="redact_then_dp_sgd",
        train=standard(train.inner_full),
        train_base=torch.zeros_like(train.base),
        label=train.label,
        full=(standard(test.inner_full), torch.zeros_like(test.base)),
        redacted=(standard(test.inner_public), torch.zeros_like(test.base)),
        start=torch.cat([head.weight * deviation * size, bias.unsqueeze(1)], 1).detach(),
    )
