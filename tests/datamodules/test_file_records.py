"""Records in files: both views of each, and which frames they are."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.datamodules.decoding import VideoInfo, probe_video
from pvision.datamodules.file_records import ClipFormat, FileRecords
from pvision.datamodules.masks import FixedRegions, Footage, MaskArrays, MaskSource, WholeFrame
from pvision.datamodules.transforms import square_region, square_video
from pvision.errors import CorruptVideoError, DataError
from pvision.privacy import Redaction

LEFT = FixedRegions([[0, 0, 0.5, 1]], unit="fraction")


# Both views


def one_record(path, masks, redaction, *, seed=None, name="a.mkv", **clip):
    """A data set of one video."""
    footage = Footage(name, path, probe_video(path))
    form = ClipFormat(**{"frames": 4, "stride": 2, "size": 24, **clip})
    return FileRecords([footage], [0], masks=masks, redaction=redaction, clip=form, seed=seed)


class GivenMask(MaskSource):
    """A mask that lies in memory."""

    def __init__(self, mask):
        self.mask = torch.as_tensor(mask)

    def load(self, footage, positions):
        return self.mask[list(positions)]


@pytest.fixture
def odd_mask():
    """A mask whose border falls between the pixels of the resized clip."""
    mask = torch.zeros(16, 48, 64, dtype=torch.bool)
    for frame in range(16):
        mask[frame, 11:30, 15 + frame : 41] = True
    return mask


@pytest.mark.parametrize("sensitive", ["inside", "outside"])
@pytest.mark.parametrize("size", [17, 24, 48, 60])
def test_the_full_view_of_a_redacted_clip_is_its_public_view(tmp_path, write_video, odd_mask, sensitive, size):
    redaction = Redaction(sensitive, dilate=1)
    path = write_video(tmp_path / "a.mkv")
    public = one_record(path, GivenMask(odd_mask), redaction, size=size)[[0]].public
    content = torch.from_numpy(np.stack(_frames(path)))
    redacted = write_video(tmp_path / "b.mkv", redaction.redact(content, redaction.region(odd_mask)).numpy())
    # The mask source gives masks for the sampled frames only, and so must the region be computed for them.
    again = one_record(redacted, GivenMask(odd_mask), redaction, size=size)[[0]]
    assert torch.equal(again.full, public.video)
    assert torch.equal(again.public.video, public.video)
    assert torch.equal(again.public.mask, public.mask)


def _frames(path):
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def two_contents(seed, *, extreme):
    """Two clips that differ in their sensitive region only, and the region."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (2, 20, 30, 3), dtype=torch.uint8, generator=generator)
    region = torch.zeros(2, 20, 30, dtype=torch.bool)
    region[:, 7:14, 8:19] = True
    other = video.clone()
    other[region] = torch.randint(0, 256, (int(region.sum()), 3), dtype=torch.uint8, generator=generator)
    if extreme:
        video[region], other[region] = 0, 255
    return video, other, region


@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.booleans())
def test_the_public_view_does_not_depend_on_sensitive_pixels(seed, size, extreme):
    video, other, region = two_contents(seed, extreme=extreme)
    redaction = Redaction("inside")
    views = [square_video(redaction.redact(clip, region), size) for clip in (video, other)]
    assert torch.equal(*views)


@pytest.mark.parametrize("mask", ["any pixel", "bilinear"])
def test_resizing_before_redaction_would_leak_at_the_border(mask):
    """The control of the test above: with either mask, the filter brings sensitive pixels into public ones."""
    video, other, region = two_contents(0, extreme=True)
    if mask == "any pixel":
        small = square_region(region, 10)
    else:
        square = region[:, None, :, 5:25].float()
        small = torch.nn.functional.interpolate(square, (10, 10), mode="bilinear", antialias=True)[:, 0] > 0.5
        assert (square_region(region, 10) & ~small).any()
    views = [square_video(clip, 10).permute(1, 2, 3, 0) for clip in (video, other)]
    redacted = [Redaction("inside").redact(clip, small) for clip in views]
    assert not torch.equal(*redacted)


@given(
    st.integers(5, 40),
    st.integers(5, 40),
    st.integers(3, 50),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), min_size=1, max_size=4),
)
def test_every_sensitive_pixel_stays_in_the_resized_region(height, width, size, pixels):
    region = torch.zeros(1, height, width, dtype=torch.bool)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    for y, x in pixels:
        region[0, top + y % side, left + x % side] = True
    small = square_region(region, size)[0]
    for y, x in region[0].nonzero().tolist():
        y, x = (y - top + 0.5) * size / side, (x - left + 0.5) * size / side
        assert small[int(y), int(x)]


def test_the_mask_belongs_to_exactly_the_sampled_frames(tmp_path, write_video):
    content = np.full((16, 48, 48, 3), 10, np.uint8)
    mask = np.zeros((16, 48, 48), bool)
    for frame in range(16):
        content[frame, frame * 3 : frame * 3 + 3] = 250
        mask[frame, frame * 3 : frame * 3 + 3] = True
    (tmp_path / "masks").mkdir()
    np.savez_compressed(tmp_path / "masks" / "a.npz", mask=mask)
    path = write_video(tmp_path / "a.mkv", content)
    for settings in ({"stride": 3}, {"stride": 7}, {"stride": 2, "seed": 3}):
        records = one_record(path, MaskArrays(str(tmp_path / "masks")), Redaction("inside"), size=48, **settings)
        views = records[[0]]
        assert (views.full == 250).any(1).any(-1).any(-1).all()
        assert not (views.public.video == 250).any()
        assert torch.equal(views.public.mask, (views.full == 250).all(1))


def test_the_picture_is_the_centre_square(tmp_path, write_video):
    content = np.zeros((4, 48, 80, 3), np.uint8)
    content[:, :, 16:64] = [255, 0, 0]
    full = one_record(write_video(tmp_path / "a.mkv", content), WholeFrame(), Redaction("inside"))[[0]].full
    assert full[:, 0].min() == 255
    assert full[:, 1:].max() == 0


# Which frames


@given(st.integers(1, 300), st.integers(1, 32), st.integers(1, 8), st.integers(0, 2**31), st.text(max_size=20))
def test_a_clip_lies_inside_its_video_when_it_can(total, frames, stride, seed, name):
    clip = ClipFormat(frames=frames, stride=stride, size=8)
    span = (frames - 1) * stride + 1
    for start in (clip.start(name, total, seed), clip.start(name, total, None)):
        assert 0 <= start < total
        assert start + span <= total or start == 0
    assert clip.start(name, total, seed) == clip.start(name, total, seed)


def test_training_clips_are_drawn_by_seed_and_name_and_evaluation_takes_the_middle():
    clip = ClipFormat(frames=4, stride=2, size=8)
    assert clip.start("a", 107, None) == 50
    starts = {clip.start(f"{number}.mp4", 107, 0) for number in range(2000)}
    assert starts == set(range(101))
    assert [clip.start(f"{n}", 107, 0) for n in range(50)] != [clip.start(f"{n}", 107, 1) for n in range(50)]


def test_a_decoder_that_ends_early_is_no_short_video(tmp_path, write_video):
    path = write_video(tmp_path / "a.mkv")
    redaction, clip = Redaction("inside"), ClipFormat(frames=8, stride=2, size=8)

    def read(announced):
        footage = Footage("a.mkv", path, VideoInfo(announced, 48, 64))
        return FileRecords([footage], [0], masks=LEFT, redaction=redaction, clip=clip, seed=None)[[0]]

    assert read(17).full.shape == (1, 3, 8, 8, 8)
    with pytest.raises(CorruptVideoError, match="ends at frame 15, but the container holds 30 frames"):
        read(30)


# What has anything to hide


class Counting(GivenMask):
    """A mask in memory that counts how often it is asked for."""

    asked = 0

    def load(self, footage, positions):
        self.asked += 1
        return super().load(footage, positions)


@pytest.mark.parametrize("place", ["inside", "outside the clip's frames", "outside the square", "nowhere"])
def test_a_record_is_sensitive_if_its_own_region_is_not_empty(tmp_path, write_video, place):
    mask = torch.zeros(16, 48, 64, dtype=torch.bool)
    if place != "nowhere":
        frame = 15 if place == "outside the clip's frames" else 8
        mask[frame, 20, 1 if place == "outside the square" else 30] = True
    masks = Counting(mask)
    records = one_record(write_video(tmp_path / "a.mkv"), masks, Redaction("inside"))
    sensitive = records.sensitive
    assert sensitive.tolist() == [place == "inside"] == [bool(records[[0]].public.mask.any())]
    assert sensitive.dtype == torch.bool
    asked = masks.asked
    assert records.sensitive is sensitive
    assert masks.asked == asked, "all masks would be read again"


def test_a_container_that_miscounts_is_decoded_for_it(tmp_path, write_video):
    class Short(GivenMask):
        def load(self, footage, positions):
            if max(positions) > 13:
                raise DataError("the mask has 14 frames")
            return super().load(footage, positions)

    mask = torch.zeros(16, 48, 64, dtype=torch.bool)
    mask[10] = True
    path = write_video(tmp_path / "a.mkv", frames=14)
    footage = Footage("a.mkv", path, VideoInfo(frames=16, height=48, width=64))
    form = ClipFormat(frames=8, stride=2, size=24)
    records = FileRecords([footage], [0], masks=Short(mask), redaction=Redaction("inside"), clip=form, seed=None)
    assert records.sensitive.tolist() == [True]
