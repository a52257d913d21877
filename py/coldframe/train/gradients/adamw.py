"""torch's AdamW without torch's compiler, which would cost more than a second of every start.

torch's optimizers import it at their first call, 800 modules, to say that they are not to be compiled. The
arithmetic is torch's own, unwrapped.
"""

from __future__ import annotations

from inspect import unwrap

import torch
from torch.optim.optimizer import Optimizer


class AdamW(torch.optim.AdamW):
    """The same optimizer: the same numbers, state and hooks."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)
