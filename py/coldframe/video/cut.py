"""Files that were cut off: what the header of a container promises, against what is there."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from coldframe.video.bits import PLACES
from coldframe.video.streams import BadVideo

# A file that lacks a larger part of what its header promises was cut off, and is no longer the video of its label.
MAX_MISSING = 0.05
_COUNTED = ("ivf",)  # containers whose header counts the frames. AVI counts those that repeat the one before, too.
_UNKNOWN_SIZES = (0, 2**31 - 1, 2**32 - 1)  # of a RIFF that was written as a stream


def count_missing(
    path: str, container: InputContainer, stream: VideoStream, num_packets: int, last_seconds: float
) -> int:
    """Returns how many packets the file's own header promises beyond those that are there. Raises BadVideo when that
    is more than MAX_MISSING of them. Transport and program streams and NUT promise nothing."""
    name = container.format.name
    if name in ("matroska,webm", "avi", "flv"):
        if name == "avi":
            whole = _riff_bytes(path)
        else:
            whole = _flv_bytes(path, last_seconds) if name == "flv" else _matroska_bytes(path)
        size = Path(path).stat().st_size
        if whole is not None and size < whole * (1 - MAX_MISSING):
            raise BadVideo(path, f"is cut off: {size} of {whole} bytes are there{_MORE}")
        return round(num_packets * (whole / size - 1)) if whole is not None and size < whole else 0
    promised = stream.frames if name in _COUNTED else 0
    if name.startswith("mov,"):  # an edit list may leave samples out of the header's count, so the index is asked
        promised = len(stream.index_entries)
    if num_packets < promised * (1 - MAX_MISSING):
        raise BadVideo(path, f"is cut off: {num_packets} of {promised} frames are there{_MORE}")
    return max(0, promised - num_packets)


_MORE = f". Up to {MAX_MISSING:.0%} may be missing. Fetch it again, or leave it out"


def _matroska_bytes(path: str) -> int | None:
    """Returns the size of the file that its header tells (RFC 8794 4 and 6), None where it was written as a stream."""
    with Path(path).open("rb") as file:
        for _ in range(2):  # the EBML header, then the one segment
            if file.read(4) not in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
                return None
            first = file.read(1)
            if not first or not first[0]:
                return None
            length = 9 - first[0].bit_length()
            size = int.from_bytes(first + file.read(length - 1), "big") & (1 << 7 * length) - 1
            if size == (1 << 7 * length) - 1:
                return None
            end = file.seek(size, 1)
    return end


def _riff_bytes(path: str) -> int | None:
    """Returns where the last RIFF chunk of an AVI ends (OpenDML has several), None where it was written as a stream."""
    end = 0
    with Path(path).open("rb") as file:
        while (head := file.read(8))[:4] == b"RIFF":
            size = int.from_bytes(head[4:], "little")
            if size in _UNKNOWN_SIZES:
                return None
            end = file.seek(end + 8 + size)
    return end or None


def _flv_bytes(path: str, last_seconds: float) -> int | None:
    """Returns the size that the metadata of a Flash video tell, None where they do not, or where its frames last as
    long as they should: other programs leave the size of the file it was made from."""
    with Path(path).open("rb") as file:
        head = file.read(4096)
    found = [re.search(key + rb"\0(.{8})", head, re.DOTALL) for key in (b"\0\x08duration", b"\0\x08filesize")]
    if None in found:
        return None
    duration, size = (struct.unpack(">d", match[1])[0] for match in found if match)
    return round(size) if last_seconds < duration * (1 - MAX_MISSING) and 0 < size < PLACES else None
