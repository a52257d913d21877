"""The lists that Python reads: pairs by number, kept as bytes."""

import pickle

import pytest

from coldframe.data.clips import VideoList, read_list


def test_a_list_holds_any_path_and_its_label(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("/a b/ü #.mp4\t7\n/c.mp4\t0\n/d.mp4\t399".encode())
    pairs = read_list(path)
    assert list(pairs) == [("/a b/ü #.mp4", 7, None), ("/c.mp4", 0, None), ("/d.mp4", 399, None)]
    assert pairs[-1] == pairs[2]
    assert pairs[1:] == [("/c.mp4", 0, None), ("/d.mp4", 399, None)]
    assert len(VideoList(b"")) == 0
    with pytest.raises(IndexError):
        pairs[3]


def test_a_million_lines_cost_a_worker_little_more_than_the_file(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"/data/kinetics/train/class/video_{i:011}.mp4\t{i % 400}\n" for i in range(1_000_000)))
    pairs = read_list(path)
    assert pairs[999_999] == ("/data/kinetics/train/class/video_00000999999.mp4", 399, None)
    assert len(pickle.dumps(pairs)) < path.stat().st_size + 8 * len(pairs) + 1000
