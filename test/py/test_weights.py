"""Public weight files in, our names out; and a clear word for every file that is something else."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coldframe.backbones.clip.model import VisionTransformer, init_random
from coldframe.backbones.clip.tower import count_heads
from coldframe.backbones.clip.weights import (
    backbone_sizes,
    from_hugging_face,
    from_upstream,
    interpolate_positions,
    load_backbone,
    put_backbone,
    to_upstream,
)
from coldframe.errors import UserError
from coldframe.machine.files import hash_file

PARITY = Path(__file__).parent.parent / "fixtures" / "parity"
HUGGING_FACE = (
    ("conv1.weight", "embeddings.patch_embedding.weight"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("class_embedding", "embeddings.class_embedding"),
    ("ln_pre", "pre_layrnorm"),
    ("transformer.resblocks", "encoder.layers"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("c_fc", "fc1"),
    ("c_proj", "fc2"),
    ("attn", "self_attn"),
)


def make(input_size=24, **changes) -> VisionTransformer:
    sizes = {"width": 16, "num_layers": 3, "num_heads": 2, "patch_size": 8, "mlp_factor": 2.5, **changes}
    return init_random(VisionTransformer(input_size=input_size, **sizes), 0)


def openai_state(dtype=torch.float32):
    state = {name: tensor.to(dtype) for name, tensor in make().state_dict().items() if name != "conv1.bias"}
    return {**state, "ln_post.weight": torch.ones(16, dtype=dtype), "proj": torch.ones(16, 12, dtype=dtype)}


def whole_clip(visual):
    text = {
        "token_embedding.weight": torch.zeros(5, 6),
        "input_resolution": torch.tensor(24),
        "logit_scale": torch.tensor(4.6),
    }
    text["transformer.resblocks.0.attn.in_proj_weight"] = torch.zeros(18, 6)
    text["positional_embedding"] = torch.zeros(7, 6)
    return {**text, **{f"visual.{name}": tensor for name, tensor in visual.items()}}


def hugging_face(visual):
    renamed = {}
    for name, tensor in visual.items():
        if name.startswith(("ln_post", "proj")):
            continue
        for ours, theirs in HUGGING_FACE:
            name = name.replace(ours, theirs)
        if "in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"vision_model.{name.replace('in_proj_', f'{part}_proj.')}"] = third.clone()
        else:
            renamed[f"vision_model.{name}"] = tensor
    return {**renamed, "text_model.embeddings.token_embedding.weight": torch.zeros(5, 6)}


def prefixed(prefix, state):
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


def random_state(seed):
    return init_random(make(), seed).state_dict()


FORMATS = {
    "openai_whole.pt": lambda: whole_clip(openai_state()),
    "openai_visual.pt": openai_state,
    "openclip.safetensors": lambda: whole_clip(openai_state()),
    "trainer.pt": lambda: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in whole_clip(openai_state()).items()}},
    "hugging_face.safetensors": lambda: hugging_face(openai_state()),
    "wrapped.pt": lambda: {"net": {f"_orig_mod.module.{k}": v for k, v in whole_clip(openai_state()).items()}},
    "compiled_inside.pt": lambda: {k.replace("resblocks", "_orig_mod.resblocks"): v for k, v in openai_state().items()},
    "nested.pt": lambda: {"step": torch.tensor(3.0), "trainer": {"model": {"clip": whole_clip(openai_state())}}},
    "parts.pt": lambda: {"visual": openai_state(), "text": {"token_embedding.weight": torch.zeros(5, 6)}},
    "averaged.pt": lambda: {"ema": whole_clip(random_state(3)), "module": whole_clip(openai_state())},
    "twice.pt": lambda: {**prefixed("a.", openai_state()), **prefixed("b.", openai_state())},
    "llava.safetensors": lambda: prefixed("model.vision_tower.", hugging_face(openai_state())),
    "hugging_face_inside.pt": lambda: prefixed("clip.", hugging_face(openai_state())),
    "upstream_inside.pt": lambda: prefixed("my.backbone.", to_upstream(make().state_dict())),
    **{
        f"{prefix}pt": lambda prefix=prefix: prefixed(prefix, whole_clip(openai_state()))
        for prefix in ("model.", "clip_model.", "net.", "base_model.model.clip.")
    },
    "upstream.pt": lambda: to_upstream(make().state_dict()),
    "upstream_finetuned.pth": lambda: {
        "model": {f"module.backbone.{k}": v for k, v in to_upstream(make().state_dict()).items()}
        | {"module.decoder.cls_token": torch.zeros(16)}
    },
}


def write(path: Path, content) -> Path:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_public_format_gives_the_same_tensors(tmp_path, name):
    found, expected = load_backbone(write(tmp_path / name, FORMATS[name]())), make().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("file", ["clip_jit_archive.pt", "clipstate_full_clip_state.pt"])
def test_openais_archive_and_half_precision_state_are_read_as_float32(file):
    state = load_backbone(PARITY / file)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert backbone_sizes(state) == {
        **{"width": 64, "num_layers": 3, "num_heads": 1, "tower": None, "patch_size": (16, 16)},
        **{"num_patches": 4, "grid": (2, 2), "mlp_factor": 4.0, "description": None, "activation": None},
    }


def test_name_maps_lead_back_to_the_same_tensors():
    state = make(patch_size=(4, 6), input_size=(8, 18)).state_dict()
    upstream, public = to_upstream(state), _bare(hugging_face(state))
    for back, names in (
        (from_upstream(upstream, (4, 6)), state),
        (from_hugging_face(public), state.keys() - {"conv1.bias"}),
    ):
        assert back.keys() == set(names)
        assert all(torch.equal(back[name], state[name]) for name in names)


def _bare(state):
    return {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}


OTHERS = {
    "evl.pth": ({"model": {"module.decoder.cls_token": torch.zeros(4)}}, "EVL checkpoint without its backbone"),
    "resnet.pt": ({"visual.layer1.0.conv1.weight": torch.zeros(4)}, "ResNet"),
    "timm.pt": ({"cls_token": torch.zeros(1, 1, 4), "blocks.0.attn.qkv.weight": torch.zeros(4)}, "timm, DINO or MAE"),
    "text.safetensors": ({"text_model.embeddings.token_embedding.weight": torch.zeros(4)}, "text model"),
    "text.pt": (
        {"token_embedding.weight": torch.zeros(4), "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(4)},
        "text model",
    ),
    "two.pt": (
        {**prefixed("student.", random_state(0)), **prefixed("teacher.", random_state(1))},
        "2 vision towers: st",
    ),
    "distilled.pt": ({"teacher": random_state(0), "student": random_state(1)}, "holds 2 models: teacher, student"),
    "layer_scale.pt": (
        {**openai_state(), "transformer.resblocks.1.ls_1.gamma": torch.ones(16)},
        r"weights in its blocks that CLIP's have none of: transformer.resblocks.1.ls_1.gamma\. ",
    ),
    "adapters.safetensors": (
        {**hugging_face(openai_state()), "vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2)},
        r"none of: vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight\. ",
    ),
    "rotary.pt": ({**prefixed("visual.", openai_state()), "visual.attn_pool.probe": torch.ones(16)}, "Perception"),
    "flat.pt": ({**openai_state(), "conv1.weight": torch.ones(16, 192)}, r"conv1.weight is \(16, 192\)"),
    "other.pt": ({"lstm.weight": torch.zeros(4)}, "holds lstm.weight"),
    "tensor.pt": (torch.zeros(4), "holds one Tensor"),
    "partial.pt": (
        {k: v for k, v in openai_state().items() if "resblocks.1.mlp" not in k and k != "ln_pre.bias"},
        "lacks weights .*ln_pre.bias, transformer.resblocks.1.mlp.c_fc.weight",
    ),
    "gap.pt": ({k: v for k, v in openai_state().items() if "resblocks.1." not in k}, "and 7 more"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_named(tmp_path, name):
    content, words = OTHERS[name]
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=words) as caught:
        load_backbone(path)
    assert str(caught.value).startswith(f"{path}  ")


NO_TENSORS = {
    "empty.pt": (b"", "is empty"),
    "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
    "page.pt": (b"\n<!DOCTYPE html><html></html>", "web page"),
    "words.pt": (b"these are words, not weights", "neither a torch nor a safetensors file"),
    "zip.pt": (b"PK\x03\x04 and then nothing", "perhaps truncated"),
    "half.safetensors": (b"\x10\x00\x00\x00\x00\x00\x00\x00{", "perhaps truncated"),
}


@pytest.mark.parametrize("name", NO_TENSORS)
def test_a_file_without_tensors_is_named(tmp_path, name):
    content, words = NO_TENSORS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_backbone(tmp_path / name)


@pytest.mark.parametrize("file", ["clip_jit_archive.pt", "clipstate_full_clip_state.pt"])
def test_a_truncated_download_is_named(tmp_path, file):
    (tmp_path / file).write_bytes((PARITY / file).read_bytes()[:-1000])
    with pytest.raises(UserError, match="perhaps truncated"):
        load_backbone(tmp_path / file)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_backbone(tmp_path / "no.pt")
    with pytest.raises(UserError, match="is a folder"):
        load_backbone(tmp_path)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_not_run(tmp_path):
    for name, save in (("new.pt", torch.save), ("old.pt", lambda x, path: path.write_bytes(pickle.dumps(x)))):
        save({"conv1.weight": Touch(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(UserError, match=str(tmp_path / name)):
            load_backbone(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_size_name_both_sizes():
    state = make().state_dict()
    with pytest.raises(
        UserError, match=r"f\.pt  .*num_layers is 3 in the file and 2 configured.*width is 16 .* and 32 "
    ):
        put_backbone(make(width=32, num_layers=2), state, "f.pt")
    with pytest.raises(UserError, match="patch_size is 8 in the file and 6 configured"):
        put_backbone(make(patch_size=6, input_size=18), state, "f.pt")


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "1 NaN, 0 infinite of 16"), (float("-inf"), "0 NaN, 1 infinite of 16")]
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_number_that_is_not_finite_is_named_by_its_tensor(tmp_path, suffix, value, words):
    content = prefixed("model.", whole_clip(openai_state(torch.half)))
    content["model.visual.transformer.resblocks.2.ln_2.bias"][3] = value
    content["model.token_embedding.weight"][:] = float("nan")  # the text model's are no concern of ours
    path = write(tmp_path / f"weights.{suffix}", content)
    with pytest.raises(UserError, match=r"not finite: model\.visual\.transformer\.resblocks\.2\.ln_2\.bias \(") as told:
        load_backbone(path)
    assert words in str(told.value)


def test_a_number_beyond_single_precision_is_infinite(tmp_path):
    content = openai_state(torch.double)
    content["ln_pre.weight"][0] = 1e300
    with pytest.raises(UserError, match=r"ln_pre.weight \(0 NaN, 1 infinite of 16\)"):
        load_backbone(write(tmp_path / "weights.pt", content))


@pytest.mark.parametrize(("width", "wrong", "right"), [(768, 8, 12), (1024, 8, 16), (1280, 20, 16), (1664, 26, 16)])
def test_another_number_of_heads_than_the_known_towers_is_refused(width, wrong, right):
    sizes = {"width": width, "num_layers": 1, "patch_size": 8, "input_size": 8, "mlp_factor": 0.1}
    backbones = {heads: VisionTransformer(num_heads=heads, **sizes) for heads in (wrong, right)}
    state = backbones[right].state_dict()
    assert backbone_sizes(state)["num_heads"] == right
    with pytest.raises(
        UserError, match=rf"f\.pt  has width {width}.* {right} heads .*num_heads is {wrong}\. Set it to"
    ):
        put_backbone(backbones[wrong], state, "f.pt")
    assert put_backbone(backbones[right], state, "f.pt") == []


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (512, 8), (896, 14), (1000, 10), (1152, 18), (24, 1)])
def test_heads_of_other_widths_are_clips_rule_as_far_as_they_divide(width, heads):
    assert count_heads(width) == heads


def test_weights_of_any_other_shape_are_named():
    state = make().state_dict()
    state["ln_pre.weight"] = torch.ones(17)
    with pytest.raises(UserError, match=r"ln_pre.weight is \(17,\) in the file and \(16,\) configured"):
        put_backbone(make(), state, "f.pt")


def test_another_input_size_interpolates_positions_and_says_so():
    backbone = make(input_size=40)
    notes = put_backbone(backbone, make(input_size=24).state_dict(), "f.pt")
    assert notes == ["f.pt: positions interpolated from 3 x 3 to 5 x 5 patches"]
    expected = interpolate_positions(make(input_size=24).state_dict(), (5, 5))["positional_embedding"]
    assert torch.equal(backbone.positional_embedding, expected)
    assert put_backbone(make(), make().state_dict(), "f.pt") == []


def test_interpolated_positions_keep_the_class_token_and_orientation():
    state = make().state_dict()
    rows = torch.arange(3.0)[:, None, None].expand(3, 3, 16).flatten(0, 1)
    state["positional_embedding"] = torch.cat([torch.full((1, 16), 7.0), rows])
    grown = interpolate_positions(state, (6, 4))["positional_embedding"]
    assert (grown[0] == 7).all()
    grid = grown[1:].view(6, 4, 16)
    torch.testing.assert_close(grid, grid[:, :1].expand_as(grid))
    assert (grid[1:] >= grid[:-1]).all()
    assert grid[-1, 0, 0] > 1.9


def test_a_smaller_grid_is_a_mean_of_what_it_covers():
    """Antialiased: of stripes one column wide the mean is left, where plain bicubic takes every third column."""
    state = make(input_size=144).state_dict()
    stripes = torch.tensor([0.0, 1.0]).repeat(9)[None, :, None].expand(18, 18, 16).flatten(0, 1)
    state["positional_embedding"] = torch.cat([torch.zeros(1, 16), stripes])
    shrunk = interpolate_positions(state, (6, 6))["positional_embedding"][1:].view(6, 6, 16)
    torch.testing.assert_close(shrunk[:, 1:5], torch.full((6, 4, 16), 0.5), atol=0.1, rtol=0)


def test_sha256_is_the_files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
