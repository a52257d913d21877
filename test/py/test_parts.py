"""Parts of videos: which frames they have, against decoding everything and choosing by time."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from clips import make_clip, read_number
from coldframe.data.clips import EvalViews, Listed, TrainClips, read_list
from coldframe.prepare.clips import Preparation
from coldframe.prepare.transcode import Encoding, transcode
from coldframe.video import frames, parts
from coldframe.video.frames import BadVideo, read_frames
from coldframe.video.parts import Part, name_clip
from small import settings
from test_video import VARIANTS, make_variant

ENCODING = Encoding(short_side=None, gop=4, crf=10, preset="superfast")
WITHOUT_TIMES = {".avi", ".h264"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return partial(make_variant, tmp_path_factory.mktemp("parts"))


def decode_timed(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    """Returns the times of all frames, in seconds since the first, and the frames."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        rate = container.streams.video[0].average_rate
    pictures = [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in frames]
    if path.suffix in WITHOUT_TIMES:
        return [i / Fraction(rate) for i in range(len(frames))], pictures
    times = [frame.pts * Fraction(frame.time_base) for frame in frames]
    order = sorted(range(len(frames)), key=times.__getitem__)
    return [times[i] - times[order[0]] for i in order], [pictures[i] for i in order]


def read_part(path: Path, part: Part) -> list[np.ndarray]:
    return read_frames(str(path), lambda n: list(range(n)), part)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_part_has_the_frames_of_a_full_decode_whose_times_lie_in_it(clip, name):
    path, rng = clip(name), np.random.default_rng(0)
    times, pictures = decode_timed(path)
    seconds = [round(float(time), 6) for time in times]
    ends = [*seconds, seconds[-1] + 0.02]
    pairs = [sorted(rng.choice(len(ends), 2, replace=False)) for _ in range(6)]
    parts = [(ends[i], ends[j]) for i, j in pairs] + [(0, ends[-1])]  # frames right at their bounds
    parts += [tuple(sorted(rng.uniform(0, ends[-1], 2).tolist())) for _ in range(6)]
    for start, end in parts:
        expected = [picture for time, picture in zip(seconds, pictures, strict=True) if start <= time < end]
        part = Part.of_seconds(start, end)
        if expected:
            np.testing.assert_array_equal(read_part(path, part), expected)
        else:
            with pytest.raises(BadVideo, match="has no frame from"):
                read_part(path, part)


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (1.55, 1.64, None),  # 40 frames at 25 a second end at 1.6 s: a frame more is no other video
        (0.0, 1.68, None),  # nor is a twentieth
        (0.0, 1.69, "ends at 1.6 s, before its part from 0 to 1.69 s"),
        (1.56, 1.8, "ends at 1.6 s, before its part from 1.56 to 1.8 s"),
        (5.0, 6.5, "ends at 1.6 s, before its part from 5 to 6.5 s"),
        (1.0, 1.000001, None),
        (1.000001, 1.04, "has no frame from 1.000001 to 1.04 s: they are 0.04 s apart"),
    ],
)
def test_a_part_beyond_the_end_and_one_between_frames_are_told(clip, start, end, reason):
    part = Part.of_seconds(start, end)
    if reason is None:
        assert read_part(clip("gop12.mp4"), part)
        return
    with pytest.raises(BadVideo) as caught:
        read_part(clip("gop12.mp4"), part)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["gop12.mp4", "open_gop.mp4", "vfr.mkv", "vp9.webm", "vp8.webm", "hevc_pyramid.mkv"])
def test_a_part_is_found_by_seeking_and_nothing_else_is_read(tmp_path, monkeypatch, name):
    long = {key: value for key, value in VARIANTS[name].items() if key != "times"}
    path = make_clip(tmp_path / name, **long, num_frames=250)
    times, pictures = decode_timed(path)
    read, plain = [], parts.scan_window
    monkeypatch.setattr(frames, "scan", None)  # of the whole file
    monkeypatch.setattr(parts, "scan_window", lambda *args, **more: read.append(args[2]) or plain(*args, **more))
    expected = [picture for time, picture in zip(times, pictures, strict=True) if 8000 <= 1000 * time < 8400]
    np.testing.assert_array_equal(read_part(path, Part.of_seconds(8, 8.4)), expected)
    longest = 128 if name.startswith("vp") else 16  # the keyframes of libvpx are far apart
    assert len(read[0]) <= longest + 10 + 17


def test_clips_of_parts_are_those_of_files_with_nothing_else(clip, tmp_path):
    whole, cut = clip("b_pyramid.mp4"), tmp_path / "cut.mkv"
    times, pictures = decode_timed(whole)
    with av.open(str(cut), "w") as container:  # the same frames, without loss
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"
        for picture in [picture for time, picture in zip(times, pictures, strict=True) if 400 <= 1000 * time < 1200]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    list_file = tmp_path / "list.tsv"
    list_file.write_text(f"{whole}\t5\t0.4\t1.2\n{cut}\t5\n{whole}\t5\t7\t9\n")
    items = read_list(list_file)
    assert items[0] == Listed(str(whole), 5, Part(400_000, 1_200_000))
    shape = {"num_frames": 4, "stride": 3, "size": 32}
    views = EvalViews(items, **shape, spatial_views=3, temporal_views=2)
    train = TrainClips(items, **shape, seed=3, augment="rand-m7-n4-mstd0.5-inc1", mirror=True)
    assert torch.equal(views[0].clip, views[1].clip)
    for step in range(4):
        assert torch.equal(train[step, 0, 0].clip, train[step, 0, 1].clip)
    for item in (views[2], train[0, 0, 2]):
        assert str(item.clip) == f"{whole}#t=7,9  ends at 1.6 s, before its part from 7 to 9 s"


@pytest.mark.parametrize("name", ["b_pyramid.mp4", "open_gop.ts", "vfr.mkv", "mpeg4.avi", "rotated.mp4"])
def test_a_prepared_part_holds_its_frames_and_nothing_else(clip, tmp_path, name):
    made = transcode(str(clip(name)), tmp_path / "ready.mp4", ENCODING, part=Part.of_seconds(0.3, 1.1))
    times, pictures = decode_timed(clip(name))
    expected = [i for i, time in enumerate(times) if 300 <= 1000 * time < 1100]
    assert made.num_frames == len(expected)
    ready_times, ready = decode_timed(tmp_path / "ready.mp4")
    assert [float(time) for time in ready_times] == pytest.approx(
        [float(times[i] - times[expected[0]]) for i in expected]
    )
    for i, picture in zip(expected, ready, strict=True):
        assert np.square(picture.astype(float) - pictures[i]).mean() < 100  # 28 dB


def test_prepare_cuts_out_the_parts_of_a_list_and_leaves_a_list_of_files(clip, tmp_path):
    source, listed = clip("gop12.mp4"), tmp_path / "train.tsv"
    times = ["0\t0.8", "0.8\t1.6", "9\t11"]
    listed.write_text("".join(f"{source}\t{label}\t{part}\n" for label, part in enumerate(times)))
    data = {"data__root": str(source.parent), "data__train_list": str(listed), "data__num_workers": 1}
    preparation = Preparation(settings(**data), {"train": str(listed), "val": None}, tmp_path / "ready")
    try:
        while not (reply := preparation.advance(1.0, lambda: None))["done"]:
            pass
    finally:
        preparation.close()
    assert reply["num_bad"] == 1
    assert (tmp_path / "ready/train.txt").read_text() == "clips/gop12-0-0.8.mp4 0\nclips/gop12-0.8-1.6.mp4 1\n"
    reason = "ends at 1.6 s, before its part from 9 to 11 s"
    assert (tmp_path / "ready/bad-videos.tsv").read_text() == f"{source}#t=9,11\t{reason}\n"
    numbers = [
        [read_number(frame) for frame in decode_timed(file)[1]] for file in sorted(tmp_path.glob("ready/clips/*"))
    ]
    assert numbers == [list(range(20)), list(range(20, 40))]


def test_a_clip_is_named_as_a_media_fragment():
    names = [name_clip("/a.mp4", part) for part in (None, Part(0, 20_000_000), Part(12_500_000, 100_000_001))]
    assert names == ["/a.mp4", "/a.mp4#t=0,20", "/a.mp4#t=12.5,100.000001"]
