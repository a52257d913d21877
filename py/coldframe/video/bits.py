"""Bits and NAL units, as H.264 and HEVC share them (ITU-T H.264 7.3 and annex B, ISO/IEC 14496-15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from av.packet import Packet
from av.video.stream import VideoStream

VideoPacket: TypeAlias = "Packet[VideoStream]"

# What is read of a slice header fits into so many bytes behind the NAL unit's own header.
HEADER_BYTES = 24
# More than a coded sequence has picture order counts (32 bits): where the next one begins.
PLACES = 1 << 34


class Bits:
    """Reads bit by bit. left: bits that are not read yet. Raises ValueError past the end."""

    def __init__(self, data: bytes | memoryview) -> None:
        plain = bytes(data).replace(b"\0\0\3", b"\0\0")  # emulation prevention, 7.4.1
        self._value, self.left = int.from_bytes(plain, "big"), 8 * len(plain)

    def read(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise ValueError("the header ends early")
        return self._value >> self.left & (1 << count) - 1

    def skip(self, count: int) -> None:
        self.left -= count

    def read_ue(self) -> int:
        """Returns an unsigned Exp-Golomb number (9.1)."""
        rest = self._value & (1 << max(0, self.left)) - 1
        zeros = self.left - rest.bit_length()
        self.left -= zeros
        return self.read(zeros + 1) - 1


def walk_nal_units(data: memoryview, length_size: int) -> Iterator[tuple[int, int]]:
    """Yields where each NAL unit begins and ends. length_size: bytes of the length before it; 0 for start codes."""
    if length_size:
        position = 0
        while position + length_size < len(data):
            start = position + length_size
            position = start + int.from_bytes(data[position:start], "big")
            yield start, min(position, len(data))
        return
    plain = bytes(data)
    start = plain.find(b"\0\0\1") + 3
    while start >= 3:
        following = plain.find(b"\0\0\1", start)
        yield start, following if following >= 0 else len(plain)
        start = following + 3
