"""Cases of test_rank_training.py: trainings and evaluations through a session, the same on any number of ranks."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caches import NUM_CLIPS, extract, make_request, make_videos
from coldframe.errors import UserError
from coldframe.machine import ranks
from coldframe.session import Session
from coldframe.train.gradients import reduction
from small import settings_json

STEPS = 6
STILL = {"model__decoder__mlp_dropout": 0.0, "model__head__dropout": 0.0}  # nothing hangs on a shard's random stream
FOUR: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"train__clip_grad_norm": 0.5, "train__lr": 0.01},
    "mean": {"train__ema_decay": 0.8, "model__decoder__query_init": "normal"},
    "lost": {"train__lr": 1e30, "train__weight_decay": 0.0},  # diverges on the way
}
WHOLE = {"model__backbone__freeze": False, "train__backbone_lr": 1e-4, "train__ema_decay": 0.9}
CACHED = {**STILL, "features__form": "maps", "data__on_bad_video": "skip"}
MIXED = {"train__mixup": 0.4, "train__cutmix": 0.4}


def run(
    folder: Path,
    trials: dict[str, dict[str, Any]],
    lists: dict[str, str | None] | None = None,
    steps: int = STEPS,
    resume: str = "auto",
) -> dict[str, Any]:
    """Returns what a training tells: losses and norms of every step, and the digests of its checkpoint's files."""
    session = Session()
    configs = [
        {"name": name, "settings": changes if "data" in changes else settings_json(**changes)}
        for name, changes in trials.items()
    ]
    opened = session.open("train", configs, lists or {"train": None, "val": None}, None, str(folder), resume)
    told = session.advance(steps)
    path = Path(session.save()["path"])
    ranks.barrier()  # the first one writes
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.glob("*.safetensors")}
    session.close()
    ranks.barrier()
    return {
        "from": opened["step"],
        "clips": [step["clips"] for step in told["steps"]],
        "steps": [step["trials"] for step in told["steps"]],
        "bad": [video["path"] for video in told["bad"]],
        "dropped": [one["trial"] for one in told["dropped"]],
        "files": files,
    }


def split(num_shards: int, **changes: Any) -> dict[str, Any]:
    """Returns the changes with the micro-batches that make so many shards of eight clips on all ranks together."""
    return {"train__batch_size": 8, "train__micro_batches": num_shards // ranks.world_size(), **changes}


def cohort_of_two_shards(folder: Path) -> Any:
    return run(folder / "two", {name: split(2, **changes) for name, changes in FOUR.items()})


def cohort_of_four_shards(folder: Path) -> Any:
    trials = {name: split(4, train__steps=20, **FOUR[name]) for name in ("plain", "mean")}
    return run(folder / "four", trials, steps=20)


def mixed_of_two_shards(folder: Path) -> Any:
    return run(folder / "mixed", {"main": split(2, **MIXED)})


def whole_of_two_shards(folder: Path) -> Any:
    return run_in_parts(folder / "whole", {"main": split(2, **WHOLE)})


def whole_of_four_shards(folder: Path) -> Any:
    return run_in_parts(folder / "whole-four", {"main": split(4, **WHOLE)}, steps=2)


def whole_with_bad_videos(folder: Path) -> Any:
    changes, lists = listed(folder, "torn", **STILL, **WHOLE)
    return run_in_parts(folder / "whole-bad", {"main": changes}, lists)


def run_in_parts(*arguments: Any, **named: Any) -> Any:
    """The backbone is trained as well: its gradients go out in many parts while backward computes."""
    before, reduction.PART_BYTES = reduction.PART_BYTES, 4000
    try:
        return run(*arguments, **named)
    finally:
        reduction.PART_BYTES = before


def prepare(folder: Path) -> None:
    """Makes the videos, and a cache of them, before there are ranks."""
    (folder / "videos").mkdir()
    make_videos(folder / "videos")
    extract(*make_request(folder / "videos", folder / "cache", "torn", **CACHED))


def listed(folder: Path, name: str, **changes: Any) -> tuple[dict[str, Any], dict[str, str]]:
    lists = {kind: str(folder.parent / "videos" / f"{name}-{kind}.txt") for kind in ("train", "val")}
    return {"data__dummy": False, "data__seed": 5, **changes}, dict(lists)


def bad_videos(folder: Path) -> Any:
    """Four clips a batch: on four ranks one of them has none where its video is the bad one."""
    changes, lists = listed(folder, "torn", **STILL)
    return run(folder / "bad", {"main": changes}, lists)


def refused_videos(folder: Path) -> Any:
    changes, lists = listed(folder, "torn", data__on_bad_video="fail")
    return run(folder / "refused", {"main": changes}, lists)


def evaluation(folder: Path) -> Any:
    changes, lists = listed(folder, "torn", **STILL)
    return evaluate(settings_json(**changes), lists, folder / "evaluated")


def evaluate(settings: dict[str, Any], lists: dict[str, str], output: Path) -> Any:
    session = Session()
    session.open("evaluate", [{"name": "main", "settings": settings}], dict(lists), None, None)
    if ranks.is_first():
        output.mkdir()
    ranks.barrier()
    seen, bad, told = [], [], {"done": False}
    while not told["done"]:
        told = session.evaluate(0, str(output))
        seen.append(told["num_seen"])
        bad += told["bad"]
    ranks.barrier()
    session.close()
    with np.load(output / "scores.npz") as found:
        scores = {key: found[key] for key in ("scores", "labels", "indices")}
    files = sorted(file.name for file in output.iterdir())
    return {"scores": scores, "seen": seen, "bad": bad, "results": told["results"], "files": files}


def cached(folder: Path) -> Any:
    settings, lists = make_request(folder.parent / "videos", folder.parent / "cache", "torn", **CACHED)
    trained = run(folder / "cached", {"main": settings}, dict(lists))
    return trained, evaluate(settings, lists, folder / "cached-evaluated")


def stopped_with_two(folder: Path) -> Any:
    """Two ranks stop in the middle; any number goes on."""
    start = folder.parent / "stopped"
    if ranks.world_size() == 2:
        run(start, {"main": STILL}, steps=3)
    if ranks.is_first():
        shutil.copytree(start, folder / "resumed", symlinks=True)
    ranks.barrier()
    return run(folder / "resumed", {"main": STILL}, steps=3)


def reading_once(folder: Path) -> Any:
    """Only the first rank has the backbone's file; what the others have is its memory."""
    from safetensors.torch import save_file

    from coldframe.assembly import models
    from coldframe.settings import Settings

    wanted = settings_json(model__backbone__width=512, model__decoder__qkv_dim=16)
    file = folder / f"weights-{ranks.rank()}.safetensors"
    if ranks.is_first():
        with torch.device("cpu"):
            state = models._read_backbone(Settings.from_json(wanted), "fp32")[0].state_dict()
        save_file({name: tensor.clone() for name, tensor in state.items() if "ln_post" not in name}, file)
    wanted["model"]["backbone"]["weights"] = str(file)
    digests = []
    for freeze in (True, False):
        wanted["model"]["backbone"]["freeze"] = freeze
        backbone, digest, _ = models.build_backbone(Settings.from_json(wanted), torch.device("cpu"), "fp32")
        is_trained = [parameter.requires_grad for parameter in backbone.parameters()]
        digests.append((digest, models.hash_weights(backbone), all(is_trained), any(is_trained)))
        ranks.barrier()  # all have looked at every page
        if freeze:
            places = re.findall(r"memfd:coldframe.*?\nRss: +(\d+) kB.*?Private_Dirty: +(\d+) kB", _maps(), re.S)
            mapped = [tuple(map(int, place)) for place in places]
        ranks.barrier()
    open_files = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return digests, mapped, [name for name in open_files if "memfd:coldframe" in name]


def _maps() -> str:
    return Path("/proc/self/smaps").read_text()


def other_lists(folder: Path) -> Any:
    """The last rank has another list, as a machine with an old copy of it would."""
    changes, lists = listed(folder, "late" if ranks.rank() == ranks.world_size() - 1 else "torn")
    session = Session()
    try:
        session.open("train", [{"name": "main", "settings": settings_json(**changes)}], lists, None, None)
    except UserError as error:
        return str(error)
    finally:
        session._running = None


CASES = {
    "cohort_of_two_shards": ((1, 2), cohort_of_two_shards),
    "cohort_of_four_shards": cohort_of_four_shards,
    "mixed_of_two_shards": ((1, 2), mixed_of_two_shards),
    "whole_of_two_shards": ((1, 2), whole_of_two_shards),
    "whole_of_four_shards": whole_of_four_shards,
    "whole_with_bad_videos": whole_with_bad_videos,
    "bad_videos": bad_videos,
    "refused_videos": refused_videos,
    "evaluation": evaluation,
    "cached": cached,
    "stopped_with_two": stopped_with_two,
    "reading_once": reading_once,
    "other_lists": ((2,), other_lists),
}
assert NUM_CLIPS == 7, "the bad video is the fourth of eight"
