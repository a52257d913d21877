"""Makes the demo's clips as parts of longer files: several in each, one after another, and lists that say when.

    python scripts/make_demo_parts.py --out data/demo-parts

What a clip shows is what `make_demo_clips.py` draws for the same seed, split and index; only clips of one size and
frame rate stand in a file. Neighbours show other motions, so a part that begins or ends in the wrong place shows two.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import av

from make_demo_clips import (
    CLASSES,
    SPLITS,
    Clip,
    draw_frames,
    plan_clip,
    show_progress,
    start_worker,
    to_frame,
    write_text,
)

CLIPS_A_FILE = 6
HEADER = "# columns: path label start end\n"


def plan_files(seed: int, split: str, num_clips: int) -> Iterator[list[Clip]]:
    """Yields the clips of each file, of one size and frame rate."""
    alike = defaultdict(list)
    for index in range(num_clips):
        clip = plan_clip(seed, split, index)
        group = alike[clip.background.size, clip.frame_rate]
        group.append(clip)
        if len(group) == CLIPS_A_FILE:
            yield group[:]
            group.clear()
    yield from (group for group in alike.values() if group)


def write_file(path: Path, clips: list[Clip]) -> None:
    """Writes the clips one after another."""
    first = clips[0]
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=first.frame_rate)
        video.width, video.height = first.background.size
        video.pix_fmt = "yuv420p"
        options = {"preset": "ultrafast", "crf": "32", "g": str(first.gop), "bf": str(first.b_frames), "threads": "1"}
        video.options = options
        for clip in clips:
            for picture in draw_frames(clip):
                container.mux(video.encode(to_frame(picture)))
        container.mux(video.encode(None))


def list_parts(name: str, clips: list[Clip]) -> Iterator[str]:
    """Yields a line of the list for each clip of a file: from its first frame's time to the next one's."""
    start = 0
    for clip in clips:
        end = start + clip.num_frames
        times = [float(Fraction(frame, clip.frame_rate)) for frame in (start, end)]
        yield f"{name} {clip.label} {times[0]:.6f} {times[1]:.6f}\n"
        start = end


def make_parts(out: Path, counts: dict[str, int], seed: int, num_workers: int) -> None:
    """Makes all files, and the lists last."""
    with ProcessPoolExecutor(num_workers, initializer=start_worker) as pool:
        for split in SPLITS:
            (out / split).mkdir(parents=True, exist_ok=True)
            files = [(f"{split}/{i:04d}.mp4", clips) for i, clips in enumerate(plan_files(seed, split, counts[split]))]
            done = pool.map(write_file, [out / name for name, _ in files], [clips for _, clips in files])
            for _ in show_progress(done, len(files)):
                pass
            write_text(out / f"{split}.txt", HEADER + "".join(line for file in files for line in list_parts(*file)))
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in CLASSES))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Makes the demo's clips as parts of longer files, with lists of parts."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--train", type=int, default=1000, help="training clips (%(default)s)")
    parser.add_argument("--val", type=int, default=200, help="held-out clips (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other clips (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    options = parser.parse_args()
    make_parts(options.out, {"train": options.train, "val": options.val}, options.seed, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
