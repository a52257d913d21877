"""H.264 packets that no other frame needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

VideoPacket: TypeAlias = "Packet[VideoStream]"


def non_reference_test(context: VideoCodecContext) -> Callable[[VideoPacket], bool]:
    """Returns a test for packets that no other frame needs: H.264 slices with nal_ref_idc 0 (ITU-T H.264 7.4.1).

    Measured on 256p clips: leaving them out makes a training item 1.15 to 1.3 times faster, with the same bytes.
    """
    if context.name != "h264":
        return lambda packet: False
    extradata = context.extradata or b""
    # avcC (ISO/IEC 14496-15 5.3.3.1): version 1, and the size of NAL length fields in byte 4; otherwise start codes.
    length_size = (extradata[4] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > 4 else 0

    def droppable(packet: VideoPacket) -> bool:
        header = _first_slice_header(memoryview(packet), length_size)
        return header is not None and header & 0x60 == 0

    return droppable


def _first_slice_header(data: memoryview, length_size: int) -> int | None:
    """Returns the NAL header byte of the first coded slice (types 1 to 5), or None when there is none to be found."""
    position = 0
    annex_b = b"" if length_size else bytes(data)
    while position + 4 < len(data):
        if length_size:
            start = position + length_size
            position = start + int.from_bytes(data[position:start], "big")
        else:
            start = annex_b.find(b"\0\0\1", position) + 3
            if start < 3:
                return None
            position = start
        if start < len(data) and 1 <= data[start] & 0x1F <= 5:
            return data[start]
    return None
