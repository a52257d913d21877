"""The decoder against the plain way of writing it down: gathered offsets, projected keys, one einsum a formula."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coldframe.backbones.interface import Layer, Relations
from coldframe.backbones.shape import TokenShape
from coldframe.decoders.evl.model import EVL, TemporalConvolution
from coldframe.decoders.evl.motion import skew_relations
from coldframe.errors import UserError
from layers import tensors_of

N, T, GRID, C, HEADS, DIM, NUM_LAYERS, NUM_CLASSES = 2, 3, (2, 4), 6, 5, 7, 2, 9
L = 1 + GRID[0] * GRID[1]
SIZES = {
    "num_frames": T,
    "grid": GRID,
    "width": C,
    "num_layers": NUM_LAYERS,
    "qkv_dim": 12,
    "num_heads": 3,
    "mlp_factor": 2.5,
    "mlp_dropout": 0.0,
    "head_dropout": 0.0,
    "num_classes": NUM_CLASSES,
    "temporal_conv": True,
    "temporal_position_embedding": True,
    "temporal_cross_attention": True,
}
LABELS = torch.tensor([3, 8])


def choose_way(monkeypatch, on_gpu: bool) -> None:
    for module in ("model", "motion"):
        monkeypatch.setattr(f"coldframe.decoders.evl.{module}.on_gpu", lambda _: on_gpu)


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def _way(request, monkeypatch):
    """All promises hold for the operations that a GPU would run as well."""
    choose_way(monkeypatch, request.param == "gpu")


def make(dtype=torch.float64, **changes) -> EVL:
    """A decoder whose every parameter is random, so that each of them matters."""
    torch.manual_seed(0)
    evl = EVL(**{**SIZES, **changes}).to(dtype)
    for parameter in evl.parameters():
        nn.init.normal_(parameter, std=0.5)
    return evl


def make_tokens(dtype=torch.float64, num_frames=T):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return [
        {
            "out": draw(N, num_frames, L, C),
            "q": draw(N, num_frames, L, HEADS, DIM),
            "k": draw(N, num_frames, L, HEADS, DIM),
        }
        for _ in range(NUM_LAYERS)
    ]


def make_features(tokens) -> list[Layer]:
    features = []
    for layer in tokens:
        relations, num_frames = None, layer["out"].shape[1]
        if num_frames > 1:
            query, key = layer["q"], layer["k"]
            relations = Relations(plain_map(query[:, 1:], key[:, :-1]), plain_map(query[:, :-1], key[:, 1:]))
        shape = TokenShape(num_frames, 1, *GRID, C)
        features.append(Layer(layer["out"], relations, shape))
    return features


def plain_map(query: Tensor, key: Tensor) -> Tensor:
    scores = torch.einsum("ntqhd,ntkhd->nthqk", query[:, :, 1:] / DIM**0.5, key[:, :, 1:])
    return scores.softmax(-1).mean(2)


def plain_motion(layer, w1: Tensor, w2: Tensor) -> Tensor:
    height, width = GRID
    cells = list(itertools.product(range(height), range(width)))
    offsets = torch.tensor(
        [[(qi - ki + height - 1) * (2 * width - 1) + qj - kj + width - 1 for ki, kj in cells] for qi, qj in cells]
    )
    motion = torch.zeros_like(layer["out"])
    if motion.shape[1] > 1:
        before = torch.einsum("ntqk,qkc->ntqc", plain_map(layer["q"][:, 1:], layer["k"][:, :-1]), w1[offsets])
        after = torch.einsum("ntqk,qkc->ntqc", plain_map(layer["q"][:, :-1], layer["k"][:, 1:]), w2[offsets])
        motion = motion + F.pad(before, (0, 0, 1, 0, 1, 0)) + F.pad(after, (0, 0, 1, 0, 0, 1))
    return motion


def plain_logits(evl: EVL, tokens) -> Tensor:
    p = dict(evl.named_parameters())

    def norm(x, name):
        return F.layer_norm(x, (C,), p[f"{name}.weight"], p[f"{name}.bias"])

    def linear(x, name):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = p["decoder.cls_token"].expand(N, 1, C)
    for i, layer in enumerate(tokens):
        frames = layer["out"]
        if f"decoder.temporal_conv.{i}.weight" in p:
            series = layer["out"].permute(0, 2, 3, 1).flatten(0, 1)
            weight, bias = p[f"decoder.temporal_conv.{i}.weight"], p[f"decoder.temporal_conv.{i}.bias"]
            convolved = F.conv1d(series, weight, bias, padding=1, groups=C)
            frames = frames + convolved.unflatten(0, (N, L)).permute(0, 3, 1, 2)
        if f"decoder.temporal_pos_embed.{i}" in p:
            frames = frames + p[f"decoder.temporal_pos_embed.{i}"][None, :, None]
        if f"decoder.cross_attention.{i}.w1" in p:
            name = f"decoder.cross_attention.{i}"
            frames = frames + plain_motion(layer, p[f"{name}.w1"], p[f"{name}.w2"])
        name = f"decoder.decoder_layers.{i}"
        y = norm(frames.flatten(1, 2), f"{name}.norm3")
        q = linear(norm(x, f"{name}.norm1"), f"{name}.attn.q_proj").unflatten(-1, (3, 4))
        k, v = (linear(y, f"{name}.attn.{x}_proj").unflatten(-1, (3, 4)) for x in "kv")
        weights = (torch.einsum("nqhd,nmhd->nhqm", q, k) / 2).softmax(-1)
        x = x + linear(torch.einsum("nhqm,nmhd->nqhd", weights, v).flatten(2), f"{name}.attn.out_proj")
        hidden = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{name}.mlp.fc2")
    return linear(norm(x[:, 0], "proj.0"), "proj.2")


def gradients(logits: Tensor, evl: EVL, others: list[Tensor]) -> dict[str, Tensor]:
    names = [name for name, _ in evl.named_parameters()] + [f"tokens {i}" for i in range(len(others))]
    sources = [*evl.parameters(), *others]
    found = torch.autograd.grad(F.cross_entropy(logits, LABELS), sources, allow_unused=True)
    return {n: torch.zeros_like(s) if g is None else g for n, s, g in zip(names, sources, found, strict=True)}


@pytest.mark.parametrize("modules", list(itertools.product([True, False], repeat=3)))
def test_logits_and_every_gradient_equal_the_plain_way(modules):
    names = ("temporal_conv", "temporal_position_embedding", "temporal_cross_attention")
    evl, tokens = make(**dict(zip(names, modules, strict=True))), make_tokens()
    inputs = [tensor.requires_grad_() for layer in tokens for tensor in layer.values()]
    ours, plain = evl(make_features(tokens)), plain_logits(evl, tokens)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)
    expected = gradients(plain, evl, inputs)
    for name, gradient in gradients(ours, evl, inputs).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)
    assert all(
        expected[name].abs().max() > 1e-6 for name in expected if "k_proj.bias" not in name and "tokens" not in name
    )


@pytest.mark.parametrize("grid", [(1, 9), (3, 17), (2, 24)])
def test_wide_grids_are_summed_in_column_groups(grid, monkeypatch):
    monkeypatch.setitem(globals(), "GRID", grid)
    monkeypatch.setitem(globals(), "L", 1 + grid[0] * grid[1])
    evl, tokens = make(grid=grid), make_tokens()
    inputs = [tensor.requires_grad_() for layer in tokens for tensor in layer.values()]
    ours, plain = evl(make_features(tokens)), plain_logits(evl, tokens)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)
    expected = gradients(plain, evl, inputs)
    for name, gradient in gradients(ours, evl, inputs).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)


def test_what_a_layer_shares_is_made_once_and_gives_the_same_bits():
    first, second, tokens = make(torch.float32), make(torch.float32), make_tokens(torch.float32)
    features = make_features(tokens)
    first.prepare(features)
    shared = [layer.share(skew_relations) for layer in features]
    second.prepare(features)
    for layer in features:
        layer.settle()
    assert all(layer.relations is None for layer in features)
    assert all(layer.share(skew_relations) is maps for layer, maps in zip(features, shared, strict=True))
    before = [tensor.clone() for layer, maps in zip(features, shared, strict=True) for tensor in maps.previous]
    logits = first(features)
    assert torch.equal(logits, first(make_features(tokens)))
    assert torch.equal(logits, second(features))
    F.cross_entropy(logits, LABELS).backward()
    assert all(map(torch.equal, before, [tensor for maps in shared for tensor in maps.previous]))


def test_single_precision_stays_within_a_hundred_thousandth():
    single, tokens = make(torch.float32), make_tokens(torch.float32)
    exact = plain_logits(make(torch.float32).double(), [{x: y.double() for x, y in t.items()} for t in tokens])
    torch.testing.assert_close(single(make_features(tokens)).double(), exact, rtol=0, atol=1e-5)


def test_a_single_frame_has_no_motion_and_still_trains():
    evl, tokens = make(num_frames=1), make_tokens(num_frames=1)
    ours, plain = evl(make_features(tokens)), plain_logits(evl, tokens)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)
    assert gradients(ours, evl, [])["decoder.cross_attention.0.w1"].abs().max() == 0


@pytest.mark.parametrize("num_frames", [1, 2, 8])
@pytest.mark.parametrize("with_position", [True, False])
@pytest.mark.parametrize("num_clips", [1, 3])
def test_both_ways_to_convolve_over_time_agree(num_clips, with_position, num_frames, monkeypatch):
    torch.manual_seed(4)
    conv = TemporalConvolution(C).double()
    x, other = (torch.randn(num_clips, num_frames, L, C, dtype=torch.float64) for _ in range(2))
    position = torch.randn(num_frames, C, dtype=torch.float64, requires_grad=True) if with_position else None
    sources = [s for s in (x.requires_grad_(), *conv.parameters(), position) if s is not None]
    results = []
    for on_gpu in (False, True):
        choose_way(monkeypatch, on_gpu)
        moved = conv(x, position)
        results.append([moved, *torch.autograd.grad((moved * other).sum(), sources)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_key_bias_takes_part_and_gets_exactly_no_gradient():
    evl = make()
    F.cross_entropy(evl(make_features(make_tokens())), LABELS).backward()
    grads = [layer.attn.k_proj.bias.grad for layer in evl.decoder.decoder_layers]
    assert all(grad is not None and (grad == 0).all() for grad in grads)


def test_features_shared_by_two_decoders_stay_as_they_are():
    features = make_features(make_tokens())
    before = [tensor.clone() for layer in features for tensor in tensors_of(layer)]
    torch.manual_seed(2)
    first, second = make(), EVL(**SIZES).double()
    alone = second(features)
    F.cross_entropy(first(features), LABELS).backward()
    assert torch.equal(second(features), alone)
    assert all(map(torch.equal, before, [tensor for layer in features for tensor in tensors_of(layer)]))


def test_logits_and_gradients_repeat_bit_for_bit():
    def run():
        evl = make(torch.float32)
        logits = evl(make_features(make_tokens(torch.float32)))
        return [logits, *gradients(logits, evl, []).values()]

    assert all(map(torch.equal, run(), run()))


def test_autocast_keeps_logits_in_float32_near_the_exact_ones():
    evl, tokens = make(torch.float32), make_tokens(torch.float32)
    exact = evl(make_features(tokens))
    with torch.autocast("cpu", torch.bfloat16):
        logits = evl(make_features(tokens))  # new layers: what these share is made in half precision
        F.cross_entropy(logits, LABELS).backward()
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact)
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(parameter.grad.isfinite().all() for parameter in evl.parameters())


def test_a_fresh_model_starts_as_upstreams_released_code():
    evl = EVL(**SIZES)
    zero = {"cls_token", "w1", "w2", "temporal_pos_embed"}
    for name, parameter in evl.named_parameters():
        if any(part in name for part in zero):
            assert (parameter == 0).all(), name
        elif name.endswith("weight") and "norm" not in name and name != "proj.0.weight":
            assert parameter.std() > 0, name
    assert 0 < EVL(**SIZES, query_init="normal").decoder.cls_token.abs().max() < 0.1


def test_initialisation_depends_on_the_global_seed_only():
    def draw(seed):
        torch.manual_seed(seed)
        return EVL(**SIZES).state_dict()

    first, again, other = draw(3), draw(3), draw(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["proj.2.weight"], other["proj.2.weight"])


@pytest.mark.parametrize("changes", [{"mlp_dropout": 0.5}, {"head_dropout": 0.5}])
def test_each_dropout_acts_in_training_only(changes):
    evl, features = make(**changes), make_features(make_tokens())
    assert not torch.equal(evl.train()(features), evl(features))
    assert torch.equal(evl.eval()(features), make().eval()(features))


def test_another_number_of_frames_than_positions_is_named():
    with pytest.raises(UserError, match=r"5 frames.*has 3"):
        make()(make_features(make_tokens(num_frames=5)))


def test_heads_that_do_not_divide_the_width_are_named():
    with pytest.raises(UserError, match=r"qkv_dim 10 .* num_heads 3"):
        EVL(**{**SIZES, "qkv_dim": 10})
