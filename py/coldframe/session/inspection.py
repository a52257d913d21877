"""What a file of weights or a checkpoint is: its format, its sizes, and what it can be used for."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coldframe.backbones.clip import tower, weights
from coldframe.errors import UserError
from coldframe.machine.files import hash_file
from coldframe.train import checkpoint

ACTIVATIONS = ("quick_gelu", "gelu")
USUAL_PREFIXES = ("", "visual.", "vision_model.", "backbone.")
# Shown for files that do not say it: open_clip and Hugging Face also hold models that were trained with plain GELU.
ACTIVATION_NOTE = (
    "Weights do not tell their activation. The default is OpenAI's quick_gelu; for a model that was trained with plain "
    "GELU (most of open_clip's own) set model.backbone.activation: gelu."
)


def identify(path: Path) -> dict[str, Any]:
    """Returns what a weights file or a checkpoint folder is, as plain JSON.

    format in words; dtypes, that of most numbers first; size_bytes; sha256 of a file, None of a folder; the sizes of
    its `backbone` and of its trained part (`evl`), None where there is none; `checkpoint`: step, trials and classes of
    one of ours; notes. Raises UserError that says what the file is instead.
    """
    path = checkpoint.follow(path)
    if path.is_dir():
        return _identify_folder(path)
    tensors = weights.read_tensors(path)
    if any(name.startswith("exp_avg.") for name in tensors):
        raise UserError(f"{path}  is the optimizer's state of a checkpoint. Give the folder it lies in.")
    evl = _evl_sizes(tensors)
    only_evl = evl is not None and not any(name.startswith("backbone.") for name in tensors)
    found = None if only_evl else tower.find_tower(tensors, path)
    backbone = None if found is None else _describe_backbone(tensors, path)
    tower.check_finite(tensors if only_evl else _trained(tensors), path)
    words, is_certain = _describe_format(path, tensors, found)
    return {
        "format": words,
        "dtypes": _dtypes(tensors),
        "size_bytes": path.stat().st_size,
        "sha256": hash_file(path),
        "backbone": backbone,
        "evl": evl,
        "checkpoint": None,
        "notes": [] if _is_script(path) else _describe_guesses(backbone, is_certain),
    }


def _describe_backbone(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    return weights.describe(weights.from_public(tensors, path), path)


def _trained(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("decoder.", "proj."))}


def _describe_guesses(backbone: Mapping[str, Any] | None, is_certain: bool) -> list[str]:
    """Returns what the user has to know about a backbone because its weights do not tell it."""
    if backbone is not None and backbone["description"] is not None:
        file, activation = backbone["description"], backbone["activation"]
        return (
            [] if activation in ACTIVATIONS else [f"{file} says the activation {activation}, which is not supported."]
        )
    notes = [] if is_certain else [ACTIVATION_NOTE]
    if backbone is not None and backbone["tower"] is None:
        notes.append(
            f"Weights do not tell their number of attention heads, and no CLIP model is known that is "
            f"{backbone['width']} wide: {backbone['num_heads']} is a guess (64 channels a head). "
            "Set model.backbone.num_heads to what it was trained with: with another number its features are wrong."
        )
    return notes


def _identify_folder(path: Path) -> dict[str, Any]:
    files = [file.name for file in sorted(path.iterdir()) if file.suffix in (".safetensors", ".bin", ".pt", ".pth")]
    if files and not (path / "checkpoint.json").exists():
        raise UserError(f"{path}  is a folder and no checkpoint. Give one of its files: {', '.join(files[:5])}.")
    header = checkpoint.read_header(path)
    tensors = checkpoint.read_weights(path)
    tower.check_finite(tensors, path)
    return {
        "format": "checkpoint of coldframe",
        "dtypes": _dtypes(tensors),
        "size_bytes": sum(file.stat().st_size for file in path.iterdir()),
        "sha256": None,
        "backbone": None,
        "evl": _evl_sizes(tensors),
        "checkpoint": {
            "step": header["step"],
            "trials": list(header["trials"]),
            "classes": header["classes"],
            "backbone_sha256": header["backbone_sha256"],
        },
        "notes": [],
    }


def _describe_format(path: Path, tensors: Mapping[str, Tensor], found: tower.Tower | None) -> tuple[str, bool]:
    """Returns the format in words, and whether such files are always of models with OpenAI's activation."""
    if "decoder.cls_token" in tensors:
        return f"EVL checkpoint {'without' if found is None else 'with'} its backbone", True
    if _is_script(path):
        return "TorchScript archive of CLIP, as OpenAI publishes it", True
    assert found is not None
    under = "" if found.prefix in USUAL_PREFIXES else f", under {found.prefix.removesuffix('.')}"
    if found.naming == "hugging_face":
        whole = any("text_model." in name for name in tensors)
        return f"state dict of Hugging Face's {'CLIPModel' if whole else 'CLIPVisionModel'}{under}", False
    if found.naming == "upstream":
        return f"state dict of the original EVL's backbone{under}", True
    part = "whole model" if len(tensors) > len(found.tensors) else "vision tower"
    return f"state dict in the names of OpenAI's CLIP and open_clip ({part}{under})", False


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _dtypes(tensors: Mapping[str, Tensor]) -> list[str]:
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return [name for name, _ in counts.most_common()]


def _evl_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Returns the trained part's sizes from its weights, None without one.

    `num_frames` and `grid` (h, w) in patches are known only from the modules that have them. The number of heads
    cannot be read from weights.
    """
    query, q_proj = "decoder.cls_token", "decoder.decoder_layers.0.attn.q_proj.weight"
    fc1, head = "decoder.decoder_layers.0.mlp.fc1.weight", "proj.2.weight"
    if not {query, q_proj, fc1, head} <= tensors.keys():
        return None
    width = len(tensors[query])
    positions_TC = tensors.get("decoder.temporal_pos_embed.0")
    offsets = tensors.get("decoder.cross_attention.0.w1")
    # (2 h - 1) (2 w - 1) offsets between the patches of two frames, arXiv 2208.03550 section 3.3
    side = None if offsets is None else (math.isqrt(len(offsets)) + 1) // 2
    return {
        "width": width,
        "num_layers": weights.count_blocks(tensors, "decoder.decoder_layers"),
        "qkv_dim": len(tensors[q_proj]),
        "mlp_factor": len(tensors[fc1]) / width,
        "num_classes": len(tensors[head]),
        "num_frames": None if positions_TC is None else len(positions_TC),
        "grid": None if side is None else (side, side),
        "temporal": {
            "conv": "decoder.temporal_conv.0.weight" in tensors,
            "position_embedding": positions_TC is not None,
            "cross_attention": offsets is not None,
        },
    }
