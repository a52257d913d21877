"""Frame choice against the original's, and sparse decoding against decoding everything."""

import contextlib
import os
import pickle
import random
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from clips import cut_by_edit_list, make_clip, make_sound, read_number
from coldframe.data.facts import probe
from coldframe.video.frames import BadVideo, read_frames, training_indices, view_indices

PARITY = torch.load(Path(__file__).parent.parent / "fixtures" / "parity" / "data.pt", weights_only=True)
X264 = "log-level=none"

VARIANTS = {
    "gop12.mp4": {},
    "gop30.mp4": {"gop": 30, "num_frames": 100},
    "gop250.mp4": {"gop": 250, "num_frames": 90},
    "b_pyramid.mp4": {"gop": 24, "options": {"preset": "medium", "x264-params": f"{X264}:bframes=5:b-pyramid=normal"}},
    "no_b_frames.mp4": {"options": {"x264-params": f"{X264}:bframes=0"}},
    "open_gop.mp4": {"gop": 10, "options": {"preset": "medium", "x264-params": f"{X264}:open-gop=1:bframes=3"}},
    "open_gop.ts": {"gop": 10, "options": {"preset": "medium", "x264-params": f"{X264}:open-gop=1:bframes=3"}},
    "intra_refresh.ts": {"gop": 10, "options": {"preset": "medium", "x264-params": f"{X264}:intra-refresh=1"}},
    "slices.mp4": {"options": {"x264-params": f"{X264}:slices=4:bframes=2"}},
    "interlaced.mp4": {"options": {"preset": "medium", "x264-params": f"{X264}:interlaced=1:bframes=2"}},
    "vfr.mp4": {"times": np.cumsum(random.Random(1).choices([20, 40, 40, 170], k=40)).tolist()},
    "vfr.mkv": {"times": np.cumsum(random.Random(2).choices([20, 40, 40, 170], k=40)).tolist()},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=3:open-gop=1:keyint=10"}},
    "hevc_pyramid.mkv": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:bframes=4:b-pyramid=1:keyint=16"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "b_frames": 0},
    "vp9_hidden.webm": {
        "codec": "libvpx-vp9",
        "b_frames": 0,
        "gop": 30,
        "options": {"deadline": "good", "cpu-used": "4", "auto-alt-ref": "1", "lag-in-frames": "16"},
    },
    "av1.mp4": {"codec": "libsvtav1", "b_frames": 0, "options": {"preset": "12", "svtav1-params": "keyint=16"}},
    "av1.mkv": {"codec": "libsvtav1", "b_frames": 0, "gop": 16, "options": {"preset": "12"}},
    "vp8.webm": {"codec": "libvpx", "b_frames": 0},
    "mpeg4.avi": {"codec": "mpeg4", "gop": 12},
    "mpeg4.mp4": {"codec": "mpeg4", "gop": 12},
    "mpeg2.ts": {"codec": "mpeg2video", "gop": 12},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "b_frames": 0},
    "h264.avi": {},
    "h264.flv": {},
    "raw.h264": {},
    "audio.mp4": {"audio": True},
    "odd.mp4": {"size": (101, 77), "pixel_format": "yuv444p"},
    "one.mp4": {"num_frames": 1},
    "three.mp4": {"num_frames": 3},
    "rotated.mp4": {"rotation": -90},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le"},
    "gray.mp4": {"pixel_format": "gray"},
    "plain.ts": {},
    "edit_list.mp4": {"gop": 12},
}
IN_FILE_ORDER = {".avi", ".h264"}  # no presentation times: the decoder's output order is the right one


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def clip(folder):
    return partial(make_variant, folder)


def make_variant(folder: Path, name: str) -> Path:
    """Returns the clip of that name, made where it is not there yet."""
    path = folder / name
    if not path.exists():
        make_clip(path, **VARIANTS[name])
        if name == "edit_list.mp4":
            cut_by_edit_list(path, 15, 25)
    return path


def decode_everything(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    if path.suffix not in IN_FILE_ORDER:
        frames.sort(key=lambda frame: frame.pts)
    return [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in frames]


@pytest.mark.parametrize("name", VARIANTS)
def test_sparse_decoding_gives_the_bytes_of_full_decoding(clip, name):
    path, rng = clip(name), np.random.default_rng(0)
    every = decode_everything(path)
    choices = [list(range(len(every))), [len(every) - 1], [0]]
    choices += [rng.integers(0, len(every), rng.integers(1, 7)).tolist() for _ in range(12)]
    for indices in choices:
        counts = []
        frames = read_frames(str(path), lambda n, counts=counts, indices=indices: counts.append(n) or indices)
        # The second try is the slow way, for files whose keyframes are not enough to start from.
        assert counts == [len(every)] * (2 if name == "intra_refresh.ts" and len(counts) == 2 else 1)
        np.testing.assert_array_equal(frames, [every[i] for i in indices])


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"rotated.mp4", "edit_list.mp4"}))
def test_frames_are_the_ones_that_were_drawn(clip, name):
    frames = read_frames(str(clip(name)), lambda n: list(range(n)))
    assert [read_number(frame) for frame in frames] == list(range(VARIANTS[name].get("num_frames", 40)))


def test_making_a_clip_makes_no_real_time_process_of_the_tests(clip):
    clip("av1.mp4")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_frames_outside_an_edit_list_do_not_count(clip):
    frames = read_frames(str(clip("edit_list.mp4")), lambda n: list(range(n)))
    assert [read_number(frame) for frame in frames] == list(range(15, 40))


def test_rotation_metadata_is_applied(clip):
    upright = read_frames(str(clip("gop12.mp4")), lambda n: [5])[0]
    rotated = read_frames(str(clip("rotated.mp4")), lambda n: [5])[0]
    assert rotated.shape == (96, 64, 3)
    np.testing.assert_array_equal(rotated, np.rot90(upright, -1))  # clockwise, as players show it


def test_only_needed_packets_are_decoded(clip, monkeypatch):
    from coldframe.video import frames as video

    fed = []
    plain = video.decode
    monkeypatch.setattr(video, "decode", lambda context, packet: fed.append(packet) or plain(context, packet))
    read_frames(str(clip("gop30.mp4")), lambda n: [65, 67])
    assert len([packet for packet in fed if packet]) <= 8  # frames 60 to 67 of 100, less B-frames


def test_large_files_are_read_twice_and_give_the_same_frames(clip, monkeypatch):
    path = clip("gop30.mp4")
    kept = read_frames(str(path), lambda n: [3, 50, 99])
    monkeypatch.setattr("coldframe.video.packets.KEPT_BYTES", 100)
    np.testing.assert_array_equal(read_frames(str(path), lambda n: [3, 50, 99]), kept)


def test_a_video_that_changes_its_size_gives_the_frames_of_either_part(clip, tmp_path):
    path = tmp_path / "both.h264"
    larger = make_clip(tmp_path / "larger.h264", size=(128, 96))
    path.write_bytes(clip("raw.h264").read_bytes() + larger.read_bytes())
    every = decode_everything(path)
    for indices in ([3, 20], [45, 79], [39]):
        np.testing.assert_array_equal(read_frames(str(path), lambda n, at=indices: at), [every[i] for i in indices])
    with pytest.raises(BadVideo, match=r"changes its size within the clip: \[\(96, 64\), \(128, 96\)\]"):
        read_frames(str(path), lambda n: [39, 40])


def test_probe_tells_what_is_there(clip):
    assert probe(str(clip("rotated.mp4"))) == {
        "num_frames": 40,
        "width": 64,
        "height": 96,
        "rate": 25.0,
        "is_variable_rate": False,
        "duration_seconds": 1.6,
        "codec": "h264",
        "container": "mp4",
        "rotation": -90,
        "num_missing": 0,
        "mirrored": False,
        "by_time": True,
    }
    assert probe(str(clip("one.mp4")))["num_frames"] == 1
    names = ["vfr.mp4", "vfr.mkv", "gop12.mp4", "vp9.webm", "h264.flv", "plain.ts"]
    assert {name for name in names if probe(str(clip(name)))["is_variable_rate"]} == {"vfr.mp4", "vfr.mkv"}
    assert not probe(str(clip("mpeg4.avi")))["by_time"]


# ---- broken files ----------------------------------------------------------------------------------------------------


def first_and_last(path: Path) -> np.ndarray:
    return read_frames(str(path), lambda n: [0, n - 1])


def still_image(path: Path) -> None:
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(32, 16, "yuvj420p")))
        container.mux(stream.encode(None))


BROKEN = {
    "zero.mp4": (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    "text.mp4": (lambda path: path.write_text("not a video\n" * 99), "not a video"),
    "random.mp4": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)), "not a video"),
    "sound.mp4": (make_sound, "no video track, only sound"),
    "missing.mp4": (lambda path: None, "does not exist"),
    "folder.mp4": (lambda path: path.mkdir(), "Is a directory"),
    "jpeg.mp4": (lambda path: still_image(path.with_suffix(".jpg")) or path.with_suffix(".jpg").rename(path), "still"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("reader", [first_and_last, lambda path: probe(str(path))], ids=["read", "probe"])
def test_a_broken_file_gives_one_plain_error_with_its_path(tmp_path, name, reader):
    make, reason = BROKEN[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(BadVideo, match=reason) as caught:
        reader(path)
    assert str(caught.value).startswith(f"{path}  ")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, copy.reason, str(copy)) == (str(path), caught.value.reason, str(caught.value))


def test_a_file_cut_off_before_its_index_says_so(clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip("gop12.mp4").read_bytes()[:3000])
    with pytest.raises(BadVideo, match="moov"):
        first_and_last(path)


def flip_bits(whole: Path, seed: int) -> bytes:
    rng, data = np.random.default_rng(seed), bytearray(whole.read_bytes())
    for at in len(data) * 6 // 10 + rng.integers(0, 4000, 4):
        data[at] ^= 1 << rng.integers(8)
    return bytes(data)


def test_a_damaged_frame_is_an_error_and_others_are_not(folder, tmp_path):
    whole = make_clip(folder / "long.mp4", num_frames=100, gop=25, options={"crf": "5"})
    path = tmp_path / "damaged.mp4"
    for seed in range(20):
        path.write_bytes(flip_bits(whole, seed))
        with av.open(str(path)) as container, contextlib.suppress(av.error.FFmpegError):
            flags = [frame.is_corrupt for frame in container.decode(video=0)]
            if len(flags) == 100 and any(flags):
                break
    else:
        pytest.fail("no damage that the decoder paints over")
    assert [read_number(frame) for frame in read_frames(str(path), lambda n: [3, 20])] == [3, 20]
    with pytest.raises(BadVideo, match=f"frame {flags.index(True)} of 100 is damaged"):
        read_frames(str(path), lambda n: list(range(n)))


def test_frames_behind_damage_have_the_bytes_of_full_decoding_or_are_refused(tmp_path):
    # One thread and no mbtree: else the encoder gives another file each time, and the bits lie elsewhere.
    options = {"crf": "5", "preset": "medium", "x264-params": "log-level=none:bframes=2:threads=1:mbtree=0"}
    whole = make_clip(tmp_path / "long.mp4", num_frames=60, gop=15, options=options)
    sound = read_frames(str(whole), lambda n: list(range(n)))
    path, num_equal, num_refused = tmp_path / "damaged.mp4", 0, 0
    for seed in range(4):
        path.write_bytes(flip_bits(whole, seed))
        with av.open(str(path)) as container:
            times = sorted(packet.pts for packet in container.demux(video=0) if packet.size)
        every: dict[int | None, np.ndarray] = {}
        with av.open(str(path)) as container, contextlib.suppress(av.error.FFmpegError):
            container.streams.video[0].codec_context.thread_count = 1  # what is painted over damage depends on it
            every = {f.pts: f.to_ndarray(format="rgb24") for f in container.decode(video=0) if not f.is_corrupt}
        for index, time in enumerate(times):
            try:
                found = read_frames(str(path), lambda n, i=index: [i])[0]
            except BadVideo:
                num_refused += 1
                continue
            # Or those of the file before the damage, where that lies in a frame which was not needed.
            assert np.array_equal(found, sound[index]) or np.array_equal(found, every[time]), (seed, index)
            num_equal += 1
    assert num_equal > 100
    assert num_refused > 5


def test_a_packet_that_cannot_be_decoded_is_an_error_when_it_is_needed(folder, tmp_path):
    whole = make_clip(folder / "long.mp4", num_frames=100, gop=25, options={"crf": "5"})
    data = bytearray(whole.read_bytes())
    start = len(data) * 6 // 10
    data[start : start + 2000] = bytes(2000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    assert [read_number(frame) for frame in read_frames(str(path), lambda n: [3, 20])] == [3, 20]
    with pytest.raises(BadVideo, match=r"damaged|packet \d+ of 100 cannot be decoded"):
        read_frames(str(path), lambda n: list(range(n)))


def test_hidden_frames_of_vp8_do_not_count(clip, tmp_path):
    path, hidden = tmp_path / "hidden.webm", [5, 17, 18]
    with av.open(str(clip("vp8.webm"))) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            data = bytearray(bytes(packet))
            data[0] &= ~0x10 if number in hidden else 0xFF
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            container.mux(copy)
    counts = []
    frames = read_frames(str(path), lambda n: counts.append(n) or list(range(n)))
    assert counts == [37]
    assert [read_number(frame) for frame in frames] == [i for i in range(40) if i not in hidden]


def test_a_broadcast_that_starts_within_a_gop_gives_its_frames(clip, tmp_path):
    whole = clip("plain.ts").read_bytes()
    path = tmp_path / "joined_late.ts"
    path.write_bytes(whole[188 * (len(whole) // 188 // 4) :])
    numbers = [read_number(frame) for frame in read_frames(str(path), lambda n: list(range(n)))]
    assert numbers == list(range(numbers[0], 40))
    assert numbers[0] <= 24


# ---- which frames ----------------------------------------------------------------------------------------------------


def stride_of(case: dict) -> int | None:
    return None if case["sampling_rate"] < 0 else case["sampling_rate"]


def test_training_indices_replay_the_originals_draws():
    for case in PARITY["train_indices"]:
        rng = np.random.RandomState(case["seed"])
        assert training_indices(case["length"], case["num_frames"], stride_of(case), rng) == case["indices"], case


def test_view_indices_are_the_originals():
    for case in PARITY["eval_indices"]:
        views = view_indices(case["length"], case["num_frames"], stride_of(case), case["temporal_views"])
        assert views == case["indices"], case


def test_segment_views_are_centres_and_stay_inside():
    assert training_indices(10, 4, 4, np.random.RandomState(0)) == [0, 4, 8, 8]
    assert training_indices(10, 4, 4, np.random.RandomState(0), repeat_last=True) == [0, 4, 8, 9]
    assert view_indices(10, 4, 4, 1) == [[0, 4, 8, 9]]
    assert view_indices(81, 8, None, 1) == [[5, 15, 25, 35, 45, 55, 65, 75]]
    assert view_indices(41, 4, None, 2) == [[2, 12, 22, 32], [8, 18, 28, 38]]
    assert view_indices(1, 3, None, 2) == [[0, 0, 0], [0, 0, 0]]
