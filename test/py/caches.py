"""Feature caches for tests: a few small videos, and building, training and evaluating as a session does it."""

from pathlib import Path
from typing import Any

import numpy as np

from clips import make_clip
from coldframe.cache.write import Extraction
from coldframe.session import Session
from coldframe.settings import Settings
from small import settings_json

NUM_CLIPS, NUM_VIEWS = 7, 3


def make_videos(folder: Path) -> Path:
    """Returns the folder, now with videos in lists for training and evaluation: `good`; `torn` with one more within
    that cannot be read; `late` with that one at the end."""
    paths = [make_clip(folder / f"{i}.mp4", num_frames=14 + i, seed=i, size=(48, 32)) for i in range(NUM_CLIPS)]
    (folder / "bad.mp4").write_text("no video")
    write_lists(folder, "good", paths)
    write_lists(folder, "torn", [*paths[:3], folder / "bad.mp4", *paths[3:]])
    write_lists(folder, "late", [*paths, folder / "bad.mp4"])
    return folder


def write_lists(folder: Path, name: str, paths: list[Path]) -> None:
    for kind in ("train", "val"):
        lines = [f"{path}\t{i % 5}\n" for i, path in enumerate(paths)]
        (folder / f"{name}-{kind}.txt").write_text("".join(lines))


def make_request(
    folder: Path, cache: Path, name: str = "good", **changes: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns settings and lists, as TypeScript would hand them over."""
    lists = {kind: str(folder / f"{name}-{kind}.txt") for kind in ("train", "val")}
    common: dict[str, Any] = {
        "data__dummy": False,
        "data__train_list": lists["train"],
        "data__val_list": lists["val"],
        "data__augment": "rand-m7-n4-mstd0.5-inc1",
        "data__features": str(cache),
        "data__seed": 5,
        "features__precision": "fp32",
        "features__train_views": NUM_VIEWS,
        "eval__spatial_views": 3,
    }
    return settings_json(**{**common, **changes}), lists


def extract(settings: dict[str, Any], lists: dict[str, str]) -> dict[str, Any]:
    extraction = Extraction(Settings.from_json(settings), dict(lists))
    try:
        return extraction.advance(1000, lambda: None)
    finally:
        extraction.close()


def train(settings: dict[str, Any], lists: dict[str, str], step: int = 0) -> list[float]:
    session = Session()
    session.open("train", [{"name": "main", "settings": settings}], dict(lists), None, None)
    session.running.step = step
    losses = [step["trials"]["main"]["loss"] for step in session.advance(6)["steps"]]
    session.close()
    return losses


def evaluate(settings: dict[str, Any], lists: dict[str, str], output: Path) -> dict[str, np.ndarray]:
    session = Session()
    session.open("evaluate", [{"name": "main", "settings": settings}], dict(lists), None, None)
    while not session.evaluate(100, str(output))["done"]:
        pass
    session.close()
    with np.load(output / "scores.npz") as scores:
        return {"scores": scores["scores"], "labels": scores["labels"], "indices": scores["indices"]}


def shard_of(cache: Path, role: str) -> Path:
    """Returns the only shard of the list to train or to evaluate on."""
    (shard,) = cache.glob(f"{role}-*.safetensors")
    return shard


def files_of(cache: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in cache.iterdir() if file.name != "lock"}
