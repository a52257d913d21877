"""Device and precision, with and without a GPU: torch is asked where its answer counts, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coldframe import device
from coldframe.errors import UserError


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
    answer(monkeypatch, is_available=True, current_device=1)
    assert (device.choose_device("auto"), device.choose_device("cuda")) == ("cuda:1", "cuda:1")
    answer(monkeypatch, is_available=False)
    assert device.choose_device("auto") == "cpu"


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
    answer(monkeypatch, is_bf16_supported=True)
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: True)
    assert device.choose_precision(wanted, place) == (chosen, [])


def test_a_precision_that_the_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, is_bf16_supported=False, get_device_name="Tesla P4")
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: False)
    with pytest.raises(UserError, match=r"fp16 and the device is the CPU. Allowed there: fp32, bf16, auto"):
        device.choose_precision("fp16", "cpu")
    with pytest.raises(UserError, match=r"bf16, and Tesla P4 has none. Use fp16 or fp32"):
        device.choose_precision("bf16", "cuda:0")
    _, notes = device.choose_precision("bf16", "cpu")
    assert notes == ["train.precision is bf16, and this CPU has no bfloat16 instructions: fp32 will be much faster."]
