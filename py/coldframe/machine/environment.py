"""What this machine has: processor, devices, memory, packages; how many loader workers it bears."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from coldframe.machine.device import cpu_has_bf16
from coldframe.machine.sharing import count_semaphores, has_semaphores


def describe_environment(decoder: dict[str, Any]) -> dict[str, Any]:
    """Returns versions, devices, processor and free memory (bytes) and disk (bytes), all plain JSON.

    `decoder` is what video/codecs.py says, which stands above this room.
    """
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
        "has_semaphores": has_semaphores(2 * count_semaphores(count_cpus())),
        "shared_memory_bytes": shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        "decoder": decoder,
        "cuda": torch.version.cuda,
        "gpu_driver": Path("/proc/driver/nvidia/version").exists(),
        "devices": [_describe_gpu(index) for index in range(torch.cuda.device_count())],
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "numa": find_numa([_find_bus(index) for index in range(torch.cuda.device_count())]),
    }


def _describe_gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _find_bus(index: int) -> str:
    """Returns where a GPU sits, as `0000:3b:00.0`; older versions of PyTorch do not tell."""
    properties = torch.cuda.get_device_properties(index)
    domain, bus, device = (getattr(properties, f"pci_{name}_id", 0) for name in ("domain", "bus", "device"))
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"


def find_numa(buses: list[str], root: Path = Path("/sys")) -> list[dict[str, Any]]:
    """Returns the parts of a machine that have memory of their own: cores, and by index the GPUs near to them."""
    near = [_read(root / "bus" / "pci" / "devices" / bus / "numa_node") for bus in buses]
    nodes = sorted(
        (int(folder.name[len("node") :]), folder)
        for folder in (root / "devices" / "system" / "node").glob("node[0-9]*")
    )
    return [
        {"cores": _read(folder / "cpulist"), "gpus": [index for index, node in enumerate(near) if node == str(number)]}
        for number, folder in nodes
    ]


def _read(file: Path) -> str:
    """Returns the text, empty where there is none."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def count_cpus() -> int:
    """Returns how many processors this process may use: of a local sweep, a slot's share (src/executors/local.ts)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("COLDFRAME_CPUS", "")
    return min(cpus, int(share)) if share.isdecimal() and int(share) > 0 else cpus


def count_workers(wanted: int, num_sharing: int = 1) -> int:
    """Returns the loader workers of a process for `data.num_workers`: at most its share of the processors, which so
    many processes have. Clips are the same for any number, and more would only take turns, and memory."""
    return min(wanted, max(1, count_cpus() // num_sharing))


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
