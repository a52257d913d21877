"""Device and precision, with and without a GPU: torch is asked where its answer counts, and only there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from coldframe.errors import UserError
from coldframe.machine import device, environment, meeting, ranks


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where a driver would show itself; nothing is there."""
    path = tmp_path / "driver"
    monkeypatch.setattr(device, "DRIVERS", (str(path),))
    return path


def answer(monkeypatch: pytest.MonkeyPatch, **answers: object) -> list[str]:
    """Makes torch.cuda give these answers, and returns the list of what it is asked from now on."""
    asked: list[str] = []
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda name=name, value=value: asked.append(name) or value)
    return asked


def test_without_a_driver_or_with_cpu_torch_is_not_asked(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, is_available=True, current_device=1)
    assert (device.choose_device("auto"), device.choose_device("cpu")) == ("cpu", "cpu")
    driver.touch()
    assert device.choose_device("cpu") == "cpu"
    assert asked == []


def test_with_a_driver_torch_decides(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.touch()
    answer(monkeypatch, is_available=True, current_device=1, device_count=2)
    assert (device.choose_device("auto"), device.choose_device("cuda")) == ("cuda:1", "cuda:1")
    answer(monkeypatch, is_available=False)
    assert device.choose_device("auto") == "cpu"


def test_two_ranks_of_a_machine_with_one_gpu_are_refused(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.touch()
    answer(monkeypatch, is_available=True, current_device=0, device_count=1)
    monkeypatch.setattr(ranks, "local_world_size", lambda: 2)
    for wanted in ("auto", "cuda"):
        with pytest.raises(UserError, match=r"^launch\.devices is 2, and PyTorch sees 1 GPU on \S+\. .* to 1 or fewer"):
            device.choose_device(wanted)
    assert device.choose_device("cpu") == "cpu"
    monkeypatch.setattr(ranks, "local_world_size", lambda: 1)
    assert device.choose_device("cuda") == "cuda:0"


@pytest.mark.parametrize(("version", "built"), [("12.8", "built for CUDA 12.8"), (None, "built without CUDA")])
def test_cuda_without_a_gpu_is_refused(
    version: str | None, built: str, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, is_available=False)
    monkeypatch.setattr(torch.version, "cuda", version)
    with pytest.raises(UserError, match="sees no GPU") as refused:
        device.choose_device("cuda")
    assert str(refused.value) == (
        f"launch.device is cuda, and PyTorch {torch.__version__} ({built}) sees no GPU. "
        "Set launch.device: cpu, or install a CUDA build: make setup TORCH=..."
    )


@pytest.mark.parametrize(
    ("wanted", "place", "chosen"),
    [
        ("auto", "cpu", "fp32"),
        ("auto", "cuda:0", "fp16"),
        ("fp32", "cpu", "fp32"),
        ("fp32", "cuda:0", "fp32"),
        ("fp16", "cuda:0", "fp16"),
        ("bf16", "cuda:0", "bf16"),
        ("bf16", "cpu", "bf16"),
    ],
)
def test_precisions(wanted: str, place: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, get_device_capability=(8, 6))
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: True)
    assert device.choose_precision(wanted, place) == (chosen, [])


@pytest.mark.parametrize(
    ("name", "capability", "has"),
    [
        ("Tesla V100-SXM2-16GB", (7, 0), False),
        ("Tesla T4", (7, 5), False),
        ("NVIDIA A100-SXM4-40GB", (8, 0), True),
        ("NVIDIA H100 80GB HBM3", (9, 0), True),
    ],
)
def test_bf16_takes_a_gpu_that_computes_in_it(
    name: str, capability: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, is_bf16_supported=True, get_device_name=name, get_device_capability=capability)
    if has:
        assert device.choose_precision("bf16", "cuda:0") == ("bf16", [])
        return
    with pytest.raises(UserError, match=rf"bf16, and {name} \(compute capability 7\.\d\) .* Use fp16 or fp32"):
        device.choose_precision("bf16", "cuda:0")


def test_a_plan_takes_device_and_precision_as_they_are_said(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not this machine's, which has no GPU, but that of another one."""
    asked = answer(monkeypatch, is_available=False)
    assert device.plan_device("cuda", "auto") == ("cuda", "fp16")
    assert device.plan_device("cuda", "bf16") == ("cuda", "bf16")
    assert device.plan_device("auto", "auto") == ("cpu", "fp32")
    assert device.plan_device("cpu", "bf16") == ("cpu", "bf16")
    assert asked == []


def test_a_precision_that_the_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: False)
    with pytest.raises(UserError, match=r"fp16 and the device is the CPU. Allowed there: fp32, bf16, auto"):
        device.choose_precision("fp16", "cpu")
    _, notes = device.choose_precision("bf16", "cpu")
    assert notes == ["train.precision is bf16, and this CPU has no bfloat16 instructions: fp32 will be much faster."]


def test_loader_workers_are_at_most_the_cores_of_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for share, wanted, given in (("", 12, 8), ("", 0, 0), ("", 3, 3), ("2", 12, 2), ("16", 12, 8), ("0", 12, 8)):
        monkeypatch.setenv("COLDFRAME_CPUS", share)
        assert environment.count_workers(wanted) == given, (share, wanted)


def test_parts_of_a_machine_with_memory_of_their_own_and_the_gpus_near_to_them(tmp_path: Path) -> None:
    buses = ["0000:3b:00.0", "0000:af:00.0", "0000:b0:00.0", "0000:ff:00.0"]
    for bus, node in zip(buses, ("0", "1", "1", "-1"), strict=True):  # -1: the firmware does not say
        folder = tmp_path / "bus" / "pci" / "devices" / bus
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{node}\n")
    for number in (0, 1, 10):
        folder = tmp_path / "devices" / "system" / "node" / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{8 * number}-{8 * number + 7}\n")
    assert environment.find_numa(buses, tmp_path) == [
        {"cores": "0-7", "gpus": [0]},
        {"cores": "8-15", "gpus": [1, 2]},
        {"cores": "80-87", "gpus": []},
    ]
    assert environment.find_numa(["0000:00:00.0"], tmp_path / "elsewhere") == []


def test_processes_that_cannot_meet_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-net")
    (meeting_of_two,) = meeting.try_meeting()
    assert (meeting_of_two["backend"], meeting_of_two["num_processes"]) == ("gloo", 2)
    assert "no-such-net" in meeting_of_two["problem"]
