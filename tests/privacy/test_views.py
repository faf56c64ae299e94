import torch

from pvision.privacy import PublicView, TwoViews, as_floats, surrogate_views


def a_public_view():
    mask = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    mask[:, :, 2:5, 1:4] = True
    video = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8).masked_fill(mask.unsqueeze(1), 128)
    return PublicView(video, mask, torch.tensor([1, 0]), torch.tensor([7, 3]))


def test_bytes_become_floats_from_zero_to_one():
    floats = as_floats(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert floats.dtype == torch.float32
    assert floats.tolist() == [0.0, torch.tensor(0.2).item(), 1.0]


def test_the_label_of_two_views_is_that_of_the_public_one():
    public = a_public_view()
    assert TwoViews(public.video, public).label is public.label


def test_surrogate_views_hide_the_masks_shape_where_pixels_are_public():
    public = a_public_view()
    pair = surrogate_views(public, fill=7)
    assert pair.full is public.video
    hidden = pair.public.mask
    assert torch.equal(hidden, public.mask.roll(4, dims=-1) & ~public.mask)
    assert (pair.public.video.movedim(1, -1)[hidden] == 7).all()
    assert torch.equal(pair.public.video.movedim(1, -1)[~hidden], public.video.movedim(1, -1)[~hidden])
    assert hidden.any()
