"""Which device and precision to use. Forecasts ask too, so torch, which takes seconds to import, is asked last."""

from __future__ import annotations

import platform
from pathlib import Path

from coldframe.errors import UserError

# What the drivers of NVIDIA (on Jetson: nvmap; under WSL: dxg) and AMD show. Without any, torch would see no GPU.
DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia", "/dev/nvmap", "/dev/dxg", "/dev/kfd")

BF16_CAPABILITY = (8, 0)  # Ampere


def choose_device(wanted: str) -> str:
    """Returns `cpu` or such as `cuda:0` for `launch.device`. Raises UserError when CUDA is wanted and PyTorch sees
    none."""
    if wanted == "cpu" or (wanted == "auto" and not any(Path(driver).exists() for driver in DRIVERS)):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        _refuse_few(torch.cuda.device_count())
        return f"cuda:{torch.cuda.current_device()}"
    if wanted == "auto":
        return "cpu"
    raise UserError(explain_lack(wanted) or "")


def _refuse_few(num_gpus: int) -> None:
    """Raises UserError where ranks of this machine would share a GPU, which NCCL refuses in words of its own."""
    from coldframe.machine import ranks

    if ranks.local_world_size() > num_gpus:
        raise UserError(
            f"launch.devices is {ranks.local_world_size()}, and PyTorch sees {num_gpus} GPU{'s'[: num_gpus != 1]} on "
            f"{platform.node()}. Each process needs one of its own: set launch.devices to {num_gpus} or fewer, as "
            "train.batch_size allows."
        )


def explain_lack(wanted: str) -> str | None:
    """Returns why this machine cannot be what `launch.device` names, None where it can."""
    if wanted != "cuda":
        return None
    import torch

    if torch.cuda.is_available():
        return None
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return (
        f"launch.device is cuda, and PyTorch {torch.__version__} ({built}) sees no GPU. "
        "Set launch.device: cpu, or install a CUDA build: make setup TORCH=..."
    )


def choose_precision(wanted: str, device: str) -> tuple[str, list[str]]:
    """Returns fp32, bf16 or fp16 for `train.precision`, and notes for the user. Raises UserError for fp16 on a CPU.

    auto is upstream's fp16 on CUDA and fp32 on a CPU.
    """
    on_cpu = device == "cpu"
    if wanted == "auto":
        return ("fp32" if on_cpu else "fp16"), []
    if wanted == "fp16" and on_cpu:
        raise UserError("train.precision is fp16 and the device is the CPU. Allowed there: fp32, bf16, auto.")
    if wanted == "bf16" and on_cpu and not cpu_has_bf16():
        return wanted, ["train.precision is bf16, and this CPU has no bfloat16 instructions: fp32 will be much faster."]
    if wanted == "bf16" and not on_cpu:
        _check_bf16()
    return wanted, []


def plan_device(device: str, precision: str) -> tuple[str, str]:
    """Returns device and precision for a forecast, as they are said: the plan may be for another machine. `auto` alone
    asks this one."""
    place = "cuda" if device == "cuda" else choose_device(device)
    if precision != "auto":
        return place, precision
    return place, "fp32" if place == "cpu" else "fp16"


def cpu_has_bf16() -> bool:
    """Returns whether this processor multiplies bfloat16 itself; without AVX512_BF16 or AMX it is emulated, slowly."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _check_bf16() -> None:
    import torch

    # Older ones do it by emulation, which torch calls supported. ROCm numbers its devices otherwise, and all have it.
    major, minor = torch.cuda.get_device_capability()
    if torch.version.hip is None and (major, minor) < BF16_CAPABILITY:
        raise UserError(
            f"train.precision is bf16, and {torch.cuda.get_device_name()} (compute capability {major}.{minor}) has no "
            "bfloat16 arithmetic, which begins with 8.0: it would be emulated, slowly. Use fp16 or fp32."
        )
