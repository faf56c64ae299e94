"""The callback and pvision's own module make the same run of the same network."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from pvision.callbacks import TrainPrivately
from pvision.datamodules.records import TensorRecords
from pvision.datamodules.video import VideoDataModule
from pvision.modules import PrivateTraining
from pvision.privacy import PrivacySpec, Redaction, as_floats

CLASSES = ("red", "green", "blue")
CLIP = (2, 8, 8)


class FakeClips(VideoDataModule):
    def prepare_sets(self) -> None:
        self.class_names = CLASSES
        self.train_set, self.val_set, self.test_set = (self.make(count) for count in (40, 6, 6))

    def make(self, records: int) -> TensorRecords:
        torch.manual_seed(records)
        video = torch.randint(256, (records, *CLIP, 3), dtype=torch.uint8)
        mask = torch.zeros(records, *CLIP, dtype=torch.bool)
        mask[:, :, 2:6, 2:6] = True
        return TensorRecords(video, mask, torch.arange(records) % 3, Redaction(sensitive="inside"))


def network() -> nn.Module:
    torch.manual_seed(2)
    made = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 8 * 8, 6), nn.Tanh(), nn.Linear(6, 3))
    made.num_classes = 3
    return made


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.2)


class Own(pl.LightningModule):
    """What a user would write; a batch has the clips, the redacted clips and the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(as_floats(batch[0])), batch[2])

    def configure_optimizers(self) -> Any:
        return sgd(self.parameters())


def redact(batch: list[Tensor]) -> list[Tensor]:
    return [batch[1], batch[1], batch[2]]


@pytest.mark.parametrize("mechanism", ["dp_sgd", "residual_shared_batch"])
def test_both_train_the_same_weights(mechanism: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvision.callbacks._private_hooks.released_metrics", lambda report: {})
    spec = PrivacySpec(
        mechanism=mechanism,
        unit="clip",
        mask="public",
        label="public",
        polarity="inside",
        relation="zero_out",
        delta=1e-4,
        max_grad_norm=0.5,
        sample_rate=0.2,
        steps=5,
        noise_multiplier=0.7,
        noise_seed=11,
    )
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    module = PrivateTraining(network(), spec, private_optimizer=sgd)
    data = FakeClips(batch_size=8)
    pl.Trainer(max_epochs=1, **quiet).fit(module, datamodule=data)

    own = Own()
    private = TrainPrivately(spec, redact=None if mechanism == "dp_sgd" else redact)
    views = data.train_set[list(range(len(data.train_set)))]
    loader = private.loader(TensorDataset(views.full, views.public.video, views.label))
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        pl.Trainer(callbacks=[private], max_epochs=1, **quiet).fit(own, loader)
    assert private.privacy_steps == module.privacy_steps == 5
    for name, value in own.network.state_dict().items():
        torch.testing.assert_close(value, module.network.state_dict()[name], rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, network().state_dict()[name])
