"""Which of a file's tensors are a CLIP vision tower, whatever names they were saved under, and what its width tells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from coldframe.backbones.clip.hub import Said
from coldframe.errors import UserError

CHANNELS_PER_HEAD = 64  # openai/CLIP clip/model.py, vision_width // 64
# open_clip's model_configs, `head_width`: its towers above L have 16 heads, whatever 64 channels each would give.
WIDE_TOWERS = {1280: "ViT-H", 1408: "ViT-g", 1664: "ViT-bigG", 1792: "ViT-e"}
KNOWN_TOWERS = {768: "ViT-B", 1024: "ViT-L", **WIDE_TOWERS}
ADVICE = "Give the file of a CLIP vision transformer: OpenAI's archive, or a state dict as .pt or .safetensors."

# What wrappers of torch put into names: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Where trainers keep a model's state dict, the likeliest first; an average of the weights stands beside it.
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "module", "net")
_EVL_QUERY = "decoder.cls_token"

Naming = Literal["openai", "hugging_face", "upstream"]
# A name that a tower of each naming has, after a prefix; and one that it has besides.
_MARKS: tuple[tuple[Naming, re.Pattern[str], re.Pattern[str]], ...] = (
    ("hugging_face", re.compile(r"^(|.*\.)embeddings\.class_embedding$"), re.compile("")),
    ("upstream", re.compile(r"^(|.*\.)blocks\.0\.attn\.q_proj\.weight$"), re.compile(r"cls_token$")),
    ("openai", re.compile(r"^(|.*\.)(?<!embeddings\.)class_embedding$"), re.compile(r"conv1\.weight$|transformer\.")),
    ("openai", re.compile(r"^(|.*\.)(?<=visual\.)transformer\.resblocks\.0\.attn\.in_proj_weight$"), re.compile("")),
    ("openai", re.compile(r"^(|.*\.)(?<=backbone\.)transformer\.resblocks\.0\.attn\.in_proj_weight$"), re.compile("")),
)

# What a file looks like that holds no CLIP vision transformer: a telling key, and the words for it.
_OTHER_MODELS = {
    r"(^|\.)decoder\.cls_token$": "an EVL checkpoint without its backbone (that is for --checkpoint or run.init_from)",
    r"(^|\.)layer1\.0\.conv1\.weight$": "a ResNet (CLIP RN50 or the like); the decoder needs a vision transformer",
    r"(^|\.)trunk\.blocks\.0\.": "an open_clip model with a timm vision tower, which is not supported",
    r"(^|\.)blocks\.0\.attn\.qkv\.weight$": "a timm, DINO or MAE vision transformer, not CLIP's",
    r"(^|\.)(token_embedding|embeddings\.token_embedding)\.weight$": "a text model without CLIP's vision tower",
}
# What a tower has that computes something else than CLIP's, though it has all of CLIP's weights.
_OTHER_TOWERS = {
    r"^attn_pool\.probe$": "a Perception Encoder's: its rotary positions are not supported",
    r"^patchnorm_pre_ln\.": "of open_clip with normed patches, which is not supported",
}


class Tower(NamedTuple):
    """A vision tower: its tensors without the prefix that they have in the file."""

    naming: Naming
    prefix: str
    tensors: dict[str, Tensor]


def count_heads(width: int) -> int:
    """Returns the attention heads of a CLIP tower of this width. Weights do not tell: for a width of no known tower
    it is a guess by CLIP's rule, the nearest that divides the width."""
    if width in WIDE_TOWERS:
        return 16
    return next(heads for heads in range(max(1, width // CHANNELS_PER_HEAD), 0, -1) if width % heads == 0)


def check_heads(width: int, num_heads: int, path: object, said: Said | None = None) -> None:
    """Raises UserError where a configuration gives a known tower, or one with a description, another number of heads:
    nothing would fail, and its features would be wrong."""
    if said is not None:
        if num_heads != said.num_heads:
            raise UserError(
                f"{path}  has {said.num_heads} heads by {said.file}; model.backbone.num_heads is {num_heads}. "
                f"Set it to {said.num_heads}."
            )
        return
    known = count_heads(width)
    if width in KNOWN_TOWERS and num_heads != known:
        raise UserError(
            f"{path}  has width {width}, that of CLIP's {KNOWN_TOWERS[width]}, which has {known} heads of "
            f"{width // known} channels; model.backbone.num_heads is {num_heads}. Set it to {known}."
        )


def find_tower(tensors: Mapping[str, Tensor], path: object) -> Tower:
    """Returns the only vision tower among the tensors, whatever its prefix. Raises UserError that says what is there
    instead."""
    towers = list(_find_towers(tensors))
    if not towers:
        for pattern, words in _OTHER_MODELS.items():
            if any(re.search(pattern, name) for name in tensors):
                raise UserError(f"{path}  looks like {words}. {ADVICE}")
        held = some(list(tensors)) or "no tensors"
        raise UserError(f"{path}  is not a CLIP vision transformer; it holds {held}. {ADVICE}")
    first = towers[0]
    if any(not _is_same(first, other) for other in towers[1:]):
        prefixes = ", ".join(tower.prefix or "(no prefix)" for tower in towers)
        raise UserError(f"{path}  holds {len(towers)} vision towers: {prefixes}. Save the one to use alone.")
    for pattern, words in _OTHER_TOWERS.items():
        if any(re.search(pattern, name) for name in first.tensors):
            raise UserError(f"{path}  holds a vision tower that is {words}. {ADVICE}")
    return first


def unwrap(content: Mapping[Any, Any], path: object) -> dict[str, Tensor]:
    """Returns the floating point tensors of a model, from a state dict or from what a trainer put around one; names
    without what DDP and torch.compile put before them. Raises UserError where several models are equally likely."""
    found = [(key, tensors) for key, each in _list_mappings(content, "") if (tensors := _tensors_of(each))]
    models = [(key, tensors) for key, tensors in found if _is_model(tensors)]
    if not models:
        return max((tensors for _, tensors in found), key=len, default={})
    (first, tensors), *others = models
    if others and first.rpartition(".")[2] not in ("", *_USUAL_KEYS):
        keys = ", ".join(key for key, _ in models)
        raise UserError(f"{path}  holds {len(models)} models: {keys}. Save the one to use alone.")
    return tensors


def check_finite(
    tensors: Mapping[str, Tensor], path: object, prefix: str = "", advice: str = "fetch or save it again"
) -> None:
    """Raises UserError that names every tensor with numbers that are not finite in float32, with what to do."""
    wrong = []
    for name, tensor in tensors.items():
        values = tensor.float()
        if values.numel() and not torch.stack(values.aminmax()).isfinite().all():  # NaN passes through aminmax
            num_nan, num_wrong = int(values.isnan().sum()), int((~values.isfinite()).sum())
            wrong.append(f"{prefix}{name} ({num_nan} NaN, {num_wrong - num_nan} infinite of {values.numel()})")
    if wrong:
        raise UserError(
            f"{path}  holds numbers that are not finite: {some(wrong)}. "
            f"It is damaged, or of a training that diverged: {advice}."
        )


def some(names: list[str]) -> str:
    """Returns the first of the names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _find_towers(tensors: Mapping[str, Tensor]) -> Iterator[Tower]:
    prefixes: set[str] = set()
    for naming, mark, companion in _MARKS:
        for prefix in [match[1] for name in tensors if (match := mark.match(name))]:
            within = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            if prefix not in prefixes and any(companion.match(name) for name in within):
                prefixes.add(prefix)
                yield Tower(naming, prefix, within)


def _is_same(one: Tower, other: Tower) -> bool:
    """Returns whether two towers are one that was saved twice."""
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )


def _is_model(tensors: Mapping[str, Tensor]) -> bool:
    return _EVL_QUERY in tensors or next(_find_towers(tensors), None) is not None


def _list_mappings(content: Mapping[Any, Any], key: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yields a mapping and those within it, each with its key, the usual ones first."""
    yield key, content
    inner = {str(name): value for name, value in content.items() if isinstance(value, Mapping)}
    for name in sorted(inner, key=lambda name: _USUAL_KEYS.index(name) if name in _USUAL_KEYS else len(_USUAL_KEYS)):
        yield from _list_mappings(inner[name], f"{key}.{name}" if key else name)


def _tensors_of(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    tensors = {
        name: value
        for name, value in mapping.items()
        if isinstance(name, str) and isinstance(value, Tensor) and value.is_floating_point()
    }
    bare = dict(zip(tensors, _strip_wrappers(tensors), strict=True))
    return {bare[name]: tensor for name, tensor in tensors.items()} if len(set(bare.values())) == len(bare) else tensors


def _strip_wrappers(names: Iterable[str]) -> list[str]:
    return [_WRAPPERS.sub("", name).removeprefix("module.") for name in names]
