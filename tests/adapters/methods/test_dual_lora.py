"""DualLoRA: what earlier experiences feel of it, and how it tells them apart."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from small_methods import (
    SmallData,
    check_resumes,
    check_state_round_trip,
    check_two_ranks,
    experience,
    images,
    learn,
    on_one_of,
    small_vit,
    train,
)
from torch import Tensor, nn

from pvision.adapters import AdaptedModel, EnergyGatedLowRank, LoRA
from pvision.adapters.methods import ContinualMethod
from pvision.adapters.methods.alignment import ClassifierAlignment
from pvision.adapters.methods.dual_lora import DualLoRA
from pvision.callbacks import InterferenceCertificate
from pvision.continual.cost import forward_cost
from pvision.continual.interference import affine_map, token_margin
from pvision.continual.scenarios import ClassIncremental
from pvision.continual.subspace import SubspaceMemory
from pvision.datamodules.streams import DigitsStream
from pvision.errors import ConfigError
from pvision.modules import ContinualClassifier
from pvision.training.streams import fit_stream

QUICK = ClassifierAlignment(samples_per_class=16, steps=20, batch_size=16)


def full(network: nn.Module) -> DualLoRA:
    """Everything on, small enough for free directions to stay."""
    return DualLoRA(
        network, rank=4, residual_rank=4, targets=("q", "v"), energy=0.9, energy_final=0.95, alignment=QUICK
    )


def by_energy(network: nn.Module) -> DualLoRA:
    return DualLoRA(network, rank=4, residual_rank=4, energy=0.9, identity="energy", alignment=None)


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(full, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, full)


@pytest.mark.parametrize("space", ["own", "previous", "none"])
@pytest.mark.parametrize("identity", ["energy", "features", "none"])
def test_a_state_dict_is_complete(space: Any, identity: Any) -> None:
    check_state_round_trip(
        lambda network: DualLoRA(
            network, rank=4, residual_rank=4, energy=0.9, residual_space=space, identity=identity, alignment=QUICK
        )
    )


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    check_resumes(full, tmp_path)


# What earlier experiences feel


def few(index: int) -> SmallData:
    """Return so few images, 8 with 5 tokens each, that their inputs leave directions free."""
    return SmallData(experience(index), size=8)


def learn_few(method: ContinualMethod, index: int, **training: Any) -> SmallData:
    data = few(index)
    method.before_experience(experience(index), data)
    train(method, data, **training)
    method.after_experience(experience(index), data)
    method.eval()
    return data


def _moved_by_next(
    method: DualLoRA, old: Tensor, *, index: int, change: Callable[[DualLoRA], None] | None = None
) -> float:
    with torch.no_grad():
        features = method.features(old)
        before = torch.cat([features, method.head(features)], 1)
    data = few(index)
    method.before_experience(experience(index), data)
    if change is not None:
        change(method)
    else:
        train(method, data, steps=150, lr=3e-3, weight_decay=1e-2)
    method.after_experience(experience(index), data)
    method.eval()
    with torch.no_grad():
        features = method.features(old)
        after = torch.cat([features, method.head(features)[:, : before.shape[1] - features.shape[1]]], 1)
    return float((after - before).abs().max())


def plain(**settings: Any) -> DualLoRA:
    return DualLoRA(small_vit(), **{"targets": ("q", "v"), "energy": 1.0, "rank": 8, "alignment": None, **settings})


@pytest.mark.parametrize("space", ["none", "own"])
def test_memorised_images_do_not_feel_a_further_experience(space: Any) -> None:
    method = plain(residual_space=space)
    old = learn_few(method, 0, steps=20)
    assert _moved_by_next(method, old.image, index=1) <= 1e-12


def test_what_is_learned_meanwhile_is_not_nothing() -> None:
    method = plain()
    learn_few(method, 0, steps=20)
    new = few(1)
    with torch.no_grad():
        before = method.features(new.image)
    learn_few(method, 1, steps=150)
    with torch.no_grad():
        assert (method.features(new.image) - before).abs().max() > 0.1


def test_memorised_images_feel_a_residual_adapter_in_the_previous_space() -> None:
    method = plain(residual_space="previous")
    old = learn_few(method, 0, steps=20)
    assert _moved_by_next(method, old.image, index=1) > 1e-2


def _project_gradients(method: DualLoRA) -> None:
    """Train free adapters whose gradients are projected, as AdamW then undoes."""
    kept = {place.name: method.subspace_memory[place.module].complement() for place in method.targets}
    method.adapted.remove(*method.adapted.names)
    method.adapted.add(LoRA(rank=8), name="orthogonal", targets=list(kept))
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=3e-3, weight_decay=1e-2)
    batch = few(method.current).batch()
    for _ in range(150):
        optimizer.zero_grad()
        method.loss(batch).backward()
        for layer in method.adapted.layers:
            down = layer.adapters["orthogonal"].down
            free = kept[layer.name]
            down.grad = down.grad @ free @ free.T
        optimizer.step()


def _free(method: DualLoRA) -> None:
    method.adapted.remove(*method.adapted.names)
    method.adapted.add(LoRA(rank=8), name="orthogonal", targets=[place.name for place in method.targets])
    train(method, few(method.current), steps=150)


@pytest.mark.parametrize("change", [_project_gradients, _free])
def test_memorised_images_feel_adapters_that_are_not_confined(change: Callable[[DualLoRA], None]) -> None:
    method = plain(residual_space="none")
    old = learn_few(method, 0, steps=20)
    assert _moved_by_next(method, old.image, index=1, change=change) > 1e-2


@pytest.mark.parametrize("energy", [0.9, 0.99])
def test_below_full_energy_each_layer_keeps_the_bound(energy: float) -> None:
    method = plain(residual_space="none", energy=energy, targets=("v",))
    old = learn_few(method, 0, steps=20)
    layer = method.adapted.base.blocks[0].attn.qkv
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    with torch.no_grad():
        method.features(old.image)
    handle.remove()
    before, basis = affine_map(layer), method.subspace_memory["blocks.0.attn.qkv"].basis()
    assert _moved_by_next(method, old.image, index=1) > 1e-3
    after = affine_map(layer)
    assert (after - before).abs().max() > 1e-3
    assert token_margin(before, after, seen[0], basis) <= 1e-9
    free = before + (after - before).roll(7, dims=1)  # the same update, turned out of the complement
    assert token_margin(before, free, seen[0], basis) > 1e-3


def test_a_residual_adapter_is_silent_on_earlier_experiences_only() -> None:
    method = plain()
    old = learn_few(method, 0, steps=20)
    new = learn_few(method, 1, steps=60)
    inputs: dict[str, Tensor] = {}
    layers = [layer for layer in method.adapted.layers if "residual_1" in layer.adapters]
    assert layers
    handles = [layer.on_input(lambda one, name=layer.name: inputs.update({name: one})) for layer in layers]
    with torch.no_grad():
        sizes = []
        for image in (old.image, new.image):
            method.features(image)
            added = [layer.adapters["residual_1"].contribution(inputs[layer.name]) for layer in layers]
            sizes.append([float(one.abs().max()) for one in added])
    for handle in handles:
        handle.remove()
    assert max(sizes[0]) <= 1e-12
    assert min(sizes[1]) > 1e-3


# Its parts


def test_the_orthogonal_adapter_is_gone_and_residual_ones_stay() -> None:
    method = by_energy(small_vit())
    for index in range(3):
        learn(method, index)
    assert method.adapted.names == ("residual_0", "residual_1", "residual_2")
    assert not any(one.requires_grad for one in method.adapted.parameters())
    assert all(
        isinstance(one, EnergyGatedLowRank) for layer in method.adapted.layers for one in layer.adapters.values()
    )


def test_exactly_the_current_adapters_and_head_are_trained() -> None:
    method = by_energy(small_vit())
    learn(method, 0)
    frozen = {name: one.detach().clone() for name, one in method.adapted.named_parameters()}
    method.before_experience(experience(1), SmallData(experience(1)))
    trained = {key.split("/")[1] for key in method.adapted.trainable_parameters()}
    assert trained == {"orthogonal", "residual_1"}
    method.zero_grad()
    method.loss(SmallData(experience(1)).batch()).backward()
    assert all((one.grad is not None) == one.requires_grad for one in method.parameters())
    train(method, SmallData(experience(1)), steps=3)
    for name, one in method.adapted.named_parameters():
        if name in frozen:
            assert torch.equal(one, frozen[name]), name


def test_the_own_space_is_new_and_the_previous_one_is_the_last() -> None:
    for space in ("own", "previous"):
        method = DualLoRA(small_vit(), rank=4, residual_rank=4, energy=0.9, residual_space=space, alignment=None)
        learn(method, 0)
        memory = copy.deepcopy(method.subspace_memory)
        method.before_experience(experience(1), SmallData(experience(1)))
        for layer in method.adapted.layers:
            basis, subspace = layer.adapters["residual_1"].basis, memory[layer.place.module]
            if space == "own":
                assert (subspace.basis().T @ basis).abs().max() <= 1e-12
            else:  # its signs are made independent of rounding
                assert torch.equal(basis.abs(), subspace.residual_basis().abs())
                assert bool((basis.amax(0) >= basis.abs().amax(0)).all())


def test_the_energy_of_the_memory_rises_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    update = SubspaceMemory.update

    def noted(memory: SubspaceMemory, features: Any, *, energy: float) -> dict[str, int]:
        seen.append(energy)
        return update(memory, features, energy=energy)

    monkeypatch.setattr(SubspaceMemory, "update", noted)
    method = DualLoRA(small_vit(), energy=0.6, energy_final=0.9, rank=2, residual_space="none", alignment=None)
    for index in range(3):
        learn(method, index, steps=1)
    assert seen == pytest.approx([0.6, 0.7, 0.8])


def test_where_nothing_is_free_it_says_so_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    where = "blocks.1.attn.qkv.v"  # 24 images of 5 tokens span all 64 entries there
    method = DualLoRA(small_vit(), energy=1.0, residual_space="none", rank=8, targets=(where,), alignment=None)
    learn(method, 0)
    for index in (1, 2):
        learn(method, index, steps=1)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert told[0].startswith(f"DualLoRA: {where} has fewer free directions than method.rank")
    assert method.adapted.names == ()


def test_one_pass_for_each_image() -> None:
    for identity in ("energy", "features", "none"):
        method = DualLoRA(small_vit(), rank=4, residual_rank=4, energy=0.9, identity=identity, alignment=QUICK)
        for index in range(2):
            learn(method, index)
        assert forward_cost(method, images(1), backbone=method.backbone).forwards == 1


# Which experience an image is of


@pytest.mark.parametrize("identity", ["energy", "features"])
def test_the_probabilities_of_experiences_add_up(identity: Any) -> None:
    method = DualLoRA(small_vit(), rank=4, residual_rank=4, energy=0.9, identity=identity, alignment=QUICK)
    for index in range(3):
        learn(method, index)
    with torch.no_grad():
        probabilities = method.task_probabilities(images(7))
    assert probabilities.shape == (7, 3)
    assert torch.allclose(probabilities.sum(1), torch.ones(7, dtype=torch.float64))


def test_features_tell_the_experience() -> None:
    method = DualLoRA(small_vit(), rank=4, residual_rank=4, energy=0.9, alignment=None)
    for index in range(3):
        learn(method, index, steps=30)
    with torch.no_grad():
        told = [method.task_probabilities(SmallData(experience(index)).image).argmax(1) for index in range(3)]
        right = [float((one == index).double().mean()) for index, one in enumerate(told)]
        assert min(right) > 0.9, right
        new = torch.cat([SmallData(experience(index)).image for index in range(3)])
        label = torch.cat([SmallData(experience(index)).label for index in range(3)])
        calibrated = (method.head.predictions(method(new)) == label).double().mean()
        alone = (method.head.predictions(method.head(method.features(new))) == label).double().mean()
    assert calibrated > 0.9
    assert calibrated > alone + 0.1


def test_calibration_adds_log_p_where_it_is_sure() -> None:
    method = by_energy(small_vit())
    for index in range(2):
        learn(method, index)
    with torch.no_grad():
        plain_logits = method.head(method.features(images()))
        log_p = method.task_probabilities(images()).log().repeat_interleave(2, 1)
        assert torch.allclose(method(images()), plain_logits + log_p)
        method.calibration_threshold = 0.999
        assert torch.equal(method(images()), plain_logits)


def test_between_the_events_of_an_experience_nothing_is_told() -> None:
    method = by_energy(small_vit())
    learn(method, 0)
    method.before_experience(experience(1), SmallData(experience(1)))
    method.eval()
    with torch.no_grad():
        assert torch.equal(method(images()), method.head(method.features(images())))
        with pytest.raises(ConfigError, match="told between experiences"):
            method.task_probabilities(images())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "method.rank"),
        ({"residual_rank": -1}, "method.residual_rank"),
        ({"alpha": 0.0}, "method.alpha"),
        ({"energy": 0.0}, "method.energy must be"),
        ({"energy": 0.9, "energy_final": 0.8}, "method.energy_final must be at least method.energy"),
        ({"residual_space": "both"}, "method.residual_space must be one of 'own', 'previous', 'none'"),
        ({"identity": "oracle"}, "method.identity must be one of"),
        ({"shrinkage": 1.1}, "method.shrinkage must be at most 1"),
        ({"calibration_scale": 0.0}, "method.calibration_scale"),
        ({"calibration_threshold": 1.0}, "method.calibration_threshold must be below 1"),
        ({"targets": ("value",)}, "method.targets: no linear layer meets 'value'"),
        ({"rank": 65}, r"method\.rank must be at most 64 at blocks\.0\.attn\.qkv\.v"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DualLoRA(small_vit(), **settings)


def test_an_adapted_model_is_what_it_holds() -> None:
    assert isinstance(by_energy(small_vit()).backbone, AdaptedModel)


def test_its_promise_is_certified_along_a_stream(tmp_path: Path) -> None:
    pl.seed_everything(4, verbose=False)
    certificate = InterferenceCertificate(layers=["*attn.qkv"])
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        callbacks=[certificate],
    )
    stream = DigitsStream(scenario=ClassIncremental(experiences=3, base_classes=4), batch_size=128, seed=11)
    network = small_vit(dtype=torch.float32, width=32)
    fit_stream(trainer, ContinualClassifier(network, method=partial(DualLoRA, rank=4, residual_rank=2)), stream)
    assert [row.experience for row in certificate.rows] == [1, 1, 2, 2]
    assert all(row.change <= row.bound for row in certificate.rows)
    assert max(row.leak for row in certificate.rows) < 1e-5
