"""ViT-B/16 and ViT-L/14 at real size, from a file in OpenAI's format, against CLIP's vision tower written plainly.

The plain tower is arXiv 2103.00020's as openai/CLIP defines it: patch convolution, class token, positions, ln_pre, then
pre-norm blocks with torch's packed multi-head attention and QuickGELU. The weights are random.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coldframe.backbones.clip import weights
from coldframe.backbones.clip.model import VisionTransformer
from layers import last_layers

SIZES = {"ViT-B/16": (768, 12, 16), "ViT-L/14": (1024, 24, 14)}  # width, layers, patch


def random_openai_state(width: int, num_layers: int, patch: int) -> dict[str, Tensor]:
    """Returns a `visual.` state dict with OpenAI's names, weights at the scale of a trained model."""
    generator = torch.Generator().manual_seed(width)

    def draw(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    state = {
        "class_embedding": draw(width, std=0.02),
        "positional_embedding": draw(1 + (224 // patch) ** 2, width, std=0.02),
        "conv1.weight": draw(width, 3, patch, patch, std=0.02),
        "ln_post.weight": torch.ones(width),
        "ln_post.bias": torch.zeros(width),
        "proj": draw(width, 512, std=width**-0.5),
    }
    norms = ["ln_pre"]
    for i in range(num_layers):
        block = f"transformer.resblocks.{i}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            state[f"{block}.{name}weight"] = draw(rows, columns, std=columns**-0.5)
            state[f"{block}.{name}bias"] = draw(rows, std=0.02)
    for norm in norms:
        state[f"{norm}.weight"] = 1 + draw(width, std=0.1)
        state[f"{norm}.bias"] = draw(width, std=0.1)
    return {f"visual.{name}": tensor for name, tensor in state.items()}


def plain_tower(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Returns the output of every block, (images, L, width)."""
    state = {name.removeprefix("visual."): tensor for name, tensor in state.items()}
    kernel = state["conv1.weight"]
    width = len(kernel)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"])

    patches = F.conv2d(images, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state["class_embedding"].expand(len(images), 1, -1), patches], dim=1)
    x = norm(x + state["positional_embedding"], "ln_pre")
    outputs = []
    while f"transformer.resblocks.{len(outputs)}.ln_1.weight" in state:
        block = f"transformer.resblocks.{len(outputs)}"
        y = norm(x, f"{block}.ln_1").transpose(0, 1)  # multi_head_attention_forward takes (L, images, width)
        attended, _ = F.multi_head_attention_forward(
            *(y, y, y, width, width // 64),
            in_proj_weight=state[f"{block}.attn.in_proj_weight"],
            in_proj_bias=state[f"{block}.attn.in_proj_bias"],
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=state[f"{block}.attn.out_proj.weight"],
            out_proj_bias=state[f"{block}.attn.out_proj.bias"],
            need_weights=False,
        )
        x = x + attended.transpose(0, 1)
        y = F.linear(norm(x, f"{block}.ln_2"), state[f"{block}.mlp.c_fc.weight"], state[f"{block}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
        outputs.append(x)
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize("preset", SIZES)
@torch.no_grad()
def test_features_from_an_openai_file_equal_the_plain_vision_tower(preset: str, tmp_path: Path) -> None:
    width, num_layers, patch = SIZES[preset]
    state = random_openai_state(width, num_layers, patch)
    torch.save(state, tmp_path / "clip.pt")
    backbone = VisionTransformer(
        width=width, num_layers=num_layers, num_heads=width // 64, patch_size=patch, input_size=224
    )
    assert weights.put_backbone(backbone, weights.load_backbone(tmp_path / "clip.pt"), tmp_path / "clip.pt") == []
    video = torch.randn(1, 3, 2, 224, 224, generator=torch.Generator().manual_seed(1))
    features = last_layers(backbone, video, num_layers)
    expected = plain_tower(state, video[0].transpose(0, 1))
    for i, (found, wanted) in enumerate(zip(features, expected, strict=True)):
        scale = wanted.abs().max()
        assert (found.tokens_NTLC[0] - wanted).abs().max() / scale < 2e-5, f"block {i}"
