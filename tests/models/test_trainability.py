import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from pvision.errors import ConfigError, PrivacyError
from pvision.models import crosses_samples, private_training_problems, require_privately_trainable, video_model
from pvision.models.sample_crossing import behavioural_problems


def sequence(*layers):
    return nn.Sequential(nn.Linear(4, 4), *layers)


def frozen(module):
    return module.requires_grad_(False)


class Stubborn(nn.Module):
    """Stays in evaluation mode."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.eval()

    def forward(self, x):
        return self.inner(x)

    def train(self, mode=True):
        return super().train(False)


class DropPath(nn.Module):
    drop_prob = 0.2


class StochasticDepth(nn.Module):
    p = 0.3


class FunctionalDropout(nn.Linear):
    attention_dropout = 0.1


class Swish(nn.Module):
    __module__ = "pytorchvideo.layers.swish"


OFFENDERS = {  # layer, words of the reason and the remedy
    "batch norm": (nn.BatchNorm1d(4), "replace_batch_norm"),
    "synchronised batch norm": (nn.SyncBatchNorm(4), "mixes the records"),
    "batch norm of batch statistics only": (Stubborn(frozen(nn.BatchNorm1d(4, track_running_stats=False))), "mixes"),
    "batch norm in evaluation mode only now": (frozen(nn.BatchNorm1d(4)).eval(), "train"),
    "batch norm in evaluation mode that trains": (Stubborn(nn.BatchNorm1d(4)), "no trainable parameters"),
    "batch norm with fixed parameters": (frozen(nn.BatchNorm1d(4)), "mixes"),
    "instance norm": (nn.InstanceNorm2d(4, track_running_stats=True), "track_running_stats=False"),
    "dropout": (nn.Dropout(0.5), "p=0.5"),
    "alpha dropout": (nn.AlphaDropout(0.1), "Set it to 0"),
    "dropout 3d": (nn.Dropout3d(0.1), "p=0.1"),
    "drop path": (DropPath(), "p=0.2"),
    "stochastic depth": (StochasticDepth(), "p=0.3"),
    "attention dropout": (nn.MultiheadAttention(4, 1, dropout=0.1), "p=0.1"),
    "recurrent dropout": (nn.LSTM(4, 4, 2, dropout=0.2), "p=0.2"),
    "functional dropout": (FunctionalDropout(4, 4), "p=0.1"),
    "spectral norm": (parametrizations.spectral_norm(nn.Linear(4, 4)), "Remove it"),
    "hooked spectral norm": (spectral_norm(nn.Linear(4, 4)), "Remove it"),
    "renormalised embedding": (nn.Embedding(3, 4, max_norm=1.0), "max_norm=None"),
    "renormalised embedding that does not train": (frozen(nn.Embedding(3, 4, max_norm=1.0)), "max_norm=None"),
    "renormalised bag": (nn.EmbeddingBag(3, 4, max_norm=1.0), "max_norm=None"),
    "swish": (Swish(), "SiLU"),
    "lazy layer": (nn.LazyLinear(4, bias=False), "no size yet"),
    "complex parameter": (nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.complex64))]), "complex64"),
}
HARMLESS = {
    "group norm": nn.GroupNorm(2, 4),
    "layer norm": nn.LayerNorm(4),
    "frozen batch norm": Stubborn(frozen(nn.BatchNorm1d(4))),
    "instance norm without statistics": nn.InstanceNorm2d(4),
    "dropout 0": nn.Dropout(0.0),
    "dropout that stays off": Stubborn(nn.Dropout(0.5)),
    "attention": nn.MultiheadAttention(4, 1),
    "recurrence": nn.LSTM(4, 4),
    "embedding": nn.Embedding(3, 4),
    "frozen complex parameter": frozen(nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])),
}


@pytest.mark.parametrize("kind", OFFENDERS)
def test_each_kind_of_offender_is_refused_by_path_with_its_remedy(kind):
    layer, words = OFFENDERS[kind]
    problems = private_training_problems(sequence(nn.Sequential(layer)))
    assert len(problems) == 1, problems
    assert problems[0].startswith("1.0")
    assert words in problems[0]


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_layers_pass(kind):
    require_privately_trainable(sequence(HARMLESS[kind]))


def test_all_offenders_are_listed_at_once():
    model = sequence(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Sequential(nn.BatchNorm1d(4)), nn.LazyLinear(2))
    with pytest.raises(PrivacyError) as error:
        require_privately_trainable(model)
    message = str(error.value)
    assert message.count("\n- ") == 5  # the lazy layer's weight and bias count as two
    for path in ("1 (BatchNorm1d)", "2 (Dropout)", "3.0 (BatchNorm1d)", "4.weight"):
        assert f"\n- {path}" in message


def test_every_batch_norm_of_a_published_network_is_named():
    model = video_model("x3d_tiny", num_classes=3, norm="batch")
    count = sum(isinstance(module, nn.BatchNorm3d) for module in model.modules())
    problems = private_training_problems(model)
    assert len(problems) == count > 10
    assert any(problem.startswith("trunk.blocks.0.norm (BatchNorm3d)") for problem in problems)


def test_the_root_itself_can_be_the_offender():
    assert private_training_problems(nn.BatchNorm1d(4))[0].startswith("(root) (BatchNorm1d)")


def test_shared_parameters_are_no_problem():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    assert private_training_problems(model, sample=torch.rand(2, 4)) == []


# Networks that no list of names can find.


class MeanOfBatch(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))


class LargestOfBatch(nn.Linear):
    """Only a record far outside the usual range shows."""

    def forward(self, x):
        return super().forward(x) / x.abs().amax().clamp(min=10)


class OnlyForwards(nn.Linear):
    """The later record sees the earlier one, not the other way round."""

    def forward(self, x):
        return super().forward(x.cumsum(0))


class Counts(nn.Linear):
    """A buffer that is assigned anew."""

    def __init__(self):
        super().__init__(4, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + x.sum()
        return super().forward(x)


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


class Looks(nn.Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class BehindZero(nn.Sequential):
    def __init__(self):
        super().__init__(MeanOfBatch(4, 4), nn.Linear(4, 3))
        nn.init.zeros_(self[1].weight)


BEHAVIOUR = {
    "mean": (MeanOfBatch(4, 4), "another record"),
    "largest": (LargestOfBatch(4, 4), "another record"),
    "cumulative": (OnlyForwards(4, 4), "another record"),
    "hidden by a zero head": (BehindZero(), "another record"),
    "counter": (Counts(), "buffers seen"),
    "noise": (Noisy(4, 4), "random in training mode"),
    "value dependent": (Looks(4, 4), "cannot be vectorised"),
}


@pytest.mark.parametrize("kind", BEHAVIOUR)
def test_what_no_name_tells_is_found_by_running(kind):
    model, words = BEHAVIOUR[kind]
    sample = torch.rand(2, 4)
    assert private_training_problems(model) == []
    problems = private_training_problems(model, sample=sample)
    assert len(problems) == 1, problems
    assert words in problems[0]
    assert crosses_samples(model, sample) is (words == "another record")


def test_running_agrees_with_the_list_on_batch_norm_and_dropout():
    sample = torch.rand(2, 4)
    batch = behavioural_problems(sequence(nn.BatchNorm1d(4)), sample)
    assert "another record" in batch[0]
    assert "running_mean" in batch[1]
    assert "random" in behavioural_problems(sequence(nn.Dropout(0.5)), sample)[0]
    assert "buffers" in behavioural_problems(sequence(spectral_norm(nn.Linear(4, 4))), sample)[-1]


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4), Counts(), BehindZero(), nn.Dropout(0.5)], ids=lambda m: type(m).__name__
)
def test_looking_leaves_no_trace(layer):
    model = sequence(layer).train()
    model[0].eval()
    buffers = dict(model.named_buffers())
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.random.get_rng_state()
    private_training_problems(model, sample=torch.rand(2, 4, generator=torch.Generator()))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())


def test_one_record_is_no_sample():
    with pytest.raises(ConfigError, match="two records"):
        crosses_samples(nn.Linear(4, 4), torch.rand(1, 4))
