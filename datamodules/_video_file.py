"""Opening of video files by PyAV: limits, and one error for whatever can be wrong with a file.

A decoder never stays open: a loader worker forked while its parent holds one would wait for ever. For the same reason
the decoder may not start threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pvision.datamodules._truncation import missing_bytes
from pvision.errors import CorruptVideoError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["MAX_FRAMES", "MAX_SIDE", "VideoFile", "import_av", "quarter_turns"]

MAX_SIDE = 8192
"""Pixels: a video wider or higher than this is refused."""
MAX_FRAMES = 100_000
"""A video longer than this is refused; more than an hour at 25 frames a second."""

_PLAYLISTS = ("concat", "dash", "hls", "imf")
_MAX_PIXELS = {"max_pixels": str(MAX_SIDE**2)}
# Both rows of a display matrix, and the turns that np.rot90 must then make, counter-clockwise.
_TURNS = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}


def import_av() -> ModuleType:
    """Return PyAV.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtraError("av", "decode", "Reading video files") from error
    return av


class VideoFile:
    """A video file that is open for reading; made by `opened` only, which closes it.

    Args:
        path: the file.
        container: the file, as PyAV opened it.

    Raises:
        CorruptVideoError: if it holds no video, or declares one beyond the limits.
    """

    def __init__(self, path: str | Path, container: "InputContainer") -> None:
        self._path, self._container = path, container
        self._stream = self._video_stream()
        self._stream.codec_context.options = _MAX_PIXELS
        self._stream.codec_context.thread_count = 1
        self._stream.thread_type = "NONE"

    @classmethod
    @contextmanager
    def opened(cls, path: str | Path) -> "Iterator[VideoFile]":
        """Open a file, and turn what FFmpeg says about it inside the block into `CorruptVideoError`.

        Raises:
            CorruptVideoError: if the file is missing, empty, damaged, no video, or beyond the limits.
            MissingExtraError: if PyAV is not installed.
        """
        av = import_av()
        try:
            _refuse_incomplete(Path(path))
            # "file:" keeps a colon in the name from being read as a protocol; the list keeps FFmpeg off the network.
            with av.open(
                f"file:{path}",
                options=_MAX_PIXELS,
                container_options={"protocol_whitelist": "file"},
                metadata_errors="replace",
            ) as container:
                yield cls(path, container)
        except FileNotFoundError as error:
            raise CorruptVideoError(path, "there is no such file") from error
        except (av.FFmpegError, OSError, MemoryError) as error:
            raise CorruptVideoError(path, getattr(error, "strerror", None) or type(error).__name__) from error

    def packets(self) -> "Iterator[Packet[VideoStream]]":
        """Yield what the container holds, undecoded, and an empty packet that flushes the decoder.

        Raises:
            CorruptVideoError: if a packet is incomplete, or there are too many.
        """
        count = 0
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise CorruptVideoError(self._path, "it is cut short or damaged")
            count += packet.size > 0
            self._refuse_length(count)
            yield packet

    def decode(self, packet: "Packet[VideoStream]") -> "list[VideoFrame]":
        """Return the frames that come out of the decoder after one more packet.

        Raises:
            CorruptVideoError: if one is damaged or too large.
        """
        frames = packet.decode()
        for frame in frames:
            if frame.is_corrupt:  # FFmpeg conceals damage and only marks the frame.
                raise CorruptVideoError(self._path, "a frame is damaged")
            self._refuse_size(frame.width, frame.height)
        return frames

    def frames(self) -> "Iterator[VideoFrame]":
        """Yield all frames, in the order in which they are shown.

        Raises:
            CorruptVideoError: if one cannot be decoded as it was encoded.
        """
        for packet in self.packets():
            yield from self.decode(packet)

    def _video_stream(self) -> "VideoStream":
        if self._container.format.name in _PLAYLISTS:
            raise CorruptVideoError(self._path, "it is a playlist of other files, not a video")
        cover = import_av().stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams:
            raise CorruptVideoError(self._path, "it holds no video stream")
        stream = streams[0]
        codec: VideoCodecContext | None = stream.codec_context
        if codec is None:
            raise CorruptVideoError(self._path, "its codec is unknown to FFmpeg")
        self._refuse_size(codec.width, codec.height)
        self._refuse_length(stream.frames)
        return stream

    def _refuse_size(self, width: int, height: int) -> None:
        if max(width, height) > MAX_SIDE:
            raise CorruptVideoError(self._path, f"it is {width}x{height} pixels, and the limit is {MAX_SIDE} a side")

    def _refuse_length(self, frames: int) -> None:
        if frames > MAX_FRAMES:
            reason = f"it has {frames:,} frames or more, and the limit is {MAX_FRAMES:,}: cut it into clips"
            raise CorruptVideoError(self._path, reason)


def _refuse_incomplete(path: Path) -> None:
    size = path.stat().st_size
    if not path.is_file():
        raise CorruptVideoError(path, "it is no file")
    if not size:
        raise CorruptVideoError(path, "the file is empty")
    missing = missing_bytes(path)
    if missing:
        raise CorruptVideoError(path, f"it is cut short: {missing:,} bytes are missing at its end")


def quarter_turns(path: str | Path, frame: "VideoFrame") -> int:
    """Return by how many quarter turns, counter-clockwise, a player turns a frame: phones record sideways.

    Args:
        path: the file that it comes from, for the error.
        frame: any of its frames.

    Raises:
        CorruptVideoError: if the frame is to be shown mirrored or at another angle.
    """
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 0
    a, b, _, c, d = (np.frombuffer(bytes(side_data), np.int32, count=5) / 2**16).tolist()
    turns = _TURNS.get((a, b, c, d))
    if turns is None:
        raise CorruptVideoError(path, "it is to be shown mirrored or at an angle: re-encode it as it should appear")
    return turns
