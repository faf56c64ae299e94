"""Masks from files: the right mask for each frame, and none that does not fit its video."""

import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch

from pvision.datamodules._png import read_png
from pvision.datamodules.decoding import VideoInfo
from pvision.datamodules.masks import Footage, MaskArrays, MaskImages, MaskVideos
from pvision.errors import ConfigError, CorruptVideoError, DataError

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6


@pytest.fixture
def mask():
    """Its mask: a block that moves, (T, H, W)."""
    mask = np.zeros((16, 48, 64), bool)
    for frame in range(16):
        mask[frame, 8:24, frame : frame + 20] = True
    return mask


def png(path, pixels, *, bits=8, kind=GREY, palette=b"", declared=None):
    """Write a PNG with no help of the reader's library."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = declared or pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        + (chunk(b"PLTE", palette) if palette else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def write_mask(kind, root, mask, write_video, *, stem="walk/a"):
    """Write a mask as files of one kind and return its source."""
    grey = mask.astype(np.uint8) * 255
    if kind == "video":
        write_video(root / f"{stem}.mkv", np.repeat(grey[..., None], 3, -1))
        return MaskVideos(str(root))
    if kind == "images":
        for number, picture in enumerate(grey):
            png(root / stem / f"m_{number}.png", picture)  # 10 sorts before 2 as text
        return MaskImages(str(root))
    (root / stem).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(root / f"{stem}.npz", mask=mask)
    return MaskArrays(str(root))


KINDS = pytest.mark.parametrize("kind", ["video", "images", "array"])


@KINDS
def test_files_give_the_mask_of_exactly_the_asked_frames(tmp_path, footage, mask, write_video, kind):
    source = write_mask(kind, tmp_path / "masks", mask, write_video)
    source.check(footage)
    positions = [3, 7, 11, 15, 15]
    found = source.load(footage, positions)
    assert found.dtype == torch.bool
    assert torch.equal(found, torch.from_numpy(mask[positions]))


@KINDS
def test_a_missing_mask_is_named(tmp_path, footage, mask, write_video, kind):
    source = write_mask(kind, tmp_path / "masks", mask, write_video, stem="walk/other")
    for look in (lambda: source.check(footage), lambda: source.load(footage, [0])):
        with pytest.raises(DataError, match=r"has no mask") as caught:
            look()
        assert str(footage.path) in str(caught.value)
        assert str(tmp_path / "masks") in str(caught.value)


@KINDS
def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path, footage, mask, write_video, kind):
    source = write_mask(kind, tmp_path / "masks", mask.transpose(0, 2, 1), write_video)
    for look in (lambda: source.check(footage), lambda: source.load(footage, [0])):
        with pytest.raises(DataError, match=r"64x48.*48x64"):
            look()


@KINDS
@pytest.mark.parametrize("length", [15, 17])
def test_a_mask_of_another_length_is_refused_with_both_lengths(tmp_path, footage, mask, write_video, kind, length):
    other = np.concatenate([mask, mask])[:length]
    source = write_mask(kind, tmp_path / "masks", other, write_video)
    with pytest.raises(DataError, match=rf"has {length} frames.*has 16"):
        source.check(footage)


@KINDS
def test_a_length_that_only_the_decoder_knows_is_accepted(tmp_path, footage, mask, write_video, kind):
    """Containers announce a frame or two that no decoder gives; masks made from decoded frames are right."""
    announced = Footage(footage.name, footage.path, VideoInfo(frames=17, height=48, width=64))
    write_mask(kind, tmp_path / "masks", mask, write_video).check(announced)


@pytest.mark.parametrize("source", [MaskVideos, MaskImages, MaskArrays])
def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path, source):
    with pytest.raises(DataError, match=r"masks\.root .*nowhere is no folder"):
        source(str(tmp_path / "nowhere"))


# Mask videos


def test_a_mask_video_is_found_by_its_own_name_first(tmp_path, footage, mask, write_video):
    root = tmp_path / "masks"
    write_mask("video", root, ~mask, write_video)
    exact = np.repeat(mask[..., None], 3, -1).astype(np.uint8) * 255
    write_video(root / "walk" / "a.mp4", exact, options={"crf": "0"})
    assert (MaskVideos(str(root)).load(footage, [4])[0].numpy() == mask[4]).mean() > 0.95


def test_two_mask_videos_for_one_clip_are_refused(tmp_path, footage, mask, write_video):
    source = write_mask("video", tmp_path / "masks", mask, write_video)
    write_mask("video", tmp_path / "other", mask, write_video)
    (tmp_path / "other/walk/a.mkv").rename(tmp_path / "masks/walk/a.nut")
    with pytest.raises(DataError, match=r"several masks.*a\.mkv, a\.nut"):
        source.check(footage)


@pytest.mark.parametrize("kind", ["video", "images"])
def test_class_indices_are_not_taken_for_an_empty_mask(tmp_path, footage, mask, write_video, kind):
    root = tmp_path / "masks"
    indices = mask.astype(np.uint8)
    if kind == "video":
        write_video(root / "walk/a.mkv", np.repeat(indices[..., None], 3, -1))
    for number, picture in enumerate(indices if kind == "images" else ()):
        png(root / "walk/a" / f"{number}.png", picture)
    source = {"video": MaskVideos, "images": MaskImages}[kind]
    with pytest.raises(DataError, match=r"brightest pixel of 1.*`threshold`"):
        source(str(root)).load(footage, [0])
    # Set by name, the threshold is obeyed: 1 takes the indices, 128 finds nothing.
    assert torch.equal(source(str(root), threshold=1).load(footage, [5]), torch.from_numpy(mask[[5]]))
    assert not source(str(root), threshold=128).load(footage, [5]).any()


def test_an_empty_mask_is_an_empty_mask(tmp_path, footage, mask, write_video):
    assert not write_mask("video", tmp_path / "m", np.zeros_like(mask), write_video).load(footage, [0, 1]).any()


@pytest.mark.parametrize("threshold", [0, 256, True, 1.5])
@pytest.mark.parametrize("source", [MaskVideos, MaskImages])
def test_a_threshold_is_a_brightness(tmp_path, source, threshold):
    with pytest.raises(ConfigError, match=r"masks\.threshold"):
        source(str(tmp_path), threshold=threshold)


def test_a_damaged_mask_video_is_named(tmp_path, footage):
    path = tmp_path / "walk" / "a.mp4"
    path.parent.mkdir()
    path.write_text("no video")
    with pytest.raises(CorruptVideoError, match=r"walk/a\.mp4"):
        MaskVideos(str(tmp_path)).check(footage)


# PNGs


def test_a_gap_in_the_numbers_is_refused(tmp_path, footage, mask, write_video):
    source = write_mask("images", tmp_path / "masks", mask, write_video)
    (tmp_path / "masks/walk/a/m_7.png").rename(tmp_path / "masks/walk/a/m_16.png")
    with pytest.raises(DataError, match=r"numbered 0 to 16, but there are 16"):
        source.check(footage)


def test_a_name_without_a_number_is_refused(tmp_path, footage, mask, write_video):
    source = write_mask("images", tmp_path / "masks", mask, write_video)
    (tmp_path / "masks/walk/a/m_7.png").rename(tmp_path / "masks/walk/a/m_seven.png")
    with pytest.raises(DataError, match=r"m_seven\.png must end in its frame's number"):
        source.check(footage)


@pytest.mark.parametrize("kind", ["grey", "colour", "palette", "1 bit"])
def test_every_kind_of_opaque_8_bit_png_is_read(tmp_path, footage, mask, kind):
    for number, picture in enumerate(mask.astype(np.uint8)):
        path = tmp_path / "walk/a" / f"{number}.png"
        if kind == "grey":
            png(path, picture * 200)
        elif kind == "colour":
            png(path, np.stack([picture * 0, picture * 0, picture * 200], -1), kind=COLOUR)
        elif kind == "palette":
            png(path, picture, kind=PALETTE, palette=bytes([0, 0, 0, 128, 0, 0]))
        else:
            png(path, np.packbits(picture, 1), bits=1, declared=picture.shape)
    assert torch.equal(MaskImages(str(tmp_path)).load(footage, [2, 9]), torch.from_numpy(mask[[2, 9]]))


@pytest.mark.parametrize(
    ("pixels", "settings"),
    [
        (np.zeros((48, 64), ">u2"), {"bits": 16}),
        (np.zeros((48, 64, 4), np.uint8), {"kind": COLOUR_ALPHA}),
        (np.zeros((48, 64, 2), np.uint8), {"kind": GREY_ALPHA}),
    ],
)
def test_pngs_in_which_values_could_vanish_are_refused(tmp_path, pixels, settings):
    with pytest.raises(DataError, match="16 bits a channel or transparency"):
        read_png(png(tmp_path / "0.png", pixels, **settings))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"text " * 20, None])
def test_what_is_no_png_is_refused(tmp_path, content):
    path = tmp_path / "0.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorruptVideoError, match=r"0\.png"):
        read_png(path)


def test_a_truncated_png_is_refused(tmp_path):
    path = png(tmp_path / "0.png", np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(CorruptVideoError, match=r"0\.png"):
        read_png(path)


@pytest.mark.parametrize("declared", [(100_000, 100_000), (16_384, 16_384), (0, 0)])
def test_a_png_that_declares_another_size_is_refused_before_decoding(tmp_path, declared):
    with pytest.raises(CorruptVideoError, match="limit is 8192"):
        read_png(png(tmp_path / "0.png", np.zeros((8, 8), np.uint8), declared=declared))


# Arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, ">i2"])
def test_arrays_of_bools_and_whole_numbers_are_read(tmp_path, footage, mask, save, dtype):
    (tmp_path / "walk").mkdir()
    save(tmp_path / "walk/a.npz", mask=mask.astype(dtype), other=np.ones(3))
    assert torch.equal(MaskArrays(str(tmp_path)).load(footage, [1, 8, 8]), torch.from_numpy(mask[[1, 8, 8]]))


@pytest.mark.parametrize(
    "array",
    [
        np.ones((16, 48, 64), np.float32),
        np.ones((16, 1, 48, 64), bool),
        np.asfortranarray(np.ones((16, 48, 64), bool)),
        np.zeros((0, 48, 64), bool),
    ],
)
def test_other_arrays_are_refused(tmp_path, footage, array):
    (tmp_path / "walk").mkdir()
    np.savez(tmp_path / "walk/a.npz", mask=array)
    with pytest.raises(DataError, match=r"must be \(T, H, W\)"):
        MaskArrays(str(tmp_path)).check(footage)


def test_an_array_of_another_name_is_refused(tmp_path, footage, mask):
    (tmp_path / "walk").mkdir()
    np.savez(tmp_path / "walk/a.npz", masks=mask)
    with pytest.raises(DataError, match="no array 'mask'"):
        MaskArrays(str(tmp_path)).check(footage)


def test_a_pickle_in_an_npz_is_never_run(tmp_path, footage):
    marker = tmp_path / "run"

    class Bomb:
        def __reduce__(self):
            return marker.write_text, ("x",)

    (tmp_path / "walk").mkdir()
    np.savez(tmp_path / "walk/a.npz", mask=np.array([[[Bomb()]]], object))
    with pytest.raises(DataError, match="object"):
        MaskArrays(str(tmp_path)).load(footage, [0])
    assert not marker.exists()
    # The control: numpy does run it if asked to.
    np.load(tmp_path / "walk/a.npz", allow_pickle=True)["mask"]
    assert marker.exists()


@pytest.mark.parametrize("damage", ["text", "empty", "short", "flip"])
def test_a_damaged_npz_is_named(tmp_path, footage, mask, damage):
    path = tmp_path / "walk" / "a.npz"
    path.parent.mkdir()
    np.savez_compressed(path, mask=mask)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[150] ^= 255
    path.write_bytes({"text": b"text", "empty": b"", "short": bytes(data[:200]), "flip": bytes(data)}[damage])
    with pytest.raises(CorruptVideoError, match=r"walk/a\.npz"):
        MaskArrays(str(tmp_path)).load(footage, list(range(16)))


def test_a_header_cannot_make_us_allocate(tmp_path, footage):
    (tmp_path / "walk").mkdir()
    header = b"{'descr': '|b1', 'fortran_order': False, 'shape': (16, 48, 64)}"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    with zipfile.ZipFile(tmp_path / "walk/a.npz", "w") as archive:
        archive.writestr("mask.npy", body + b"\1" * 48 * 64 * 3)
    source = MaskArrays(str(tmp_path))
    assert source.load(footage, [0, 2]).all()
    with pytest.raises(CorruptVideoError, match="ends before frame 3"):
        source.load(footage, [3])


def test_no_source_warns(tmp_path, footage, mask, write_video):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("video", "images", "array"):
            write_mask(kind, tmp_path / kind, mask, write_video).load(footage, [0])
