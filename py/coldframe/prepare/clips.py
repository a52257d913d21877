"""Re-encodes the clips of a configuration's lists for training: what it will cost, then clip by clip, going on where it
stopped."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from coldframe.data.clips import Listed, VideoList, read_list
from coldframe.data.labels import show_label
from coldframe.errors import UserError
from coldframe.machine.environment import count_workers
from coldframe.machine.files import append, write_text
from coldframe.machine.lock import RunLock
from coldframe.machine.processes import Reply, Workers
from coldframe.prepare.transcode import Encoding
from coldframe.settings import Settings
from coldframe.video.parts import show_seconds

FORMAT = 1
MANIFEST = "manifest.jsonl"
NUM_MEASURED = 6  # clips that the forecast tries, each up to MEASURED_FRAMES
MEASURED_FRAMES = 300
HEARTBEAT_SECONDS = 0.5


@dataclass(frozen=True)
class Share:
    """What one of several processes prepares: every `count`-th clip from the `index`-th on. It keeps its manifest in a
    folder of its own, and its clips go to where they belong."""

    folder: Path
    index: int
    count: int


class Preparation:
    """A folder of prepared clips that is being made."""

    def __init__(
        self, settings: Settings, lists: Mapping[str, str | None], folder: Path, share: Share | None = None
    ) -> None:
        """Raises UserError when the folder holds clips prepared in another way."""
        self.folder, self._share, chosen = folder, share, settings.prepare
        self.encoding = Encoding(chosen.short_side, chosen.gop, chosen.crf, chosen.preset)
        self._lists = {name: read_list(file) for name, file in lists.items() if file is not None}
        self._classes = settings.data.classes
        self._clips = {listed.name: listed for items in self._lists.values() for listed in items}
        self._targets = plan_targets(_find_roots(settings, self._lists), self._clips)
        self._refuse_own_clips()
        self._made = self._take_up()
        self._mine = list(self._targets) if share is None else list(self._targets)[share.index :: share.count]
        self._todo = [source for source in self._mine if not self._is_done(source)]
        self.num_workers = max(1, count_workers(settings.data.num_workers))
        self._workers = Workers(self.num_workers, "coldframe.prepare.transcode", "re-encodes it")
        self._bad: dict[str, str] = {}
        self._lock: RunLock | None = None
        self._manifest: IO[bytes] | None = None
        self._waiting: Iterator[str] = iter(())
        self._num_waiting = 0
        self._running: dict[Future[Reply], str] = {}

    def _refuse_own_clips(self) -> None:
        own = f"{(self.folder / 'clips').resolve()}/"
        paths = (listed.path for listed in self._clips.values())
        inside = next((path for path in paths if str(Path(path).resolve()).startswith(own)), None)
        if inside is not None:
            raise UserError(f"--output  {inside} of the lists lies in it. Give another folder.")

    @property
    def _manifest_folder(self) -> Path:
        return self.folder if self._share is None else self._share.folder

    def _take_up(self) -> dict[str, Reply]:
        """Returns what is known to be made: by all, and by an earlier start of this share."""
        made = self._read_made(self.folder)
        return made if self._share is None else made | self._read_made(self._share.folder)

    def _read_made(self, folder: Path) -> dict[str, Reply]:
        theirs, made = read_manifest(folder / MANIFEST)
        ours = asdict(self.encoding)
        if theirs is None or theirs == ours:
            return made
        lines = [f"prepare.{key}: {theirs.get(key)!r} there, {value!r} here" for key, value in ours.items()]
        differing = "\n  ".join(line for line, key in zip(lines, ours, strict=True) if theirs.get(key) != ours[key])
        raise UserError(
            f"{folder}  holds clips prepared with other settings:\n  {differing}\n"
            "Give another --output, take its settings, or remove the folder."
        )

    def _is_done(self, source: str) -> bool:
        """Returns whether the clip is there and its source is the one it was made from."""
        record = self._made.get(source)
        if record is None or record["target"] != self._targets[source]:
            return False
        try:
            now, result = Path(self._clips[source].path).stat(), (self.folder / record["target"]).stat()
        except OSError:
            return False
        is_same = (now.st_size, now.st_mtime_ns) == (record["source_size_bytes"], record["source_mtime_ns"])
        return is_same and result.st_size == record["size_bytes"]

    # --- forecast ---

    def forecast(self, progress: Callable[[], None]) -> dict[str, Any]:
        """Returns seconds and bytes that what is not prepared yet will take, measured on a few of its clips."""
        sizes = [(self._clips[source].path, _size(self._clips[source].path)) for source in self._todo]
        source_bytes = sum(size for _, size in sizes)  # a file counts as often as it has parts, as in what is measured
        measured = self._measure(progress) if self._todo else []
        free = shutil.disk_usage(_existing(self.folder)).free
        bytes_ = _extrapolate([(reply["size_bytes"], part) for reply, part in measured], source_bytes)
        seconds = _extrapolate([(reply["seconds"], part) for reply, part in measured], source_bytes)
        return {
            "folder": str(self.folder),
            "encoding": asdict(self.encoding),
            "num_clips": len(self._targets),
            "num_todo": len(self._todo),
            "source_bytes": sum(dict(sizes).values()),
            "bytes": bytes_,
            "seconds": {name: value / self.num_workers for name, value in seconds.items()},
            "num_workers": self.num_workers,
            "measured_clips": len(measured),
            "psnr": min((reply["psnr"] for reply, _ in measured), default=None),
            "free_bytes": free,
            "fits": bytes_["estimate"] <= free,
        }

    def _measure(self, progress: Callable[[], None]) -> list[tuple[Reply, float]]:
        """Returns for each clip that could be tried what became of it, and the bytes of its source that were read."""
        total = len(self._todo)
        picks = sorted({total * (2 * i + 1) // (2 * NUM_MEASURED) for i in range(NUM_MEASURED)})
        with tempfile.TemporaryDirectory(prefix="coldframe-") as scratch:
            tried = {
                self._submit(self._todo[pick], Path(scratch) / f"{pick}.mp4", MEASURED_FRAMES): self._todo[pick]
                for pick in picks
            }
            while wait(tried, HEARTBEAT_SECONDS).not_done:
                progress()
        replies = [(source, future.result()) for future, source in tried.items()]
        for _, reply in replies:
            if "disk_error" in reply:
                raise UserError(f"{reply['disk_error']}. Free some space there, or set TMPDIR.")
        good = [reply["made"] for _, reply in replies if "made" in reply]
        if not good and not self._made:  # else only those are left that could not be read before
            source, reply = replies[0]
            raise UserError(
                f"{source}  {reply['reason']}. None of {len(replies)} videos that were tried could be re-encoded."
            )
        return [(made, made["share"] * made["source_size_bytes"]) for made in good]

    # --- work ---

    def advance(self, seconds: float, progress: Callable[[], None]) -> dict[str, Any]:
        """Returns how far it is after about `seconds` more, and the unreadable videos met. At the end of all lists,
        classes and the table of bad videos are written. Raises UserError when the folder cannot be written."""
        if self._manifest is None:
            self._begin()
        bad, end = [], time.monotonic() + seconds
        while True:
            self._fill()
            left = end - time.monotonic()
            if not self._running or left <= 0:
                break
            for future in wait(self._running, min(left, HEARTBEAT_SECONDS), FIRST_COMPLETED).done:
                bad += self._take(self._running.pop(future), future.result())
            progress()
        done = not self._running
        if done:
            self._finish()
        num_left = len(self._running) + self._num_waiting
        return {**self._tell(bad, done), "num_done": len(self._mine) - num_left}

    def _tell(self, bad: list[dict[str, str]], done: bool) -> dict[str, Any]:
        return {
            "done": done,
            "num_done": len(self._mine),
            "num_total": len(self._mine),
            "num_clips": len(self._targets),
            "num_bad": len(self._bad),
            "size_bytes": sum(made["size_bytes"] for made in self._made.values()) if done else 0,
            "bad": bad,
        }

    def merge(self, folders: list[Path], bad: Mapping[str, str], progress: Callable[[], None]) -> dict[str, Any]:
        """Takes over what processes have prepared that had a share each, and ends as `advance` does. `bad`: the reasons
        of the videos that they could not read. What is not there although a share says so is prepared by `advance`."""
        self._begin(folders)
        self._bad = {source: bad[source] for source in self._todo if source in bad}
        self._todo = [source for source in self._todo if source not in bad]
        self._waiting, self._num_waiting = iter(self._todo), len(self._todo)
        progress()
        if not self._todo:
            self._finish()
        return self._tell(_tell_bad(self._bad), done=not self._todo)

    def _begin(self, folders: Sequence[Path] = ()) -> None:
        self._lock = RunLock(self._manifest_folder, "--output")
        self._made = self._take_up()  # again: another process may have worked here since
        theirs = {source: made for folder in folders for source, made in self._read_made(folder).items()}
        new = [made for source, made in theirs.items() if made != self._made.get(source)]
        self._made |= theirs
        self._todo = [source for source in self._mine if not self._is_done(source)]
        self._waiting, self._num_waiting = iter(self._todo), len(self._todo)
        self._manifest = _open_journal(self._manifest_folder / MANIFEST)
        if self._manifest.tell() == 0:
            self._write({"format": FORMAT, "encoding": asdict(self.encoding)})
        self._write(*new)

    def _write(self, *records: Reply) -> None:
        assert self._manifest is not None
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        append(self._manifest.fileno(), self._manifest_folder / MANIFEST, lines)

    def _fill(self) -> None:
        """Keeps one clip a worker in the queue beside the one it has."""
        while len(self._running) < 2 * self.num_workers:
            source = next(self._waiting, None)
            if source is None:
                return
            self._num_waiting -= 1
            target = self.folder / self._targets[source]
            target.parent.mkdir(parents=True, exist_ok=True)
            self._running[self._submit(source, target, None)] = source

    def _submit(self, source: str, target: Path, max_frames: int | None) -> Future[Reply]:
        listed = self._clips[source]
        request = {"source": listed.path, "part": listed.part, "target": str(target), "max_frames": max_frames}
        return self._workers.submit({**request, "encoding": asdict(self.encoding)})

    def _take(self, source: str, reply: Reply) -> list[dict[str, str]]:
        """Notes what became of a clip; returns it when it is bad."""
        if "disk_error" in reply:
            raise UserError(f"{reply['disk_error']}. The same command goes on once this is mended.")
        if "made" in reply:
            self._made[source] = {"source": source, "target": self._targets[source], **reply["made"]}
            del self._made[source]["share"]
            self._write(self._made[source])
            return []
        self._made.pop(source, None)
        self._bad[source] = reply["reason"]
        return _tell_bad({source: reply["reason"]})

    def _finish(self) -> None:
        assert self._manifest is not None
        os.fsync(self._manifest.fileno())
        if self._share is not None:
            return
        for name, items in self._lists.items():
            good = [(self._made[one.name]["target"], one.label) for one in items if one.name not in self._bad]
            lines = (f"{target} {show_label(label)}\n" for target, label in good)
            write_text(self.folder / f"{name}.txt", "".join(lines))
        if self._classes is not None:
            write_text(self.folder / "classes.txt", Path(self._classes).read_text(encoding="utf-8"))
        reasons = {path: " ".join(reason.split()) for path, reason in self._bad.items()}
        write_text(self.folder / "bad-videos.tsv", "".join(f"{path}\t{why}\n" for path, why in reasons.items()))

    def close(self) -> None:
        """Ends the workers, wherever they are, and lets the next writer in."""
        self._workers.close()
        if self._manifest is not None:
            self._manifest.close()
        if self._lock is not None:
            self._lock.release()


def _tell_bad(bad: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"path": source, "reason": reason} for source, reason in bad.items()]


# ---- names -----------------------------------------------------------------------------------------------------------


def _find_roots(settings: Settings, lists: Mapping[str, VideoList]) -> dict[str, str]:
    """Returns the root of each clip of the lists; of one that stands in both, that of the training list."""
    data = settings.data
    roots: dict[str, str] = {}
    for name, items in lists.items():
        own, file = (data.train_root, data.train_list) if name == "train" else (data.val_root, data.val_list)
        root = own or data.root or str(Path(file or "").parent)
        for listed in items:
            roots.setdefault(listed.name, root)
    return roots


def plan_targets(root_of: Mapping[str, str], clips: Mapping[str, Listed]) -> dict[str, str]:
    """Returns for each clip where its result goes, below the folder: its path below its root, with `.mp4`, of a part
    with its times before that; outside the root its whole path. Where several would meet, also on a disk that ignores
    case, each gets a hash."""
    meeting = defaultdict(list)
    for source, root in root_of.items():
        listed = clips[source]
        path, base = PurePosixPath(os.path.normpath(listed.path)), PurePosixPath(os.path.normpath(root))
        inside = path.relative_to(base) if path.is_relative_to(base) else PurePosixPath("outside", *path.parts[1:])
        times = "" if listed.part is None else "".join(f"-{show_seconds(time)}" for time in listed.part)
        name = inside.with_name(f"{inside.stem}{times}.mp4")
        meeting[str(name).casefold()].append((source, name))
    targets = {}
    for group in meeting.values():
        for source, name in group:
            mark = "" if len(group) == 1 else f"-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
            targets[source] = str(PurePosixPath("clips", name.with_name(f"{name.stem}{mark}.mp4")))
    return {source: targets[source] for source in root_of}


# ---- files -----------------------------------------------------------------------------------------------------------


def read_manifest(file: Path) -> tuple[Reply | None, dict[str, Reply]]:
    """Returns the encoding and the last record of each source; (None, {}) without a manifest. A last line that a kill
    tore is left out. Raises UserError for a file that is something else."""
    if not file.is_file():
        return None, {}
    lines = file.read_bytes().split(b"\n")[:-1]
    try:
        head, *records = [json.loads(line) for line in lines] or [None]
        if head is None:
            return None, {}
        if head["format"] != FORMAT:
            raise ValueError(f"it has format {head['format']!r}, and this version of coldframe reads {FORMAT}")
        return head["encoding"], {record["source"]: record for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}  cannot be used: {error}. Give another --output, or remove the folder.") from error


def _open_journal(file: Path) -> IO[bytes]:
    """Returns the file, open at its end, after cutting off what follows its last whole line."""
    file.touch()
    with file.open("rb+") as journal:
        journal.truncate(journal.read().rfind(b"\n") + 1)
    return file.open("ab", buffering=0)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _extrapolate(measured: list[tuple[float, float]], source_bytes: int) -> dict[str, float]:
    """Returns the estimate for so many bytes of source from (value, bytes of source) pairs, and two standard errors of
    the ratio to both sides."""
    if not measured:
        return {"estimate": 0.0, "low": 0.0, "high": 0.0}
    per_byte = sum(value for value, _ in measured) / max(1.0, sum(part for _, part in measured))
    ratios = [value / max(1.0, part) for value, part in measured]
    error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else per_byte
    bounds = {"low": max(0.0, per_byte - 2 * error), "high": per_byte + 2 * error}
    return {name: value * source_bytes for name, value in {"estimate": per_byte, **bounds}.items()}
