"""The small detector of the rendered scenes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_detectors import boxes_and_images

from pvision.detection.detectors import compact_fcos
from pvision.detection.detectors.compact_fcos import CompactFCOS
from pvision.errors import ConfigError


def test_it_is_small_and_does_not_resize_its_own_size() -> None:
    detector = CompactFCOS(weights=None)
    image = torch.rand(3, 96, 128)

    seen, _ = detector.network.transform([image])

    weights = sum(value.numel() for value in detector.state_dict().values())
    assert weights * 4 < 2_000_000
    torch.testing.assert_close(seen.tensors[0], (image - 0.5) / 0.25)


def test_each_object_of_the_scenes_is_learned_at_some_place() -> None:
    detector = CompactFCOS(weights=None)
    matched: list[int] = []
    head = detector.network.head
    compute = head.compute_loss
    head.compute_loss = lambda *given: matched.append(int((given[3][0] >= 0).sum())) or compute(*given)

    for height in range(8, 91, 2):
        width = max(5, height // 3)
        box = torch.tensor([[10.3, 3.6, 10.3 + width, 3.6 + height]])
        detector.loss([torch.rand(3, 96, 128)], [{"boxes": box, "labels": torch.tensor([0])}])

    assert len(matched) == 42
    assert min(matched) > 0


def test_it_learns_a_scene_by_heart() -> None:
    torch.manual_seed(0)
    detector = CompactFCOS(("person", "dog"), width=8, weights=None).train()
    images, targets = boxes_and_images(4, 0)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = sum(detector.loss(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.8 * losses[0]


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    source = CompactFCOS(("a", "b"), width=8, weights=None)
    path = tmp_path / "weights.safetensors"
    save_file(source.network.state_dict(), path)

    loaded = CompactFCOS(("a", "b"), width=8, weights=str(path))

    expected = source.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.network.state_dict().items())
    with pytest.raises(ConfigError, match="does not fit FCOS"):
        CompactFCOS(("a", "b", "c"), width=8, weights=str(path))


def test_a_missing_shipped_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_fcos, "RENDERED_WEIGHTS", tmp_path / "rendered.safetensors")

    with pytest.raises(ConfigError, match=r"there is no file .*rendered\.safetensors"):
        CompactFCOS()


@pytest.mark.parametrize("settings", [{"width": 16}, {"class_names": ("person", "vehicle", "quadruped")}])
def test_the_shipped_weights_know_their_own_classes_only(settings: dict) -> None:
    with pytest.raises(ConfigError, match="know the classes person, quadruped, vehicle at width 32"):
        CompactFCOS(**settings)


@pytest.mark.parametrize("width", [4, 12, True])
def test_a_width_that_cannot_be_divided_is_refused(width: int) -> None:
    with pytest.raises(ConfigError, match="width must be"):
        CompactFCOS(width=width, weights=None)
