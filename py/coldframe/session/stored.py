"""Features on the disk, as the session uses them: whether a cache serves, training on what it will hold, and features
for other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coldframe.assembly import batches, models
from coldframe.cache.read import open_cache
from coldframe.cache.write import Extraction
from coldframe.data.labels import stack_labels
from coldframe.evaluate.export.features import Choice, FeatureExport
from coldframe.session.running import Running
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial


def check_features(settings: list[Settings], lists: dict[str, str | None]) -> dict[str, Any]:
    """Returns what the feature cache of these settings holds. Raises UserError where `open` would refuse it."""
    _, digest, _ = models.build_backbone(settings[0], torch.device("cpu"), "fp32")
    return open_cache(settings, digest, lists).describe()


def train_on(extraction: Extraction, stored_NS: Tensor) -> Callable[[], object]:
    """Returns what trains one step on rows as the cache will hold them, to be timed."""
    settings, device, precision = extraction.settings, extraction.device, extraction.precision
    trial = build_trial("main", settings, extraction.backbone, device, precision)
    cohort = Cohort([trial], extraction.stored_features(), device, precision)
    labels = stack_labels([0] * len(stored_NS), batches.num_labels(settings)).to(device)
    return lambda: cohort.step(0, stored_NS.to(device), labels)


def start_export(running: Running, folder: Path, choice: Choice) -> FeatureExport:
    """Returns what writes features of the list that was opened, one view of each clip."""
    list_file = running.lists["val"]
    assert list_file is not None
    found, _ = batches.evaluation_batches(running.settings, list_file, running.device)
    return FeatureExport(running.cohort, running.settings, found, list_file, folder, choice)
