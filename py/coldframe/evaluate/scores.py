"""Reads the scores that an evaluation left, for whatever looks at them afterwards. Needs numpy alone.

Shapes: N videos; K classes
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coldframe.errors import UserError


def read_scores(file: str | Path) -> dict[str, npt.NDArray[Any]]:
    """Returns scores (N, K), labels (N,), of videos with several (N, K), the indices (N,) of the videos in their list,
    and, but of an older version, their paths (N,). Raises UserError where it is no such file."""
    try:
        with np.load(file, allow_pickle=False) as table:
            named = {"paths": table["paths"]} if "paths" in table else {}
            return {key: table[key] for key in ("scores", "labels", "indices")} | named
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}  is no file of scores that `evaluate` wrote: {error}") from error
