"""Clips for the bench programs that keep a decoder as busy as real video does: textures of all scales that move against
each other, a hand-held camera, a little grain, a cut now and then; H.264 with B-frames, ten seconds, made once.

Bit rate (500 to 700 kb/s at 256p) and keyframes (three in ten seconds under GOP 250) are as Kinetics clips have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

NUM_FRAMES, FPS = 300, 30
SCENE_FRAMES = 120


def make_bench_clips(folder: Path, *, quick: bool) -> list[Path]:
    """Returns the clips of a folder, made where they are missing: g250_* and g30_* (340x256), hd_* unless quick."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(f"g{gop}_{seed}.mp4", (340, 256), gop, seed) for gop in (250, 30) for seed in range(1 if quick else 2)]
    wanted += [] if quick else [("hd_0.mp4", (1280, 720), 60, 0)]
    for name, size, gop, seed in wanted:
        if not (folder / name).exists():
            partial = folder / f"partial_{name}"
            encode_clip(partial, size, gop, seed)
            partial.rename(folder / name)
    return [folder / name for name, _, _, _ in wanted]


def encode_clip(path: Path, size: tuple[int, int], gop: int, seed: int) -> None:
    """Writes one clip at the quality of downloaded video (CRF 23, preset medium, three B-frames)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"preset": "medium", "crf": "23", "g": str(gop), "bf": "3", "x264-params": "log-level=none"}
        for picture in draw_scene(size, seed):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


def draw_scene(size: tuple[int, int], seed: int) -> Iterator[Image.Image]:
    """Yields the pictures of one scene after the other."""
    for scene, start in enumerate(range(0, NUM_FRAMES, SCENE_FRAMES)):
        yield from draw_moving(size, min(SCENE_FRAMES, NUM_FRAMES - start), np.random.default_rng([seed, scene]))


def draw_moving(size: tuple[int, int], num_frames: int, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yields the pictures: a background under a swaying camera, and five textured things with paths of their own."""
    width, height = size
    background = draw_texture((width * 2, height * 2), rng)
    things = [draw_texture((height // 4 + 8 * i, height // 3), rng) for i in range(5)]
    phases, speeds = rng.uniform(0, 6.28, (6, 2)), rng.uniform(0.01, 0.05, (6, 2))
    grain = rng.normal(0, 1, (8, height, width, 1))
    for number in range(num_frames):
        places = (np.sin(phases + speeds * number) + 1) / 2
        x, y = places[0] * (width, height)
        picture = background.transform(
            size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y), resample=Image.Resampling.BILINEAR
        )
        for thing, place in zip(things, places[1:], strict=True):
            picture.paste(thing, tuple(int(v) for v in place * (width - thing.width, height - thing.height)))
        noisy = np.asarray(picture) + grain[rng.integers(8)]
        yield Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_texture(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Returns noise whose amplitude falls with frequency, as in photographs."""
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(rng.normal(size=(3, height, width))) / np.maximum(frequency, 1 / width) ** 1.3
    texture = np.fft.irfft2(spectrum, s=(height, width)).transpose(1, 2, 0)
    texture = 128 + 50 * (texture - texture.mean()) / texture.std()
    return Image.fromarray(texture.clip(0, 255).astype(np.uint8))
