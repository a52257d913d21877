"""What the loader says when its workers do not do as they should."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import torch

import small
from coldframe.assembly import batches as building
from coldframe.assembly.forecast import describe_models
from coldframe.data import loader
from coldframe.data.clips import DummyClips
from coldframe.errors import UserError, describe
from coldframe.machine import sharing
from coldframe.settings import Settings


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), FileNotFoundError(2, "no socket")])
def test_a_worker_that_dies_while_it_hands_over_is_told_as_dead(error, monkeypatch):
    def parts():
        yield "first"
        raise error

    monkeypatch.setattr(loader, "DEATH_SECONDS", 0)
    told = loader._tell_deaths(parts())
    assert next(told) == "first"
    with pytest.raises(RuntimeError, match="DataLoader worker exited unexpectedly"):  # session.ts knows these words
        next(told)


def test_an_error_of_the_dataset_in_a_worker_is_its_own():
    def parts():
        raise FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0.")
        yield

    with pytest.raises(FileNotFoundError):
        next(loader._tell_deaths(parts()))


@pytest.mark.skipif(sys.platform != "linux", reason="only there workers have to be forked")
def test_workers_are_children_of_the_main_process_whatever_starts_processes_as_a_rule(monkeypatch):
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", None)
    multiprocessing.set_start_method("forkserver")  # as from Python 3.14 on
    clips = DummyClips(4, num_frames=2, size=16, num_classes=2, seed=0)
    (batch,) = loader.eval_loader(clips, batch_size=4, num_workers=2)
    assert batch.indices.tolist() == [0, 1, 2, 3]


SMALL_SHARED_MEMORY = """
    import os, subprocess, sys
    sys.path.insert(0, {root!r})
    subprocess.run("mount -t tmpfs -o size=256k tmpfs /dev/shm", shell=True, check=True)
    from coldframe.data import loader
    from coldframe.data.clips import DummyClips
    clips = DummyClips(100, num_frames=4, size=64, num_classes=2, seed=0)
    def take():
        try:
            for batch in loader.train_loader(clips, seed=0, start_step=0, num_steps=4, batch_size=16, num_workers=2):
                print(len(batch.clips), os.listdir("/dev/shm"))
        except Exception as error:
            print(type(error).__name__, error)
    take()
    with open("/dev/shm/full", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)): pass
        except OSError: pass
    take()
"""


def test_clips_take_nothing_of_dev_shm_and_semaphores_that_find_no_room_are_told(tmp_path):
    program = textwrap.dedent(SMALL_SHARED_MEMORY).format(root=str(Path(__file__).parents[2] / "py"))
    command = ["unshare", "-m", sys.executable, "-c", program]
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("may not mount")
    *batches, told = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout.splitlines()
    assert batches == ["16 []"] * 4  # a batch is 3 MiB
    assert told.startswith("UserError /dev/shm  has 0 KiB free, and the semaphores of loader workers take 56 KiB here.")
    assert "--shm-size" in told


@pytest.mark.parametrize("num_labels", [None, 3])
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has memory without a name")
def test_what_a_worker_hands_over_lies_in_memory_without_a_name(num_labels):
    clips = DummyClips(5, num_frames=2, size=16, num_classes=3, seed=0, num_labels=num_labels)
    loaded = list(loader.eval_loader(clips, batch_size=5, num_workers=1))
    plain = list(loader.eval_loader(clips, batch_size=5, num_workers=0))
    for batch, same in zip(loaded, plain, strict=True):
        for tensor, other in zip(batch[:3], same[:3], strict=True):
            assert tensor.dtype == other.dtype
            assert torch.equal(tensor, other)
            descriptor, _ = tensor.untyped_storage()._share_fd_cpu_()
            assert str(Path(f"/proc/self/fd/{descriptor}").readlink()) == "/memfd:coldframe (deleted)"


def test_a_long_folder_for_temporary_files_keeps_no_worker_from_handing_over(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)
    clips = DummyClips(8, num_frames=2, size=16, num_classes=2, seed=0)
    batches = loader.train_loader(clips, seed=0, start_step=0, num_steps=2, batch_size=4, num_workers=1)
    assert [len(batch.labels) for batch in batches] == [4, 4]
    assert len(multiprocessing.util.get_temp_dir()) <= sharing.LONGEST_FOLDER_BYTES


def test_a_folder_for_temporary_files_that_fits_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)
    sharing.shorten_sockets()
    assert "tempdir" not in multiprocessing.current_process()._config


def _hang(ready):
    sharing.obey_parent_alone()
    ready.send(True)
    os.read(os.pipe()[0], 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only there the sender of a signal is known")
def test_a_worker_that_hangs_is_ended_by_its_parent_and_by_nobody_else():
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.Process(target=_hang, args=(there,), daemon=True)
    worker.start()
    assert here.recv()
    subprocess.run(["sh", "-c", f"kill -TERM {worker.pid}"], check=True)
    while int(_status(worker.pid, "ShdPnd"), 16) >> (signal.SIGTERM - 1) & 1:
        time.sleep(0.01)
    worker.join(0.3)
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 128 + signal.SIGTERM


def _status(pid, name):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


class Broken(DummyClips):
    """A dataset whose third clip cannot be had."""

    def __init__(self, error: Exception) -> None:
        super().__init__(4, num_frames=2, size=16, num_classes=2, seed=0)
        self._error = error

    def __getitem__(self, place):
        if place == 2:
            raise self._error
        return super().__getitem__(place)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("disk  is gone", "in_use"), ("in_use", "disk  is gone")),
        (
            OSError(errno.EMFILE, "too many", "a.mp4"),
            ("file_system", "a.mp4  cannot be opened: too many files are open"),
        ),
        (FileNotFoundError(errno.ENOENT, "none", "/lists/a"), ("file_system", "/lists/a  does not exist")),
        (MemoryError("no room"), ("out_of_memory", "memory  no room. Raise train.micro_batches")),
    ],
)
def test_what_the_user_can_mend_is_told_alike_by_a_worker(error, told, num_workers):
    with pytest.raises(type(error)) as raised:
        list(loader.eval_loader(Broken(error), batch_size=1, num_workers=num_workers))
    found = describe(raised.value)
    assert (found["kind"], found["code"]) == ("user", told[0])
    assert found["message"].startswith(told[1])
    assert "Traceback" not in found["message"]


def test_a_bug_in_a_worker_keeps_its_stack():
    with pytest.raises(ValueError, match="no such thing") as raised:
        list(loader.eval_loader(Broken(ValueError("no such thing")), batch_size=1, num_workers=1))
    assert describe(raised.value)["kind"] == "bug"
    assert "in __getitem__" in str(raised.value)


def test_a_training_is_refused_before_it_begins_where_its_workers_will_find_no_semaphores(monkeypatch):
    asked = []
    monkeypatch.setattr(building, "has_semaphores", asked.append)
    videos = {"data__dummy": False, "data__val_list": "val.txt", "data__num_workers": 1, "launch__devices": 2}
    with pytest.raises(UserError, match=r"/dev/shm  has \d+ KiB free, .*--shm-size=64m.*data\.num_workers: 0"):
        building.refuse_lacking(small.settings(**videos), "train")
    building.refuse_lacking(small.settings(**videos), "evaluate")
    building.refuse_lacking(small.settings(**{**videos, "data__num_workers": 0}), "train")
    assert asked == [2 * 2 * 11]


def test_a_reader_that_is_not_there_is_told_before_anything_is_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    settings = small.settings_json(data__dummy=False, data__reader="torchcodec")
    for ask in (
        lambda: building.refuse_lacking(Settings.from_json(settings), "evaluate"),
        lambda: describe_models([settings]),
    ):
        with pytest.raises(UserError, match=r"data\.reader  is torchcodec, .*not installed.*pip install torchcodec"):
            ask()
