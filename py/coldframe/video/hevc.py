"""What the headers of HEVC tell without decoding: the order of the pictures."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from coldframe.video.bits import HEADER_BYTES, PLACES, Bits, VideoPacket, walk_nal_units

_IRAP, _IDR, _CRA, _SPS, _PPS = range(16, 24), (19, 20), 21, 33, 34  # ITU-T H.265 table 7-1
_BLA = (16, 17, 18)
_LEADING, _RASL = range(6, 10), (8, 9)
_END_OF_SEQUENCE = b"\x48\x01"  # such a NAL unit at the end of a packet: the next picture starts anew


class _Picture(NamedTuple):
    """Of a picture parameter set."""

    sequence: int
    has_output_flag: bool
    num_extra_bits: int


class _Sequence(NamedTuple):
    has_colour_planes: bool
    poc_bits: int


class HevcOrder:
    """Reads picture order counts (ITU-T H.265 8.3.1), packet by packet in the order of the file."""

    def __init__(self, extradata: bytes) -> None:
        # hvcC, version 1 (ISO/IEC 14496-15 8.3.3.1); otherwise start codes.
        is_record = extradata[:1] == b"\x01" and len(extradata) > 22
        self._length_size = (extradata[21] & 3) + 1 if is_record else 0
        self._pictures: dict[int, _Picture] = {}
        self._sequences: dict[int, _Sequence] = {}
        self.restart()
        if is_record:
            self._read_record(extradata)
        else:
            for start, end in walk_nal_units(memoryview(extradata), 0):
                self._read_parameters(memoryview(extradata)[start:end])

    def restart(self) -> None:
        """Counts anew; what is fed next may lie anywhere."""
        self._begin, self._msb, self._lsb = 0, 0, 0
        self._is_new, self._drops_leading = True, False

    def feed(self, packet: VideoPacket) -> int | None:
        """Returns the place of a packet's picture among all, in the order in which they are shown; None where that
        cannot be told, and for a picture that is not shown."""
        data = memoryview(packet)
        try:
            for start, end in walk_nal_units(data, self._length_size):
                kind = _kind(data[start:end])
                if kind in (_SPS, _PPS):
                    self._read_parameters(data[start:end])
                elif kind < 32:
                    found = self._read_slice(
                        kind, data[start + 1] & 7, data[start + 2 : min(end, start + HEADER_BYTES)]
                    )
                    self._is_new = bytes(data[-2:]) == _END_OF_SEQUENCE
                    return found
        except (ValueError, KeyError, IndexError):
            pass
        return None

    def is_clean(self, packet: VideoPacket) -> bool:
        """Returns whether nothing from here on refers to, or is shown among, what lies before: an IDR picture."""
        return self._find_kind(packet) in _IDR

    def has_picture(self, packet: VideoPacket) -> bool:
        """Returns whether there is the head of one in it."""
        return self._find_kind(packet) < 32

    def is_open(self, packet: VideoPacket) -> bool:
        """Returns whether it is a keyframe that pictures shown before it may follow, or such a picture."""
        return self._find_kind(packet) in (_CRA, *_BLA, *_LEADING)

    def _find_kind(self, packet: VideoPacket) -> int:
        """Returns nal_unit_type of the picture, 63 where there is none."""
        data = memoryview(packet)
        kinds = (_kind(data[start:end]) for start, end in walk_nal_units(data, self._length_size))
        return next((kind for kind in kinds if kind < 32), 63)

    def _read_slice(self, kind: int, temporal_id: int, data: memoryview) -> int | None:
        bits = Bits(data)
        if not bits.read(1):  # first_slice_segment_in_pic_flag: its first part is missing
            return None
        if kind in _IRAP:
            bits.skip(1)
        picture = self._pictures[bits.read_ue()]
        sequence = self._sequences[picture.sequence]
        bits.skip(picture.num_extra_bits)
        bits.read_ue()  # slice_type
        if picture.has_output_flag and not bits.read(1):
            return None
        bits.skip(2 * sequence.has_colour_planes)
        begins = kind in _IDR or kind in _BLA or (kind == _CRA and self._is_new)
        if kind in _IRAP:
            self._drops_leading = begins
        if kind in _RASL and self._drops_leading:  # they refer to what is not there, and are not shown
            return None
        if begins:
            self._begin, self._msb = self._begin + PLACES, 0
            self._lsb = 0 if kind in _IDR else bits.read(sequence.poc_bits)
            return self._begin + self._lsb
        lsb, limit, msb = bits.read(sequence.poc_bits), 1 << sequence.poc_bits, self._msb
        if lsb < self._lsb and self._lsb - lsb >= limit // 2:
            msb += limit
        elif lsb > self._lsb and lsb - self._lsb > limit // 2:
            msb -= limit
        # Counted from the last picture of the lowest layer that others may refer to.
        if temporal_id == 1 and kind not in _LEADING and (kind > 14 or kind % 2):
            self._msb, self._lsb = msb, lsb
        return self._begin + msb + lsb

    def _read_record(self, data: bytes) -> None:
        position = 23
        for _ in range(data[22]):
            if position + 3 > len(data):
                return
            count = int.from_bytes(data[position + 1 : position + 3], "big")
            position += 3
            for _ in range(count):
                size = int.from_bytes(data[position : position + 2], "big")
                self._read_parameters(memoryview(data)[position + 2 : position + 2 + size])
                position += 2 + size

    def _read_parameters(self, unit: memoryview) -> None:
        with suppress(ValueError):  # a damaged one: pictures that need it cannot be placed
            self._read_parameter_set(unit)

    def _read_parameter_set(self, unit: memoryview) -> None:
        kind = _kind(unit)
        if kind == _PPS:
            bits = Bits(unit[2:])
            number, sequence = bits.read_ue(), bits.read_ue()
            bits.skip(1)
            self._pictures[number] = _Picture(sequence, bits.read(1) == 1, bits.read(3))
        elif kind == _SPS:
            bits = Bits(unit[2:])
            bits.skip(4)
            num_sublayers = bits.read(3)
            bits.skip(1 + 96)
            _skip_sublayers(bits, num_sublayers)
            number = bits.read_ue()
            has_colour_planes = bits.read_ue() == 3 and bits.read(1) == 1
            bits.read_ue()  # width and height
            bits.read_ue()
            for _ in range(4 * bits.read(1) + 2):  # the part that is shown, bit depths
                bits.read_ue()
            self._sequences[number] = _Sequence(has_colour_planes, bits.read_ue() + 4)


def _kind(unit: memoryview) -> int:
    """Returns nal_unit_type; 63 for what belongs to a layer above the first (7.3.1.2)."""
    if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
        return 63
    return unit[0] >> 1 & 63


def _skip_sublayers(bits: Bits, count: int) -> None:
    """Skips the end of profile_tier_level (7.3.3)."""
    present = [(bits.read(1), bits.read(1)) for _ in range(count)]
    if count:
        bits.skip(2 * (8 - count))
    for has_profile, has_level in present:
        bits.skip(88 * has_profile + 8 * has_level)
