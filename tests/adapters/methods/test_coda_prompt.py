"""CODA-Prompt sums up prefixes for each image; what earlier experiences trained is frozen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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

from pvision.adapters.methods.coda_prompt import CODAPrompt
from pvision.continual.cost import forward_cost
from pvision.errors import ConfigError
from pvision.models.timm_backbone import TimmBackbone


def make(network: nn.Module, **settings: Any) -> CODAPrompt:
    return CODAPrompt(network, **{"pool": 7, "length": 4, **settings})


def on_rank_learn(rank: int) -> list[list[float]]:
    return on_one_of(make, rank, 2)


def test_two_ranks_are_one(ranks: Any) -> None:
    check_two_ranks(ranks, on_rank_learn, make)


def test_a_state_dict_is_complete() -> None:
    check_state_round_trip(make)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    check_resumes(make, tmp_path)


def test_it_learns() -> None:
    method = make(small_vit())
    data = learn(method, 0, steps=60, lr=0.03)
    assert torch.equal(method.head.predictions(method(data.image)), data.label)


def test_a_query_is_what_the_network_alone_says_and_training_never_changes_it() -> None:
    method = make(small_vit())
    queries = method.query(images())
    assert torch.equal(queries, small_vit()(images()))
    assert torch.equal(method.features(images()), queries)  # no experience yet
    learn(method, 0, steps=2)
    features = method.features(images())
    learn(method, 1, steps=2)
    assert torch.equal(method.query(images()), queries)
    assert not torch.equal(method.features(images()), features)


def older(method: CODAPrompt) -> list[Tensor]:
    return [one.detach().clone() for one in method.components[0].parameters()]


def test_older_components_stay_bit_by_bit_under_weight_decay() -> None:
    method = make(small_vit())
    learn(method, 0)
    before = older(method)
    learn(method, 1, weight_decay=0.5)
    assert all(torch.equal(*pair) for pair in zip(older(method), before, strict=True))
    assert not any(one.requires_grad for one in method.components[0].parameters())


def test_without_the_freezing_they_would_not() -> None:
    method = make(small_vit())
    learn(method, 0)
    before = older(method)
    method.before_experience(experience(1), SmallData(experience(1)))
    method.components.requires_grad_(True)
    train(method, SmallData(experience(1)))
    assert not any(torch.equal(*pair) for pair in zip(older(method), before, strict=True))


def test_a_mask_on_gradients_instead_would_not_stop_weight_decay() -> None:
    method = make(small_vit())
    learn(method, 0)
    before = older(method)
    method.before_experience(experience(1), SmallData(experience(1)))
    for one in method.components[0].parameters():
        one.requires_grad_(True).register_hook(torch.zeros_like)
    train(method, SmallData(experience(1)))
    assert not any(torch.equal(*pair) for pair in zip(older(method), before, strict=True))


@pytest.mark.parametrize("name", ["attention", "keys", "prompts"])
def test_new_components_are_unit_vectors_orthogonal_to_what_was_trained(name: str) -> None:
    method = make(small_vit())
    learn(method, 0, steps=20, lr=0.1)
    method.before_experience(experience(1), SmallData(experience(1)))
    old, new = (getattr(one, name).detach().flatten(2) for one in method.components)
    assert (old @ new.mT).abs().max() <= 1e-12
    assert (new @ new.mT - torch.eye(2)).abs().max() <= 1e-12
    # The classical formula takes older rows for orthogonal to each other, which trained ones are not.
    drawn = torch.randn(new.shape, dtype=torch.float64)
    naive = drawn - (drawn @ old.mT / old.square().sum(2)[:, None]) @ old
    assert (old @ naive.mT).abs().max() > 1e-3


def test_the_pool_is_divided_among_the_experiences() -> None:
    method = make(small_vit(), pool=8)
    for index, sizes in enumerate(([2], [2, 2], [2, 2, 2])):
        learn(method, index, steps=1)
        assert method.state() == {"sizes": sizes}
        trained = [all(one.requires_grad for one in part.parameters()) for part in method.components]
        assert trained == [False] * index + [True]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=9), st.integers(0, 2**16))
def test_a_prediction_does_not_depend_on_the_batch(rows: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    method, image = make(small_vit()), images(8)
    method.before_experience(experience(0), SmallData(experience(0)))
    alone = torch.cat([method(image[row : row + 1]) for row in range(8)])
    assert torch.allclose(method(image[rows]), alone[rows], atol=1e-9)
    shared = method.prefixes(method.query(image).mean(0, keepdim=True)).expand(-1, -1, 8, -1, -1)
    assert not torch.allclose(method.backbone(image, shared), method.features(image), atol=1e-6)


def slow_features(method: CODAPrompt, image: Tensor) -> Tensor:
    """Compute one image, layer by layer, component by component and head by head."""
    network = method.backbone.base
    query, tokens = network(image[None])[0], network.embed(image[None])[0]
    for layer, block in enumerate(network.blocks):
        prompt = torch.zeros(4, 64, dtype=torch.float64)
        for part in method.components:
            for a, k, p in zip(part.attention[layer], part.keys[layer], part.prompts[layer], strict=True):
                prompt = prompt + nn.functional.cosine_similarity(query * a, k, dim=0) * p
        inner = block.norm1(tokens)
        q, k, v = block.attn.qkv(inner).chunk(3, dim=-1)
        k, v = torch.cat([prompt[:2], k]), torch.cat([prompt[2:], v])
        heads = []
        for columns in torch.arange(64).split(16):
            weights = (q[:, columns] @ k[:, columns].T / 4).softmax(-1)
            heads.append(weights @ v[:, columns])
        tokens = tokens + block.attn.proj(torch.cat(heads, -1))
        tokens = tokens + block.mlp(block.norm2(tokens))
    return network.norm(tokens[0])


def test_features_are_those_of_a_slow_and_obvious_computation() -> None:
    method = make(small_vit())
    learn(method, 0, lr=0.1)
    learn(method, 1, lr=0.1)
    expected = torch.stack([slow_features(method, image) for image in images()])
    assert torch.allclose(method.features(images()), expected, atol=1e-9)


def test_a_query_of_zeros_gives_finite_gradients() -> None:
    method = make(small_vit())
    method.before_experience(experience(0), SmallData(experience(0)))
    method.prefixes(torch.zeros(2, 64, dtype=torch.float64)).sum().backward()
    assert all(one.grad.isfinite().all() for one in method.components.parameters())


def test_an_image_costs_two_passes() -> None:
    method = make(small_vit())
    learn(method, 0, steps=1)
    assert forward_cost(method, images(1), backbone=method.backbone).forwards == 2
    assert forward_cost(method.query, images(1), backbone=method.backbone).forwards == 1


def test_it_works_in_networks_of_timm() -> None:
    method = make(TimmBackbone("test_vit", image_size=32), blocks=[0, 3])
    assert [place.name for place in method.backbone.places] == ["network.blocks.0.attn", "network.blocks.3.attn"]
    method.before_experience(experience(0), SmallData(experience(0)))
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert method.prefixes(method.query(image)).shape == (2, 2, 2, 2, 64)
    assert not torch.allclose(method.features(image), method.query(image), atol=1e-5)


def test_only_the_blocks_that_are_named_are_prompted() -> None:
    assert [place.block for place in make(small_vit(), blocks=[1]).backbone.places] == [1]
    assert [place.block for place in make(small_vit()).backbone.places] == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 0}, r"method\.pool"),
        ({"pool": 65}, r"method\.pool must be at most the backbone's feature_dim \(64\)"),
        ({"length": 3}, r"method\.length must be even"),
        ({"length": 0}, r"method\.length"),
        ({"blocks": [2]}, r"blocks must name transformer blocks of the model \(0 to 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(small_vit(), **settings)


def test_a_pool_that_is_too_small_or_used_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="a component for each of the 3 experiences, but 2 came"):
        learn(make(small_vit(), pool=2), 0)
    method = make(small_vit(), pool=64)
    for index in range(3):
        learn(method, index, steps=0)
    with pytest.raises(ConfigError, match="gives each experience 21 components, but only 1 can still be orthogonal"):
        learn(method, 3)
