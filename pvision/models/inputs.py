"""What every network here takes: clips as floats from 0 to 1."""

from torch import Tensor

from pvision.errors import DataError

__all__ = ["check_video"]


def check_video(video: Tensor, *, clip: tuple[int, int, int] | None = None) -> None:
    """Refuse clips that are not laid out as every network here expects them.

    Only shape and dtype are looked at: values cannot be read under `torch.func.vmap`.

    Args:
        video: the clips, float from 0 to 1, ``(B, 3, T, H, W)``.
        clip: the ``(T, H, W)`` that the network was built for; None if any will do.

    Raises:
        DataError: if the layout, the dtype or the size is another one.
    """
    if video.ndim != 5 or video.shape[1] != 3:
        raise DataError(
            f"video must be RGB clips of shape (B, 3, T, H, W), but {tuple(video.shape)} came. "
            "Move the colour channels to the second axis, or add the batch axis with video.unsqueeze(0)."
        )
    if not video.is_floating_point():
        raise DataError(f"video must be float from 0 to 1, but {video.dtype} came. Convert with video.float() / 255.")
    if clip is not None and tuple(video.shape[2:]) != clip:
        raise DataError(
            f"video must have frames, height and width {clip}, for which this network was built, "
            f"but {tuple(video.shape[2:])} came. Resize the clips, or build the network with that `clip`."
        )
