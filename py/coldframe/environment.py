"""The machine: what it has, and the lock of a run folder."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import shutil
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch

from .device import cpu_has_bf16
from .errors import UserError
from .reader import find_torchcodec_problem

LOCK_WAIT_SECONDS = 10.0


def describe_environment() -> dict[str, Any]:
    """Returns versions, devices, processor and free memory (bytes) and disk (bytes), all plain JSON."""
    packages = ("torch", "av", "numpy", "pillow", "safetensors", "tensorboard")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "num_cpus": count_cpus(),
        "num_threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu_has_bf16": cpu_has_bf16(),
        "memory_bytes": _memory_bytes(),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "shared_memory_bytes": shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        "decoder": _describe_decoder(),
        "cuda": torch.version.cuda,
        "gpu_driver": Path("/proc/driver/nvidia/version").exists(),
        "devices": [_describe_gpu(index) for index in range(torch.cuda.device_count())],
    }


def _describe_gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _describe_decoder() -> dict[str, Any]:
    """Returns FFmpeg's version, the usual codecs it cannot decode, and what went wrong with a round trip of H.264."""
    missing = [name for name in ("h264", "hevc", "vp9", "av1", "mpeg4") if name not in av.codecs_available]
    error = None
    try:
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 25)
        packets = encoder.encode(av.VideoFrame(64, 48, "yuv420p")) + encoder.encode(None)
        decoder = av.CodecContext.create("h264", "r")
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        assert len(frames) == 1, f"{len(frames)} frames came back"
    except (av.FFmpegError, ValueError, AssertionError) as problem:
        error = f"H.264 does not survive a round trip: {problem}"
    return {
        "ffmpeg": av.ffmpeg_version_info,
        "missing": missing,
        "error": error,
        "torchcodec_problem": find_torchcodec_problem(),
    }


def count_cpus() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe_memory(device: torch.device) -> dict[str, int]:
    """Returns bytes: the peak of this process, on CUDA of its tensors; that of its children; and what is free now.

    Children share pages with each other and with this process, so their sum says more than they take.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return {"peak_bytes": torch.cuda.max_memory_reserved(device), "workers_bytes": 0, "free_bytes": free}
    peaks = [_read_status(f"/proc/{pid}/status", "VmHWM") for pid in _children()]
    return {
        "peak_bytes": _read_status("/proc/self/status", "VmHWM"),
        "workers_bytes": sum(peaks),
        "free_bytes": min(_read_status("/proc/meminfo", "MemAvailable"), _free_in_group()),
    }


def _children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def _read_status(file: str, name: str) -> int:
    """Returns a line such as `VmHWM:   1024 kB` in bytes, 0 where there is none."""
    try:
        lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0  # a child that has just left, or another system than Linux
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def _free_in_group() -> int:
    """Returns what a container or Slurm job (cgroup v2) may still take; without such a limit, the whole memory."""
    try:
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().split("::/")[-1].strip()
        limit = (group / "memory.max").read_text().strip()
        return _memory_bytes() if limit == "max" else int(limit) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return _memory_bytes()


class RunLock:
    """Holds a run folder against a second writer for as long as the process lives.

    The kernel drops the lock with the process, so that no stale lock survives a kill. A process that has just been
    killed may need a moment to go, hence the wait. Raises UserError when another process keeps the folder.
    """

    def __init__(self, run_dir: Path, chosen_by: str = "--run-dir") -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._file = (run_dir / "lock").open("a+", encoding="utf-8")
        end = time.monotonic() + LOCK_WAIT_SECONDS
        while not self._try():
            if time.monotonic() > end:
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                raise UserError(
                    f"{run_dir}  is in use by {holder}. Wait for it, stop it, or choose another {chosen_by}.",
                    code="in_use",
                )
            time.sleep(0.1)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}")
        self._file.flush()

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Lets the next writer in."""
        self._file.close()
