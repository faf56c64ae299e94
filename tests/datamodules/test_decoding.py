"""Decoding: the right frames, the right way up, and one error for every kind of damage."""

import resource
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pvision.datamodules import _video_file, decoding
from pvision.datamodules.decoding import count_frames, decode_clip, decode_frames, probe_video
from pvision.errors import ConfigError, CorruptVideoError, MissingExtraError


@pytest.fixture
def exact(tmp_path, write_video, moving_blocks):
    """A lossless video and its frames."""
    return write_video(tmp_path / "exact.mkv"), torch.from_numpy(moving_blocks())


def test_frames_come_exactly_in_order_with_stride_and_start(exact):
    path, frames = exact
    clip = decode_clip(path, frames=4, stride=3, start=2)
    assert clip.positions == [2, 5, 8, 11]
    assert torch.equal(clip.video, frames[2:12:3])


def test_b_frames_come_in_display_order(tmp_path, write_video, moving_blocks):
    path = write_video(tmp_path / "b.mp4", options={"bf": "3", "crf": "1"})
    clip = decode_clip(path, frames=16)
    distance = (clip.video[:, None].float() - torch.from_numpy(moving_blocks()).float()).abs().mean((2, 3, 4))
    assert distance.argmin(1).tolist() == list(range(16))


def test_a_short_video_repeats_its_last_frame(exact):
    path, frames = exact
    clip = decode_clip(path, frames=5, stride=6)
    assert clip.positions == [0, 6, 12, 15, 15]
    assert torch.equal(clip.video[-1], frames[-1])


def test_a_video_of_one_frame_is_padded(tmp_path, write_video):
    path = write_video(tmp_path / "one.mp4", frames=1)
    clip = decode_clip(path, frames=3, stride=2)
    assert probe_video(path).frames == 1
    assert clip.positions == [0, 0, 0]
    assert torch.equal(clip.video[0], clip.video[2])


def test_positions_may_repeat_but_not_fall(exact):
    path, frames = exact
    assert torch.equal(decode_frames(path, [3, 3, 7]).video, frames[[3, 3, 7]])
    for wrong in ([], [4, 2], [-1, 0]):
        with pytest.raises(ConfigError, match="rising order"):
            decode_frames(path, wrong)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "ä b%d:c#[1].mp4"])
def test_probe_tells_size_and_length(tmp_path, write_video, name):
    path = write_video(tmp_path / name)
    assert probe_video(path) == decoding.VideoInfo(frames=16, height=48, width=64)
    assert count_frames(str(path)) == 16


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2), ((1, 0, 0, 1), 0)]
)
def test_frames_are_turned_as_a_player_shows_them(tmp_path, write_video, matrix, turns):
    path = write_video(tmp_path / "a.mp4")
    upright = decode_clip(path, frames=2).video
    _set_display_matrix(path, matrix)
    clip = decode_clip(path, frames=2).video
    assert torch.equal(clip, torch.rot90(upright, turns, (1, 2)))
    assert (probe_video(path).height, probe_video(path).width) == clip.shape[1:3]


def test_a_mirrored_video_is_refused(tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4")
    _set_display_matrix(path, (-1, 0, 0, 1))
    with pytest.raises(CorruptVideoError, match="mirrored"):
        probe_video(path)


def _set_display_matrix(path, matrix):
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


def _cut(path, part):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def _flip(path):
    data = bytearray(path.read_bytes())
    for at in np.random.default_rng(0).integers(len(data) // 3, len(data) * 2 // 3, 10):
        data[at] ^= 1 << int(at % 8)
    path.write_bytes(bytes(data))


def _damaged(kind, folder, write_video):
    path = folder / "clip.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no video\n" * 500)
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif kind == "folder":
        path.mkdir()
    elif kind == "playlist":
        write_video(folder / "other.mkv")
        path.write_text("ffconcat version 1.0\nfile other.mkv\n")
    elif kind == "truncated mp4":
        _cut(write_video(path), 0.7)
    elif kind == "truncated mp4, index first":
        _cut(write_video(path, frames=64, container_options={"movflags": "faststart"}), 0.7)
    elif kind == "truncated avi":
        path = write_video(folder / "clip.avi", frames=64)
        _cut(path, 0.7)
    elif kind == "bit flips":
        _flip(write_video(path, frames=64, container_options={"movflags": "faststart"}))
    elif kind == "bit flips in avi":
        path = write_video(folder / "clip.avi", frames=64)
        _flip(path)
    elif kind == "unknown codec":
        path.write_bytes(write_video(path).read_bytes().replace(b"avc1", b"zzz1"))
    elif kind == "audio only":
        _write_audio(path)
    return path


def _write_audio(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for _ in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


DAMAGE = [
    "empty",
    "text",
    "random",
    "folder",
    "missing",
    "playlist",
    "audio only",
    "unknown codec",
    "truncated mp4",
    "truncated mp4, index first",
    "truncated avi",
    "bit flips",
    "bit flips in avi",
]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_with_its_path(tmp_path, write_video, kind):
    path = _damaged(kind, tmp_path, write_video)
    with pytest.raises(CorruptVideoError) as caught:
        decode_clip(path, frames=64)
    assert caught.value.path == str(path)
    assert caught.value.reason


@pytest.mark.parametrize("kind", ["empty", "missing", "audio only", "truncated mp4, index first", "truncated avi"])
def test_most_damage_is_seen_without_decoding_everything(tmp_path, write_video, kind):
    with pytest.raises(CorruptVideoError):
        probe_video(_damaged(kind, tmp_path, write_video))


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "webm", "mov"])
@pytest.mark.parametrize("index", ["first", "last"])
def test_a_cut_is_seen_wherever_it_falls(tmp_path, write_video, suffix, index):
    flags = {"movflags": "faststart"} if index == "first" and suffix in ("mp4", "mov") else {}
    codec = "libvpx-vp9" if suffix == "webm" else None
    path = write_video(tmp_path / f"clip.{suffix}", codec=codec, container_options=flags)
    whole = path.read_bytes()
    assert probe_video(path).frames == 16
    for length in range(1, len(whole) - 8, max(1, len(whole) // 50)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptVideoError):
            probe_video(path)


def test_ffmpeg_alone_takes_a_cut_file_for_a_shorter_one(tmp_path, write_video):
    """The control of the test above."""
    import av

    path = write_video(tmp_path / "clip.mkv")
    _cut(path, 0.7)
    with av.open(str(path)) as container:
        assert 0 < sum(1 for _ in container.decode(video=0)) < 16


def test_sizes_that_a_recorder_left_open_are_no_damage(tmp_path, write_video):
    avi, mkv = write_video(tmp_path / "a.avi"), write_video(tmp_path / "a.mkv", container_options={"live": "1"})
    data = bytearray(avi.read_bytes())
    data[4:8] = b"\0\0\0\0"
    avi.write_bytes(bytes(data))
    for path in (avi, mkv):
        assert probe_video(path).frames == 16


def test_frames_that_the_decoder_only_marks_as_damaged_would_pass_unseen(tmp_path, write_video):
    """The control of the bit flips: FFmpeg conceals the damage and gives all 64 frames."""
    import av

    path = _damaged("bit flips in avi", tmp_path, write_video)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 64
    assert any(frame.is_corrupt for frame in frames)


@pytest.mark.parametrize("kind", ["whole", "text", "audio only", "truncated avi", "bit flips"])
def test_no_descriptor_stays_open(tmp_path, write_video, kind):
    path = write_video(tmp_path / "whole.mp4") if kind == "whole" else _damaged(kind, tmp_path, write_video)
    before = _open_descriptors()
    for _ in range(200):
        try:
            decode_clip(path, frames=3, stride=30 if kind != "whole" else 1)
        except CorruptVideoError:
            assert kind != "whole"
    assert _open_descriptors() == before


def _open_descriptors():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_declared_sizes_beyond_the_limit_are_refused_before_allocation(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", codec="rawvideo", pix_fmt="yuv420p", frames=2)
    data = bytearray(path.read_bytes())
    at = data.find(b"strf") + 8
    data[at + 4 : at + 12] = struct.pack("<ii", 16_384, 16_384)
    path.write_bytes(bytes(data))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptVideoError):
        probe_video(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_video_that_is_really_too_wide_is_refused(tmp_path, write_video):
    with pytest.raises(CorruptVideoError, match=r"8208x16 pixels.*8192 a side"):
        probe_video(write_video(tmp_path / "wide.mkv", np.zeros((1, 16, 8208, 3), np.uint8)))


def test_a_million_declared_frames_are_refused(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi")
    data = bytearray(path.read_bytes())
    at = data.find(b"strh") + 8 + 32
    data[at : at + 4] = struct.pack("<I", 10**6)
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptVideoError, match="1,000,000 frames"):
        probe_video(path)


def test_frames_that_no_header_declares_are_counted_against_the_limit(tmp_path, write_video, monkeypatch):
    monkeypatch.setattr(_video_file, "MAX_FRAMES", 10)
    with pytest.raises(CorruptVideoError, match="11 frames or more"):
        probe_video(write_video(tmp_path / "a.mkv"))


def test_a_choice_of_frames_beyond_the_limit_is_refused_before_allocation(exact):
    with pytest.raises(CorruptVideoError, match="limit is 2,147,483,648"):
        decode_clip(exact[0], frames=10**6)


def test_frames_of_different_sizes_are_refused(tmp_path, write_video):
    parts = [write_video(tmp_path / f"{width}.m2v", codec="mpeg2video", width=width, frames=4) for width in (64, 96)]
    path = tmp_path / "both.m2v"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(CorruptVideoError, match="differ in size"):
        decode_clip(path, frames=8)


def test_a_start_behind_the_end_is_refused(exact):
    with pytest.raises(CorruptVideoError, match="ends after 16 frames, before frame 16"):
        decode_clip(exact[0], frames=2, start=16)


@pytest.mark.parametrize("setting", [{"frames": 0}, {"frames": 2, "stride": 0}, {"frames": 2, "start": -1}])
def test_settings_out_of_range_are_refused(exact, setting):
    with pytest.raises(ConfigError, match=next(reversed(setting))):
        decode_clip(exact[0], **setting)


def test_without_pyav_the_extra_is_named(monkeypatch, exact):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pvision\[decode\]"):
        probe_video(exact[0])
