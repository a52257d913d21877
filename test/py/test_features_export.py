"""`features export`: the rows are what the backbone gives of the clips that clips.csv names, in either form."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from coldframe.assembly.models import build_backbone
from coldframe.data.clips import Batch, normalize_
from coldframe.errors import UserError
from coldframe.evaluate.export.features import Choice, FeatureExport
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial
from coldframe.video.frames import BadVideo
from small import settings

CPU = torch.device("cpu")
LABELS = [3, 0, 4, 1, 2]
BROKEN = 2  # the place of a clip that cannot be read
GOOD = [place for place in range(len(LABELS)) if place != BROKEN]


def make_clips(wanted: Settings) -> Tensor:
    data = wanted.data
    generator = torch.Generator().manual_seed(0)
    return torch.rand(len(LABELS), 1, 3, data.num_frames, data.size, data.size, generator=generator) * 255


def make_batches(clips: Tensor, labels: Tensor) -> Iterator[Batch]:
    """Two clips a batch, as a loader gives them; those of the second batch are one."""
    for places in ([0, 1], [BROKEN, 3], [4]):
        good = [place for place in places if place != BROKEN]
        bad = [BadVideo(f"/clips/{BROKEN}.mp4", "is no video")] if BROKEN in places else []
        yield Batch(clips[good].clone(), labels[good], torch.tensor(good), bad)


def export(folder: Path, choice: Choice, **changes: Any) -> tuple[dict[str, Any], Tensor, Cohort]:
    wanted = settings(**changes)
    is_multi = wanted.data.labels == "multi"
    backbone, _, _ = build_backbone(wanted, CPU, "fp32")
    cohort = Cohort([build_trial("main", wanted, backbone, CPU, "fp32")], backbone, CPU, "fp32")
    clips = make_clips(wanted)
    labels = torch.eye(5, dtype=torch.bool)[LABELS] if is_multi else torch.tensor(LABELS)
    lines = [f"/clips/{i}.mp4\t{label}\t{i}\t{i + 0.5}" for i, label in enumerate(LABELS)]
    list_file = folder / "list.tsv"
    list_file.write_text("\n".join(lines), encoding="utf-8")
    target = folder / "out"
    target.mkdir()
    work = FeatureExport(cohort, wanted, make_batches(clips, labels), str(list_file), target, choice)
    return work.advance(60), clips, cohort


def compute(cohort: Cohort, clips: Tensor, layer: int) -> Tensor:
    """Returns the tokens (N, T, L, C) after a block, one clip at a time."""
    backbone: Any = cohort.backbone
    mean, std = cohort.trials[0].settings.data.mean, cohort.trials[0].settings.data.std
    found = []
    for place in GOOD:
        tokens = backbone.enter(normalize_(clips[place].clone(), mean, std))
        for i in range(-backbone.num_layers, layer - backbone.num_layers):
            tokens, _ = backbone.block(i, tokens, False)
        found.append(tokens)
    return torch.cat(found).detach()


def read(folder: Path, form: str) -> dict[str, NDArray[Any]]:
    if form == "safetensors":
        return load_file(folder / "features.safetensors")
    return {file.stem: np.load(file) for file in folder.glob("*.npy")}


@pytest.mark.parametrize(("layer", "per", "form"), [(0, "frame", "npy"), (2, "clip", "safetensors")])
def test_rows_are_the_tokens_of_the_clips_that_could_be_read(tmp_path: Path, layer: int, per: str, form: str) -> None:
    done, clips, cohort = export(tmp_path, Choice(layer, False, per, form))
    tokens_NTLC = compute(cohort, clips, layer)
    wanted = {"class": tokens_NTLC[:, :, 0], "patches": tokens_NTLC[:, :, 1:].mean(2)}
    found = read(tmp_path / "out", form)
    assert sorted(found) == ["class", "labels", "patches"]
    for name, frames_NTC in wanted.items():
        expected = frames_NTC.mean(1) if per == "clip" else frames_NTC
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-5, atol=1e-6)
        assert done["tensors"][name] == list(expected.shape)
    assert found["labels"].tolist() == [LABELS[place] for place in GOOD]
    assert (done["done"], done["num_seen"], done["num_total"]) == (True, 5, 5)
    assert done["bad"] == [{"path": "/clips/2.mp4", "reason": "is no video"}]
    with (tmp_path / "out" / "clips.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(int(row["row"]), row["path"], row["start"], row["end"], row["label"]) for row in rows] == [
        (row, f"/clips/{place}.mp4", str(place), f"{place}.5", str(LABELS[place])) for row, place in enumerate(GOOD)
    ]
    named = ["features.safetensors"] if form == "safetensors" else ["class.npy", "labels.npy", "patches.npy"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(["clips.csv", *named])


def test_the_last_block_from_the_end_with_the_final_norm_and_several_labels(tmp_path: Path) -> None:
    _, clips, cohort = export(tmp_path, Choice(-1, True, "clip", "safetensors"), data__labels="multi")
    found = read(tmp_path / "out", "safetensors")
    tokens_NTLC = compute(cohort, clips, 3)
    normed = torch.nn.functional.layer_norm(tokens_NTLC, tokens_NTLC.shape[-1:])  # that of random weights: 1 and 0
    np.testing.assert_allclose(found["class"], normed[:, :, 0].mean(1).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["patches"], normed[:, :, 1:].mean((1, 2)).numpy(), rtol=1e-4, atol=1e-5)
    assert (found["labels"].dtype, found["labels"].argmax(1).tolist()) == (bool, [LABELS[place] for place in GOOD])


def test_a_norm_that_the_weights_came_without_is_refused(tmp_path: Path) -> None:
    _, clips, cohort = export(tmp_path, Choice(-1, False, "clip", "npy"))
    backbone: Any = cohort.backbone
    backbone.has_ln_post = False
    batches, labels = make_batches(clips, torch.tensor(LABELS)), str(tmp_path / "list.tsv")
    choice = Choice(-1, True, "clip", "npy")
    with pytest.raises(UserError, match=r"--norm .*came without one"):
        FeatureExport(cohort, cohort.trials[0].settings, batches, labels, tmp_path, choice)
