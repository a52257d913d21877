"""What numbers a model computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Returns the context in which torch computes in a precision; in fp32 it is left as it is."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])
