"""Exported models where it counts: the demo's trained model on all of its validation clips, and ViT-B/16 with its three
temporal modules, within the memory of a small machine. `make test-export` makes the demo's clips.

DEMO_RUN=FOLDER names a finished run of configs/demo.yaml; else it is trained, once, under .cache.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
MOST_BYTES = 16 * 2**30
LARGEST_DIFFERENCE = 1e-4


def run(*words: str | Path) -> dict[str, Any]:
    """Returns the last event of a command that has to succeed."""
    program = [str(PROJECT / "scripts" / "coldframe"), *map(str, words), "--json"]
    ended = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert ended.returncode == 0, ended.stderr
    event: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return event


def test_onnx_and_torch_agree_on_all_clips_that_the_demo_is_evaluated_on(tmp_path: Path) -> None:
    run_dir = Path(os.environ.get("DEMO_RUN") or PROJECT / ".cache" / "demo-run")
    if "DEMO_RUN" not in os.environ:  # a finished one is left as it is
        run("train", "--config", PROJECT / "configs" / "demo.yaml", "--run-dir", run_dir)
    event = run("export", "onnx", run_dir, "--output", tmp_path / "demo.onnx")
    print(event)
    assert (event["num_compared"], event["is_noise"], event["agreement"]) == (200, False, 1)
    assert event["largest_difference"] < LARGEST_DIFFERENCE
    assert event["top1"][0] == event["top1"][1] > 0.9


def test_vit_b16_with_all_temporal_modules_is_exported_within_16_gb(tmp_path: Path) -> None:
    sets = {
        **{"data.dummy": "true", "data.train_list": "null", "data.val_list": "null", "data.num_workers": "0"},
        **{"model.backbone.weights": "random", "model.backbone.weights_sha256": "null"},
        **{"train.steps": "1", "train.batch_size": "1", "train.precision": "fp32", "launch.device": "cpu"},
    }
    changes = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    config, run_dir = PROJECT / "configs" / "k400" / "vitb16_8x16.yaml", tmp_path / "run"
    run("train", "--config", config, "--run-dir", run_dir, *changes)
    stored = json.loads((run_dir / "config.json").read_text())
    assert stored["model"]["temporal"] == {"conv": True, "position_embedding": True, "cross_attention": True}
    event = run("export", "onnx", run_dir, "--output", tmp_path / "large.onnx")
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # of the largest process so far
    print(event, f"peak {peak_bytes / 2**30:.2f} GiB")
    assert event["largest_difference"] < LARGEST_DIFFERENCE
    assert event["size_bytes"] > 400 * 2**20
    assert peak_bytes < MOST_BYTES
