"""Sensor images come in as they were stored."""

import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvision.datamodules.detection.image_file import image_shape, read_image
from pvision.errors import DataError, MissingExtraError

TRAP = np.array([[7000, 9500], [0, 65535]], np.uint16)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def as_read(path, expected, **options):
    image = read_image(path, **options)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    expected = torch.from_numpy(np.ascontiguousarray(expected, dtype=np.float32))
    assert torch.equal(image, expected if expected.ndim == 3 else expected[None])
    return image


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(values, colour):
    """A PNG of 16 bits, values (H, W, C), whose rows are not filtered."""
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def raw_tiff(values, *, order="<", compressed=False, planar=False, rows=None, **tags):
    """A TIFF of interleaved or planar channels, values (C, H, W), in strips of some rows."""
    channels, height, width = values.shape
    rows = rows or height
    values = values.astype(values.dtype.newbyteorder(order))
    planes = [plane[None] for plane in values] if planar else [values]
    strips = [np.moveaxis(p[:, at : at + rows], 0, -1).tobytes() for p in planes for at in range(0, height, rows)]
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = 8 * values.dtype.itemsize
    fields = {256: [width], 257: [height], 258: [bits] * channels, 259: [8 if compressed else 1], 262: [1]}
    fields |= {277: [channels], 278: [rows], 284: [2 if planar else 1], 339: [kind] * channels}
    fields |= {int(number.removeprefix("tag")): [value] for number, value in tags.items()}
    place, offsets = 8, []
    for strip in strips:
        offsets.append(place)
        place += len(strip)
    fields |= {273: offsets, 279: [len(strip) for strip in strips]}
    directory, beyond = b"", b""
    beyond_at = place + 2 + 12 * len(fields) + 4
    for number, numbers in sorted(fields.items()):
        content = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(content) > 4:
            content, beyond = struct.pack(f"{order}I", beyond_at + len(beyond)), beyond + content
        directory += struct.pack(f"{order}HHI", number, 4, len(numbers)) + content
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}I", place)
    return head + b"".join(strips) + struct.pack(f"{order}H", len(fields)) + directory + b"\0" * 4 + beyond


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.npy"])
def test_sixteen_bits_are_kept_which_pillow_would_saturate(tmp_path, name):
    path = tmp_path / name
    np.save(path, TRAP) if name.endswith("npy") else save(path, TRAP)
    as_read(path, TRAP)
    if not name.endswith("npy"):  # the safeguard is needed: this is what the usual conversion makes of it
        assert np.asarray(Image.open(path).convert("L")).tolist() == [[255, 255], [0, 255]]


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 70), st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]), st.data())
def test_whatever_numpy_holds_comes_back_from_a_tiff(tmp_path_factory, height, width, kind, data):
    seed = data.draw(st.integers(0, 99))
    values = np.random.default_rng(seed).integers(0, 256 if kind == np.uint8 else 2**16, (height, width)).astype(kind)
    path = save(tmp_path_factory.getbasetemp() / "any.tiff", values)
    as_read(path, values)
    assert image_shape(path) == (1, height, width)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_big_endian_tiffs_are_read(tmp_path, kind):
    values = (TRAP.astype(np.int64) - (8000 if kind == np.int32 else 0)).astype(kind) / kind(1)
    path = tmp_path / "big.tiff"
    path.write_bytes(raw_tiff(values[None].astype(kind), order=">"))
    assert path.read_bytes()[:2] == b"MM"
    as_read(path, values)


def test_kelvin_stays_kelvin_with_its_dead_pixels(tmp_path):
    kelvin = np.array([[273.15, 300.125], [np.nan, np.inf]], np.float32)
    image = read_image(save(tmp_path / "kelvin.tiff", kelvin))
    assert torch.equal(image[0].nan_to_num(nan=-1.0), torch.from_numpy(kelvin).nan_to_num(nan=-1.0))
    assert image.isnan().sum() == 1


@pytest.mark.parametrize("kind", [np.uint8, np.bool_, np.int64, np.float16, np.float64])
def test_arrays_of_any_number_are_read_and_contiguous(tmp_path, kind):
    values = np.asfortranarray(np.arange(24).reshape(2, 3, 4) % 7).astype(kind)
    np.save(tmp_path / "a.npy", values)
    as_read(tmp_path / "a.npy", values)
    assert image_shape(tmp_path / "a.npy") == (2, 3, 4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pages_of_a_tiff_are_channels(tmp_path, channels):
    pages = [Image.fromarray(TRAP + np.uint16(page)) for page in range(channels)]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    as_read(tmp_path / "pages.tiff", np.stack([np.asarray(page) for page in pages]))
    assert image_shape(tmp_path / "pages.tiff") == (channels, 2, 2)


def test_pages_of_unequal_size_are_refused(tmp_path):
    pages = [Image.fromarray(TRAP), Image.fromarray(TRAP[:1])]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"pages of .*pages\.tiff are channels, but differ"):
        read_image(tmp_path / "pages.tiff")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize("options", [{}, {"order": ">"}, {"compressed": True, "rows": 2}, {"planar": True, "rows": 2}])
def test_interleaved_and_planar_channels_are_read(tmp_path, kind, channels, options):
    if kind == np.uint8 and channels == 3:
        options = {**options, "tag262": 2}  # Pillow's own: RGB
    values = np.random.default_rng(0).integers(0, 200, (channels, 5, 3)).astype(kind)
    values[0, 0, 0] = 255 if kind == np.uint8 else 30000
    path = tmp_path / "channels.tiff"
    path.write_bytes(raw_tiff(values, **options))
    as_read(path, values)
    assert image_shape(path) == (channels, 5, 3)


@pytest.mark.parametrize("tags", [{"tag259": 5}, {"tag317": 2}, {"tag278": 1}])
def test_deep_tiffs_stored_otherwise_are_refused_with_a_remedy(tmp_path, tags):
    path = tmp_path / "deep.tiff"
    path.write_bytes(raw_tiff(np.zeros((3, 4, 4), np.uint16), **tags))
    with pytest.raises(DataError, match=r"deep\.tiff has 3 channels of type uint16 and .*Save it uncompressed"):
        read_image(path)


@pytest.mark.parametrize(("channels", "colour"), [(3, 2), (4, 6)])
def test_colour_pngs_of_sixteen_bits_keep_them(tmp_path, channels, colour):
    values = np.random.default_rng(1).integers(0, 65536, (4, 3, channels)).astype(np.uint16)
    if channels == 4:
        values[..., -1] = 65535
    path = tmp_path / "deep.png"
    path.write_bytes(raw_png(values, colour))
    colours = np.moveaxis(values, -1, 0)[:3]
    as_read(path, colours)
    assert image_shape(path) == colours.shape
    assert np.asarray(Image.open(path)).dtype == np.uint8  # the safeguard is needed
    if channels == 4:
        as_read(path, np.moveaxis(values, -1, 0), channels=4)


def test_sixteen_bits_of_grey_with_transparency_are_refused(tmp_path):
    (tmp_path / "veiled.png").write_bytes(raw_png(np.zeros((4, 3, 2), np.uint16), 4))
    with pytest.raises(DataError, match=r"veiled\.png is 16-bit grey with transparency"):
        read_image(tmp_path / "veiled.png")


def test_four_channels_are_read_as_such_when_asked_for_and_never_hidden_otherwise(tmp_path):
    values = np.random.default_rng(2).integers(0, 255, (4, 3, 4)).astype(np.uint8)
    path = save(tmp_path / "four.png", values)
    as_read(path, np.moveaxis(values, -1, 0), channels=4)
    with pytest.raises(DataError, match=r"four\.png is transparent in places.*ask for 4 channels"):
        read_image(path)
    values[..., 3] = 255
    as_read(save(path, values), np.moveaxis(values, -1, 0)[:3])


def test_a_palette_becomes_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    image.save(tmp_path / "palette.png")
    as_read(tmp_path / "palette.png", np.array([[[200, 10]], [[100, 20]], [[50, 30]]]))
    image.save(tmp_path / "hole.png", transparency=0)
    with pytest.raises(DataError, match="transparent in places"):
        read_image(tmp_path / "hole.png")


def test_black_and_white_are_0_and_255(tmp_path):
    path = save(tmp_path / "two.png", np.array([[True, False]]))
    as_read(path, np.array([[255, 0]]))


def test_grey_jpegs_of_three_channels_can_be_one_channel_and_coloured_ones_cannot(tmp_path):
    grey = np.random.default_rng(3).integers(0, 256, (8, 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    path = save(tmp_path / "grey.jpg", np.stack([grey] * 3, -1), quality=90)
    image = as_read(path, np.asarray(Image.open(path))[..., 0], channels=1)
    assert (image[0] - torch.from_numpy(grey).float()).abs().mean() < 8
    save(path, np.stack([grey, grey // 2, grey], -1))
    with pytest.raises(DataError, match=r"grey\.jpg is coloured, but one channel is expected"):
        read_image(path, channels=1)


def test_one_channel_can_be_shown_as_three_and_other_numbers_are_refused(tmp_path):
    path = save(tmp_path / "one.png", TRAP)
    as_read(path, np.stack([TRAP] * 3), channels=3)
    with pytest.raises(DataError, match="has 1 channels, but 2 are expected"):
        read_image(path, channels=2)


@pytest.mark.parametrize("size", [(63, 65), (1, 1)])
def test_odd_sizes_are_read(tmp_path, size):
    assert read_image(save(tmp_path / "odd.png", np.zeros(size, np.uint8))).shape == (1, *size)


def test_hostile_sizes_are_refused_before_anything_is_decoded(tmp_path):
    bomb = tmp_path / "bomb.png"
    content = bytearray(save(bomb, np.zeros((1, 1), np.uint8)).read_bytes())
    content[16:24] = struct.pack(">II", 80_000, 1001)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    bomb.write_bytes(content)
    lying = np.lib.format.open_memmap(tmp_path / "bomb.npy", "w+", np.uint8, (1, 1))
    del lying
    array = (tmp_path / "bomb.npy").read_bytes().replace(b"(1, 1), }     ", b"(99999, 9999)}")
    (tmp_path / "bomb.npy").write_bytes(array)
    (tmp_path / "bomb.tiff").write_bytes(raw_tiff(np.zeros((3, 1, 1), np.uint16), tag256=90_000, tag257=90_000))
    for name, message in [("bomb.png", "80000 x 1001"), ("bomb.npy", "cannot be read"), ("bomb.tiff", "90000 x 90000")]:
        for read in (image_shape, read_image):
            with pytest.raises(DataError, match=f"{name}.*{message}"):
                read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff", "a.npy", "deep.tiff", "deep.png"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_refused_by_name(tmp_path, name, kept):
    path, noise = tmp_path / name, np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    if name == "deep.tiff":
        path.write_bytes(raw_tiff(noise[None].repeat(5, 0)))
    elif name == "deep.png":
        path.write_bytes(raw_png(noise[..., None].repeat(3, -1), 2))
    elif name == "a.npy":
        np.save(path, noise)
    else:
        save(path, noise)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=f"{name}.*(Take it anew|truncated)"):
        read_image(path)


def test_missing_files_pickles_and_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros((2, 2), np.complex64))
    np.save(tmp_path / "last.npy", np.zeros((64, 64, 3), np.float32))
    Image.new("CMYK", (2, 2)).save(tmp_path / "print.jpg")
    for name, message in [
        ("absent.png", "There is no image .*absent.png"),
        ("text.png", "text.png cannot be read"),
        ("objects.npy", "objects.npy cannot be read.*objects"),
        ("complex.npy", "must be .* of numbers"),
        ("last.npy", r"looks like \(H, W, C\)"),
        ("print.jpg", "colour space CMYK"),
    ]:
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / name)


def test_without_pillow_arrays_are_read_and_other_files_name_the_extra(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", TRAP)
    np.save(tmp_path / "a.npy", TRAP)
    monkeypatch.setitem(sys.modules, "PIL", None)
    as_read(tmp_path / "a.npy", TRAP)
    with pytest.raises(MissingExtraError, match=r"Reading a\.png needs the package 'PIL'.*pvision\[detection\]"):
        read_image(path)


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tiff"])
def test_an_image_that_its_tag_turns_is_refused(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / name, np.zeros((4, 6), np.uint8), exif=exif)
    with pytest.raises(DataError, match=r"EXIF orientation 6.*Save it turned and without the tag"):
        image_shape(path)
    exif[0x0112] = 1
    assert image_shape(save(path, np.zeros((4, 6), np.uint8), exif=exif)) == (1, 4, 6)


@pytest.mark.parametrize("largest", [1023, 16383, 65535])
def test_netpbm_values_are_neither_stretched_nor_squeezed(tmp_path, largest):
    grey = np.array([[7, 300], [0, largest]], np.uint16)
    colour = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * (largest // 12)
    (tmp_path / "a.pgm").write_bytes(b"P5 # counts\n2 2\n%d\n" % largest + grey.astype(">u2").tobytes())
    (tmp_path / "a.ppm").write_bytes(b"P6\n2 2\n%d\n" % largest + colour.astype(">u2").tobytes())
    as_read(tmp_path / "a.pgm", grey)
    as_read(tmp_path / "a.ppm", np.moveaxis(colour, -1, 0))


def test_damaged_and_textual_netpbm_files_are_refused(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n2 2\n1023\n\0\0\0")
    with pytest.raises(DataError, match=r"a\.pgm is truncated"):
        read_image(tmp_path / "a.pgm")
    (tmp_path / "b.pgm").write_bytes(b"P2\n1 2\n1023\n7 1023\n")
    with pytest.raises(DataError, match=r"b\.pgm holds values up to 1023 as text"):
        read_image(tmp_path / "b.pgm")


def test_signed_bytes_stay_signed(tmp_path):
    values = np.array([[[-5, 3], [100, -128]]], np.int8)
    (tmp_path / "a.tif").write_bytes(raw_tiff(values))
    as_read(tmp_path / "a.tif", values)


def test_sixteen_bit_colours_of_a_bigtiff_keep_their_bits(tmp_path):
    values = np.arange(12, dtype=np.uint16).reshape(3, 2, 2) * 5000
    save(tmp_path / "a.tif", np.zeros((2, 2), np.uint16), big_tiff=True)
    assert read_image(tmp_path / "a.tif").shape == (1, 2, 2)
    fields = {256: 2, 257: 2, 258: 16, 259: 1, 262: 2, 273: 16, 277: 3, 278: 2, 279: 24, 284: 1, 339: 1}
    entries = b"".join(struct.pack("<HHQQ", number, 3, 1, value) for number, value in fields.items())
    pixels = np.moveaxis(values, 0, -1).tobytes()
    head = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16 + len(pixels))
    (tmp_path / "b.tif").write_bytes(head + pixels + struct.pack("<Q", len(fields)) + entries + b"\0" * 8)
    as_read(tmp_path / "b.tif", values)


def test_further_pages_of_deep_colours_are_refused_and_not_lost(tmp_path):
    one = raw_tiff(np.ones((3, 2, 2), np.uint16))
    directory = struct.unpack("<I", one[4:8])[0]
    end = directory + 2 + 12 * struct.unpack("<H", one[directory : directory + 2])[0]
    (tmp_path / "a.tif").write_bytes(one[:end] + struct.pack("<I", directory) + one[end + 4 :])
    with pytest.raises(DataError, match="several pages of 3 channels of 16 bits"):
        image_shape(tmp_path / "a.tif")
