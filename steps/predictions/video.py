"""Frames of a video, numbered, named and turned as CVAT does it.

Source: cvat/apps/engine/media_extractors.py (VideoReader) and cvat/apps/dataset_manager/bindings.py of cvat-ai/cvat.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from steps.common.errors import StepError
from trainer.data.image_file import MOST_PIXELS

SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")
_CONTAINERS = "asf,avi,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts"
"""Formats of FFmpeg's that are read. It knows lists of other files, here or on a server, as formats too."""


class Frames(NamedTuple):
    """Which frames of a video, as the settings of a task in CVAT say it."""

    start: int = 0
    stop: int | None = None
    """The last; None for the video's own."""
    step: int = 1


EVERY_FRAME = Frames()


def read_frames(
    path: Path, wanted: Frames, skipped: dict[str, str]
) -> tuple[int, Iterator[tuple[str, Image.Image, int]]]:
    """Open a video.

    Args:
        path: of the file.
        wanted: which frames.
        skipped: is told from which frame on the file is damaged.

    Returns:
        About how many frames there are, and name, upright RGB image and number of each.

    Raises:
        StepError: it cannot be read, or PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise StepError(f"--images {path}: reading a video needs PyAV: pip install 'cvat-detr[video]'") from None
    try:
        # As an absolute path: FFmpeg takes `a:b.mp4` for an address.
        container = av.open(
            str(path.absolute()), options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        )
    except av.FFmpegError as error:
        raise StepError(f"--images {path} cannot be read as a video ({error.strerror})") from None
    if not container.streams.video:
        raise StepError(f"--images {path} holds no video")
    stream = container.streams.video[0]
    if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
        raise StepError(f"--images {path}: its frames have more than {MOST_PIXELS:,} pixels")
    stream.thread_type = "AUTO"
    # Matroska and others say no number.
    seconds = (container.duration or 0) / av.time_base
    count = stream.frames or round(seconds * float(stream.average_rate or 0))
    if wanted.stop is not None:
        count = min(count, wanted.stop + 1) if count else wanted.stop + 1
    return len(range(wanted.start, count, wanted.step)), _decode(container, stream, wanted, skipped)


def frame_name(number: int) -> str:
    """Give the name of a video's frame in CVAT's files."""
    return f"frame_{number:06}.PNG"


def _decode(
    container: Any, stream: Any, wanted: Frames, skipped: dict[str, str]
) -> Iterator[tuple[str, Image.Image, int]]:
    import av

    number = 0
    with container:
        try:
            for frame in container.decode(stream):
                if wanted.stop is not None and number > wanted.stop:
                    return
                if number >= wanted.start and (number - wanted.start) % wanted.step == 0:
                    # Both count degrees against the clock.
                    image = frame.to_image().rotate(frame.rotation, expand=True)
                    yield frame_name(number), image, number
                number += 1
        except av.FFmpegError as error:
            # How many frames the damage has taken is not known, and so not which number the next one has.
            skipped[frame_name(number)] = f"the video is damaged from here on ({error.strerror})"
