"""Where the decoder looks: exact, drawn, and what the answer hangs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from clips import make_clip
from coldframe.errors import UserError
from coldframe.evaluate.explain import look
from coldframe.evaluate.pictures import _between
from coldframe.session import Session
from small import settings_json

NUM_LAYERS, NUM_HEADS = 2, 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("explain") / "a.mp4", num_frames=21, size=(96, 64))


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """One whose query looks at something: with fresh weights every token counts the same in the first layer."""
    session = Session()
    one_view = {"eval__spatial_views": 1, "eval__temporal_views": 1}
    settings = settings_json(data__dummy=False, data__num_classes=5, model__decoder__query_init="normal", **one_view)
    session.open("predict", [{"name": "main", "settings": settings}], {"train": None, "val": None}, None, None)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in session.running.cohort.trials[0].model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    yield session
    session.close()


def explain(session: Session, clip: Path, **options: Any) -> dict[str, Any]:
    chosen = {"part": None, "layer": None, "head": None, "strip": None, "overlay": None}
    reply = session.explain(str(clip), **{**chosen, **options})
    assert reply["reason"] is None, reply["reason"]
    return reply["explanation"]


def test_weights_sum_to_one_and_give_the_answer_of_the_model(session: Session, clip: Path) -> None:
    found = explain(session, clip)
    # Three frames, every second one, in the middle of 21.
    assert [frame["index"] for frame in found["frames"]] == [8, 10, 12]
    assert [frame["seconds"] for frame in found["frames"]] == pytest.approx([8 / 25, 10 / 25, 12 / 25])
    weights = [frame["weight"] for frame in found["frames"]]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert max(weights) - min(weights) > 1e-3
    assert found["difference"] < 1e-5
    (predicted,) = session.predict([str(clip)], 1)["predictions"]
    assert (predicted["classes"][0]["label"], predicted["classes"][0]["probability"]) == (
        found["label"],
        pytest.approx(found["probability"], abs=1e-5),
    )
    maps = torch.tensor(found["maps"])
    assert maps.shape == (3, 3, 3)
    assert 0 < maps.sum() < 1, "the class tokens have a share, too"


def test_layers_and_heads_make_up_the_mean(session: Session, clip: Path) -> None:
    def weights(layer: int | None, head: int | None) -> torch.Tensor:
        found = explain(session, clip, layer=layer, head=head)
        return torch.tensor([frame["weight"] for frame in found["frames"]])

    each = torch.stack([weights(y, h) for y in range(1, NUM_LAYERS + 1) for h in range(1, NUM_HEADS + 1)])
    torch.testing.assert_close(weights(None, None), each.mean(dim=0))
    torch.testing.assert_close(weights(2, None), each[NUM_HEADS:].mean(dim=0))
    torch.testing.assert_close(weights(None, 3), each[2::NUM_HEADS].mean(dim=0))
    assert len({tuple(row) for row in each.tolist()}) == NUM_LAYERS * NUM_HEADS
    with pytest.raises(UserError, match=r"--attention  found layer 3. Allowed: 1 to 2"):
        weights(3, None)


def test_hidden_frames_are_those_most_and_least_looked_at_and_are_not_seen(session: Session, clip: Path) -> None:
    found = explain(session, clip)
    order = sorted(range(3), key=lambda i: -found["frames"][i]["weight"])
    assert (found["without_most"]["frames"], found["without_least"]["frames"]) == (order[:1], order[-1:])
    model: Any = session.running.cohort.trials[0].model.eval()
    clips = torch.randn(1, 3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    layers = session.running.cohort.features(clips)
    hidden = torch.tensor([False, True, False])
    with torch.no_grad():
        logits, attention = model.attend(layers, hidden)
        assert attention[:, :, :, 1].abs().max() == 0
        torch.testing.assert_close(attention.sum(dim=(3, 4)), torch.ones(NUM_LAYERS, 1, NUM_HEADS))
        torch.testing.assert_close(model.attend(layers)[0], model(layers))
        assert not torch.allclose(logits, model(layers), atol=1e-3)


def test_pictures_show_every_frame_and_the_video_between_them(session: Session, clip: Path, tmp_path: Path) -> None:
    strip, overlay = tmp_path / "a.png", tmp_path / "a.mp4"
    part = [200_000, 600_000]  # frames 5 to 14: the clip is 7, 9 and 11
    found = explain(session, clip, part=part, strip=str(strip), overlay=str(overlay))
    assert [frame["seconds"] for frame in found["frames"]] == pytest.approx([7 / 25, 9 / 25, 11 / 25])
    with Image.open(strip) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] > 3 * 160
    hot = (np.abs(pixels - (255, 96, 0)).sum(axis=2) < 3).sum(axis=0).reshape(-1)
    bars = [hot[6 + i * 166 : 6 + i * 166 + 160] for i in range(3)]
    widths = [int((bar > 5).sum()) for bar in bars]
    expected = [160 * frame["weight"] / max(other["weight"] for other in found["frames"]) for frame in found["frames"]]
    assert widths == pytest.approx(expected, abs=1.01)
    with av.open(str(overlay)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == 25
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 5
    assert frames[0][20:, :12].mean() < 0.7 * frames[0][20:, 20:76].mean(), "what the crop leaves out is dark"


def test_between_two_frames_of_the_clip_the_heat_goes_over() -> None:
    heat = np.array([0.0, 1.0, 3.0])[:, None, None]
    found = [float(_between(heat, [4, 8, 10], number)[0, 0]) for number in (3, 4, 5, 8, 9, 10, 11)]
    assert found == [0, 0, 0.25, 1, 2, 3, 3]


def test_a_decoder_that_looks_nowhere_says_so_and_a_video_that_cannot_be_read_too(
    session: Session, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.mp4").write_bytes(b"")
    assert session.explain(str(tmp_path / "b.mp4"), None, None, None, None, None)["reason"] == "is empty (0 bytes)"
    other = Session()
    settings = settings_json(data__dummy=False, model__decoder__kind="linear", model__decoder__pool="patches")
    other.open("predict", [{"name": "main", "settings": settings}], {"train": None, "val": None}, None, None)
    with pytest.raises(UserError, match=r"--explain  model.decoder.kind: linear looks at everything alike"):
        other.explain(str(clip), None, None, None, None, None)
    other.close()


def test_an_answer_hangs_on_the_frames_that_are_looked_at() -> None:
    """A flash in one frame of noise tells the class: what is learned is to look there."""
    changes = {"cross_attention": False, "conv": False, "position_embedding": False}
    settings = settings_json(
        data__num_classes=3,
        model__decoder__query_init="normal",
        train__batch_size=16,
        train__lr=1e-2,
        train__steps=60,
        **{f"model__temporal__{name}": value for name, value in changes.items()},
        **{"model__decoder__mlp_dropout": 0, "model__head__dropout": 0},
    )
    session = Session()
    session.open("train", [{"name": "main", "settings": settings}], {"train": None, "val": None}, None, None)
    cohort, rng = session.running.cohort, torch.Generator().manual_seed(0)

    def draw(num: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        clips = 0.3 * torch.randn(num, 3, 3, 24, 24, generator=rng)
        labels, places = (torch.randint(3, (num,), generator=rng) for _ in range(2))
        clips[torch.arange(num), labels, places, 8:16, 8:16] += 3
        return clips, labels, places

    for step in range(60):
        clips, labels, _ = draw(16)
        cohort.step(step, clips, labels)
    clips, labels, places = draw(12)
    found = [look(cohort, clip[None], (None, None), [0, 1, 2], [0.0, 0.0, 0.0]) for clip in clips]
    assert torch.stack([one.scores_K for one in found]).argmax(dim=1).equal(labels)
    assert [int(one.weights_T.argmax()) for one in found] == places.tolist()
    most, least = (sum(getattr(one, name).change for one in found) for name in ("most", "least"))
    assert most > 10 * least
    session.close()
