"""Backbone weights: reading public files, and name maps between their formats and ours (OpenAI's `visual` names).

Pickles are read with `weights_only`; of a TorchScript archive only the tensors are used.
"""

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from coldframe.backbones.clip.hub import Said, read_beside
from coldframe.backbones.clip.tower import (
    ADVICE,
    KNOWN_TOWERS,
    Tower,
    check_finite,
    check_heads,
    count_heads,
    find_tower,
    some,
    unwrap,
)
from coldframe.backbones.layers import QuickGELU
from coldframe.errors import UserError

BLOCKS = "transformer.resblocks"
STEM = ("class_embedding", "positional_embedding", "conv1.weight", "conv1.bias", "ln_pre.weight", "ln_pre.bias")
BLOCK = tuple(
    f"{module}{kind}"
    for module in ("attn.in_proj_", "attn.out_proj.", "ln_1.", "mlp.c_fc.", "mlp.c_proj.", "ln_2.")
    for kind in ("weight", "bias")
)
NUM_AXES = {"class_embedding": 1, "positional_embedding": 2, "conv1.weight": 4}


class Naming(NamedTuple):
    """Another project's names: our modules and parameters with theirs, q, k and v split, and where its blocks are."""

    stem: dict[str, str]
    blocks: str
    block: dict[str, str]


UPSTREAM = Naming(  # upstream weight_loaders.py
    stem={
        "class_embedding": "cls_token",
        "positional_embedding": "pos_embed",
        "conv1.weight": "patch_embed.proj.weight",
        "conv1.bias": "patch_embed.proj.bias",
        "ln_pre.weight": "ln_pre.weight",
        "ln_pre.bias": "ln_pre.bias",
    },
    blocks="blocks",
    block={
        **{f"attn.{x}_proj": f"attn.{x}_proj" for x in ("q", "k", "v", "out")},
        **{"ln_1": "norm1", "ln_2": "norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"},
    },
)
HUGGING_FACE = Naming(  # transformers, modeling_clip.py; `pre_layrnorm` is spelt so
    stem={
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "ln_pre.weight": "pre_layrnorm.weight",
        "ln_pre.bias": "pre_layrnorm.bias",
    },
    blocks="encoder.layers",
    block={
        **{f"attn.{x}_proj": f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")},
        **{"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"},
    },
)


def load_backbone(path: Path | str) -> dict[str, Tensor]:
    """Returns the vision tower's weights in our names, float32, without CLIP's `ln_post` and `proj`.

    Reads OpenAI's TorchScript archive, and state dicts (.pt, .safetensors; whole model or vision tower; half or single
    precision) of OpenAI's CLIP, open_clip, Hugging Face's CLIPModel and CLIPVisionModel, and upstream EVL's backbone.

    Raises UserError that says what the file is instead, or which weights it lacks.
    """
    return from_public(read_tensors(Path(path)), path)


def from_public(tensors: Mapping[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """Returns the same as `load_backbone` from tensors already read; `path` is for messages."""
    tower = find_tower(tensors, path)
    check_finite(tower.tensors, path, tower.prefix)
    _check_blocks(tower, path)
    state = _in_our_names(tower)
    if "conv1.weight" in state:
        state.setdefault("conv1.bias", torch.zeros(len(state["conv1.weight"])))
    wanted = [*STEM, *(f"{BLOCKS}.{i}.{name}" for i in range(max(1, count_blocks(state, BLOCKS))) for name in BLOCK)]
    missing = [name for name in wanted if name not in state]
    if missing:
        raise UserError(f"{path}  lacks weights of a CLIP vision transformer: {some(missing)}. {ADVICE}")
    odd = [name for name, num_axes in NUM_AXES.items() if state[name].ndim != num_axes]
    if odd:
        shapes = some([f"{name} is {tuple(state[name].shape)}" for name in odd])
        raise UserError(f"{path}  has weights of other shapes than a CLIP vision transformer: {shapes}. {ADVICE}")
    return {name: state[name].float().contiguous() for name in wanted}


def find_final_norm(tensors: Mapping[str, Tensor], path: Path | str) -> tuple[Tensor, Tensor] | None:
    """Returns scale and shift of the norm behind CLIP's last block; None for a file that left it out, as the original
    EVL's do."""
    tower = find_tower(tensors, path)
    name = "post_layernorm" if tower.naming == "hugging_face" else "ln_post"
    scale, shift = (tower.tensors.get(f"{name}.{kind}") for kind in ("weight", "bias"))
    return None if scale is None or shift is None else (scale.float(), shift.float())


def _in_our_names(tower: Tower) -> dict[str, Tensor]:
    if tower.naming == "hugging_face":
        return from_hugging_face(tower.tensors)
    return from_upstream(tower.tensors) if tower.naming == "upstream" else dict(tower.tensors)


def _check_blocks(tower: Tower, path: Path | str) -> None:
    """Raises UserError where blocks have weights besides CLIP's, such as LayerScale or adapters that were not merged:
    left out, they would make other features."""
    naming = {"hugging_face": HUGGING_FACE, "upstream": UPSTREAM}.get(tower.naming)
    blocks = BLOCKS if naming is None else naming.blocks
    known = {f"{name}.{kind}" for name in naming.block.values() for kind in ("weight", "bias")} if naming else {*BLOCK}
    pattern = re.compile(re.escape(blocks) + r"\.\d+\.(.+)")
    more = [tower.prefix + name for name in tower.tensors if (m := pattern.match(name)) and m[1] not in known]
    if more:
        raise UserError(
            f"{path}  has weights in its blocks that CLIP's have none of: {some(more)}. Without them its features "
            f"would be others. Merge adapters into the weights; other kinds of blocks are not supported. {ADVICE}"
        )


def describe(state: Mapping[str, Tensor], path: Path | str) -> dict[str, Any]:
    """Returns `backbone_sizes` with what a description beside the weights file says of them."""
    return backbone_sizes(state, read_beside(path, len(state["class_embedding"])))


def backbone_sizes(state: Mapping[str, Tensor], said: Said | None = None) -> dict[str, Any]:
    """Returns the sizes that weights in our names have.

    width, num_layers, num_heads (as a description beside the file says, else by the width: weights do not tell), tower
    (which of CLIP's has this width, None when that is not known and so num_heads is a guess without a description),
    description (the file that says heads and activation), activation (None without one), patch_size (h, w) in pixels,
    num_patches, grid (h, w) when it is square, else None, mlp_factor.
    """
    width, _, *patch_size = state["conv1.weight"].shape
    num_patches = len(state["positional_embedding"]) - 1
    side = math.isqrt(num_patches)
    return {
        "width": width,
        "num_layers": count_blocks(state, BLOCKS),
        "num_heads": count_heads(width) if said is None else said.num_heads,
        "tower": KNOWN_TOWERS.get(width),
        "description": None if said is None else str(said.file),
        "activation": None if said is None else said.activation,
        "patch_size": tuple(patch_size),
        "num_patches": num_patches,
        "grid": (side, side) if side * side == num_patches else None,
        "mlp_factor": len(state[f"{BLOCKS}.0.mlp.c_fc.weight"]) / width,
    }


def put_backbone(backbone: nn.Module, state: dict[str, Tensor], path: Path | str) -> list[str]:
    """Returns notes on what was adapted; `backbone` then holds the weights of `state`.

    Positions of another square grid are interpolated: the same weights at another input size.

    Raises UserError with the file's and the configured size of everything that differs.
    """
    notes = []
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    have, want = len(state["positional_embedding"]) - 1, expected["positional_embedding"][0] - 1
    side, wanted_side = math.isqrt(have), math.isqrt(want)
    if have != want and side**2 == have and wanted_side**2 == want:
        state = interpolate_positions(state, (wanted_side, wanted_side))
        notes.append(f"{path}: positions interpolated from {side} x {side} to {wanted_side} x {wanted_side} patches")
    problems = []
    have, want = count_blocks(state, BLOCKS), count_blocks(expected, BLOCKS)
    if have != want:
        problems.append(f"num_layers is {have} in the file and {want} configured")
    for label, name, axis in (
        ("width", "class_embedding", 0),
        ("patch_size", "conv1.weight", 2),
        ("patch_size across", "conv1.weight", 3),
        ("the number of positions", "positional_embedding", 0),
        ("the width of the mlp", f"{BLOCKS}.0.mlp.c_fc.weight", 0),
    ):
        have, want = state[name].shape[axis], expected[name][axis]
        if have != want:
            problems.append(f"{label} is {have} in the file and {want} configured")
    problems = problems or [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(shape)} configured"
        for name, shape in expected.items()
        if state[name].shape != shape
    ]
    if problems:
        raise UserError(f"{path}  does not fit model.backbone: {'; '.join(problems)}. Choose the preset of this file.")
    width, said = len(state["class_embedding"]), read_beside(path, len(state["class_embedding"]))
    check_heads(width, cast(Any, backbone).transformer.resblocks[0].attn.num_heads, path, said)
    backbone.load_state_dict(state)
    is_quick = isinstance(cast(Any, backbone).transformer.resblocks[0].mlp.gelu, QuickGELU)
    activation = "quick_gelu" if is_quick else "gelu"
    if said is not None and said.activation != activation:
        notes.append(
            f"{said.file} says the activation {said.activation}; model.backbone.activation is {activation}. "
            f"Set it to {said.activation}."
        )
    return notes


def interpolate_positions(state: dict[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """Returns the state with positions for a `grid` (h, w), bicubic from a square one; the class token's is kept."""
    positions_LC = state["positional_embedding"]
    side = math.isqrt(len(positions_LC) - 1)
    assert side * side == len(positions_LC) - 1
    if (side, side) == grid:
        return state
    patches_1Chw = positions_LC[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    resized = F.interpolate(patches_1Chw, size=grid, mode="bicubic", align_corners=False, antialias=True)
    resized_PC = resized.flatten(2).transpose(1, 2)[0].to(positions_LC.dtype)
    return {**state, "positional_embedding": torch.cat([positions_LC[:1], resized_PC])}


def to_upstream(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the backbone in upstream EVL's names: q, k and v split, patch embedding as a matrix."""
    split = _split_qkv(state)
    names = _name_map(UPSTREAM, count_blocks(state, BLOCKS))
    renamed = {theirs: split[ours] for ours, theirs in names.items() if ours in split}
    return {**renamed, "patch_embed.proj.weight": state["conv1.weight"].flatten(1)}


def from_upstream(state: Mapping[str, Tensor], patch_size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Returns upstream EVL's backbone in our names; patches are square unless `patch_size` (h, w) says otherwise."""
    renamed = _from_naming(state, UPSTREAM)
    if "conv1.weight" in renamed:
        matrix = renamed["conv1.weight"]
        side = math.isqrt(matrix.shape[1] // 3)
        renamed["conv1.weight"] = matrix.reshape(len(matrix), 3, *(patch_size or (side, side)))
    return renamed


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns Hugging Face's CLIP vision model, its names without `vision_model.`, in our names."""
    return _from_naming(state, HUGGING_FACE)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns all floating point tensors of a file by name, as they are, on the CPU.

    Raises UserError that says what the file is when it holds no tensors.
    """
    problem = _describe_other_file(path)
    if problem:
        raise UserError(f"{path}  {problem}. {ADVICE}")
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}  holds more than tensors, and code in files is not run. {ADVICE}") from error
    except Exception as error:  # the readers raise about everything on a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}  cannot be read, perhaps truncated: {reason}. Download it again.") from error
    return unwrap(content, path)


def count_blocks(names: Iterable[str], blocks: str) -> int:
    """Returns one more than the highest block number among parameter names."""
    pattern = re.compile(re.escape(blocks) + r"\.(\d+)\.")
    return 1 + max((int(match[1]) for name in names if (match := pattern.match(name))), default=-1)


def _describe_other_file(path: Path) -> str | None:
    if not path.is_file():
        return "is a folder" if path.is_dir() else "does not exist"
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run `git lfs pull` where it came from"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not weights: the download was answered with an error or a login page"
    if not (head.startswith((b"PK", b"\x80")) or head[8:9] == b"{"):
        return "is neither a torch nor a safetensors file"
    return None


def _read(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
        return load_file(path)
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            is_script = any("/code/" in name for name in archive.namelist())
        if is_script:
            with warnings.catch_warnings():  # torch advises against the format; OpenAI's files come in no other
                warnings.simplefilter("ignore", DeprecationWarning)
                script = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(script.state_dict())
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds one {type(content).__name__}, not tensors by name")
    return content


def _name_map(naming: Naming, num_layers: int) -> dict[str, str]:
    names = dict(naming.stem)
    for i in range(num_layers):
        for ours, theirs in naming.block.items():
            for kind in ("weight", "bias"):
                names[f"{BLOCKS}.{i}.{ours}.{kind}"] = f"{naming.blocks}.{i}.{theirs}.{kind}"
    return names


def _from_naming(state: Mapping[str, Tensor], naming: Naming) -> dict[str, Tensor]:
    names = _name_map(naming, count_blocks(state, naming.blocks))
    return _pack_qkv({ours: state[theirs] for ours, theirs in names.items() if theirs in state})


def _split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    split = {}
    for name, tensor in state.items():
        if ".attn.in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                split[name.replace("in_proj_", f"{part}_proj.")] = third
        else:
            split[name] = tensor
    return split


def _pack_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    packed = dict(state)
    for name in state:
        if ".attn.q_proj." in name:
            parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
            if all(part in state for part in parts):
                packed[name.replace("q_proj.", "in_proj_")] = torch.cat([packed.pop(part) for part in parts])
    return packed
