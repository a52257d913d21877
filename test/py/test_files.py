"""What is written is there whole, or not at all; by whichever library, and with its name in the error."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from coldframe.errors import UserError
from coldframe.machine.files import append, write_text, writing
from test_checkpoint import record_calls


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_calls(tmp_path, monkeypatch)
    write_text(tmp_path / "features.json", "{}")
    assert calls == ["sync features.json.partial", "replace features.json.partial", "sync ."]
    assert (tmp_path / "features.json").read_text() == "{}"


def save_scores(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, scores=np.zeros(10_000))


def save_upstream(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"model": torch.zeros(10_000)}, file)


@contextmanager
def small_disk(num_bytes: int) -> Iterator[None]:
    """No file may be larger: a write takes what fits, and the next one fails, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 40_000),
        lambda path: save_file({"clips": np.zeros(10_000)}, path),
        save_scores,
        save_upstream,
    ],
)
def test_a_disk_that_takes_a_part_keeps_the_old_file_alone(tmp_path: Path, write: Callable[[Path], None]) -> None:
    target = tmp_path / "scores.npz"
    target.write_text("old")

    def replace() -> None:
        with writing(target) as partial:
            write(partial)

    with small_disk(8000), pytest.raises(UserError) as told:
        replace()
    assert told.value.code == "file_system"
    assert str(told.value).startswith(f"{target}  ")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("scores.npz", "old")]


def test_a_line_that_a_disk_takes_in_part_is_taken_out_again(tmp_path: Path) -> None:
    journal = tmp_path / "clips.jsonl"
    with journal.open("ab", buffering=0) as file:
        append(file.fileno(), journal, '{"a": 1}\n')
        with small_disk(12), pytest.raises(UserError, match=r"clips.jsonl  is larger than this file system or"):
            append(file.fileno(), journal, '{"b": 2}\n')
        append(file.fileno(), journal, '{"c": 3}\n')
    assert [json.loads(line) for line in journal.read_text().splitlines()] == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file/run", "lies below a file, and only a folder can hold it. Name another place."),
        ("file", "exists already, and is not what is needed there. Remove it, or name another place."),
    ],
)
def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as told:
        write_text(tmp_path / place / "result.json", "{}")
    assert str(told.value) == f"{tmp_path / place / 'result.json'}  {words}"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
