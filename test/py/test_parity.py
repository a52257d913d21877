"""The parity tool on upstream's fixtures: everything holds, and it notices when a fixture or our code changes."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

import coldframe.backbones.clip.model
import coldframe.backbones.clip.weights
import coldframe.data.augment
import coldframe.data.clips
import coldframe.decoders.evl.motion
import coldframe.train.trial
import coldframe.train.upstream
import coldframe.video.frames
import parity

FIXTURES = Path(__file__).parent.parent / "fixtures" / "parity"
FILES = {path.name for path in FIXTURES.glob("*.pt") if not path.name.startswith("clip")}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors are tiny: more threads only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def copy(names, folder: Path) -> Path:
    for name in names:
        shutil.copy(FIXTURES / name, folder)
        if name.startswith("traj"):
            stored = torch.load(FIXTURES / name, weights_only=True)["checkpoint"]
            (folder / stored).parent.mkdir()
            shutil.copy(FIXTURES / stored, folder / stored)
    for path in FIXTURES.glob("clip*"):
        shutil.copy(path, folder)
    return folder


def failures(folder: Path) -> set[str]:
    return {row.quantity for row in parity.replay_folder(folder) if not row.holds}


def change(folder: Path, name: str, edit) -> None:
    fixture = torch.load(folder / name, weights_only=True)
    edit(fixture)
    torch.save(fixture, folder / name)


@pytest.mark.parametrize("name", sorted(FILES))
def test_upstreams_numbers_hold(tmp_path, name):
    rows = list(parity.replay_folder(copy([name], tmp_path)))
    assert len(rows) >= 2
    assert [row for row in rows if not row.holds] == []


def add_to(tensor, amount=1e-2):
    tensor.view(-1)[0] += amount


EDITS = {
    "decoder.cross_attention.1.w2": (lambda f: add_to(f["trained_state"]["decoder.cross_attention.1.w2"], 1), "logits"),
    "decoder.temporal_conv.0.weight": (
        lambda f: add_to(f["trained_state"]["decoder.temporal_conv.0.weight"], 0.1),
        "decoder frame features",
    ),
    "clip_visual": (lambda f: add_to(f["clip_visual"]["conv1.weight"]), "backbone outputs, all layers"),
    "converted_sha256": (
        lambda f: f["converted_sha256"].update(cls_token="0" * 64),
        "converted weights (tensors that differ)",
    ),
    "state_dict_keys": (lambda f: f["state_dict_keys"].append("decoder.extra"), "state_dict keys"),
    "grads": (lambda f: add_to(f["grads"]["proj.0.bias"]), "gradients"),
    "grad_norms": (lambda f: f["grad_norms"].update({"decoder.cls_token": 0.1}), "gradient norms"),
    "missing": (lambda f: f.pop("video"), "replay"),
    "nan": (lambda f: f["logits"].fill_(torch.nan), "logits"),
    "kind": (lambda f: f.update(kind="novel"), "replay"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_changed_fixture_is_noticed(tmp_path, name):
    edit, quantity = EDITS[name]
    change(copy(["case_all_on.pt"], tmp_path), "case_all_on.pt", edit)
    assert quantity in failures(tmp_path)


def half_scale(query, key):
    return original_attention(query * 0.5, key)


def shifted_skew(maps, grid, columns):
    return original_skew(maps, grid, columns).roll(1, -1)


def swapped_qkv(state):
    split = original_split(state)
    swap = {"q": "k", "k": "q"}
    return {re.sub(r"attn\.([qk])_", lambda m: f"attn.{swap[m[1]]}_", name): value for name, value in split.items()}


original_split = coldframe.backbones.clip.weights._split_qkv
original_attention, original_skew = coldframe.backbones.clip.model.mean_attention, coldframe.decoders.evl.motion.skew
CODE = {
    "gelu": (coldframe.backbones.clip.model, "QUICK_GELU_SLOPE", 1.7, "logits"),
    "maps": (coldframe.backbones.clip.model, "mean_attention", half_scale, "neighbour maps"),
    "motion": (coldframe.decoders.evl.motion, "skew", shifted_skew, "decoder frame features"),
    "conversion": (
        coldframe.backbones.clip.weights,
        "_split_qkv",
        swapped_qkv,
        "converted weights (tensors that differ)",
    ),
}
DATA_CODE = {
    "round": (coldframe.video.frames, "round", math.floor, "evaluation frames (cases that differ)"),
    "tsn": (coldframe.video.frames, "round", math.ceil, "training frames (cases that differ)"),
    "order": (
        coldframe.data.clips,
        "_epoch_order",
        lambda n, *_: torch.arange(n),
        "training order (cases that differ)",
    ),
    "area": (coldframe.data.augment, "_CROP_AREA", (0.1, 1.0), "whole items"),
    "level": (coldframe.data.augment, "_MAX_LEVEL", 9.0, "operations"),
    "probability": (coldframe.data.augment, "_PROBABILITY", 0.1, "policies"),
}


@pytest.mark.parametrize("name", CODE)
def test_changed_code_is_noticed(tmp_path, monkeypatch, name):
    module, attribute, replacement, quantity = CODE[name]
    monkeypatch.setattr(module, attribute, replacement)
    assert quantity in failures(copy(["case_all_on.pt"], tmp_path))


@pytest.mark.parametrize("name", DATA_CODE)
def test_changed_data_code_is_noticed(tmp_path, monkeypatch, name):
    module, attribute, replacement, quantity = DATA_CODE[name]
    monkeypatch.setattr(module, attribute, replacement, raising=False)
    assert quantity in failures(copy(["data.pt", "rand_augment.pt"], tmp_path))


def test_a_changed_optimizer_is_noticed_after_resuming(tmp_path, monkeypatch):
    monkeypatch.setattr(coldframe.train.upstream, "load_optimizer", lambda stored, trial: None)
    assert "losses after resuming" in failures(copy(["traj_random_init.pt"], tmp_path))


def test_a_changed_schedule_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(coldframe.train.trial, "learning_rate", lambda step, train: train.lr)
    found = failures(copy(["traj_upstream_init.pt"], tmp_path))
    assert {"losses", "learning rates", "losses after resuming", "final weights, mean of the worst tensor"} <= found


def test_exit_codes_and_json_lines(tmp_path, capsys):
    assert parity.main([str(tmp_path), "--json"]) == 2
    copy(["case_all_off.pt"], tmp_path)
    assert parity.main([str(tmp_path), "--json"]) == 0
    *rows, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert summary == {"rows": len(rows), "failed": 0, "holds": True}
    assert all(row["holds"] and row["difference"] <= row["limit"] for row in rows)
    change(tmp_path, "case_all_off.pt", lambda f: f["logits"].fill_(torch.nan))
    assert parity.main([str(tmp_path), "--json"]) == 1
    failed = [row for row in map(json.loads, capsys.readouterr().out.splitlines()) if not row["holds"]]
    assert failed[0]["difference"] is None
    assert parity.main([str(tmp_path)]) == 1
    assert "FAIL case_all_off" in capsys.readouterr().out
