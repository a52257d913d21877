"""Loads batches of clips: all workers decode one batch together, in shared memory, while the one before is used."""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from coldframe.data.clips import Batch, DummyClips, EvalViews, Item, Place, TrainClips, sample_order
from coldframe.data.labels import stack_labels
from coldframe.data.order import Order
from coldframe.errors import UserError, WorkerDied, describe
from coldframe.machine.parent import die_with_parent
from coldframe.machine.sharing import (
    count_semaphores,
    empty_shared,
    lacks_semaphores,
    no_room,
    obey_parent_alone,
    shorten_sockets,
)
from coldframe.video.frames import BadVideo

T = TypeVar("T")
DEATH_SECONDS = 1.0
# Where the kernel ends workers with their parent, the main process has to be it. Python 3.14 starts them from a server.
FORKS = "fork" if sys.platform == "linux" else None


def train_loader(
    clips: TrainClips | DummyClips,
    *,
    seed: int,
    start_step: int,
    num_steps: int,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    clips_per_video: int = 1,
    pin_memory: bool = False,
    order: Order | None = None,
) -> Generator[Batch]:
    """Yields one Batch for each of steps start_step..num_steps-1: this rank's slice of batch_size (of all ranks) clips.

    Each video of the training order, by default that of sample_order, gives clips_per_video clips in a row. The same
    bytes for any num_workers and from wherever it starts; torch's global random state is left alone. Workers start with
    the call, and closing the iterator ends them. A batch without a readable video has N = 0.
    """
    if batch_size % (world_size * clips_per_video):
        raise UserError(
            f"train.batch_size  is {batch_size}. It must be a multiple of the {world_size} processes times "
            f"data.clips_per_video ({clips_per_video})."
        )
    per_rank, num_videos = batch_size // world_size, batch_size // world_size // clips_per_video
    find_items = order or partial(sample_order, len(clips), seed)

    def batches() -> Iterator[list[Place]]:
        first = rank * per_rank
        for step in range(start_step, num_steps):
            items = find_items((step * batch_size + first) // clips_per_video, num_videos)
            yield [(step, first + i, items[i // clips_per_video]) for i in range(per_rank)]

    num_places = (num_steps - start_step) * per_rank
    return _load(clips, batches(), num_places, per_rank, num_workers, pin_memory, clips_per_video)


def eval_loader(
    views: EvalViews | DummyClips,
    *,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Generator[Batch]:
    """Yields Batches of up to batch_size videos, all views of each; every world_size-th video from rank on (upstream
    create_val_loader), each exactly once."""
    mine = range(rank, len(views), world_size)
    batches = (list(mine[i : i + batch_size]) for i in range(0, len(mine), batch_size))
    return _load(views, batches, len(mine), batch_size, num_workers, pin_memory)


def read_together(views: EvalViews, num_threads: int) -> Iterator[Item]:
    """Yields all items in order, read by threads of this process: a few videos are through before loader workers would
    have started. So many lie ready as there are threads."""
    if num_threads <= 1 or len(views) == 1:
        yield from (views[index] for index in range(len(views)))
        return
    with ThreadPoolExecutor(num_threads, "videos") as pool:
        coming: deque[Future[Item]] = deque()
        for index in range(len(views)):
            coming.append(pool.submit(views.__getitem__, index))
            if len(coming) > num_threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _load(
    dataset: TrainClips | EvalViews | DummyClips,
    batches: Iterable[list[Any]],
    num_places: int,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
    clips_per_video: int = 1,
) -> Generator[Batch]:
    """Returns an iterator of whole batches, each decoded by all workers together: the first is there sooner, and what
    lies ready is about two batches rather than two per worker."""
    chunk = _count_part(batch_size, num_workers, clips_per_video)
    loader = DataLoader(
        _Telling(dataset),
        batch_sampler=(batch[i : i + chunk] for batch in batches for i in range(0, len(batch), chunk)),
        num_workers=num_workers,
        collate_fn=partial(_collate, dataset.shape, dataset.num_labels),
        worker_init_fn=_start_worker,
        multiprocessing_context=FORKS if num_workers else None,
        generator=torch.Generator(),  # else the loader draws from the global one, and a trial's dropout would follow
    )
    if num_workers == 0:
        return _join_parts(_raise_told(iter(loader)), num_places, batch_size, pin_memory)
    shorten_sockets()
    try:
        # Workers start here, in the caller's thread, and decode while the caller does something else.
        parts = _tell_deaths(iter(loader))
    except OSError as error:
        if lacks_semaphores(error):
            raise no_room(count_semaphores(num_workers)) from error
        raise
    return _join_parts(_raise_told(parts), num_places, batch_size, pin_memory)


def _count_part(batch_size: int, num_workers: int, clips_per_video: int) -> int:
    """Returns how many clips of a batch a worker decodes at once."""
    videos = math.ceil(batch_size / clips_per_video)
    return math.ceil(videos / max(1, num_workers)) * clips_per_video


class _Telling(Dataset[Any]):
    """A dataset whose errors that the user can mend come back as they are: of what a worker raises torch makes a text
    with a stack, and drops codes and paths."""

    def __init__(self, dataset: TrainClips | EvalViews | DummyClips) -> None:
        self._dataset = dataset

    def __getitems__(self, places: list[Any]) -> list[Item] | Exception:
        try:
            if isinstance(self._dataset, TrainClips):
                return self._dataset.__getitems__(places)
            return [self._dataset[place] for place in places]
        except Exception as error:
            if describe(error)["kind"] == "bug":
                raise
            return error


def _raise_told(parts: Iterable[Batch | Exception]) -> Generator[Batch]:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


def _tell_deaths(parts: Iterator[Batch]) -> Generator[Batch]:
    """Yields the parts. A worker that dies while it hands one over breaks the connection before the kernel tells of
    its death, which is what is raised then."""
    try:
        yield from parts
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        if "DataLoader worker" in str(error):
            raise  # of a dataset, with its traceback
        time.sleep(DEATH_SECONDS)  # torch raises from SIGCHLD whose death it was and by which signal
        raise WorkerDied("DataLoader worker exited unexpectedly while it handed over what it had decoded") from error


def _join_parts(parts: Iterator[Batch], num_places: int, batch_size: int, pin_memory: bool) -> Generator[Batch]:
    waiting: list[Batch] = []
    for part in parts:
        waiting.append(part)
        num_seen = sum(len(part.labels) + len(part.bad) for part in waiting)
        if num_seen == min(batch_size, num_places):
            yield _join(waiting, pin_memory)
            waiting, num_places = [], num_places - num_seen


def to_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yields the batches with clips and labels on the device. To a GPU a thread copies the next one, on a stream of its
    own, while a step is computed."""
    if device.type == "cpu":
        yield from batches
        return
    for batch, copied in _read_ahead(_copy(batches, device)):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for tensor in (batch.clips, batch.labels):  # memory of the copying stream, which now waits before it reuses it
            tensor.record_stream(computing)
        yield batch


def _copy(batches: Iterator[Batch], device: torch.device) -> Generator[tuple[Batch, torch.cuda.Event]]:
    """Yields the batches with clips and labels on the device, each with the event that ends its copy."""
    stream = _copy_stream(device)
    for batch in batches:
        with torch.cuda.stream(stream):
            clips, labels = (tensor.to(device, non_blocking=True) for tensor in (batch.clips, batch.labels))
        batch = batch._replace(clips=clips, labels=labels)  # and lets go of what was copied from
        yield batch, stream.record_event()


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the stream that batches are copied on: one for all loaders, as each stream keeps memory of its own."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _read_ahead(batches: Generator[T]) -> Generator[T]:
    """Yields what `batches` does; a thread gets the next one ready while the one before is worked on."""
    with ThreadPoolExecutor(1) as thread:
        try:
            coming = thread.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = thread.submit(next, batches, None)
                yield batch
        finally:
            thread.submit(batches.close)


def _collate(shape: tuple[int, ...], num_labels: int | None, items: list[Item] | Exception) -> Batch | Exception:
    """Returns the part of a batch; in a worker its clips are written once, into the memory that both sides share."""
    if isinstance(items, Exception):
        return items
    good = [(item.clip, item.label, item.index) for item in items if isinstance(item.clip, Tensor)]
    clips, labels, indices = _empty(len(good), shape, num_labels)
    if good:
        torch.stack([clip for clip, _, _ in good], out=clips)
        labels[:] = stack_labels([label for _, label, _ in good], num_labels)
        indices[:] = torch.tensor([index for _, _, index in good])
    return Batch(clips, labels, indices, [item.clip for item in items if isinstance(item.clip, BadVideo)])


def _empty(num: int, shape: tuple[int, ...], num_labels: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns clips, labels and indices to be written; in a worker all in memory that the main process can map, which
    is a descriptor each to hand over."""
    new = empty_shared if get_worker_info() is not None else lambda shape, dtype: torch.empty(shape, dtype=dtype)
    clips, numbers = new((num, *shape), torch.float32), new((2, num), torch.int64)
    labels = numbers[0] if num_labels is None else new((num, num_labels), torch.bool)
    return clips, labels, numbers[1]


def _join(parts: list[Batch], pin_memory: bool) -> Batch:
    """Returns the parts as one batch: one copy where there is more than one part or memory has to be pinned."""
    columns = ([p.clips for p in parts], [p.labels for p in parts], [p.indices for p in parts])
    clips, labels, indices = (
        _concatenate(column, pin_memory) if pin_memory or len(parts) > 1 else column[0] for column in columns
    )
    return Batch(clips, labels, indices, [b for p in parts for b in p.bad])


def _concatenate(tensors: list[Tensor], pin_memory: bool) -> Tensor:
    shape = sum(len(tensor) for tensor in tensors), *tensors[0].shape[1:]
    return torch.cat(tensors, out=torch.empty(shape, dtype=tensors[0].dtype, pin_memory=pin_memory))


def _start_worker(worker_id: int) -> None:
    """Leaves interrupts to the main process (Ctrl-C reaches the whole process group), and dies with it, be it before
    this: torch's own watch takes for the parent whoever it finds, and a worker of a dead one would wait for ever.

    Linux counts the thread that started the worker as its parent: start loaders from a thread that lasts.
    """
    obey_parent_alone()
    torch.set_num_threads(1)
    main = multiprocessing.parent_process()
    assert main is not None
    assert main.pid is not None
    die_with_parent(main.pid)
