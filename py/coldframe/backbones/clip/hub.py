"""What a model's own description beside its weights says that weights do not tell: Hugging Face's config.json, and
open_clip's open_clip_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

# transformers, configuration_clip.py, CLIPVisionConfig: newer files hold only what differs from these.
DEFAULTS = {"hidden_size": 768, "num_attention_heads": 12, "hidden_act": "quick_gelu"}
MODELS = ("clip", "clip_vision_model")


class Said(NamedTuple):
    """`activation` is as the file has it: any function may stand there."""

    file: Path
    num_heads: int
    activation: str


def read_beside(weights: Path | str, width: int) -> Said | None:
    """Returns what the description in the folder of a weights file says of its vision tower, None where there is no
    description, or not one of a tower of this width."""
    for name, read in (("config.json", _read_hugging_face), ("open_clip_config.json", _read_open_clip)):
        file = Path(weights).parent / name
        try:
            found_width, num_heads, activation = read(json.loads(file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # not there, or another kind of file: a run has a config.json too
        if found_width == width and isinstance(num_heads, int) and num_heads > 0 and width % num_heads == 0:
            return Said(file, num_heads, str(activation))
    return None


def _read_hugging_face(content: dict[str, Any]) -> tuple[Any, Any, Any]:
    if content["model_type"] not in MODELS:
        raise ValueError(content["model_type"])
    vision = {**DEFAULTS, **content.get("vision_config", content)}
    return vision["hidden_size"], vision["num_attention_heads"], vision["hidden_act"]


def _read_open_clip(content: dict[str, Any]) -> tuple[Any, Any, Any]:
    model = content["model_cfg"]
    vision = model["vision_cfg"]
    heads = vision["width"] // vision.get("head_width", 64)  # open_clip model.py, CLIPVisionCfg
    return vision["width"], heads, "quick_gelu" if model.get("quick_gelu", False) else "gelu"
