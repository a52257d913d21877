"""The frozen backbone: its maps, its freezing, its random weights. Numbers against upstream's are in test_parity."""

import hashlib

import pytest
import torch
from torch.nn import functional as F

from coldframe.backbones.clip.model import VisionTransformer, fold, freeze, init_random
from coldframe.decoders.evl.model import EVL
from coldframe.errors import UserError
from layers import last_layers, tensors_of

N, T, WIDTH, HEADS, NUM_LAYERS = 2, 3, 24, 2, 4
PATCH, INPUT = (4, 6), (8, 18)
NUM_PATCHES = 6


def make(seed=0, activation="quick_gelu") -> VisionTransformer:
    sizes = {"width": WIDTH, "num_layers": NUM_LAYERS, "num_heads": HEADS, "patch_size": PATCH, "input_size": INPUT}
    backbone = VisionTransformer(**sizes, mlp_factor=2.5, activation=activation)
    return init_random(backbone, seed)


def make_video(num_frames=T):
    return torch.randn(N, 3, num_frames, *INPUT, generator=torch.Generator().manual_seed(5))


def make_decoder(num_layers=2) -> EVL:
    torch.manual_seed(1)
    return EVL(
        num_frames=T,
        grid=(2, 3),
        width=WIDTH,
        num_layers=num_layers,
        qkv_dim=12,
        num_heads=3,
        mlp_factor=2,
        mlp_dropout=0.5,
        head_dropout=0.5,
        num_classes=5,
        temporal_conv=True,
        temporal_position_embedding=True,
        temporal_cross_attention=True,
        query_init="normal",
    )


def digest(module) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


def test_maps_are_the_plain_softmax_of_each_frames_neighbours():
    backbone = make().double()
    seen = []
    for block in backbone.transformer.resblocks[-2:]:
        block.attn.register_forward_pre_hook(lambda module, inputs: seen.append(module.project(inputs[0])))
    features = last_layers(backbone, make_video().double(), 2, relations=True)
    for layer, (query, key, _) in zip(features, seen, strict=True):
        query, key = (x[:, :, 1:].unflatten(0, (N, T)) for x in (query, key))
        for found, q, k in (
            (layer.relations.previous_NTPP, query[:, 1:], key[:, :-1]),
            (layer.relations.following_NTPP, query[:, :-1], key[:, 1:]),
        ):
            scores = torch.einsum("nthqd,nthkd->nthqk", q, k) / (WIDTH / HEADS) ** 0.5
            torch.testing.assert_close(found, scores.softmax(-1).mean(2), rtol=0, atol=1e-12)
            assert found.shape == (N, T - 1, NUM_PATCHES, NUM_PATCHES)


def test_blocks_equal_torchs_own_attention_and_convolution():
    backbone, video = make().double(), make_video().double()
    images = video.transpose(1, 2).flatten(0, 1)
    patches = backbone.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([backbone.class_embedding.expand(N * T, 1, -1), patches], 1) + backbone.positional_embedding
    x = F.layer_norm(x, (WIDTH,), backbone.ln_pre.weight, backbone.ln_pre.bias)
    for block, features in zip(backbone.transformer.resblocks, last_layers(backbone, video, NUM_LAYERS), strict=True):
        attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
        attention.load_state_dict(block.attn.state_dict())
        y = block.ln_1(x)
        x = x + attention(y, y, y)[0]
        hidden = F.linear(block.ln_2(x), block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        x = x + F.linear(hidden * torch.sigmoid(1.702 * hidden), block.mlp.c_proj.weight, block.mlp.c_proj.bias)
        torch.testing.assert_close(features.tokens_NTLC.flatten(0, 1), x, rtol=0, atol=1e-10)


def test_fewer_layers_are_the_last_ones_and_maps_change_nothing():
    backbone, video = make(), make_video()
    every = last_layers(backbone, video, NUM_LAYERS)
    last = last_layers(backbone, video, 2, relations=True)
    assert [f.tokens_NTLC.shape for f in last] == [(N, T, 1 + NUM_PATCHES, WIDTH)] * 2
    assert all(torch.equal(a.tokens_NTLC, b.tokens_NTLC) for a, b in zip(every[-2:], last, strict=True))
    assert all(f.relations is None for f in every)


def test_a_frames_features_do_not_depend_on_other_frames():
    backbone, video = make(), make_video()
    changed = video.clone()
    changed[1, :, 2] += 1
    before, after = (last_layers(backbone, x, 1)[0].tokens_NTLC for x in (video, changed))
    assert not torch.equal(before[1, 2], after[1, 2])
    before[1, 2] = after[1, 2] = 0
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


def test_a_single_frame_has_no_maps():
    (features,) = last_layers(make(), make_video(1), 1, relations=True)
    assert features.relations is None


def test_frozen_means_frozen():
    backbone, decoder = freeze(make(), torch.float32), make_decoder()
    before = digest(backbone)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *decoder.parameters()], lr=0.1, weight_decay=0.5)
    features = last_layers(backbone, make_video(), 2, relations=True)
    assert all(
        tensor.grad_fn is None and not tensor.requires_grad for layer in features for tensor in tensors_of(layer)
    )
    F.cross_entropy(decoder(features), torch.tensor([1, 3])).backward()
    optimizer.step()
    assert digest(backbone) == before
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not backbone.training


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
def test_half_precision_keeps_norms_and_outputs_in_float32(dtype, tolerance):
    exact = last_layers(make(), make_video(), 2, relations=True)
    backbone = freeze(make(), dtype)
    kept = {name for name, parameter in backbone.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {name for name in backbone.state_dict() if "ln_" in name}
    assert all(p.dtype == dtype for name, p in backbone.named_parameters() if name not in kept)
    for found, wanted in zip(last_layers(backbone, make_video(), 2, relations=True), exact, strict=True):
        for one, other in zip(tensors_of(found), tensors_of(wanted), strict=True):
            assert one.dtype == torch.float32
            assert 0 < (one - other).abs().max() < tolerance * other.abs().max()


def test_folding_changes_the_weights_and_not_the_function():
    for activation in ("quick_gelu", "gelu"):
        backbone = make(activation=activation)
        with torch.no_grad():
            for name, parameter in backbone.named_parameters():
                if "ln_" in name or name.endswith("bias"):
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
        wanted = last_layers(backbone, make_video(), 2, relations=True)
        found = last_layers(freeze(fold(backbone), torch.float32), make_video(), 2, relations=True)
        for one, other in zip(found, wanted, strict=True):
            for a, b in zip(tensors_of(one), tensors_of(other), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_a_frozen_backbone_in_half_precision_is_the_same_with_and_without_autocast(folded, dtype):
    backbone = freeze(fold(make()) if folded else make(), dtype)
    plain = last_layers(backbone, make_video(), 2, relations=True)
    with torch.autocast("cpu", dtype):
        cast = last_layers(backbone, make_video(), 2, relations=True)
    for one, other in zip(plain, cast, strict=True):
        for a, b in zip(tensors_of(one), tensors_of(other), strict=True):
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_fine_tuning_reaches_every_parameter(num_layers):
    backbone, decoder = make(), make_decoder(num_layers)
    logits = decoder.eval()(last_layers(backbone, make_video(), num_layers, relations=True))
    F.cross_entropy(logits, torch.tensor([1, 3])).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_random_weights_depend_on_their_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(0)
    backbone = VisionTransformer(width=8, num_layers=1, num_heads=2, patch_size=2, input_size=4)
    state = torch.get_rng_state()
    first = {name: tensor.clone() for name, tensor in init_random(backbone, 7).state_dict().items()}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], tensor) for name, tensor in init_random(backbone, 7).state_dict().items())
    assert not torch.equal(first["conv1.weight"], init_random(backbone, 8).conv1.weight)


def test_random_features_tell_videos_and_places_apart():
    features = last_layers(make(), make_video(), 1, relations=True)[0]
    assert features.tokens_NTLC.std(0).mean() > 0.1
    assert features.tokens_NTLC[:, :, 1:].std(2).mean() > 0.1
    assert 0.1 < features.tokens_NTLC.std() < 10
    assert features.relations.previous_NTPP.std(-1).mean() > 0.01


def test_what_does_not_fit_is_named():
    backbone = make()
    with pytest.raises(UserError, match=r"\(9, 18\) pixels.*takes \(8, 18\)"):
        last_layers(backbone, torch.zeros(N, 3, T, 9, 18), 1)
    with pytest.raises(UserError, match=r"5 decoder layers .* has 4"):
        last_layers(backbone, make_video(), 5)
    with pytest.raises(UserError, match="multiple of the patch size"):
        VisionTransformer(width=8, num_layers=1, num_heads=2, patch_size=3, input_size=8)
    with pytest.raises(UserError, match=r"width 9 .* 2 heads"):
        VisionTransformer(width=9, num_layers=1, num_heads=2, patch_size=2, input_size=8)


def test_plain_gelu_is_another_backbone_with_the_same_weights():
    quick = make().double()
    plain = VisionTransformer(
        width=WIDTH,
        num_layers=NUM_LAYERS,
        num_heads=HEADS,
        patch_size=PATCH,
        input_size=INPUT,
        mlp_factor=2.5,
        activation="gelu",
    ).double()
    plain.load_state_dict(quick.state_dict())
    hidden = torch.randn(4, 7, dtype=torch.float64)
    assert torch.equal(plain.transformer.resblocks[0].mlp.gelu(hidden), F.gelu(hidden))
    video = make_video().double()
    found = [last_layers(backbone, video, 1)[0].tokens_NTLC for backbone in (quick, plain)]
    assert 1e-6 < (found[0] - found[1]).abs().max() < 1
