"""What a file is said to be: format, sizes, uses; and a clear word where it is none of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coldframe.backbones.clip.model import VisionTransformer, init_random
from coldframe.backbones.clip.weights import load_backbone, put_backbone, to_upstream
from coldframe.decoders.evl.model import EVL
from coldframe.errors import UserError
from coldframe.machine.files import hash_file
from coldframe.session.inspection import ACTIVATION_NOTE, identify

PARITY = Path(__file__).parent.parent / "fixtures" / "parity"
SIZES = {"width": 24, "num_layers": 3, "patch_size": 8, "mlp_factor": 2.5}
FOUND = {**SIZES, "num_heads": 1, "tower": None, "patch_size": (8, 8), "num_patches": 16, "grid": (4, 4)}
FOUND |= {"description": None, "activation": None}


@pytest.fixture(scope="module")
def visual():
    return init_random(VisionTransformer(**SIZES, num_heads=2, input_size=32), 0).state_dict()


def make_evl(**changes):
    sizes = {"num_frames": 6, "grid": (3, 3), "width": 24, "num_layers": 2, "qkv_dim": 16, "num_heads": 2}
    modules = dict.fromkeys(("temporal_conv", "temporal_position_embedding", "temporal_cross_attention"), True)
    rest = {"mlp_factor": 1.5, "mlp_dropout": 0.0, "head_dropout": 0.0, "num_classes": 7, "query_init": "zero"}
    return EVL(**{**sizes, **modules, **rest, **changes}).state_dict()


def hugging_face(visual):
    names = {"class_embedding": "class_embedding", "positional_embedding": "position_embedding.weight"}
    state = {f"vision_model.embeddings.{new}": visual[old] for old, new in names.items()}
    state["vision_model.embeddings.patch_embedding.weight"] = visual["conv1.weight"]
    modules = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    modules |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for kind in ("weight", "bias"):
        state[f"vision_model.pre_layrnorm.{kind}"] = visual[f"ln_pre.{kind}"]
        for i in range(3):
            ours, theirs = f"transformer.resblocks.{i}", f"vision_model.encoder.layers.{i}"
            for old, new in modules.items():
                state[f"{theirs}.{new}.{kind}"] = visual[f"{ours}.{old}.{kind}"]
            for part, third in zip("qkv", visual[f"{ours}.attn.in_proj_{kind}"].chunk(3), strict=True):
                state[f"{theirs}.self_attn.{part}_proj.{kind}"] = third.clone()
    return state


FORMATS = {
    "state dict in the names of OpenAI's CLIP and open_clip (vision tower)": lambda v: v,
    "state dict in the names of OpenAI's CLIP and open_clip (whole model)": lambda v: {
        **{f"visual.{name}": tensor for name, tensor in v.items()},
        "token_embedding.weight": torch.zeros(5, 6),
    },
    "state dict of Hugging Face's CLIPVisionModel": hugging_face,
    "state dict of Hugging Face's CLIPModel": lambda v: {
        **hugging_face(v),
        "text_model.embeddings.token_embedding.weight": torch.zeros(5, 6),
    },
    "state dict of the original EVL's backbone": to_upstream,
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_named_with_the_same_sizes(tmp_path, visual, name, suffix):
    file = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else save_file)(FORMATS[name](visual), file)
    found = identify(file)
    assert found["format"] == name
    assert found["backbone"] == FOUND
    assert found["dtypes"] == ["float32"]
    assert found["sha256"] == hash_file(file)
    assert found["size_bytes"] == file.stat().st_size
    *activation, heads = found["notes"]
    assert activation == ([] if "original EVL" in name else [ACTIVATION_NOTE])
    assert "no CLIP model is known that is 24 wide: 1 is a guess" in heads


def test_the_most_frequent_dtype_comes_first(tmp_path, visual):
    mixed = {name: tensor.half() if tensor.dim() > 1 else tensor for name, tensor in visual.items()}
    torch.save(mixed, tmp_path / "weights.pt")
    assert identify(tmp_path / "weights.pt")["dtypes"] == ["float16", "float32"]


OPEN_CLIP = {"ViT-H": (1280, 16, 5120), "ViT-g": (1408, 16, 6144), "ViT-bigG": (1664, 16, 8192)}


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clips_wide_towers_have_the_heads_they_were_trained_with(tmp_path, name):
    """open_clip's model_configs: head widths 80, 88 and 104; 64 would give 20, 22 and 26."""
    width, num_heads, hidden = OPEN_CLIP[name]
    with torch.device("meta"):
        sizes = {"num_layers": 1, "patch_size": 14, "input_size": 28, "mlp_factor": hidden / width}
        tower = VisionTransformer(width=width, num_heads=num_heads, **sizes)
    visual = {
        f"visual.{name}": torch.zeros(1, dtype=torch.half).expand(t.shape) for name, t in tower.state_dict().items()
    }
    torch.save(visual, tmp_path / "open_clip.pt")
    found = identify(tmp_path / "open_clip.pt")
    assert (found["backbone"]["num_heads"], found["backbone"]["tower"]) == (num_heads, name)
    assert round(found["backbone"]["mlp_factor"] * width) == hidden
    assert found["notes"] == [ACTIVATION_NOTE]


DESCRIPTIONS = {
    "CLIPModel": (
        "config.json",
        {"model_type": "clip", "vision_config": {"hidden_size": 24, "hidden_act": "gelu"}},
        12,
    ),
    "CLIPVisionModel": (
        "config.json",
        {"model_type": "clip_vision_model", "hidden_size": 24, "num_attention_heads": 3, "hidden_act": "gelu"},
        3,
    ),
    "open_clip": ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"width": 24, "head_width": 4}}}, 6),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_description_beside_the_weights_tells_what_they_do_not(tmp_path, visual, name):
    file, content, num_heads = DESCRIPTIONS[name]
    weights = tmp_path / "model.safetensors"
    save_file(hugging_face(visual), weights)
    (tmp_path / file).write_text(json.dumps(content))
    found = identify(weights)
    told = {"num_heads": num_heads, "description": str(tmp_path / file), "activation": "gelu"}
    assert found["backbone"] == {**FOUND, **told}
    assert found["notes"] == []
    for heads, is_right in ((2, False), (num_heads, True)):
        backbone = VisionTransformer(**SIZES, num_heads=heads, input_size=32, activation="quick_gelu")
        if is_right:
            (note,) = put_backbone(backbone, load_backbone(weights), weights)
            assert note.endswith("says the activation gelu; model.backbone.activation is quick_gelu. Set it to gelu.")
        else:
            with pytest.raises(UserError, match=rf"has {num_heads} heads by .*{file}; model.backbone.num_heads is 2"):
                put_backbone(backbone, load_backbone(weights), weights)


@pytest.mark.parametrize(
    "content", ['{"data": {}, "model": {}}', "{", "[]", '{"model_type": "clip"}', '{"model_type": "siglip"}']
)
def test_a_description_of_something_else_tells_nothing(tmp_path, visual, content):
    save_file(hugging_face(visual), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    assert identify(tmp_path / "model.safetensors")["backbone"] == FOUND


def test_a_prefix_that_is_not_usual_is_told(tmp_path, visual):
    torch.save({"net": {f"clip.visual.{name}": tensor for name, tensor in visual.items()}}, tmp_path / "clip.pt")
    found = identify(tmp_path / "clip.pt")
    assert found["format"] == "state dict in the names of OpenAI's CLIP and open_clip (vision tower, under clip.visual)"
    assert found["backbone"] == FOUND


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_found_in_either_part(tmp_path, visual, value):
    trained, backbone = make_evl(), {f"backbone.{name}": t for name, t in to_upstream(visual).items()}
    for state, name in ((trained, "proj.2.bias"), (backbone, "backbone.blocks.1.mlp.fc1.weight")):
        broken = {**state, name: torch.full_like(state[name], value)}
        torch.save({"model": {**trained, **backbone, **broken}}, tmp_path / "checkpoint-5.pth")
        with pytest.raises(UserError, match=rf"not finite: {name} \(") as told:
            identify(tmp_path / "checkpoint-5.pth")
        assert "is damaged, or of a training that diverged" in str(told.value)


def test_openais_archive_is_named():
    found = identify(PARITY / "clip_jit_archive.pt")
    assert found["format"] == "TorchScript archive of CLIP, as OpenAI publishes it"
    assert found["notes"] == []


def test_a_trained_part_tells_its_sizes(tmp_path):
    save_file(make_evl(), tmp_path / "main.safetensors")
    found = identify(tmp_path / "main.safetensors")
    assert found["format"] == "EVL checkpoint without its backbone"
    assert found["backbone"] is None
    assert found["evl"] == {
        **{"width": 24, "num_layers": 2, "qkv_dim": 16, "mlp_factor": 1.5, "num_classes": 7, "num_frames": 6},
        "grid": (3, 3),
        "temporal": {"conv": True, "position_embedding": True, "cross_attention": True},
    }


def test_temporal_modules_that_are_not_there_are_not_told(tmp_path):
    off = {"temporal_position_embedding": False, "temporal_cross_attention": False}
    save_file(make_evl(**off), tmp_path / "main.safetensors")
    evl = identify(tmp_path / "main.safetensors")["evl"]
    assert evl["temporal"] == {"conv": True, "position_embedding": False, "cross_attention": False}
    assert evl["num_frames"] is None
    assert evl["grid"] is None


def test_a_fine_tuned_checkpoint_tells_both_parts(tmp_path, visual):
    backbone = {f"module.backbone.{name}": tensor for name, tensor in to_upstream(visual).items()}
    trained = {f"module.{name}": tensor for name, tensor in make_evl().items()}
    torch.save({"model": {**backbone, **trained}, "next_step": 5}, tmp_path / "checkpoint-5.pth")
    found = identify(tmp_path / "checkpoint-5.pth")
    assert found["format"] == "EVL checkpoint with its backbone"
    assert found["backbone"] == FOUND
    assert found["evl"]["num_classes"] == 7


def test_a_wrong_file_is_named(tmp_path):
    save_file({"exp_avg.decoder.cls_token": torch.zeros(3)}, tmp_path / "main.optimizer.safetensors")
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pt")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><title>404</title>")
    for name, words in (
        ("main.optimizer.safetensors", "optimizer's state"),
        ("resnet.pt", "looks like a ResNet"),
        ("page.pt", "is a web page, not weights"),
        ("", "is a folder and no checkpoint. Give one of its files: main.optimizer.safetensors, page.pt, resnet.pt"),
    ):
        with pytest.raises(UserError, match=words):
            identify(tmp_path / name)
