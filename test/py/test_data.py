"""Lists, order, datasets and loaders: parity with the original, and independence of workers and interruptions."""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import make_clip
from coldframe.data.augment import eval_views, training_view
from coldframe.data.clips import (
    DummyClips,
    EvalViews,
    Listed,
    TrainClips,
    normalize_,
    read_list,
    sample_order,
)
from coldframe.data.loader import _read_ahead, eval_loader, to_device, train_loader
from coldframe.errors import UserError
from coldframe.video.frames import BadVideo, training_indices, view_indices
from coldframe.video.torchcodec import find_torchcodec_problem

PARITY = torch.load(Path(__file__).parent.parent / "fixtures" / "parity" / "data.pt", weights_only=True)
SHAPE = {"num_frames": 3, "stride": 2, "size": 16}


@pytest.fixture(scope="session")
def items(tmp_path_factory):
    """Five videos; number 2 is broken."""
    folder = tmp_path_factory.mktemp("list")
    paths = [make_clip(folder / f"{i}.mp4", num_frames=12 + i, seed=i) for i in range(4)]
    (folder / "bad.mp4").write_text("no video")
    paths.insert(2, folder / "bad.mp4")
    (folder / "list.txt").write_text("".join(f"{path}\t{label}\n" for label, path in enumerate(paths)))
    return read_list(folder / "list.txt")


def train_clips(items, **changes):
    return TrainClips(items, **{**SHAPE, "seed": 3, "augment": "rand-m7-n4-mstd0.5-inc1", "mirror": True, **changes})


def batches(items, num_workers=0, start_step=0, num_steps=4, batch_size=6, **changes):
    arguments = {"seed": 3, "start_step": start_step, "num_steps": num_steps, "batch_size": batch_size, **changes}
    return list(train_loader(train_clips(items), num_workers=num_workers, **arguments))


def assert_same(batches_a, batches_b):
    assert len(batches_a) == len(batches_b)
    for a, b in zip(batches_a, batches_b, strict=True):
        assert torch.equal(a.clips, b.clips)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.indices, b.indices)
        assert [str(bad) for bad in a.bad] == [str(bad) for bad in b.bad]


# ---- order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PARITY["train_sampler"], ids=str)
def test_the_training_order_is_the_originals(case):
    length, per_rank = case["dataset_len"], case["per_rank_batch"]
    order = []
    for step in range(case["resume_step"], case["num_steps"]):
        order += sample_order(length, 0, step * case["batch_size"] + case["rank"] * per_rank, per_rank)
    assert order == case["order"]


def test_other_seeds_give_other_permutations_and_any_place_is_reached_directly():
    whole = sample_order(7, 5, 0, 35)
    assert all(sorted(whole[i : i + 7]) == list(range(7)) for i in range(0, 35, 7))
    assert whole != sample_order(7, 0, 0, 35)
    assert whole != sample_order(7, 6, 0, 35)
    assert [sample_order(7, 5, i, 1)[0] for i in reversed(range(35))] == whole[::-1]
    assert sample_order(7, 5, 12, 16) == whole[12:28]


# ---- clips -----------------------------------------------------------------------------------------------------------


def assert_same_draws(rngs, case):
    """The generators stand where the original's calls leave them."""
    replayed = {"py": random.Random(case["seed"]), "np": np.random.RandomState(case["seed"])}
    for call, arguments, _ in case["rng_calls"]:
        source, function = call.split(".")
        getattr(replayed[source], function)(*(int(a) if function == "randint" else a for a in arguments))
    assert rngs[0].getstate() == replayed["py"].getstate()
    assert [rngs[1].randint(1000) for _ in range(9)] == [replayed["np"].randint(1000) for _ in range(9)]


@pytest.mark.parametrize("ahead", [1, 2])
def test_no_epoch_of_a_seed_is_one_of_another_seed(ahead):
    """As seed + epoch would have it."""
    for seed in range(1, 6):
        assert sample_order(50, seed, 50 * ahead, 50) != sample_order(50, seed + ahead, 0, 50)


@pytest.mark.parametrize("number", range(len(PARITY["pipeline"])))
def test_a_clip_is_the_originals(number):
    case = PARITY["pipeline"][number]
    frames, num_frames, stride = case["frames_uint8"].numpy(), case["num_frames"], case["sampling_rate"]
    frames = frames[np.argsort(case["pts"])]
    if case["train"]:
        rngs = random.Random(case["seed"]), np.random.RandomState(case["seed"])
        chosen = frames[training_indices(len(frames), num_frames, stride, rngs[1])]
        clip = training_view(chosen, case["spatial_size"], None, False, *rngs)
        assert_same_draws(rngs, case)
    else:
        views = view_indices(len(frames), num_frames, stride, case["temporal_views"])
        clip = eval_views(frames, views, case["spatial_size"], case["spatial_views"])
        clip = clip[0] if case["returned_a_list"] else clip
    torch.testing.assert_close(normalize_(clip, case["mean"], case["std"]), case["output"], rtol=0, atol=1e-5)


def test_normalizing_is_in_place_and_by_channel():
    clips = torch.full((2, 3, 4, 5, 6), 51.0)
    out = normalize_(clips, [0.2, 0.1, 0.0], [1.0, 0.5, 0.1])
    assert out.data_ptr() == clips.data_ptr()
    torch.testing.assert_close(out[1, :, 3, 4, 5], torch.tensor([0.0, 0.2, 2.0]))


def test_normalizing_keeps_constants_of_other_values_and_kinds_of_numbers_apart():
    for _ in range(2):
        for dtype in (torch.float32, torch.float64):
            for mean, std in (((0.2, 0.1, 0.0), (1.0, 0.5, 0.1)), ((0.3, 0.3, 0.3), (0.7, 0.7, 0.7))):
                clips = torch.full((1, 3, 1, 1, 1), 51.0, dtype=dtype)
                expected = (0.2 - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(std, dtype=torch.float64)
                out = normalize_(clips, mean, std).flatten().double()
                torch.testing.assert_close(out, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-15)


def test_an_evaluation_item_holds_all_views_of_its_video(items):
    item = EvalViews(items, **SHAPE, spatial_views=3, temporal_views=2)[1]
    assert item.clip.shape == (6, 3, 3, 16, 16)
    assert (item.label, item.index) == (1, 1)
    # Temporal views 0 and 1 differ, and the left crop is not the right one.
    assert len({view.numpy().tobytes() for view in item.clip}) == 6


def test_segment_sampling_works_in_evaluation(items):
    views = EvalViews(items, num_frames=4, stride=None, size=16, spatial_views=1, temporal_views=2)
    assert views[0].clip.shape == (2, 3, 4, 16, 16)


def test_a_number_of_spatial_views_without_a_meaning_is_refused(items):
    with pytest.raises(UserError, match="1 and 3 are allowed"):
        EvalViews(items, **SHAPE, spatial_views=2, temporal_views=1)


def test_a_training_clip_is_a_function_of_its_place(items):
    clips, other_seed = train_clips(items), train_clips(items, seed=4)
    places = [(0, 0, 1), (0, 1, 1), (1, 0, 1)]
    drawn = [clips[place].clip for place in places] + [other_seed[places[0]].clip]
    assert all(torch.equal(clips[place].clip, clip) for place, clip in zip(places, drawn, strict=False))
    assert len({clip.numpy().tobytes() for clip in drawn}) == 4
    assert all(clip.min() >= 0 and clip.max() <= 255 and clip.max() > 100 for clip in drawn)


def test_clips_of_one_video_side_by_side_are_those_of_their_places_and_decode_it_once(items, monkeypatch):
    clips, read = train_clips(items), []
    plain = clips._read
    monkeypatch.setattr(clips, "_read", lambda path, *more: read.append(path) or plain(path, *more))
    places = [(4, 0, 1), (4, 1, 1), (4, 2, 1), (4, 3, 0), (4, 4, 2), (4, 5, 2)]
    together = clips.__getitems__(places)
    assert read == [items[1][0], items[0][0], items[2][0]]
    for item, place in zip(together[:4], places, strict=False):
        assert torch.equal(item.clip, clips[place].clip)
        assert item.index == place[2]
    assert len({item.clip.numpy().tobytes() for item in together[:3]}) == 3
    assert all(isinstance(item.clip, BadVideo) for item in together[4:])


def test_a_bad_video_is_a_value_and_keeps_its_place(items):
    item = train_clips(items)[0, 0, 2]
    assert isinstance(item.clip, BadVideo)
    assert (item.label, item.index) == (2, 2)


def test_noise_is_a_function_of_seed_and_index():
    noise = DummyClips(9, num_classes=4, num_frames=3, size=8, seed=1)
    assert noise[5, 1, 6].clip.shape == (3, 3, 8, 8)
    assert torch.equal(noise[5, 1, 6].clip, noise[0, 0, 6].clip)
    assert not torch.equal(noise[0, 0, 6].clip, noise[0, 0, 7].clip)
    assert noise[6].label == 2
    assert DummyClips(9, num_classes=4, num_frames=3, size=8, seed=1, num_views=6)[0].clip.shape == (6, 3, 3, 8, 8)


# ---- loaders ---------------------------------------------------------------------------------------------------------


def test_batches_are_the_same_bytes_for_any_number_of_workers(items):
    alone = batches(items)
    assert_same(batches(items, num_workers=1), alone)
    assert_same(batches(items, num_workers=2), alone)
    assert all(len(batch.clips) + len(batch.bad) == 6 for batch in alone)
    assert sum(len(batch.bad) for batch in alone) in (4, 5)  # 24 draws from 5 videos, one bad
    assert all(batch.labels.tolist() == batch.indices.tolist() and 2 not in batch.labels for batch in alone)


def test_batches_are_the_same_wherever_the_loader_starts(items):
    assert_same(batches(items, start_step=2, num_workers=2), batches(items)[2:])


def test_several_clips_per_video_keep_the_order_and_need_fewer_videos(items):
    ones = batches(items, batch_size=3, num_steps=4)
    twos = batches(items, batch_size=6, clips_per_video=2, num_steps=4)
    for one, two in zip(ones, twos, strict=True):
        assert two.indices.tolist() == [index for index in one.indices.tolist() for _ in range(2)]
        assert len(two.bad) == 2 * len(one.bad)
        assert len({clip.numpy().tobytes() for clip in two.clips}) == len(two.clips)
    for changes in ({"num_workers": 2}, {"num_workers": 1}):
        assert_same(batches(items, batch_size=6, clips_per_video=2, **changes), twos)
    assert_same(batches(items, batch_size=6, clips_per_video=2, start_step=2), twos[2:])
    ranks = [batches(items, batch_size=4, clips_per_video=2, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(batches(items, batch_size=4, clips_per_video=2)):
        assert torch.equal(torch.cat([rank[step].clips for rank in ranks]), batch.clips)
    with pytest.raises(UserError, match=r"multiple of the 1 processes times data\.clips_per_video \(4\)"):
        batches(items, batch_size=6, clips_per_video=4)


@pytest.mark.parametrize("hand_on", [_read_ahead, partial(to_device, device=torch.device("cpu"))])
def test_batches_are_handed_on_as_they_are_and_end_with_their_source(hand_on):
    ended = []

    def source():
        try:
            yield from range(5)
            raise ValueError("at the end")
        finally:
            ended.append(True)

    ahead = hand_on(source())
    assert [next(ahead), next(ahead)] == [0, 1]
    assert not ended
    ahead.close()
    assert ended
    with pytest.raises(ValueError, match="at the end"):
        list(hand_on(source()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_copies_to_a_gpu_and_slow_steps_do_not_get_into_each_others_way():
    clips = DummyClips(12, num_classes=5, num_frames=8, size=112, seed=1)
    common = {"seed": 3, "start_step": 0, "num_steps": 12, "batch_size": 6, "num_workers": 0}
    seen = []
    for batch in to_device(train_loader(clips, **common, pin_memory=True), torch.device("cuda:0")):
        torch.cuda._sleep(50_000_000)  # the step begins late, and is not waited for
        seen.append((batch.clips.clone(), batch.labels.clone()))
    plain = list(train_loader(clips, **common))
    assert len(seen) == len(plain) == 12
    for (found, labels), batch in zip(seen, plain, strict=True):
        assert torch.equal(found.cpu(), batch.clips)
        assert torch.equal(labels.cpu(), batch.labels)


def test_a_reader_that_is_not_there_is_named_before_any_worker_starts(items, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    for make in (
        train_clips,
        lambda items, **reader: EvalViews(items, **SHAPE, spatial_views=1, temporal_views=1, **reader),
    ):
        with pytest.raises(UserError, match=r"data\.reader .*not installed.* pyav, or install .*torchcodec==0\.13\.0"):
            make(items, reader="torchcodec")


@pytest.mark.skipif(find_torchcodec_problem() is not None, reason="torchcodec does not import here")
def test_torchcodec_gives_the_frames_of_pyav_and_the_same_bad_videos(items, tmp_path):
    avi = make_clip(tmp_path / "packed.avi", codec="mpeg4")  # no times to trust
    items = [*items, Listed(str(avi), 5)]
    for place in [(0, 0, 0), (1, 2, 3), (2, 1, 2), (3, 0, 5)]:
        ours, theirs = train_clips(items)[place].clip, train_clips(items, reader="torchcodec")[place].clip
        if isinstance(ours, BadVideo):
            assert str(theirs) == str(ours)
        else:
            assert torch.equal(theirs, ours)


def test_the_slices_of_two_processes_are_the_batch_of_one(items):
    whole, *ranks = batches(items), *(batches(items, rank=rank, world_size=2) for rank in range(2))
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([rank[step].clips for rank in ranks]), batch.clips)
    with pytest.raises(UserError, match="multiple of the 4"):
        batches(items, world_size=4)


def test_one_thread_and_two_resize_to_the_same_bytes(items):
    clips = train_clips(items)
    before = torch.get_num_threads()
    try:
        results = []
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            results.append([clips[0, i, 1].clip for i in range(8)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_evaluation_meets_every_video_once_whatever_the_processes(items):
    views = EvalViews(items, **SHAPE, spatial_views=1, temporal_views=2)
    for num_workers, world_size in ((0, 1), (2, 1), (1, 2), (0, 3)):
        seen, bad = [], []
        for rank in range(world_size):
            mine = list(eval_loader(views, batch_size=2, num_workers=num_workers, rank=rank, world_size=world_size))
            seen += [index for batch in mine for index in batch.indices.tolist()]
            bad += [video.path for batch in mine for video in batch.bad]
            assert all(batch.clips.shape[1:] == (2, 3, 3, 16, 16) for batch in mine)
        assert sorted(seen) == [0, 1, 3, 4]
        assert bad == [items[2][0]]


def test_a_batch_without_a_readable_video_has_no_clips(items):
    (batch,) = batches([items[2]], num_workers=2, num_steps=1)
    assert batch.clips.shape == (0, 3, 3, 16, 16)
    assert batch.labels.shape == batch.indices.shape == (0,)
    assert len(batch.bad) == 6
    assert items[2][0] in str(batch.bad[0])


def test_loading_leaves_the_global_random_states_alone(items):
    torch.manual_seed(0)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    batches(items, num_workers=1, num_steps=1)
    batches(items, num_workers=0, num_steps=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


PROGRAM = """
    import os, sys, time
    sys.path.insert(0, {root!r})
    from coldframe.data.clips import DummyClips
    from coldframe.data.loader import train_loader
    clips = DummyClips(100, num_classes=4, num_frames=3, size=8, seed=1)
    loader = train_loader(clips, seed=0, start_step=0, num_steps=10**6, batch_size=4, num_workers=2)
    next(loader)
    children = open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
    print(*children, flush=True)
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")
def test_workers_survive_interrupts_and_die_with_their_parent():
    program = textwrap.dedent(PROGRAM).format(root=str(Path(__file__).parents[2] / "py"))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGINT)
            os.kill(worker, signal.SIGTERM)
        time.sleep(0.2)
        assert all(is_alive(worker) for worker in workers)
        parent.kill()
        deadline = time.monotonic() + 4  # the loader's own watchdog looks every 5 seconds
        while any(is_alive(worker) for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(is_alive(worker) for worker in workers)


def test_closing_a_loader_ends_its_workers(items):
    loader = train_loader(train_clips(items), seed=0, start_step=0, num_steps=10**6, batch_size=4, num_workers=2)
    next(loader)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
