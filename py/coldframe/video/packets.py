"""What a file holds, found by demuxing without decoding: its packets, their order, and whether their times tell it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, compress, islice
from operator import lt, sub
from typing import cast

from av.container import InputContainer
from av.video.stream import VideoStream

from coldframe.video.bits import PLACES, VideoPacket
from coldframe.video.cut import count_missing
from coldframe.video.h264 import H264Order
from coldframe.video.hevc import HevcOrder
from coldframe.video.streams import NOT_A_VIDEO, BadVideo, is_picture_container, open_video

# Codecs whose packets carry one shown frame each with its own time stamp. MPEG-4 part 2 and older ones pack frames.
INDEXED_CODECS = {"h264", "hevc", "vp8", "vp9", "av1"}
# AVI has no presentation times: FFmpeg guesses them, and with B-frames neighbours come out swapped (UCF101).
GUESSED_TIMES = {"avi"}
# Packets of these are found by looking into the stream: damage to its headers makes one of two, or none.
_PARSED = {"mpegts", "mpeg", "h264", "hevc"}
# Packets of larger files are read a second time rather than kept, so that an hour of film does not fill the memory.
KEPT_BYTES = 256 * 2**20
LONGEST_WAIT = 17  # a decoder holds at most 16 frames back (ITU-T H.264 A.3.1, H.265 A.4.2)
_VOP = b"\0\0\1\xb6"  # ISO/IEC 14496-2 table 6-3
_LEAST_VOP_BYTES = 9  # a placeholder that stands for no frame is shorter
NUM_HOLE = 128  # no coded picture holds so many zeros in a row; a file with a part that was never written does
_BLIND_CODECS = {"hevc", "vp8", "vp9"}  # their decoders make pictures of zeros, and say nothing


@dataclass
class Table:
    """Exact where header fields only estimate; takes 2 to 5 ms.

    order: display index -> packet position in the file; times: presentation time of every packet position.
    has_times: each frame has a time of its own; by_time: and nothing here speaks against sorting by them, which
    `agrees` then looks at closely. delay: where packet for packet there is one frame, how many the decoder holds back.
    is_parsed: a frame is where the demuxer found one, not where an index has it. placeholders: packets that may stand
    for no frame. missing: packets that the header promises and the file does not hold. has_clock: the times are the
    file's own, each another; unit: of times, in seconds; rate: frames a second, on average. complete: the times
    from and until which these are all frames, where the packets are a window of the file.
    """

    codec: str
    order: list[int]
    times: list[int]
    keys: list[int]
    has_times: bool
    by_time: bool
    delay: int | None
    is_parsed: bool
    placeholders: set[int]
    missing: int
    kept: list[VideoPacket] | None
    reader: H264Order | HevcOrder | None
    places: list[int | None] | None
    has_clock: bool
    unit: Fraction
    rate: Fraction
    complete: tuple[int, int] | None = None

    def source(self, path: str, stream: VideoStream) -> Iterable[VideoPacket]:
        """Returns the packets in file order once more."""
        return self.kept if self.kept is not None else _demux_again(path, stream.index)

    def group_of(self, position: int) -> int:
        """Returns the number of the keyframe from which a packet is decoded."""
        return max(0, bisect_right(self.keys, position) - 1)

    @cached_property
    def is_closed(self) -> bool:
        """Whether no group needs another one, nor shows frames among its."""
        if self.reader is None or self.kept is None:
            return self.kept is not None
        is_clean, kept = self.reader.is_clean, self.kept
        return all(map(is_clean, map(kept.__getitem__, self.keys)))

    def is_clean(self, key: int) -> bool:
        """Returns whether a keyframe is known to need nothing before it, and to show nothing among that."""
        return self.reader is None or self.kept is None or self.reader.is_clean(self.kept[key])

    def is_late_start(self, position: int, first: int) -> bool:
        """Returns whether no decoder shows a packet, as `first` is the first one that is shown: the recording begins in
        the middle of a group, or of one that refreshes the picture bit by bit (ITU-T H.264 D.2.8)."""
        if position >= first or not (self.is_parsed or self._has_picture(position)):
            return False
        return not self.keys or position < self.keys[0] or (self.is_gradual and self.is_open(self.keys[0]))

    def _has_picture(self, position: int) -> bool:
        if self.kept is None:
            return True
        if self.codec == "mpeg4":
            return _VOP in bytes(self.kept[position])
        return self.reader is None or self.reader.has_picture(self.kept[position])

    @property
    def is_gradual(self) -> bool:
        """Returns whether a decoder may show a group from somewhere behind its keyframe on."""
        return isinstance(self.reader, H264Order)

    def count_fields(self) -> int:
        """Returns how many packets hold half a frame, every other line of it."""
        if not isinstance(self.reader, H264Order):
            return 0
        if self.kept is not None:
            self.reader.restart()
            for packet in self.kept:
                self.reader.feed(packet)
        return self.reader.num_fields

    def is_open(self, position: int) -> bool:
        """Returns whether it may be a keyframe that frames shown before it follow, or such a frame."""
        return self.reader is not None and (self.kept is None or self.reader.is_open(self.kept[position]))

    def agrees(self, indices: Iterable[int]) -> bool:
        """Returns whether a decoder shows the frames around these display indices in the order of their times."""
        if not self.by_time:
            return False
        if self.reader is None:
            return True
        if not self.is_closed:
            return self._is_ascending(range(len(self.times)), 2)
        return self._is_ascending(range(len(self.times)) if self.is_parsed else self._needed(indices))

    def _needed(self, indices: Iterable[int]) -> list[int]:
        """Returns the positions that decide which frames these are: from the keyframe before each to so far behind all
        that is shown before it that no decoder waits any longer."""
        last_of = {self.group_of(self.order[index]): index for index in sorted(indices)}
        ends = [*self.keys[1:], len(self.times)]
        needed: list[int] = []
        for group, index in last_of.items():
            first, end = self.keys[group], ends[group]
            end = min(end, max(self.order[: index + 1]) + LONGEST_WAIT)
            needed += range(first, end)
        return needed

    def _is_ascending(self, positions: Sequence[int], most: int | None = None) -> bool:
        """Returns whether the decoder's order of these packets is that of their times, and at `most` so many places
        apart or in another coded sequence: groups that need the one before, and have another one there, are further
        apart."""
        if self.places is not None:
            found = [self.places[position] for position in positions]
        else:
            assert self.kept is not None
            assert self.reader is not None
            self.reader.restart()
            feed, kept = self.reader.feed, self.kept
            found = [feed(kept[position]) for position in positions]
        if self.complete is not None:
            inside = [self.times[i] in range(*self.complete) for i in positions]
            positions, found = list(compress(positions, inside)), list(compress(found, inside))
        if None in found:
            return False
        times = self.times
        shown = [place for _, place in sorted(zip([times[i] for i in positions], cast(list[int], found), strict=True))]
        if most is None:
            return all(map(lt, shown, islice(shown, 1, None)))
        return all(0 < gap <= most or gap > PLACES // 2 for gap in map(sub, shown[1:], shown))


class _Scan:
    """What packets tell one by one."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self.times: list[int | None] = []
        self.keys: list[int] = []
        self.shown: list[int] = []
        self.corrupt: list[int] = []
        self.placeholders: set[int] = set()
        self.is_plain = True

    def take(self, packets: list[VideoPacket]) -> None:
        """Takes the next packets in file order."""
        start = len(self.times)
        self.times += [packet.pts for packet in packets]
        self.keys += [i for i, packet in enumerate(packets, start) if packet.is_keyframe]
        self.corrupt += [i for i, packet in enumerate(packets, start) if packet.is_corrupt]
        self.shown += [i for i, packet in enumerate(packets, start) if not packet.is_discard]
        if self._codec not in INDEXED_CODECS:
            self.placeholders |= {i for i, packet in enumerate(packets, start) if packet.size < _LEAST_VOP_BYTES}
        if self._codec == "vp8":
            hidden = {i for i, packet in enumerate(packets, start) if not _is_shown_vp8(packet)}
            self.shown = [position for position in self.shown if position not in hidden]
        if self._codec == "mpeg4":
            self.is_plain &= all(_is_plain_mpeg4(packet) for packet in packets)


def scan(path: str, container: InputContainer, stream: VideoStream) -> Table:
    """Returns the table of a file. Raises BadVideo for one that was cut off, and for a still image."""
    name = stream.codec_context.codec.canonical_name
    reader = _open_reader(name, stream.codec_context.extradata or b"")
    found, packets, places, num_bytes, num_empty = _Scan(name), list[VideoPacket](), list[int | None](), 0, 0
    for packet in container.demux(stream):
        if packet.size:
            packets.append(packet)
            num_bytes += packet.size
        else:
            num_empty += packet.dts is not None
        if num_bytes > KEPT_BYTES:
            found.take(packets)
            places += [reader.feed(one) for one in packets] if reader else []
            packets, num_bytes = [], 0
    is_kept = not found.times
    found.take(packets)
    if not is_kept and reader:
        places += [reader.feed(one) for one in packets]
    last = max((time for time in found.times if time is not None), default=0) * float(stream.time_base or 0)
    missing = count_missing(path, container, stream, len(found.times) + num_empty, last)
    if found.shown and found.corrupt == [len(found.times) - 1]:
        found.shown = [position for position in found.shown if position != found.corrupt[0]]  # half a packet at the end
    if len(found.shown) == 1 and is_picture_container(container):
        name = container.format.name.partition(",")[0]
        raise BadVideo(path, f"is a still image ({name}), not a video", NOT_A_VIDEO)
    return _make_table(found, container, stream, missing, packets if is_kept else None, reader, places)


def scan_window(
    container: InputContainer, stream: VideoStream, packets: list[VideoPacket], complete_until: int
) -> Table:
    """Returns the table of packets that follow each other somewhere in a file, the first of them a keyframe. What is
    shown before it may need what lies before, and does not count."""
    name = stream.codec_context.codec.canonical_name
    found = _Scan(name)
    found.take(packets)
    start = packets[0].pts or 0
    found.shown = [position for position in found.shown if (found.times[position] or 0) >= start]
    reader = _open_reader(name, stream.codec_context.extradata or b"")
    table = _make_table(found, container, stream, 0, packets, reader, [])
    table.complete = start, complete_until
    return table


def _open_reader(codec: str, extradata: bytes) -> H264Order | HevcOrder | None:
    if codec == "h264":
        return H264Order(extradata)
    return HevcOrder(extradata) if codec == "hevc" else None


def _make_table(
    found: _Scan,
    container: InputContainer,
    stream: VideoStream,
    missing: int,
    kept: list[VideoPacket] | None,
    reader: H264Order | HevcOrder | None,
    places: list[int | None],
) -> Table:
    codec = stream.codec_context.codec
    shown_times = [found.times[position] for position in found.shown]
    is_whole = None not in found.times and len(set(shown_times)) == len(shown_times)
    has_clock = is_whole and container.format.name not in GUESSED_TIMES
    has_times = codec.canonical_name in INDEXED_CODECS and has_clock
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    times = [time if time is not None else 0 for time in found.times]
    order = sorted(found.shown, key=times.__getitem__) if has_times else found.shown
    return Table(
        codec=codec.canonical_name,
        order=order,
        times=times,
        keys=found.keys,
        has_times=has_times,
        by_time=has_times and not found.corrupt[:-1] and _is_orderly(order, found, reader, stream),
        delay=0 if codec.intra_only else 1 if codec.canonical_name == "mpeg4" and found.is_plain else None,
        is_parsed=container.format.name in _PARSED,
        placeholders=found.placeholders,
        missing=missing,
        kept=kept,
        reader=reader,
        places=places if kept is None else None,
        has_clock=has_clock,
        unit=Fraction(stream.time_base) if stream.time_base is not None else 1 / rate,
        rate=rate,
    )


def _is_orderly(order: list[int], found: _Scan, reader: H264Order | HevcOrder | None, stream: VideoStream) -> bool:
    """Returns whether frames come in groups that begin with a keyframe, none shown before it, and are no further out of
    the order of the file than the decoder waits for."""
    if not order or found.keys[:1] != [0] or order[0] != found.shown[0]:
        return False
    if reader is None:
        return order == found.shown
    ranks, starts = order, found.keys
    if len(order) != len(found.times):
        rank_of = dict(zip(found.shown, range(len(order)), strict=True))
        ranks, starts = [rank_of[position] for position in order], [rank_of[key] for key in starts if key in rank_of]
    furthest = list(accumulate(ranks, max))
    depth = max(map(sub, furthest, range(len(order))))
    return depth <= stream.codec_context.reorder_depth and all(furthest[s - 1] == s - 1 for s in starts if s)


def _is_plain_mpeg4(packet: VideoPacket) -> bool:
    """Returns whether it holds one picture: not two, nor a placeholder for one that came with the packet before."""
    data = bytes(packet)
    return data.count(_VOP) == 1 and len(data) >= _LEAST_VOP_BYTES


def _is_shown_vp8(packet: VideoPacket) -> bool:
    """Returns whether it is no hidden reference frame (RFC 6386 section 9.1, show_frame)."""
    return bool(memoryview(packet)[0] >> 4 & 1)


def hole_test(codec: str) -> Callable[[VideoPacket], bool]:
    """Returns a test for packets a part of which was never written, where the decoder would not notice."""
    if codec not in _BLIND_CODECS:
        return lambda packet: False
    hole = bytes(NUM_HOLE)
    return lambda packet: hole in bytes(packet)


def _demux_again(path: str, stream_index: int) -> Iterator[VideoPacket]:
    with open_video(path) as (container, _):
        for packet in container.demux(cast(VideoStream, container.streams[stream_index])):
            if packet.size:
                yield packet
