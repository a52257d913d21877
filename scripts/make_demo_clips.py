"""Makes the demo's data set: short H.264 clips of eight motions in mirrored pairs, with their lists.

    python scripts/make_demo_clips.py --out data/demo

Every clip is a function of (seed, split, index) alone. The two members of a pair (left and right, ...) show the same
pictures in opposite order: at any time all positions, sizes and angles are uniformly distributed, so neither a frame
nor an unordered set of frames tells more than the pair, and only a model that sees order gets past one half.

train.txt and val.txt are to train and to evaluate on. A sweep must choose on neither: select.txt is a part of train.txt
for that, and fit.txt is the rest.
"""

import argparse
import cmath
import hashlib
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL
from PIL import Image, ImageDraw
from tqdm import tqdm

# Neighbours are mirrored: label // 2 names the pair, label % 2 the direction of time.
CLASSES = ("left", "right", "up", "down", "shrink", "grow", "counterclockwise", "clockwise")
SPLITS = ("train", "val")
SELECT_LIMIT, SELECT_SHARE = 160, 0.2  # clips of select.txt: so many, and at most this share of train.txt
SIZES = ((340, 256),) * 6 + ((320, 240), (384, 256), (256, 340), (240, 320))  # width, height
FRAME_RATES = (25, 30)
DURATION_SECONDS = (2.0, 2.6)
GOP_LENGTHS = (12, 25, 30, 60)
AUDIO_SHARE, AUDIO_RATE = 0.1, 16000

CELL_PIXELS = 130  # one shape in each cell of a jittered grid: even the small training crops hold some motion
RADIUS_PIXELS = (55.0, 80.0)
MARGIN_PIXELS = 80  # what leaves the picture comes back on the other side, unseen
SMALLEST_SCALE = 0.3  # a growing shape starts at this part of its radius, and starts again there when it is full
# Per pair, lowest and highest speed: pixels a second twice, growths a second, turns a second.
RATES = ((130.0, 190.0), (130.0, 190.0), (1.0, 1.5), (0.6, 0.9))

# Lowest and highest luma, of a bright and of a dark picture: shapes always stand out from the background. Pictures are
# drawn in the encoder's own colours (YCbCr, BT.601, 16..235): converting from RGB would cost more than encoding.
BACKGROUND_LUMA = ((180, 215), (35, 70))
SHAPE_LUMA = ((50, 90), (165, 205))

# Every shape has three sectors, coloured in the same order around its centre whatever it does. A turn can then be seen
# wherever two sectors meet, from what follows what; one frame still shows the same for both directions.
NUM_SECTORS = 3
HUES = tuple(2 * math.pi * sector / NUM_SECTORS for sector in range(NUM_SECTORS))  # radians in the Cb-Cr plane
HUE_JITTER, CHROMA = 0.4, 60.0

# Outlines: distance of the rim from the centre at twelve angles.
OUTLINES = (
    (1.0,) * 12,  # disc
    (1.0, 0.8, 0.8) * 4,  # square
    (1.0, 0.65) * 6,  # star
    (1.0, 0.9, 0.55, 0.9) * 3,  # clover
)


@dataclass(frozen=True)
class Shape:
    """A shape at time zero: pixels, radians; `phase` is how far it has grown, 0..1."""

    outline: tuple[float, ...]
    colours: tuple[tuple[int, int, int], ...]
    x: float
    y: float
    radius: float
    angle: float
    phase: float


@dataclass(frozen=True)
class Clip:
    """What one clip shows and how it is stored; its shapes move by `velocity`, signed, in the unit of RATES."""

    label: int
    velocity: float
    background: Image.Image
    shapes: tuple[Shape, ...]
    frame_rate: int
    num_frames: int
    gop: int
    b_frames: int
    tone_hz: float | None


def label_of(index: int) -> int:
    """Returns the label of clip `index`: the classes in turn, so every prefix of a split is balanced."""
    return index % len(CLASSES)


def clip_path(split: str, index: int) -> str:
    """Returns the path of a clip relative to the data root."""
    return f"{split}/{index:05d}-{CLASSES[label_of(index)]}.mp4"


def plan_clip(seed: int, split: str, index: int, label: int | None = None) -> Clip:
    """Returns the clip at (seed, split, index); another `label` changes its motion and nothing else."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    label = label_of(index) if label is None else label
    low, high = RATES[label // 2]
    rate = low + (high - low) * rng.random()
    width, height = SIZES[rng.integers(len(SIZES))]
    frame_rate = int(rng.choice(FRAME_RATES))
    is_dark = bool(rng.random() < 0.5)
    return Clip(
        label=label,
        velocity=rate if label % 2 else -rate,
        background=make_background(rng, width, height, is_dark),
        shapes=tuple(make_shapes(rng, width, height, is_dark)),
        frame_rate=frame_rate,
        num_frames=round(rng.uniform(*DURATION_SECONDS) * frame_rate),
        gop=int(rng.choice(GOP_LENGTHS)),
        b_frames=int(rng.choice((0, 2))),
        tone_hz=rng.uniform(200, 800) if rng.random() < AUDIO_SHARE else None,
    )


def make_background(rng: np.random.Generator, width: int, height: int, is_dark: bool) -> Image.Image:
    """Returns a still YCbCr picture of smooth coloured noise."""
    centre = (rng.uniform(*BACKGROUND_LUMA[is_dark]), *rng.uniform(100, 156, 2))
    noise = rng.normal(centre, (18, 8, 8), (height // 32, width // 32, 3))
    small = Image.fromarray(noise.clip(16, 235).astype(np.uint8), mode="YCbCr")
    return small.resize((width, height), Image.Resampling.BICUBIC)


def make_shapes(rng: np.random.Generator, width: int, height: int, is_dark: bool) -> Iterator[Shape]:
    """Yields one shape for each cell of a grid over the torus, in colours that stand out from the background."""
    torus = np.array([width, height]) + 2 * MARGIN_PIXELS
    counts = torus // CELL_PIXELS
    for cell in np.ndindex(*counts):
        x, y = (np.array(cell) + rng.uniform(0, 1, 2)) * torus / counts
        luma, hue = rng.uniform(*SHAPE_LUMA[is_dark]), rng.uniform(-HUE_JITTER, HUE_JITTER)
        chromas = [cmath.rect(CHROMA, hue + sector_hue) for sector_hue in HUES]
        yield Shape(
            outline=OUTLINES[rng.integers(len(OUTLINES))],
            colours=tuple((round(luma), round(128 + chroma.real), round(128 + chroma.imag)) for chroma in chromas),
            x=x,
            y=y,
            radius=rng.uniform(*RADIUS_PIXELS),
            angle=rng.uniform(0, 2 * math.pi),
            phase=rng.random(),
        )


def sectors_at(shape: Shape, pair: int, progress: float, size: tuple[int, int]) -> list[list[tuple[float, float]]]:
    """Returns the corners of each sector, in pixels of a picture of `size`, of a shape that has moved by `progress`."""
    x, y, radius, angle = shape.x, shape.y, shape.radius, shape.angle
    if pair == 0:
        x = (x + progress) % (size[0] + 2 * MARGIN_PIXELS)
    elif pair == 1:
        y = (y + progress) % (size[1] + 2 * MARGIN_PIXELS)
    elif pair == 2:
        radius *= SMALLEST_SCALE ** (1 - (shape.phase + progress) % 1)
    else:
        angle += 2 * math.pi * progress  # the picture's y axis points down: a growing angle turns clockwise
    centre, num_points = complex(x - MARGIN_PIXELS, y - MARGIN_PIXELS), len(shape.outline)
    rim = [
        centre + cmath.rect(radius * distance, angle + 2 * math.pi * step / num_points)
        for step, distance in enumerate(shape.outline)
    ]
    span = num_points // NUM_SECTORS
    sectors = [[centre, *(rim + rim[:1])[first : first + span + 1]] for first in range(0, num_points, span)]
    return [[(corner.real, corner.imag) for corner in sector] for sector in sectors]


def draw_frames(clip: Clip) -> Iterator[Image.Image]:
    """Yields the clip's pictures, YCbCr."""
    for index in range(clip.num_frames):
        picture = clip.background.copy()
        draw = ImageDraw.Draw(picture)
        progress = clip.velocity * index / clip.frame_rate
        for shape in clip.shapes:
            sectors = sectors_at(shape, clip.label // 2, progress, picture.size)
            for corners, colour in zip(sectors, shape.colours, strict=True):
                draw.polygon(corners, fill=colour)
        yield picture


def to_frame(picture: Image.Image) -> av.VideoFrame:
    """Returns the picture as yuv420p."""
    pixels = np.asarray(picture)
    planes = (pixels[..., 0], pixels[::2, ::2, 1], pixels[::2, ::2, 2])
    flat = np.concatenate([plane.reshape(-1, picture.width) for plane in planes])
    return av.VideoFrame.from_ndarray(flat, format="yuv420p")


def write_clip(path: Path, clip: Clip) -> None:
    """Writes an MP4 at once: `path` never holds part of a clip."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            write_streams(container, clip)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_streams(container: av.container.OutputContainer, clip: Clip) -> None:
    """Encodes the pictures, and a tone where the clip has one, into an open container."""
    video = container.add_stream("libx264", rate=clip.frame_rate)
    video.width, video.height = clip.background.size
    video.pix_fmt = "yuv420p"
    # Cheap to make and to decode. One thread: the bytes must not depend on the number of cores.
    video.options = {"preset": "ultrafast", "crf": "32", "g": str(clip.gop), "bf": str(clip.b_frames), "threads": "1"}
    audio = container.add_stream("aac", rate=AUDIO_RATE, options={"aac_coder": "fast"}) if clip.tone_hz else None
    for picture in draw_frames(clip):
        container.mux(video.encode(to_frame(picture)))
    container.mux(video.encode(None))
    if audio and clip.tone_hz:
        time_seconds = np.arange(AUDIO_RATE * clip.num_frames // clip.frame_rate) / AUDIO_RATE
        tone = 0.1 * np.sin(2 * math.pi * clip.tone_hz * time_seconds, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = AUDIO_RATE, Fraction(1, AUDIO_RATE), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def make_one(task: tuple[Path, int, str, int]) -> None:
    """Makes the clip (data root, seed, split, index). Raises OSError when it cannot be written."""
    out, seed, split, index = task
    path = out / clip_path(split, index)
    try:
        write_clip(path, plan_clip(seed, split, index))
    except av.FFmpegError as error:  # PyAV's errors do not survive the way between processes
        raise OSError(f"{path}  cannot be written: {error}") from None


def start_worker() -> None:
    """Leaves Ctrl-C to the parent process, and ends with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def make_all(tasks: list[tuple[Path, int, str, int]], num_workers: int) -> None:
    """Makes all clips in processes of their own, with progress on stderr."""
    # spawn: forked children would inherit whatever state the libraries' threads are in.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, start_worker) as pool:
        for _ in show_progress(pool.map(make_one, tasks, chunksize=4), len(tasks)):
            pass


def show_progress(items: Iterable[None], total: int) -> Iterator[None]:
    """Yields the items; draws a bar on a terminal and prints a line for each tenth elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, unit="clip", desc="demo clips")
        return
    for count, item in enumerate(items, 1):
        yield item
        if count * 10 // total > (count - 1) * 10 // total:
            print(f"demo clips: {count} of {total}", file=sys.stderr, flush=True)


def recipe_of(seed: int) -> dict[str, object]:
    """Returns what the bytes of a clip depend on besides its split and index."""
    return {
        "made_by": "make_demo_clips",
        "seed": seed,
        "source_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "versions": {"av": av.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
    }


def open_data_root(out: Path, seed: int) -> None:
    """Makes `out` a data root of this recipe; clips of another one are removed. Raises ValueError if not ours."""
    manifest, recipe = out / "manifest.json", recipe_of(seed)
    try:
        found = json.loads(manifest.read_text()) if manifest.exists() else None
    except ValueError:
        found = None
    if found == recipe:
        return
    is_ours = isinstance(found, dict) and found.get("made_by") == recipe["made_by"]
    if not is_ours and out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}  holds files that this program did not make. Give a new or empty folder with --out.")
    if is_ours:
        for clip in (path for name in CLASSES for path in out.glob(f"*/[0-9]*-{name}.mp4")):
            clip.unlink()
        for name in (*SPLITS, "fit", "select"):
            (out / f"{name}.txt").unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_text(manifest, json.dumps(recipe, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def make_data_set(out: Path, counts: dict[str, int], seed: int, num_workers: int) -> int:
    """Returns the number of clips made: those that were not there yet. The lists are written last."""
    open_data_root(out, seed)
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
    wanted = [(out, seed, split, index) for split in SPLITS for index in range(counts[split])]
    missing = [task for task in wanted if not (out / clip_path(*task[2:])).exists()]
    if missing:
        make_all(missing, min(num_workers, len(missing)))
    for leftover in out.glob("*/.[0-9]*.mp4.*"):  # of a run that was killed
        leftover.unlink()
    for split in SPLITS:
        lines = [f"{clip_path(split, index)} {label_of(index)}\n" for index in range(counts[split])]
        write_text(out / f"{split}.txt", "".join(lines))
    num_fit = counts["train"] - count_selected(counts["train"])
    lines = (out / "train.txt").read_text().splitlines(keepends=True)
    write_text(out / "fit.txt", "".join(lines[:num_fit]))
    write_text(out / "select.txt", "".join(lines[num_fit:]))
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
    return len(missing)


def count_selected(num_train: int) -> int:
    """Returns how many clips at the end of the training list are to choose on: whole rounds of the classes.

    Every clip is drawn on its own, so the last ones are as good a sample as any; labels go round, so they are balanced.
    """
    most = min(SELECT_LIMIT, int(SELECT_SHARE * num_train))
    return max(len(CLASSES), most - most % len(CLASSES)) if num_train > len(CLASSES) else 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""

    def at_least(minimum: int) -> Callable[[str], int]:
        def number(text: str) -> int:
            if (value := int(text)) < minimum:
                raise argparse.ArgumentTypeError(f"{value} is below {minimum}")
            return value

        return number

    parser = argparse.ArgumentParser(description="Makes the demo's data set: clips of eight motions, with lists.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set; made, continued or renewed")
    parser.add_argument("--train", type=at_least(1), default=1000, help="training clips (%(default)s)")
    parser.add_argument("--val", type=at_least(1), default=200, help="held-out clips (%(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="another seed makes other clips (%(default)s)")
    parser.add_argument("--workers", type=at_least(1), default=os.cpu_count(), help="processes (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 the user can fix it, 3 a worker died, 130 interrupted."""
    options = parse_arguments(arguments)
    try:
        num_made = make_data_set(
            options.out, {"train": options.train, "val": options.val}, options.seed, options.workers
        )
    except (ValueError, OSError) as error:
        print(f"make_demo_clips: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print("make_demo_clips: a worker was killed, often for lack of memory. Try --workers 1.", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("make_demo_clips: interrupted. Run the same command again: it goes on where it stopped.", file=sys.stderr)
        return 130
    counts = f"{options.train} training and {options.val} held-out clips"
    print(f"{options.out}: {counts} ({num_made} made now)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
