"""The search for training pixels: what it must find, what it must not, and what it says it cannot see."""

import argparse
import gzip
import io
import zipfile
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pvision.continual import _pixel_files
from pvision.continual.pixel_search import Finding, PixelSearch
from pvision.errors import DataError

PIL = pytest.importorskip("PIL.Image")

N, C, H, W = 60, 3, 12, 10


def smooth(count: int, channels: int = C, height: int = H, width: int = W, seed: int = 0) -> Tensor:
    """Pictures with structure, as photographs have it: neighbouring pixels are alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    fine = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noise = 0.05 * torch.randn(fine.shape, generator=generator)
    return ((fine + noise).clamp(0, 1) * 255).to(torch.uint8)


IMAGES = smooth(N)
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).reshape(3, 1, 1)


def normalised(images: Tensor) -> Tensor:
    return (images / 255 - MEAN) / STD


def search(images: Tensor = IMAGES, **changes: Any) -> PixelSearch:
    made = PixelSearch(images.__getitem__, **changes)
    made.add(range(len(images)))
    return made


def positions(findings: list[Finding]) -> list[int]:
    return [finding.position for finding in findings]


@dataclass(slots=True)
class Slotted:
    images: Tensor


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "uint8": lambda x: x,
    "int16": lambda x: x.short(),
    "int64": lambda x: x.long() - 128,
    "float32 in [0, 1]": lambda x: x / 255,
    "float32 normalised per channel": normalised,
    "float64": lambda x: normalised(x).double(),
    "float16": lambda x: normalised(x).half(),
    "bfloat16": lambda x: normalised(x).bfloat16(),
    "inverted": lambda x: 255 - x,
    "height, width, channels": lambda x: normalised(x).permute(0, 2, 3, 1).contiguous(),
    "channels last in memory": lambda x: normalised(x).to(memory_format=torch.channels_last),
    "flattened": lambda x: normalised(x).flatten(),
    "one image": lambda x: normalised(x[:1])[0],
    "among noise": lambda x: torch.cat([torch.randn(50, C, H, W), normalised(x)]),
    "numpy": lambda x: normalised(x).numpy(),
    "other byte order": lambda x: x.numpy().astype(">f4"),
    "nested lists": lambda x: x.tolist(),
    "a deque": lambda x: deque(normalised(x)),
    "an object with slots": lambda x: Slotted(normalised(x)),
    "an array of the standard library": lambda x: array("B", x.numpy().tobytes()),
    "a nested tensor": lambda x: torch.nested.nested_tensor(list(normalised(x)), layout=torch.jagged),
    "bytes": lambda x: b"header" + x.numpy().tobytes(),
    "a view that hides its storage": lambda x: normalised(x).flatten()[:1],
    "sparse": lambda x: normalised(x).to_sparse(),
    "requires grad": lambda x: nn.Parameter(normalised(x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_training_pixels_are_found_in_every_form(form: str) -> None:
    found = search().in_value({"state": [FORMS[form](IMAGES[7:10].clone())]})
    assert 7 in positions(found)
    assert set(positions(found)) <= {7, 8, 9}
    assert found[0].where.startswith("state")


@pytest.mark.parametrize("form", FORMS)
def test_images_that_were_not_trained_on_are_not_found(form: str) -> None:
    assert not search().in_value([FORMS[form](smooth(N, seed=1))])


def test_low_contrast_is_found_after_bfloat16() -> None:
    flat = 200 + IMAGES // 16
    assert positions(search(flat).in_value((flat[3:5].float() / 255).bfloat16())) == [3, 4]


def test_pixels_in_an_optimizer_and_in_objects_are_found() -> None:
    layer = nn.Linear(C * H * W, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(4, C * H * W)).sum().backward()
    optimizer.step()
    assert not search().in_value(optimizer.state_dict())
    optimizer.state[layer.weight]["exp_avg"].copy_(normalised(IMAGES[4:6]).flatten(1))
    found = search().in_value({"optimizer_states": [optimizer.state_dict()]})
    assert [(one.where, one.position) for one in found] == [
        ("optimizer_states[0].state.0.exp_avg", 4),
        ("optimizer_states[0].state.0.exp_avg", 5),
    ]
    module = nn.Sequential(nn.Flatten(), layer)
    module.register_buffer("hidden", IMAGES[9:10])
    assert 9 in positions(search().in_value(argparse.Namespace(model=module)))


def trained_first_layer() -> Tensor:
    """Weights with as many inputs as an image has pixels, trained until they look like what they classify."""
    labels = torch.arange(N) % 3
    layer = nn.Linear(C * H * W, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(normalised(IMAGES).flatten(1)), labels).backward()
        optimizer.step()
    return layer.weight.detach()


@pytest.mark.parametrize(
    "innocent",
    [
        lambda: normalised(IMAGES).mean(0),
        lambda: torch.stack([normalised(IMAGES[k::20]).mean(0) for k in range(20)]),
        trained_first_layer,
        lambda: torch.randn(500, C * H * W),
        lambda: torch.zeros(50, C, H, W),
        lambda: torch.eye(C * H * W),
        lambda: torch.arange(C * H * W * 5),
        lambda: torch.full((C * H * W,), float("nan")),
        lambda: torch.full((C * H * W,), float("inf")),
        lambda: torch.randint(256, (200, C, H, W), dtype=torch.uint8),
        lambda: torch.empty(5, C, H, W, device="meta"),
        lambda: torch.empty(0),
        lambda: torch.ones(C * H * W, dtype=torch.bool),
        lambda: torch.ones(C * H * W, dtype=torch.complex64),
        list,
        lambda: [[1, 2], [3]],
        lambda: {"name": "text", "number": 3, "none": None, "type": dict},
    ],
)
def test_what_holds_no_image_is_not_reported(innocent: Callable[[], Any]) -> None:
    assert search().in_value(innocent()) == []


def test_images_without_content_are_counted_and_not_found_everywhere() -> None:
    blank = torch.zeros(4, C, H, W, dtype=torch.uint8)
    blank[1] = 255
    blank[2, :, 5, 5] = 200
    blank[3] = IMAGES[0]
    made = search(blank)
    assert (made.searched.images, made.searched.ignored) == (1, 3)
    assert positions(made.in_value(blank.float())) == [3]


def write_raw(path: Path, images: Tensor) -> None:
    path.write_bytes(bytes(range(11)) + images.numpy().tobytes() + b"tail")


def write_channels_last(path: Path, images: Tensor) -> None:
    path.write_bytes(bytes(5) + images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())


def write_png(path: Path, images: Tensor) -> None:
    PIL.fromarray(images[0].permute(1, 2, 0).numpy()).save(path, "PNG")


def write_jpeg(path: Path, images: Tensor) -> None:
    PIL.fromarray(images[0].permute(1, 2, 0).numpy()).save(path, "JPEG")  # quality 75, colours at half resolution


def write_nested(path: Path, images: Tensor) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        array = io.BytesIO()
        np.save(array, normalised(images).numpy())
        archive.writestr("deep/array.npy", array.getvalue())
    with gzip.open(path, "wb") as file:
        file.write(inner.getvalue())


WRITERS: dict[str, tuple[str, Callable[[Path, Tensor], Any]]] = {
    "torch": ("a.pt", lambda path, x: torch.save({"a": normalised(x).bfloat16()}, path)),
    "checkpoint": ("a.ckpt", lambda path, x: torch.save({"state_dict": {"b": normalised(x)}}, path)),
    "legacy": ("a.pth", lambda path, x: torch.save(normalised(x), path, _use_new_zipfile_serialization=False)),
    "pickled object": ("a.pt", lambda path, x: torch.save({"n": argparse.Namespace(x=x)}, path)),
    "pickled object with floats": (
        "a.pt",
        lambda path, x: torch.save({"n": argparse.Namespace(x=normalised(x).half())}, path),
    ),
    "npy": ("a.npy", lambda path, x: np.save(path, normalised(x).numpy())),
    "npz": ("a.npz", lambda path, x: np.savez(path, x=normalised(x).numpy())),
    "compressed npz": ("a.npz", lambda path, x: np.savez_compressed(path, x=x.numpy())),
    "safetensors": ("a.safetensors", lambda path, x: save_file({"x": normalised(x).contiguous()}, path)),
    "raw bytes": ("a.bin", write_raw),
    "raw bytes, channels last": ("whatever", write_channels_last),
    "zip in gzip": ("a.zip.gz", write_nested),
    "png": ("a.png", write_png),
    "bmp": ("a.bmp", lambda path, x: PIL.fromarray(x[0].permute(1, 2, 0).numpy()).save(path)),
    "jpeg": ("a.jpg", write_jpeg),
    "webp": ("a.webp", lambda path, x: PIL.fromarray(x[0].permute(1, 2, 0).numpy()).save(path, quality=90)),
    "lossless webp": ("a.webp", lambda path, x: PIL.fromarray(x[0].permute(1, 2, 0).numpy()).save(path, lossless=True)),
    "png with a wrong name": ("a.txt", write_png),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_training_pixels_are_found_in_files(kind: str, tmp_path: Path) -> None:
    name, write = WRITERS[kind]
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / name, IMAGES[5:8].clone())
    found = search().in_folder(tmp_path)
    assert 5 in positions(found)
    assert set(positions(found)) <= {5, 6, 7}
    assert all(one.where.startswith(str(tmp_path / "run" / name.removesuffix(".gz"))) for one in found)


@pytest.mark.parametrize("kind", WRITERS)
def test_other_images_are_not_found_in_files(kind: str, tmp_path: Path) -> None:
    name, write = WRITERS[kind]
    write(tmp_path / name, smooth(3, seed=1))
    assert search().in_folder(tmp_path) == []


@pytest.mark.parametrize("offset", range(17))
def test_raw_pixels_are_found_at_any_offset(offset: int, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(offset) + IMAGES[3].numpy().tobytes())
    assert positions(search().in_file(tmp_path / "raw")) == [3]


def test_raw_pixels_are_found_across_the_border_of_two_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pvision.continual.pixel_search._CHUNK", 1000)
    large = smooth(2, 3, 20, 20)
    for offset in range(0, 1300, 37):
        (tmp_path / "raw").write_bytes(bytes(offset) + large[1].numpy().tobytes() + bytes(900))
        assert positions(search(large).in_file(tmp_path / "raw")) == [1], offset


def test_an_enlarged_picture_is_found(tmp_path: Path) -> None:
    PIL.fromarray(IMAGES[2].permute(1, 2, 0).numpy()).resize((W * 8, H * 8), PIL.Resampling.NEAREST).save("big.png")
    found = search().in_file("big.png")
    assert [(one.position, one.how) for one in found] == [(2, "a picture, resized")]


def test_grey_images_are_found_as_pictures(tmp_path: Path) -> None:
    grey = smooth(20, channels=1)
    PIL.fromarray(grey[6, 0].numpy()).save("grey.png")
    assert positions(search(grey).in_file("grey.png")) == [6]


def test_a_form_finds_what_preparation_changed_and_costs_nothing_where_it_did_not() -> None:
    def half(image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image.float(), 2)

    stored = normalised(nn.functional.avg_pool2d(IMAGES[:2].float(), 2))
    assert not search().in_value(stored)
    found = search(forms=[half]).in_value(stored)
    assert positions(found) == [0, 1]
    assert found[0].how.endswith("as prepared for training")
    affine = search(forms=[normalised])
    assert len(affine._entries) == N


def test_images_of_different_sizes_are_searched_together() -> None:
    mixed = [smooth(1, 3, 10 + k % 4, 12, seed=k)[0] for k in range(12)]
    made = PixelSearch(mixed.__getitem__)
    made.add(range(12))
    assert [one.position for k in (2, 7, 11) for one in made.in_value(mixed[k] / 7)] == [2, 7, 11]


def test_what_was_not_added_is_not_searched_for_and_later_additions_count() -> None:
    made = PixelSearch(IMAGES.__getitem__)
    assert not made.in_value(IMAGES)
    made.add(range(10))
    assert max(positions(made.in_value(IMAGES.float()))) == 9
    made.add(range(10, 20))
    assert max(positions(made.in_value(IMAGES.float()))) == 19
    assert made.searched.images == 20


def test_the_search_stops_at_as_many_findings_as_asked_for() -> None:
    assert len(search(max_findings=3).in_value([IMAGES, IMAGES.float()])) == 3


def test_it_says_what_it_could_not_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and nothing else")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "x.safetensors").write_bytes(b"12345678")
    torch.save({"n": argparse.Namespace(x=1)}, tmp_path / "object.pt")
    made = search()
    assert made.in_folder(tmp_path) == []
    assert made.in_file(tmp_path / "absent") == []
    unread = "\n".join(made.searched.unread)
    assert all(name in unread for name in ("broken.zip", "broken.npy", "broken.png", "x.safetensors", "absent"))
    assert "object.pt: it could not be loaded, so its bytes were searched instead" in unread
    assert made.searched.files == 5


def test_without_pillow_pictures_are_named_as_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(Path("a.png"), IMAGES)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    made = search()
    assert made.in_file("a.png") == []
    assert made.searched.unread == ["a.png: pictures need Pillow, which is not installed (pip install pillow)"]


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pixel_files, "_LARGEST", 1 << 23)
    with gzip.open("bomb.gz", "wb") as file:
        file.write(bytes(1 << 24))
    made = search()
    assert made.in_file("bomb.gz") == []
    assert "it unpacks to more than 32 GiB" in made.searched.unread[0]


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (Path("executed"),)  # type: ignore[return-value]

    torch.save({"evil": Evil(), "x": IMAGES[:1].clone()}, "evil.pt")
    np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    found = search().in_folder(".")
    assert set(positions(found)) == {0}
    assert not Path("executed").exists()


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"Training image 0 must be a tensor \(C, H, W\), but \(12, 10\) came"):
        PixelSearch(lambda position: torch.zeros(12, 10)).add([0])
