"""Adapters on three families: merging, restoring, freezing, stacking."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pvision.adapters import Bottleneck, GatedLoRA, LoRA, Masked, Prefix, add_adapters
from pvision.errors import ConfigError

EVERYWHERE = ("q", "k", "v", "o", "fc1", "fc2")
METHODS = [LoRA(rank=3, alpha=6), GatedLoRA(rank=3), Masked(density=0.1)]
ALL_METHODS = [*METHODS, Bottleneck(width=4), Prefix(length=2)]


def named(methods):
    return pytest.mark.parametrize("method", methods, ids=lambda method: type(method).__name__)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@named(METHODS)
def test_merged_is_unmerged_and_unmerging_restores_every_bit(network, images, randomise, method, dtype, tolerance):
    network, images = network.to(dtype), images.to(dtype)
    before = copy.deepcopy(network.state_dict())
    adapted = randomise(add_adapters(network, method, targets=EVERYWHERE))
    with torch.no_grad():
        with adapted.disabled():
            plain = adapted(images)
        unmerged = adapted(images)
        merged = adapted.merge()(images)
        assert (unmerged - plain).abs().max() > 0.01, "the adapters must change the output, or nothing is tested"
        assert (merged - unmerged).abs().max() <= tolerance
        assert torch.equal(adapted.unmerge()(images), unmerged)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_unmerging_by_subtraction_would_not_restore_the_bits(make_network, randomise):
    adapted = randomise(add_adapters(make_network(), LoRA(rank=3), targets=("q",)))
    layer = adapted.layers[0]
    change = layer.adapters["adapter"].delta_weight()
    assert not torch.equal(layer.weight + change - change, layer.weight)


def test_merged_adapters_add_nothing_of_their_own(network, images, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=3), targets=EVERYWHERE)).merge()
    merged = adapted(images)
    randomise(adapted, seed=2)
    assert torch.equal(adapted(images), merged), "a merged adapter is in the weights only"


@named(ALL_METHODS)
def test_training_moves_adapters_and_no_bit_of_the_network(network, images, train, method):
    before = copy.deepcopy(network.state_dict())
    adapted = add_adapters(network, method)
    old = {name: parameter.clone() for name, parameter in adapted.trainable_parameters().items()}
    first, last = train(adapted, images, count=1), train(adapted, images, count=20)
    assert last < first
    moved = [
        name for name, parameter in adapted.trainable_parameters().items() if not torch.equal(parameter, old[name])
    ]
    assert moved == list(old)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_thawed_network_does_move(network, images, train):
    before = copy.deepcopy(network.state_dict())
    adapted = add_adapters(network, LoRA(rank=2))
    network.requires_grad_(True)
    train(adapted, images)
    assert not all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@named([method for method in ALL_METHODS if not isinstance(method, Prefix)])
def test_a_new_adapter_changes_nothing(network, images, method):
    with torch.no_grad():
        plain = network(images)
        fresh = add_adapters(network, method)(images)
    # torch computes an untouched attention layer by a fused kernel, hence no equality for torchvision.
    assert (fresh - plain).abs().max() <= 1e-6


@named(ALL_METHODS)
def test_disabled_and_removed_adapters_leave_the_network_bit_by_bit(network, images, randomise, method):
    with torch.no_grad():
        plain = network(images)
        adapted = randomise(add_adapters(network, method))
        assert not torch.equal(adapted(images), plain)
        with adapted.disabled():
            assert torch.equal(adapted(images), plain)
        assert not torch.equal(adapted(images), plain)
        adapted.remove("adapter")
        assert torch.equal(adapted(images), plain)
    assert not adapted.sites
    assert not any(module._forward_hooks or "forward" in vars(module) for module in network.modules())


def test_disabled_merges_again(network, images, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=2))).merge()
    merged = adapted(images)
    with adapted.disabled():
        assert not torch.equal(adapted(images), merged)
    assert adapted.merged == ("adapter",)
    assert torch.equal(adapted(images), merged)


def test_a_stack_trains_its_newest_and_runs_all(network, images, train, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=2), name="first", targets=("q", "v")))
    first = adapted(images).detach()
    old = copy.deepcopy(adapted.sites.state_dict())
    assert add_adapters(adapted, LoRA(rank=3), name="second", targets=("v", "o")) is adapted
    assert (adapted.names, adapted.active) == (("first", "second"),) * 2
    assert (adapted(images) - first).abs().max() <= 1e-6
    train(adapted, images)
    assert {name.split("/")[1] for name in adapted.trainable_parameters()} == {"second"}
    new = adapted.sites.state_dict()
    assert all(torch.equal(new[key], tensor) for key, tensor in old.items())
    with torch.no_grad():
        both = adapted(images)
        assert torch.equal(adapted.activate("first")(images), first)
        assert torch.equal(adapted.activate("second", "first")(images), both)
        assert (adapted.merge()(images) - both).abs().max() <= 2e-5


def test_train_only_thaws_an_older_adapter(make_network):
    adapted = add_adapters(make_network(), LoRA(rank=2), name="first").add(LoRA(rank=2), name="second")
    assert {name.split("/")[1] for name in adapted.train_only("first").trainable_parameters()} == {"first"}
    assert adapted.train_only().trainable_parameters() == {}


def test_one_of_two_can_be_merged(network, images, randomise):
    adapted = add_adapters(network, LoRA(rank=2), name="first").add(LoRA(rank=2), name="second")
    randomise(adapted)
    with torch.no_grad():
        both = adapted(images)
        assert (adapted.merge("first")(images) - both).abs().max() <= 2e-5
    adapted.unmerge().activate("first")
    with pytest.raises(ConfigError, match=r"second.*not active"):
        adapted.merge("second")


def test_absorbed_adapters_become_the_network(network, images, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=EVERYWHERE))
    with torch.no_grad():
        before = adapted(images)
        adapted.absorb("adapter")
        assert adapted.names == ()
        assert (network(images) - before).abs().max() <= 2e-5


def test_an_adapter_of_q_touches_the_rows_of_q_only(make_network, randomise):
    network = make_network("timm")
    tokens = torch.randn(2, 5, 24)
    plain = network.blocks[0].attn.qkv(tokens)
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=("q", "v")))
    queries, values = adapted.layers[0].adapters["adapter"], adapted.layers[1].adapters["adapter"]
    expected = [tokens @ (one.up @ one.down).T for one in (queries, values)]
    changed = network.blocks[0].attn.qkv(tokens)
    assert torch.allclose(changed[..., :24] - plain[..., :24], expected[0], atol=1e-6)
    assert torch.equal(changed[..., 24:48], plain[..., 24:48])
    assert torch.allclose(changed[..., 48:] - plain[..., 48:], expected[1], atol=1e-6)


@named(ALL_METHODS)
def test_a_copy_stands_on_its_own(network, images, randomise, method):
    adapted = randomise(add_adapters(network, method))
    before = adapted(images)
    other = copy.deepcopy(adapted)
    assert torch.equal(other(images), before)
    randomise(other, seed=3)
    assert not torch.equal(other(images), before)
    assert torch.equal(adapted(images), before)


@named(ALL_METHODS)
@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_a_pickle_holds_the_whole(make_network, family, images, randomise, method):
    adapted = randomise(add_adapters(make_network(family), method))
    other = pickle.loads(pickle.dumps(adapted))
    assert torch.equal(other(images), adapted(images))


@named(ALL_METHODS)
def test_mixed_precision_trains(network, images, method):
    adapted = add_adapters(network, method).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(adapted(images).float(), torch.zeros(6, dtype=torch.int64))
    loss.backward()
    grads = [parameter.grad for parameter in adapted.trainable_parameters().values()]
    assert all(grad is not None and grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


@named(ALL_METHODS)
def test_a_network_in_half_precision_takes_adapters_in_full(network, images, randomise, method):
    adapted = randomise(add_adapters(network.bfloat16(), method, dtype=torch.float32))
    assert {parameter.dtype for parameter in adapted.trainable_parameters().values()} == {torch.float32}
    assert adapted(images.bfloat16()).dtype == torch.bfloat16


def test_merging_in_half_precision_restores_the_bits(make_network, randomise):
    adapted = randomise(add_adapters(make_network().bfloat16(), LoRA(rank=2), dtype=torch.float32))
    weight = adapted.layers[0].weight.clone()
    assert not torch.equal(adapted.merge().layers[0].module.weight[:24], weight)
    assert torch.equal(adapted.layers[0].weight, weight), "a layer's weight is W₀, merged or not"
    assert torch.equal(adapted.unmerge().layers[0].module.weight[:24], weight)


@pytest.mark.parametrize("share", [True, False])
def test_weights_that_cannot_be_written_alone_are_not_merged(make_network, images, randomise, share):
    network = make_network()
    if share:
        network.blocks[1].mlp.fc1.weight = network.blocks[0].mlp.fc1.weight
    else:
        nn.utils.parametrizations.weight_norm(network.blocks[0].mlp.fc1)
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets="fc1"))
    before = adapted(images)
    for attempt in (adapted.merge, lambda: adapted.absorb("adapter")):
        with pytest.raises(ConfigError, match=r"blocks\.0\.mlp\.fc1 are shared with another layer or computed"):
            attempt()
    assert adapted.merged == ()
    assert torch.equal(adapted(images), before)


def test_a_frozen_adapter_stays_where_an_older_optimizer_holds_its_gradient(make_network, images, randomise):
    adapted = add_adapters(make_network(), LoRA(rank=2), name="first").add_magnitude("first", start=0.5)
    randomise(adapted)
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.1, weight_decay=0.1)
    adapted(images).square().mean().backward()
    old = {name: parameter.clone() for name, parameter in adapted.trainable_parameters().items()}
    adapted.add(LoRA(rank=2), name="second")
    optimizer.step()
    adapted.train_only("first", magnitudes=["first"])
    assert all(torch.equal(parameter, old[name]) for name, parameter in adapted.trainable_parameters().items())
    adapted(images).square().mean().backward()
    optimizer.step()
    assert not any(torch.equal(parameter, old[name]) for name, parameter in adapted.trainable_parameters().items())


def test_a_network_that_was_being_trained_is_frozen_with_its_gradients(make_network, images):
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    network(images).square().mean().backward()
    before = copy.deepcopy(network.state_dict())
    add_adapters(network, LoRA(rank=2))
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_teacher_may_run_between_forward_and_backward(network, images, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=EVERYWHERE))
    student = adapted(images)
    with adapted.disabled(), torch.no_grad():
        teacher = adapted(images)
    (student - teacher).square().mean().backward()
    assert all(parameter.grad is not None for parameter in adapted.trainable_parameters().values())


def test_what_happens_while_disabled_is_put_right_afterwards(make_network, images, randomise):
    adapted = randomise(add_adapters(make_network(), LoRA(rank=2), name="first").add(LoRA(rank=2), name="second"))
    before = adapted(images)
    with pytest.raises(ZeroDivisionError), adapted.disabled():
        raise ZeroDivisionError
    assert torch.equal(adapted(images), before)
    with adapted.disabled():
        adapted.activate("second").merge()
    assert (adapted.merged, adapted.active) == ((), ("first", "second"))
    assert torch.equal(adapted(images), before)
    adapted.merge()
    with adapted.disabled():
        adapted.remove("second")
    assert (adapted.merged, adapted.active) == (("first",), ("first",))


def test_full_precision_adapters_are_made_in_full_precision(make_network):
    adapted = add_adapters(make_network().bfloat16(), LoRA(rank=2), dtype=torch.float32)
    down = adapted.layers[0].adapters["adapter"].down
    assert not torch.equal(down, down.bfloat16().float()), "not rounded to the network's dtype first"


def test_a_copy_has_hooks_of_its_own(network, images, randomise):
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=EVERYWHERE))
    before, other = adapted(images), copy.deepcopy(adapted)
    own = {id(module) for module in other.modules()}
    callers = [hook for module in other.base.modules() for hook in module._forward_hooks.values()]
    assert callers
    assert all(id(hook.__self__) in own for hook in callers)
    other.remove("adapter")
    assert not any(module._forward_hooks or "forward" in vars(module) for module in other.base.modules())
    assert torch.equal(adapted(images), before)


def test_hooks_do_not_pile_up(network, images):
    def count() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())

    adapted = add_adapters(network, LoRA(rank=2), name="first")
    one = count()
    for number in range(3):
        adapted.add(LoRA(rank=2), name=f"other{number}")
        adapted.remove(f"other{number}")
    adapted.merge().unmerge()
    assert count() == one
    adapted.absorb("first")
    assert count() == 0


@pytest.mark.slow
def test_a_compiled_model_computes_the_same(make_network, images, randomise):
    adapted = randomise(add_adapters(make_network(), LoRA(rank=2), name="first").add(GatedLoRA(rank=2), name="second"))
    adapted.add_magnitude("first", start=0.5)
    torch.compiler.reset()
    compiled = torch.compile(adapted, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert (compiled(images) - adapted(images)).abs().max() <= 1e-6
        both = compiled(images)
        adapted.activate("second")
        assert (compiled(images) - adapted(images)).abs().max() <= 1e-6, "what was chosen since is seen"
        assert not torch.equal(compiled(images), both)


def test_recomputed_activations_give_the_same_gradients(make_network, images, randomise):
    network = make_network().train()
    adapted = randomise(add_adapters(network, LoRA(rank=2), targets=EVERYWHERE))
    adapted(images).square().mean().backward()
    expected = [parameter.grad.clone() for parameter in adapted.trainable_parameters().values()]
    adapted.zero_grad()
    network.set_grad_checkpointing(True)
    adapted(images).square().mean().backward()
    grads = [parameter.grad for parameter in adapted.trainable_parameters().values()]
    assert all(torch.allclose(one, two, atol=1e-7) for one, two in zip(grads, expected, strict=True))


def test_gradients_of_single_images_can_be_taken(images, randomise):
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.GELU(), nn.Linear(6, 5))
    adapted = add_adapters(network, GatedLoRA(rank=2), targets=".*").add_magnitude("adapter", start=0.5)
    randomise(adapted)
    trained = {name: one.detach() for name, one in adapted.named_parameters() if one.requires_grad}

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(adapted, parameters, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(trained, images)
    adapted(images).square().sum().backward()
    for name, parameter in adapted.named_parameters():
        assert name not in trained or torch.allclose(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


def test_layers_say_what_they_are(make_network):
    layers = add_adapters(make_network(), LoRA(rank=2), targets=("v", "fc1"), blocks=[1]).layers
    facts = [(one.name, one.place.role, one.place.block, tuple(one.weight.shape), set(one.adapters)) for one in layers]
    assert facts == [
        ("blocks.1.attn.qkv.v", "v", 1, (24, 24), {"adapter"}),
        ("blocks.1.mlp.fc1", "fc1", 1, (48, 24), {"adapter"}),
    ]


def test_a_layers_input_can_be_watched(network, images):
    adapted = add_adapters(network, LoRA(rank=2), targets=("q", "o"), blocks=[0])
    seen: list[torch.Tensor] = []
    handles = [layer.on_input(seen.append) for layer in adapted.layers]
    with adapted.disabled():
        adapted(images)
    for handle in handles:
        handle.remove()
    adapted(images)
    assert [tuple(tokens.shape) for tokens in seen] == [(6, 5, 24)] * 2


def test_one_step_under_ddp_is_one_step_without(network, images, tmp_path):
    adapted = add_adapters(network, LoRA(rank=2), name="first").add(Bottleneck(width=4), name="second")
    adapted.train_only("first", "second")
    alone = copy.deepcopy(adapted)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for model in (nn.parallel.DistributedDataParallel(adapted), alone):
            model(images).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    pairs = zip(adapted.trainable_parameters().values(), alone.trainable_parameters().values(), strict=True)
    assert all(torch.allclose(one.grad, two.grad, atol=1e-7) for one, two in pairs)
