"""What a feature cache was computed with and which shards it has: features.json, and how it is compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coldframe.assembly.sizes import size_backbone, size_decoder
from coldframe.data.clips import read_list
from coldframe.errors import UserError
from coldframe.machine.files import hash_file, write_text
from coldframe.settings import Settings

FORMAT = 2
MANIFEST = "features.json"
_ANEW = "Remove the folder and build the cache again."
STORED_DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}


@dataclass(frozen=True)
class Layout:
    """What a clip's row holds, earliest layer first. maps: each layer's output and, with `has_maps`, both maps;
    inputs: what enters each layer; one: what enters the first."""

    form: str
    precision: str
    num_layers: int
    has_maps: bool
    num_frames: int
    num_patches: int
    width: int
    prefix: int

    @classmethod
    def of(cls, settings: Settings) -> Layout:
        """Returns the layout of the cache that a configuration builds."""
        shape = size_backbone(settings.model.backbone).shape(settings.data.num_frames)
        wants = size_decoder(settings).wants
        return cls(
            form=settings.features.form,
            precision=settings.features.precision,
            num_layers=wants.depth,
            has_maps=wants.relations and shape.frames > 1,
            num_frames=shape.frames,
            num_patches=shape.num_patches,
            width=shape.channels,
            prefix=shape.prefix,
        )

    @property
    def shapes(self) -> list[list[tuple[int, ...]]]:
        """The shapes of the tensors of each stored layer."""
        tokens = (self.num_frames, self.prefix + self.num_patches, self.width)
        maps = (self.num_frames - 1, self.num_patches, self.num_patches)
        layer: list[tuple[int, ...]] = [tokens, maps, maps] if self.form == "maps" and self.has_maps else [tokens]
        return [layer] * (1 if self.form == "one" else self.num_layers)

    @property
    def numbers(self) -> int:
        return sum(prod(shape) for layer in self.shapes for shape in layer)

    @property
    def clip_bytes(self) -> int:
        return self.numbers * STORED_DTYPES[self.precision].itemsize

    def split(self, stored_NS: Tensor) -> list[list[Tensor]]:
        """Returns views of the tensors of each stored layer, (N, ...) each."""
        shapes = [shape for layer in self.shapes for shape in layer]
        pieces = torch.split(stored_NS, [prod(shape) for shape in shapes], dim=1)  # type: ignore[no-untyped-call]
        found = iter(piece.unflatten(1, shape) for piece, shape in zip(pieces, shapes, strict=True))  # type: ignore[no-untyped-call]
        return [[next(found) for _ in layer] for layer in self.shapes]


@dataclass(frozen=True)
class Shard:
    file: str
    first: int
    num_records: int
    size_bytes: int
    sha256: str


@dataclass
class Part:
    """The records of one list, in shards; `bad` has the reason for each record that could not be computed.

    `role` is train or val. A cache may hold several lists to evaluate on: a sweep chooses on one and ends on another.
    """

    role: str
    num_records: int
    num_views: int
    key: dict[str, Any]
    shards: list[Shard]
    bad: dict[int, str]

    def gaps(self) -> Iterator[range]:
        """Yields the records that no shard holds yet."""
        done = 0
        for shard in self.shards:
            if shard.first > done:
                yield range(done, shard.first)
            done = shard.first + shard.num_records
        if done < self.num_records:
            yield range(done, self.num_records)

    def drop(self, shard: Shard) -> None:
        """Forgets a shard, and what was said of its records."""
        self.shards.remove(shard)
        gone = range(shard.first, shard.first + shard.num_records)
        self.bad = {record: reason for record, reason in self.bad.items() if record not in gone}

    @property
    def num_missing(self) -> int:
        return self.num_records - sum(shard.num_records for shard in self.shards)


@dataclass
class Manifest:
    """features.json. Keys are named as in the configuration, so that a difference can be told as one."""

    layout: Layout
    key: dict[str, Any]
    computed_in: str
    parts: dict[str, Part]

    def by_role(self, wanted: Iterable[str]) -> dict[str, Part]:
        """Returns the parts of these names that are there, by what they are for."""
        return {self.parts[name].role: self.parts[name] for name in wanted if name in self.parts}

    def write(self, folder: Path) -> None:
        """Writes features.json."""
        value = {"format": FORMAT, **asdict(self)}
        for name, part in self.parts.items():
            value["parts"][name]["bad"] = sorted(part.bad.items())
        value["sha256"] = _hash_value(value)
        write_text(folder / MANIFEST, json.dumps(value, indent=1, allow_nan=False))


def read_manifest(folder: Path) -> Manifest | None:
    """Returns what a folder holds, None when it holds no cache. Raises UserError when features.json is broken."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        text = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}  cannot be read: {error}. Change its permissions.") from error
    try:
        value = json.loads(text)
        if value["format"] != FORMAT:
            raise ValueError(f"it has format {value['format']!r}, and this version of coldframe reads {FORMAT}")
        if value.pop("sha256") != _hash_value(value):
            raise ValueError("it is damaged, its checksum does not agree")
        parts = {
            name: Part(
                **{**part, "shards": [Shard(**shard) for shard in part["shards"]], "bad": dict(map(tuple, part["bad"]))}
            )
            for name, part in value["parts"].items()
        }
        value["key"].setdefault("data.reader", "pyav")  # older caches do not say it
        value["layout"].setdefault("prefix", 1)  # nor that a class token stands before the patches
        return Manifest(Layout(**value["layout"]), value["key"], value["computed_in"], parts)
    except KeyError as error:
        raise UserError(f"{file}  cannot be used: it has no {error}. {_ANEW}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}  cannot be used: {error}. {_ANEW}") from error


def _hash_value(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def describe_key(settings: Settings, backbone_sha256: str) -> dict[str, Any]:
    """Returns what both parts of a cache depend on, besides its layout."""
    data, backbone = settings.data, settings.model.backbone
    return {
        "model.backbone.weights (SHA-256)": backbone_sha256,
        "model.backbone.num_heads": backbone.num_heads,
        "model.backbone.activation": backbone.activation,
        "data.reader": data.reader,
        "data.sampling": data.sampling,
        "data.stride": None if data.sampling == "tsn" else data.stride,
        "data.size": data.size,
        "data.mean": list(data.mean),
        "data.std": list(data.std),
    }


def describe_parts(settings: Settings, lists: dict[str, str | None]) -> dict[str, Part]:
    """Returns the empty parts that the given lists ask for, by name; keys hold what the one part depends on."""
    data, views = settings.data, settings.eval
    parts = {}
    if lists["train"] is not None:
        key = {
            "data.train_list (SHA-256)": hash_file(str(data.train_list)),
            "data.train_root": data.train_root or data.root,
            "features.train_views": settings.features.train_views,
            "data.seed": data.seed,
            "data.augment": data.augment,
            "data.interpolation": data.interpolation if data.augment else None,
            "data.mirror": data.mirror,
            "data.short_clips": data.short_clips,
        }
        parts["train"] = Part("train", len(read_list(lists["train"])) * settings.features.train_views, 1, key, [], {})
    if lists["val"] is not None:
        digest = hash_file(str(data.val_list))
        key = {
            "data.val_list (SHA-256)": digest,
            "data.val_root": data.val_root or data.root,
            "eval.spatial_views": views.spatial_views,
            "eval.temporal_views": views.temporal_views,
        }
        num_views = views.spatial_views * views.temporal_views
        parts[f"val-{digest[:12]}"] = Part("val", len(read_list(lists["val"])), num_views, key, [], {})
    return parts


def find_differences(have: Manifest, wanted: Manifest, as_part: bool = False) -> list[str]:
    """Returns why a cache does not serve: a line for each key that differs. More layers or maps than wanted do, but not
    in a part of the wanted one, which has to have as many."""
    theirs, ours = asdict(have.layout), asdict(wanted.layout)
    pairs = [(f"features.{name}", theirs[name], ours[name]) for name in ("form", "precision")]
    pairs.append(("data.num_frames", theirs["num_frames"], ours["num_frames"]))
    pairs.append(("patches of a frame", theirs["num_patches"], ours["num_patches"]))
    pairs.append(("model.backbone.width", theirs["width"], ours["width"]))
    pairs.append(("precision that it is computed in", have.computed_in, wanted.computed_in))
    pairs += [(name, have.key.get(name), value) for name, value in wanted.key.items()]
    for name, part in wanted.parts.items():
        if name in have.parts:
            pairs += [(key, have.parts[name].key.get(key), value) for key, value in part.key.items()]
            pairs.append((f"records of data.{part.role}_list", have.parts[name].num_records, part.num_records))
    lines = [f"{name}: {_show(a)} in the cache, {_show(b)} here" for name, a, b in pairs if a != b]
    surplus = have.layout.num_layers - wanted.layout.num_layers
    if surplus < 0 or (as_part and surplus > 0):
        lines.append(
            f"model.decoder.num_layers: {have.layout.num_layers} in the cache, {wanted.layout.num_layers} wanted here"
        )
    if wanted.layout.has_maps and not have.layout.has_maps and have.layout.form == "maps":
        lines.append("model.temporal.cross_attention: the cache has no maps for it")
    elif as_part and have.layout.has_maps != wanted.layout.has_maps:
        lines.append("model.temporal.cross_attention: the cache has maps for it, and none are wanted here")
    return lines


def _show(value: Any) -> str:
    text = json.dumps(value)
    return f"{value[:16]}..." if isinstance(value, str) and len(value) == 64 else text
