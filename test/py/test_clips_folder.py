"""Sparse decoding against full decoding over a folder of your own videos, which COLDFRAME_CLIPS names."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from coldframe.video.frames import BadVideo, Frames, read_frames, training_indices, view_indices

FOLDER = os.environ.get("COLDFRAME_CLIPS")
FILES = [] if FOLDER is None else sorted(path for path in Path(FOLDER).rglob("*") if path.is_file())
MOST_AT_ONCE = 1000  # frames: an hour of film would not fit into memory
STILL = ("image2", "_pipe", "webp", "ico")
UNTIMED = ("avi", "h264", "hevc", "m4v")  # no presentation times, or FFmpeg's guesses: decoder order is the right one

if FOLDER is None:
    pytest.skip("COLDFRAME_CLIPS does not name a folder of videos", allow_module_level=True)
if not FILES:
    pytest.fail(f"COLDFRAME_CLIPS: there is no file in {FOLDER}", pytrace=False)


class Shown(NamedTuple):
    """A frame: what its bytes hash to, None where it is damaged or missing; whether decoding failed before it, so that
    plain decoding, which ends there, has it not."""

    bytes_hash: str | None
    after_failure: bool = False

    @property
    def size(self) -> str | None:
        return self.bytes_hash and self.bytes_hash.rpartition(" ")[0]


class Everything(NamedTuple):
    """What decoding every packet gives, in the order in which it is shown, and what each packet should have given: they
    differ where a packet cannot be decoded."""

    frames: list[Shown]
    of_packets: list[Shown]

    def choose(self, num_frames: int, indices: list[int]) -> list[Shown]:
        known = self.frames if num_frames == len(self.frames) else self.of_packets
        assert num_frames == len(known)
        return [known[i] for i in indices]


def decode_everything(path: Path) -> Everything:
    """Returns all that a decoder makes of a file. Nothing is skipped or sought, and after a packet that cannot be
    decoded it goes on."""
    with av.open(str(path)) as container:
        if any(still in container.format.name for still in STILL):
            raise ValueError("a still image")
        stream = next(s for s in container.streams.video if not s.disposition & s.disposition.attached_pic)
        stream.codec_context.thread_count = 1  # what is painted over damage depends on it
        due: list[int | None] = []
        frames: list[tuple[int | None, Shown]] = []
        has_failed = False
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard and not packet.is_corrupt:
                due.append(packet.pts)
            try:
                decoded = stream.codec_context.decode(packet if packet.size else None)
            except av.error.FFmpegError:
                has_failed |= not packet.is_corrupt  # half a packet at the end of a file that was cut off is left out
                continue
            for frame in decoded:
                bytes_hash = None if frame.is_corrupt else hash_frame(upright(frame))
                frames.append((frame.pts, Shown(bytes_hash, has_failed)))
        times = [*due, *(time for time, _ in frames)]
        by_time = container.format.name not in UNTIMED and None not in times
    if not by_time:
        return Everything([shown for _, shown in frames], [])
    found = dict(frames)
    return Everything([found[time] for time in sorted(found)], [found.get(time, Shown(None)) for time in sorted(due)])


def upright(frame: av.VideoFrame) -> Frames:
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def hash_frame(frame: Frames) -> str:
    return f"{frame.shape} {hashlib.sha256(np.ascontiguousarray(frame).data).hexdigest()}"


def window(seed: int, stride: int | None) -> Callable[[int], list[int]]:
    return lambda n: training_indices(n, 8, stride, np.random.RandomState(seed))


def view(number: int, stride: int | None) -> Callable[[int], list[int]]:
    return lambda n: view_indices(n, 8, stride, 3)[number]


CHOICES: dict[str, Callable[[int], list[int]]] = {
    **{f"window {seed}, stride {stride}": window(seed, stride) for seed in range(4) for stride in (2, 16)},
    **{f"segments {seed}": window(seed, None) for seed in range(4)},
    **{f"view {number}, stride {stride}": view(number, stride) for number in range(3) for stride in (16, None)},
    "several windows": lambda n: [i for seed in range(4) for i in window(seed, 4)(n)],
    "the first": lambda n: [0],
    **{f"the frame at {eighth}/8": lambda n, eighth=eighth: [n * eighth // 8] for eighth in range(1, 8)},
    "the last": lambda n: [n - 1],
    "all": lambda n: list(range(min(n, MOST_AT_ONCE))),
    "all backwards": lambda n: list(range(min(n, MOST_AT_ONCE)))[::-1],
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_choice_of_frames_has_the_bytes_of_decoding_everything(path):
    try:
        every = decode_everything(path)
    except (av.error.FFmpegError, ValueError, StopIteration):
        every = None
    refusals = set()
    num_equal = 0
    for name, choose in CHOICES.items():
        asked: list[tuple[int, list[int]]] = []

        def remember(num_frames: int, choose=choose, asked=asked) -> list[int]:
            asked.append((num_frames, choose(num_frames)))
            return asked[-1][1]

        frames, refusal = None, ""
        try:
            frames = read_frames(str(path), remember)
        except BadVideo as error:
            refusal = error.reason
        if frames is None:
            refusals.add(refusal)
            assert every is None or not can_be_had(every.choose(*asked[-1])), f"{name}: {refusal}"
        else:
            num_equal += 1
            assert every is not None, f"{name}: frames of a file that cannot be decoded"
            assert [hash_frame(frame) for frame in frames] == [s.bytes_hash for s in every.choose(*asked[-1])], name
    print(f"{num_equal} of {len(CHOICES)} choices equal; refused: {', '.join(sorted(refusals)) or 'none'}")


def can_be_had(chosen: list[Shown]) -> bool:
    """Returns whether plain decoding gives all of a choice, whole and of one size."""
    is_whole = all(shown.bytes_hash is not None and not shown.after_failure for shown in chosen)
    return is_whole and len({shown.size for shown in chosen}) == 1
