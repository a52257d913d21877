"""Public weight files in, our names out; and a clear word for every file that is something else."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coldframe.clip import VisionTransformer, init_random
from coldframe.errors import UserError
from coldframe.weights import (
    backbone_sizes,
    from_hugging_face,
    from_upstream,
    interpolate_positions,
    load_backbone,
    put_backbone,
    sha256_file,
    to_upstream,
)

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


FORMATS = {
    "openai_whole.pt": lambda: whole_clip(openai_state()),
    "openai_visual.pt": openai_state,
    "openclip.safetensors": lambda: whole_clip(openai_state()),
    "trainer.pt": lambda: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in whole_clip(openai_state()).items()}},
    "hugging_face.safetensors": lambda: hugging_face(openai_state()),
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
        **{"width": 64, "num_layers": 3, "num_heads": 1, "patch_size": (16, 16)},
        **{"num_patches": 4, "grid": (2, 2), "mlp_factor": 4.0},
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


def test_sha256_is_the_files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
