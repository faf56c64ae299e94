"""Pairs of images of one scene: each partner is there, of the same size, and not the other one's."""

from collections.abc import Sequence
from pathlib import Path

from pvision.datamodules.detection.image_file import read_image
from pvision.datamodules.detection.listed import Listed
from pvision.datamodules.detection.listed_images import shapes_of
from pvision.errors import DataError

__all__ = ["check_pairs"]

_LOOKED_AT, _GREY = 4, 1.0


def check_pairs(rows: Sequence[Listed], *, channels: int | None) -> None:
    """Refuse RGB partners that are missing, of another size, or no RGB images.

    Whether the two modalities were exchanged is told by colour: from the headers of all pairs, and by the pixels of a
    few of them, because infrared is often stored in three equal channels.

    Args:
        rows: the pairs.
        channels: how many the images that are no RGB images have.

    Raises:
        DataError: naming the pair.
    """
    for row in rows:
        if row.rgb is None or not row.rgb.is_file():
            raise DataError(
                f"{row.path} has no RGB partner: {row.rgb or 'none is listed'} is missing. Add it, or set "
                "data.with_rgb: false to test without RGB images."
            )
    partners = [row.rgb for row in rows if row.rgb is not None]
    shapes = shapes_of([row.path for row in rows])
    for row, (_, height, width), path, rgb in zip(rows, shapes, partners, shapes_of(partners), strict=True):
        if rgb[1:] != (height, width):
            raise DataError(
                f"{row.path} has {width} x {height} pixels, but its RGB partner {path} has {rgb[2]} x {rgb[1]}. Take "
                "aligned images."
            )
        if rgb[0] != 3:
            raise DataError(f"The RGB partner {path} has {rgb[0]} channels instead of 3. Are the folders swapped?")
    step = -(-len(rows) // _LOOKED_AT)
    for row in rows[::step]:
        read_image(row.path, channels=channels)  # refuses colours where one channel is expected
    if partners and all(_is_grey(path) for path in partners[::step]):
        raise DataError(
            f"The RGB partners of the test images, {partners[0]} for example, have no colours. Are the folders swapped?"
        )


def _is_grey(path: Path) -> bool:
    image = read_image(path, channels=3)
    return float((image.amax(0) - image.amin(0)).mean()) < _GREY
