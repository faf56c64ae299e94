"""The comparison itself: public training once, then every private head at every ε with several noise seeds."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from torch import nn
from tqdm.auto import tqdm

from pvision.callbacks import PrivacyAccounting
from pvision.cli.demo.heads import Features, HeadProblem, HeadSettings, train_head
from pvision.cli.demo.results import Row
from pvision.datamodules import MocapActions
from pvision.models import MotionEncoder, MotionNet
from pvision.modules import DropOnly, MaskDP, NonPrivate
from pvision.privacy import PrivacySpec, TwoViews, as_floats
from pvision.privacy.accounting import Relation
from pvision.privacy.spec import Mechanism

__all__ = [
    "EPSILONS",
    "SETTINGS",
    "Budget",
    "Reference",
    "compare_heads",
    "drop_only",
    "fit",
    "maskdp",
    "reference_rows",
    "statement",
    "train_reference",
]

EPSILONS = (1.0, 3.0, 8.0)
_DELTA = 1e-5
_STEPS = 60

# Chosen on the validation clips, upper body hidden, by benchmarks/maskdp_heads.py; the same grid for every method.
_CHOSEN: dict[str, tuple[tuple[float, float], ...]] = {  # for each ε: learning rate, max_grad_norm
    "MaskDP": ((30.0, 0.3), (30.0, 1.0), (100.0, 1.0)),
    "MaskDP, ε for replace": ((30.0, 0.3), (100.0, 0.3), (100.0, 0.3)),
    "DP-SGD head + public network": ((100.0, 0.3), (100.0, 0.3), (30.0, 1.0)),
    "DP-SGD linear probe": ((100.0, 0.3), (300.0, 0.3), (300.0, 0.3)),
    "redact, then DP-SGD head": ((30.0, 1.0), (30.0, 1.0), (30.0, 1.0)),
}
SETTINGS = {
    method: {epsilon: HeadSettings(*values) for epsilon, values in zip(EPSILONS, chosen, strict=True)}
    for method, chosen in _CHOSEN.items()
}


@dataclass(frozen=True)
class Budget:
    """How much the demo does.

    Attributes:
        epochs: of each un-noised training.
        noise_seeds: private runs of each method and ε.
    """

    epochs: int = 6
    noise_seeds: int = 3


def statement(mechanism: Mechanism, relation: Relation, epsilon: float, settings: HeadSettings) -> PrivacySpec:
    """Return the privacy statement of one head: every clip in every step, so the noise needs no amplification."""
    return PrivacySpec(
        mechanism=mechanism,
        unit="clip",
        mask="public",
        polarity="inside",
        label="public",
        relation=relation,
        delta=_DELTA,
        max_grad_norm=settings.max_grad_norm,
        sample_rate=1.0,
        steps=_STEPS,
        target_epsilon=epsilon,
    )


def drop_only(budget: Budget) -> DropOnly:
    """Return the module that trains the public network, on redacted clips alone."""
    return DropOnly(MotionNet(15, init="mocap"), public_epochs=budget.epochs, optimizer=_adamw)


def maskdp(network: nn.Module) -> MaskDP:
    """Return MaskDP on a trained public network, its head still untrained."""
    settings = SETTINGS["MaskDP"][1.0]
    privacy = statement("residual", "zero_out", 1.0, settings)
    return MaskDP(network, MotionEncoder.pretrained(), privacy, learning_rate=settings.learning_rate).eval()


@dataclass(frozen=True)
class Reference:
    """Training without privacy: the network, and the seconds it took."""

    network: nn.Module
    seconds: float


def train_reference(data: MocapActions, budget: Budget, logger: Logger) -> Reference:
    """Train without privacy on the full view."""
    module = NonPrivate(MotionNet(15, init="mocap"), public_epochs=budget.epochs, optimizer=_adamw)
    seconds = fit(module, data, logger)
    return Reference(module.network.eval(), seconds)


def fit(module: pl.LightningModule, data: MocapActions, logger: Logger) -> float:
    """Train a module with a progress bar and return the seconds it took."""
    began = time.perf_counter()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        max_epochs=-1,
        callbacks=[PrivacyAccounting()],
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)
    return time.perf_counter() - began


def reference_rows(
    region: str, test: Features, reference: Reference, batches: Iterable[TwoViews], *, public_seconds: float
) -> list[Row]:
    """Return the rows without noise: training without privacy, and drop-only.

    Args:
        region: what is sensitive.
        test: features of the test clips, with the logits of the network that was trained on redacted clips.
        reference: trained on the full view.
        batches: the test clips, in the order of ``test``.
        public_seconds: of training on redacted clips.
    """
    with torch.no_grad():
        logits = [[reference.network(as_floats(video)) for video in (v.full, v.public.video)] for v in batches]
    full, redacted = (torch.cat(view) for view in zip(*logits, strict=True))
    unbounded = math.inf
    return [
        Row(
            region=region,
            method="not private",
            epsilon=unbounded,
            epsilon_zero_out=unbounded,
            epsilon_replace=unbounded,
            full=[_accuracy(full, test.label)],
            redacted=[_accuracy(redacted, test.label)],
            parameters=0,
            seconds=reference.seconds,
        ),
        Row(
            region=region,
            method="drop-only",
            epsilon=0.0,
            epsilon_zero_out=0.0,
            epsilon_replace=0.0,
            full=[_accuracy(test.base_full, test.label)],
            redacted=[_accuracy(test.base, test.label)],
            parameters=0,
            seconds=public_seconds,
        ),
    ]


def compare_heads(region: str, problems: list[HeadProblem], label: torch.Tensor, budget: Budget) -> Iterator[Row]:
    """Yield a row for each head and ε, with fresh noise for every seed."""
    todo = [(problem, epsilon) for problem in problems for epsilon in EPSILONS]
    for problem, epsilon in tqdm(todo, desc="Private heads", unit="row"):
        settings = SETTINGS[problem.name][epsilon]
        spec = statement(problem.mechanism, problem.relation, epsilon, settings)
        runs = [train_head(problem, spec, settings, label) for _ in range(budget.noise_seeds)]
        report = spec.report(steps=spec.steps)
        yield Row(
            region=region,
            method=problem.name,
            epsilon=epsilon,
            epsilon_zero_out=report.epsilon_zero_out,
            epsilon_replace=report.epsilon_replace,
            full=[run.accuracy for run in runs],
            redacted=[run.accuracy_redacted for run in runs],
            parameters=problem.start.numel(),
            seconds=sum(run.seconds for run in runs) / len(runs),
        )


def _accuracy(logits: torch.Tensor, label: torch.Tensor) -> float:
    return float((logits.argmax(1) == label).float().mean())


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.02)
