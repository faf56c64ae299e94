"""Small videos, made on the spot."""

from pathlib import Path

import numpy as np
import pytest

from pvision.datamodules.decoding import probe_video
from pvision.datamodules.masks import Footage


def pictures(frames=16, height=48, width=64, seed=0):
    """Blocks that move to the right, uint8, (T, H, W, 3)."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    still = blocks.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(still, frame, 1) for frame in range(frames)])


def write(path, content=None, *, codec=None, pix_fmt=None, options=None, container_options=None, **size):
    """Write ``content`` to a video and return its path; Matroska files are lossless."""
    import av

    path = Path(path)
    content = pictures(**size) if content is None else content
    lossless = path.suffix == ".mkv"
    codec = codec or {".mkv": "ffv1", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = content.shape[1:3]
        stream.pix_fmt = pix_fmt or ("bgr0" if lossless else "yuv420p")
        for picture in content:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def write_video():
    return write


@pytest.fixture
def moving_blocks():
    return pictures


@pytest.fixture
def split_folders(tmp_path):
    """Three clips of two classes in each split folder."""
    root = tmp_path / "clips"
    seed = 0
    for split in ("train", "val", "test"):
        for name in ("walk/a.mp4", "walk/b.avi", "run/c.mkv"):
            write(root / split / name, seed=(seed := seed + 1))
    return root


@pytest.fixture
def footage(tmp_path):
    """A video of 16 frames of 48 x 64 pixels."""
    path = write(tmp_path / "clips" / "walk" / "a.mp4")
    return Footage("walk/a.mp4", path, probe_video(path))
