"""The demo's clips: reproducible, mirrored in time, and quick to make a second time."""

import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import make_demo_clips as demo


def frames_of(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def pictures_of(clip: demo.Clip) -> Iterator[NDArray[np.uint8]]:
    return (np.asarray(picture) for picture in demo.draw_frames(clip))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "clips"
    assert demo.main(["--out", str(out), "--train", "9", "--val", "8", "--workers", "2"]) == 0
    return out


def test_lists_name_existing_clips_with_balanced_labels(data_root: Path) -> None:
    for split, count in (("train", 9), ("val", 8)):
        lines = [line.split(" ") for line in (data_root / f"{split}.txt").read_text().splitlines()]
        assert [int(label) for _, label in lines] == [index % 8 for index in range(count)]
        assert all((data_root / path).stat().st_size > 1000 for path, _ in lines)
    assert (data_root / "classes.txt").read_text().splitlines() == list(demo.CLASSES)
    assert not list(data_root.rglob(".*"))


def test_the_list_to_select_on_is_a_balanced_part_of_the_training_list(data_root: Path) -> None:
    train, fit, select = ((data_root / f"{name}.txt").read_text() for name in ("train", "fit", "select"))
    assert fit + select == train
    assert sorted(line.split(" ")[1] for line in select.splitlines()) == [str(label) for label in range(8)]
    assert [demo.count_selected(count) for count in (8, 9, 24, 100, 1000, 5000)] == [0, 8, 8, 16, 160, 160]


@pytest.mark.parametrize("label", range(8))
def test_clips_decode_to_what_was_drawn(data_root: Path, label: int) -> None:
    clip = demo.plan_clip(0, "train", label)
    decoded = frames_of(data_root / demo.clip_path("train", label)).astype(int)
    drawn = np.stack([(picture[..., 0].astype(int) - 16) * 255 / 219 for picture in pictures_of(clip)])
    assert decoded.shape == drawn.shape
    assert np.abs(decoded - drawn).mean() < 4
    assert np.abs(decoded[1:] - decoded[:-1]).mean() > 0.3


def test_a_clip_depends_on_seed_split_and_index_only(data_root: Path, tmp_path: Path) -> None:
    other_order, other_seed = tmp_path / "again.mp4", tmp_path / "seed.mp4"
    demo.write_clip(other_order, demo.plan_clip(0, "val", 5))
    demo.write_clip(other_seed, demo.plan_clip(1, "val", 5))
    bytes_made_by_workers = (data_root / demo.clip_path("val", 5)).read_bytes()
    assert other_order.read_bytes() == bytes_made_by_workers
    assert other_seed.read_bytes() != bytes_made_by_workers
    assert (data_root / demo.clip_path("train", 5)).read_bytes() != bytes_made_by_workers


@pytest.mark.parametrize("pair", range(4))
def test_the_members_of_a_pair_are_each_other_backwards(pair: int) -> None:
    forward = demo.plan_clip(3, "train", 7, label=2 * pair + 1)
    backward = demo.plan_clip(3, "train", 7, label=2 * pair)
    assert backward.velocity == -forward.velocity
    for clip, sign in ((forward, 1), (backward, -1)):
        for shape in clip.shapes:
            start, size = demo.sectors_at(shape, pair, 0.0, (340, 256)), (340, 256)
            there = demo.sectors_at(shape, pair, sign * 0.3, size)
            assert not np.allclose(start, there)
    # Equal progress is an equal picture, whichever member shows it: what differs is only the order.
    assert forward.shapes == backward.shapes
    assert forward.background == backward.background


@pytest.mark.parametrize(("label", "axis", "sign"), [(0, 0, -1), (1, 0, 1), (2, 1, -1), (3, 1, 1)])
def test_translations_go_where_their_name_says(label: int, axis: int, sign: int) -> None:
    clip = demo.plan_clip(0, "train", 2, label=label)
    steps = []
    for shape in clip.shapes:
        before, after = (
            np.mean(demo.sectors_at(shape, label // 2, clip.velocity * t, (340, 256)), axis=(0, 1)) for t in (0, 0.01)
        )
        steps.append((after - before)[axis])
    assert np.sign(np.median(steps)) == sign


def test_growth_and_turns_go_where_their_name_says() -> None:
    grow, clockwise = (demo.plan_clip(0, "train", 2, label=label) for label in (5, 7))
    shape = min(grow.shapes, key=lambda shape: shape.phase)
    small, large = (
        np.ptp(demo.sectors_at(shape, 2, abs(grow.velocity) * t, (340, 256)), axis=(0, 1)) for t in (0, 0.1)
    )
    assert grow.velocity > 0
    assert (large > small).all()
    # On a screen (y down) clockwise takes what points right to what points down.
    assert clockwise.velocity > 0
    middle = (170 + demo.MARGIN_PIXELS, 128 + demo.MARGIN_PIXELS)
    wheel = demo.Shape((9.0,) * 3, ((0, 0, 0),) * 3, *middle, radius=1, angle=0, phase=0)
    centre, tip, _ = demo.sectors_at(wheel, 3, 0.25, (340, 256))[0]
    assert np.allclose((centre, tip), [(170, 128), (170, 137)])


def test_positions_sizes_and_angles_are_uniform_at_any_time() -> None:
    shapes = [shape for index in range(60) for shape in demo.plan_clip(0, "train", index).shapes]
    for values in ([shape.phase for shape in shapes], [shape.angle / (2 * np.pi) for shape in shapes]):
        counts, _ = np.histogram(values, bins=4, range=(0, 1))
        assert np.abs(counts / len(shapes) - 0.25).max() < 0.06


def test_a_second_run_makes_nothing_and_a_lost_clip_is_made_again(
    data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(data_root), "--train", "9", "--val", "8", "--workers", "1"]
    lost = data_root / demo.clip_path("train", 6)
    expected = lost.read_bytes()
    lost.unlink()
    assert demo.main(arguments) == 0
    assert "(1 made now)" in capsys.readouterr().err
    assert lost.read_bytes() == expected
    assert demo.main(arguments) == 0
    assert "(0 made now)" in capsys.readouterr().err


def test_another_seed_renews_the_clips_and_a_foreign_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.open_data_root(tmp_path / "ours", 0)
    stale = tmp_path / "ours" / demo.clip_path("train", 0)
    stale.parent.mkdir()
    stale.write_bytes(b"made with another seed")
    demo.open_data_root(tmp_path / "ours", 1)
    assert not stale.exists()
    assert json.loads((tmp_path / "ours" / "manifest.json").read_text())["seed"] == 1
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert demo.main(["--out", str(foreign), "--train", "1", "--val", "1"]) == 2
    assert "holds files that this program did not make" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


def test_an_interrupted_clip_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "to_frame", stop)
    with pytest.raises(KeyboardInterrupt):
        demo.write_clip(tmp_path / "a.mp4", demo.plan_clip(0, "val", 0))
    assert not list(tmp_path.iterdir())


def test_a_clip_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").write_text("a file where the folder should be")
    assert demo.main(["--out", str(tmp_path / "clips"), "--train", "1", "--val", "1"]) == 2
    assert str(tmp_path / "clips") in capsys.readouterr().err
    with pytest.raises(OSError, match=r"00003-down\.mp4  cannot be written"):
        demo.make_one((tmp_path / "missing", 0, "val", 3))
