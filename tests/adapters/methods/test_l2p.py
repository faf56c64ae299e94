"""L2P chooses prompts for each image by itself, and learns by nothing but the pool and the head."""

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
)
from torch import nn

from pvision.adapters.methods.l2p import L2P
from pvision.continual.cost import forward_cost
from pvision.errors import ConfigError
from pvision.models.timm_backbone import TimmBackbone


def make(network: nn.Module, **settings: Any) -> L2P:
    return L2P(network, **{"pool": 6, "length": 2, "top_k": 3, **settings})


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


def test_training_changes_prompted_features_but_never_a_query() -> None:
    method = make(small_vit())
    data = learn(method, 0, steps=1)
    queries, features = method.query(data.image), method.features(data.image)
    learn(method, 1, steps=5)
    assert torch.equal(method.query(data.image), queries)
    assert not torch.equal(method.features(data.image), features)
    assert torch.equal(queries, small_vit()(data.image))


def test_a_network_that_is_not_frozen_would_change_the_queries() -> None:
    method = make(small_vit())
    queries = method.query(images())
    method.before_experience(experience(0), SmallData(experience(0)))
    method.backbone.requires_grad_(True)
    learn(method, 1, steps=1)
    assert not torch.equal(method.query(images()), queries)


def test_dropout_in_the_network_does_not_reach_a_query() -> None:
    network = small_vit()
    network.blocks[0].mlp.act = nn.Sequential(nn.GELU(), nn.Dropout(0.5))
    method = make(network)
    assert torch.equal(method.train().query(images()), method.eval().query(images()))
    network.train()  # what `train` of the method does not do
    assert not torch.equal(method.query(images()), method.query(images()))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=9), st.integers(0, 2**16))
def test_a_prediction_does_not_depend_on_the_batch(rows: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    method, image = make(small_vit()), images(8)
    method.before_experience(experience(0), SmallData(experience(0)))
    together, alone = method(image), torch.cat([method(image[row : row + 1]) for row in range(8)])
    assert torch.allclose(together, alone, atol=1e-9)
    assert torch.allclose(method(image[rows]), alone[rows], atol=1e-9)


def test_a_choice_that_the_batch_votes_on_would() -> None:
    torch.manual_seed(0)
    method, image = make(small_vit(), top_k=1), images(8)
    _, chosen = method.choose(method.query(image))
    assert len(chosen.unique()) > 1
    voted = chosen.flatten().bincount().argmax().expand(8, 1)
    alone = method.features(image)
    assert not torch.allclose(method.prompted(image, voted), alone, atol=1e-9)


def test_the_closest_prompts_are_put_after_the_class_token() -> None:
    torch.manual_seed(0)
    network = small_vit()
    method, image = make(network), images(4)
    features = method.features(image)
    for row in range(4):
        one = image[row : row + 1]
        query = network(one)[0]
        cosines = torch.stack([query @ key / query.norm() / key.norm() for key in method.keys])
        prompts = torch.cat([method.prompts[index] for index in cosines.argsort(descending=True)[:3]])
        tokens = network.embed(one)[0]
        expected = network.encode(torch.cat([tokens[:1], prompts, tokens[1:]])[None])
        assert torch.allclose(features[row : row + 1], expected, atol=1e-9)


def test_the_loss_pulls_the_chosen_keys_and_no_others() -> None:
    torch.manual_seed(0)
    method = make(small_vit(), pull=0.7)
    data = SmallData(experience(0))
    method.before_experience(experience(0), data)
    batch = data.batch(slice(0, 1))
    loss = method.loss(batch)
    cosines, chosen = method.choose(method.query(batch.image))
    logits = method.head(method.features(batch.image))
    expected = nn.functional.cross_entropy(logits, batch.label) + 0.7 * (3 - cosines.sum())
    assert torch.allclose(loss, expected)
    loss.backward()
    pulled = method.keys.grad.norm(dim=1) > 0
    assert sorted(chosen[0].tolist()) == pulled.nonzero().flatten().tolist()
    before = method.choose(method.query(batch.image))[0].sum()
    with torch.no_grad():
        method.keys -= 0.1 * method.keys.grad
    assert method.choose(method.query(batch.image))[0].sum() > before


def test_exactly_the_pool_and_the_current_head_are_trained() -> None:
    method = make(small_vit())
    learn(method, 0, steps=1)
    learn(method, 1, steps=1)
    trained = {name for name, one in method.named_parameters() if one.requires_grad}
    assert trained == {"keys", "prompts", "head.layers.1.weight", "head.layers.1.bias"}


def test_an_image_costs_two_passes() -> None:
    method = make(small_vit())
    image = images(1)
    assert forward_cost(method, image, backbone=method.backbone).forwards == 2
    assert forward_cost(method.query, image, backbone=method.backbone).forwards == 1


def test_it_works_in_networks_of_timm() -> None:
    backbone = TimmBackbone("test_vit", image_size=32)
    method, image = make(backbone, pool=4), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens, (_, chosen) = backbone.embed(image), method.choose(method.query(image))
    prompts = method.prompts[chosen].flatten(1, 2)
    expected = backbone.encode(torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], 1))
    assert torch.equal(method.features(image), expected)
    assert torch.equal(method.query(image), backbone(image))


class _NoTokens(nn.Module):
    feature_dim = 4


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (_NoTokens, {}, r"model\.backbone \(_NoTokens\) must have embed\(image\) and encode\(tokens\)"),
        (small_vit, {"pool": 0}, r"method\.pool"),
        (small_vit, {"length": 0}, r"method\.length"),
        (small_vit, {"top_k": 0}, r"method\.top_k"),
        (small_vit, {"top_k": 7}, r"method\.top_k must be at most method\.pool \(6\), but 7 came"),
        (small_vit, {"pull": 0.0}, r"method\.pull"),
    ],
)
def test_what_cannot_be_is_refused(network: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(network(), **settings)
