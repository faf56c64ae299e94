"""What every network promises; a new one joins by its name in conftest.py."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load, save
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from pvision.errors import DataError
from pvision.models import crosses_samples, private_training_problems


def losses_gradient(network, video, label):
    loss = F.cross_entropy(network(video), label)
    return torch.autograd.grad(loss, list(network.parameters()))


def vectorised_gradients(network, videos, labels):
    def loss(parameters, video, label):
        logits = functional_call(network, parameters, (video.unsqueeze(0),))
        return F.cross_entropy(logits, label.unsqueeze(0))

    parameters = {name: value.detach() for name, value in network.named_parameters()}
    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, videos, labels)


def largest_deviation(network, videos, labels):
    """Compare with one-by-one autograd; the result is relative to the largest entry of each record's gradient."""
    together = vectorised_gradients(network, videos, labels).values()
    worst = 0.0
    for index in range(len(videos)):
        alone = losses_gradient(network, videos[index : index + 1], labels[index : index + 1])
        scale = max(one.abs().max() for one in alone)
        worst = max(
            worst,
            *(((many[index] - one).abs().max() / scale).item() for many, one in zip(together, alone, strict=True)),
        )
    return worst


def test_logits_and_features_have_the_announced_shapes(network, videos):
    assert network.features(videos).shape == (3, network.feature_dim)
    assert network(videos).shape == (3, network.num_classes) == (3, 5)


def test_logits_are_the_heads_answer_to_the_features(network, videos):
    assert torch.equal(network(videos), network.head(network.features(videos)))


@pytest.mark.parametrize("training", [True, False])
def test_equal_clips_give_equal_bits(network, videos, training):
    network.train(training)
    assert torch.equal(network(videos), network(videos.clone()))


def test_the_clips_and_nothing_else_are_left_alone(network, videos):
    before = videos.clone()
    state = copy.deepcopy(network.state_dict())
    network.train()(videos)
    assert torch.equal(videos, before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_logits_depend_on_the_clip(network, videos):
    logits = network(videos)
    assert not torch.allclose(logits[0], logits[1], atol=1e-6)


def test_a_batch_without_clips_gives_no_logits_and_can_be_stepped(network, videos):
    logits = network(videos[:0])
    assert logits.shape == (0, 5)
    logits.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


def test_a_clip_alone_gives_what_it_gives_in_a_batch(network, videos):
    network, videos = network.double(), videos.double()
    torch.testing.assert_close(network(videos[1:2]), network(videos)[1:2], rtol=1e-10, atol=1e-10)


def test_vectorised_gradients_equal_one_by_one_autograd(network, videos):
    labels = torch.tensor([0, 3, 4])
    assert largest_deviation(network.double(), videos.double(), labels) < 1e-12


def test_vectorised_gradients_equal_one_by_one_autograd_in_float32(network, videos):
    labels = torch.tensor([0, 3, 4])
    assert largest_deviation(network, videos, labels) < 2e-5


def test_the_comparison_of_gradients_can_fail(network, videos):
    labels = torch.tensor([0, 3, 4])
    many = vectorised_gradients(network, videos, labels)
    wrong = losses_gradient(network, videos[1:2], labels[1:2])
    assert max(((a[0] - b).abs().max() for a, b in zip(many.values(), wrong, strict=True))) > 1e-3


def test_gradients_reach_every_parameter(network, videos):
    gradients = losses_gradient(network, videos, torch.tensor([0, 3, 4]))
    names = [name for name, _ in network.named_parameters()]
    # A bias before a normalisation, or of the keys under a softmax, has no effect: that much is by design.
    idle = [name for name, gradient in zip(names, gradients, strict=True) if not gradient.any()]
    assert len(idle) <= len(names) // 10, idle


def test_it_can_be_trained_privately(network, videos):
    assert private_training_problems(network, sample=videos) == []
    assert not crosses_samples(network, videos)


def test_it_survives_copy_pickle_and_safetensors(network, videos):
    expected = network(videos)
    assert torch.equal(copy.deepcopy(network)(videos), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(videos), expected)
    state = load(save(network.state_dict()))
    for value in network.parameters():
        value.data.zero_()
    network.load_state_dict(state)
    assert torch.equal(network(videos), expected)


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (lambda v: (v * 255).to(torch.uint8), r"video.float\(\) / 255"),
        (lambda v: v[0], "unsqueeze"),
        (lambda v: v[:, :1], "RGB"),
        (lambda v: v.movedim(1, -1), "colour channels"),
    ],
    ids=["bytes", "one clip", "grey", "channels last"],
)
def test_other_layouts_are_refused(network, videos, spoil, remedy):
    with pytest.raises(DataError, match=remedy):
        network(spoil(videos))


def test_another_size_is_taken_or_refused_by_name(network, videos):
    if hasattr(network, "clip"):
        with pytest.raises(DataError, match="which this network was built"):
            network(videos[:, :, 1:])
    else:
        assert network(videos[:, :, 1:]).shape == (3, 5)
