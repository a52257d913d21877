"""The demo's clips with several labels: made, trained on and told apart, with thresholds chosen on other clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import make_demo_labels as demo
from coldframe.session import Session
from small import settings_json

COUNTS = {"train": 160, "select": 60, "val": 40}


def read_lists(out: Path) -> dict[str, str]:
    """Writes the lists as TypeScript hands them over, and returns them."""
    lists = {}
    for split in COUNTS:
        pairs = [line.split(" ") for line in (out / f"{split}.txt").read_text().splitlines()]
        lists[split] = str(out / f"{split}.tsv")
        Path(lists[split]).write_text("".join(f"{out / path}\t{label}\n" for path, label in pairs))
    return lists


def evaluate(
    mode: str, settings: dict[str, Any], lists: dict[str, str | None], run_dir: Path, output: Path
) -> dict[str, Any]:
    """Trains, or takes the last checkpoint, and returns what the trial is worth on the list to evaluate on."""
    session = Session()
    is_new = mode == "train"
    source = "never" if is_new else str(run_dir / "checkpoints" / "latest")
    session.open(mode, [{"name": "main", "settings": settings}], lists, None, str(run_dir) if is_new else None, source)
    if is_new:
        session.advance(settings["train"]["steps"])
        session.save()
    result: dict[str, Any] = session.evaluate(1000, str(output))["results"]["main"]
    session.close()
    return result


@pytest.mark.slow
def test_clips_of_up_to_two_colours_are_told_apart(tmp_path: Path) -> None:
    demo.make_data_set(tmp_path, COUNTS, num_workers=2)
    lists = read_lists(tmp_path)
    settings = settings_json(
        data__dummy=False,
        data__labels="multi",
        data__num_classes=len(demo.CLASSES),
        data__num_frames=2,
        data__stride=4,
        data__size=64,
        data__train_list=lists["train"],
        data__val_list=lists["select"],
        data__features=str(tmp_path / "features"),
        model__backbone__input_size=64,
        model__backbone__width=128,
        model__backbone__num_heads=4,
        model__decoder__kind="linear",
        model__decoder__num_layers=2,
        model__decoder__pool="patches",
        train__steps=1000,
        train__batch_size=16,
        train__lr=5e-2,
        eval__temporal_views=1,
    )
    builder = Session()
    builder.forecast_features(settings, {"train": lists["train"], "val": lists["select"]})
    while not builder.build_features(1000)["done"]:
        pass
    builder.close()
    chosen = evaluate(
        "train", settings, {"train": lists["train"], "val": lists["select"]}, tmp_path / "run", tmp_path / "chosen"
    )
    assert chosen["map"] > 0.9
    settings["data"] |= {"val_list": lists["val"], "features": None}
    tested = evaluate("evaluate", settings, {"train": None, "val": lists["val"]}, tmp_path / "run", tmp_path / "tested")
    assert tested["map"] > 0.9
    assert tested["f1"] > 0.75
    assert tested["thresholds"] != chosen["thresholds"]
