"""From settings and lists to datasets and batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from coldframe.data.clips import Batch, DummyClips, EvalViews, Listed, TrainClips, VideoList, read_list, sample_order
from coldframe.data.labels import ClassCounts, Label, count_classes
from coldframe.data.loader import eval_loader, train_loader
from coldframe.data.order import ClassOrder, Order
from coldframe.machine import ranks
from coldframe.machine.environment import count_workers
from coldframe.machine.sharing import count_semaphores, has_semaphores, no_room
from coldframe.settings import Settings
from coldframe.video.torchcodec import choose_reader


def refuse_lacking(settings: Settings, mode: str) -> None:
    """Raises UserError where the machine lacks what reading videos takes, before anything is built: the reader, or for
    a training what its loader workers cannot be started without."""
    data, num_ranks = settings.data, settings.launch.devices
    if mode == "predict" or (data.features is None and not data.dummy):
        choose_reader(data.reader)
    num_workers = count_workers(data.num_workers, num_ranks)
    if mode == "train" and data.features is None and num_workers > 0:
        num_loaders = 1 if data.val_list is None else 2  # an evaluation's starts while the other one waits
        count = num_ranks * num_loaders * count_semaphores(num_workers)
        if not has_semaphores(count):
            raise no_room(count)


def _stride(settings: Settings) -> int | None:
    return None if settings.data.sampling == "tsn" else settings.data.stride


def num_labels(settings: Settings) -> int | None:
    """Returns how many labels a clip may have, None where it has one."""
    return settings.data.num_classes if settings.data.labels == "multi" else None


def training_order(settings: Settings, items: VideoList) -> Order:
    """Returns the order in which the clips of a training list are drawn."""
    seed = settings.data.seed
    if settings.data.balance == "classes":
        return ClassOrder(_labels(settings, items), seed)
    return partial(sample_order, len(items), seed)


def count_training(settings: Settings, list_file: str | None) -> ClassCounts:
    """Returns how many clips of each class there are to train on."""
    items = VideoList(b"") if list_file is None else read_list(list_file)
    return count_classes(_labels(settings, items), settings.data.num_classes)


def _labels(settings: Settings, items: VideoList) -> list[Label]:
    if not settings.data.dummy:
        return items.labels()
    clips = _dummy_clips(settings, len(items) or settings.train.batch_size, None)
    return [clips.label_of(index) for index in range(len(clips))]


def _dummy_clips(settings: Settings, num_items: int, num_views: int | None) -> DummyClips:
    data = settings.data
    return DummyClips(
        num_items,
        num_classes=data.num_classes,
        num_frames=data.num_frames,
        size=data.size,
        seed=data.seed,
        num_views=num_views,
        num_labels=num_labels(settings),
    )


def training_clips(settings: Settings, items: VideoList) -> TrainClips | DummyClips:
    """Returns the dataset of augmented clips; `data.dummy` needs no list."""
    data = settings.data
    if data.dummy:
        return _dummy_clips(settings, len(items) or settings.train.batch_size, None)
    return TrainClips(
        items,
        num_frames=data.num_frames,
        stride=_stride(settings),
        size=data.size,
        seed=data.seed,
        augment=data.augment,
        interpolation=data.interpolation,
        mirror=data.mirror,
        repeat_last=data.short_clips == "last_frame",
        reader=data.reader,
        num_labels=num_labels(settings),
    )


def training_batches(settings: Settings, list_file: str | None, step: int, device: torch.device) -> Iterator[Batch]:
    """Returns the batches of steps `step`.. to the end, this rank's share of each; `data.dummy` needs no list."""
    data, train = settings.data, settings.train
    items = read_list(list_file) if list_file is not None else VideoList(b"")
    return train_loader(
        training_clips(settings, items),
        seed=data.seed,
        start_step=step,
        num_steps=train.steps,
        batch_size=train.batch_size,
        num_workers=count_workers(data.num_workers, ranks.local_world_size()),
        rank=ranks.rank(),
        world_size=ranks.world_size(),
        clips_per_video=data.clips_per_video,
        pin_memory=device.type == "cuda",
        order=None if data.balance == "none" else training_order(settings, items),
    )


def evaluation_batches(settings: Settings, list_file: str, device: torch.device) -> tuple[Iterator[Batch], int]:
    """Returns the batches of one pass over a list, this rank's share of it, and how many videos the list has."""
    items = read_list(list_file)
    loader = eval_loader(
        evaluation_clips(settings, items),
        batch_size=settings.eval.batch_size,
        num_workers=count_workers(settings.data.num_workers, ranks.local_world_size()),
        rank=ranks.rank(),
        world_size=ranks.world_size(),
        pin_memory=device.type == "cuda",
    )
    return loader, len(items)


def evaluation_clips(settings: Settings, items: VideoList | list[Listed]) -> EvalViews | DummyClips:
    """Returns the dataset of all test views of each video."""
    data, views = settings.data, settings.eval
    if data.dummy:
        return _dummy_clips(settings, len(items), views.spatial_views * views.temporal_views)
    return video_views(settings, items)


def video_views(settings: Settings, items: VideoList | list[Listed]) -> EvalViews:
    """Returns the same, read from the videos also where `data.dummy` trained on noise."""
    data, views = settings.data, settings.eval
    return EvalViews(
        items,
        num_frames=data.num_frames,
        stride=_stride(settings),
        size=data.size,
        spatial_views=views.spatial_views,
        temporal_views=views.temporal_views,
        reader=data.reader,
        num_labels=num_labels(settings),
    )
