"""The plain algorithm of the bench programs computes what upstream computed, and our model what it computes."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from coldframe.decoders.evl.model import EVL

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "scripts"))

import plain_model  # noqa: E402
from parity_model import build_backbone, build_decoder, last_layers, relative  # noqa: E402

FIXTURES = ROOT / "test" / "fixtures" / "parity"
CASES = ("all_on", "all_off", "dec1", "dec4", "no_conv", "no_cross", "no_pos", "heads2_qkv32_mlp2", "patch14")


def run_plain(fixture, backbone, weights):
    args = fixture["args"]
    with torch.no_grad():
        layers = plain_model.backbone(
            dict(backbone.state_dict()),
            fixture["video"],
            num_heads=args["backbone"]["num_heads"],
            patch_size=backbone.patch_size,
        )
    features = plain_model.gather_features(layers, args["decoder_num_layers"], args["num_frames"])
    heads = args["decoder_num_heads"]
    return layers, plain_model.decoder(weights, features, num_heads=heads, grid=backbone.grid)


@pytest.mark.parametrize("name", CASES)
def test_the_plain_algorithm_gives_upstreams_features_logits_and_gradients(name):
    fixture = torch.load(FIXTURES / f"case_{name}.pt", weights_only=True)
    backbone = build_backbone(fixture, FIXTURES)
    weights = {key: value.clone().requires_grad_() for key, value in fixture["trained_state"].items()}
    layers, logits = run_plain(fixture, backbone, weights)
    limit = fixture["atol_logits"]
    for layer, expected in zip(layers, fixture["backbone_out_all_layers"], strict=True):
        assert relative(layer["out"], expected) <= limit
    assert relative(logits, fixture["logits_train_p0"]) <= limit
    F.cross_entropy(logits, fixture["labels"]).backward()
    skipped = set(fixture["noise_only_grads"])
    norms = {key: norm for key, norm in fixture["grad_norms"].items() if norm is not None and key not in skipped}
    assert norms
    for key, norm in norms.items():
        assert weights[key].grad.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("name", CASES)
def test_our_logits_are_within_a_hundred_thousandth_of_the_plain_ones(name):
    fixture = torch.load(FIXTURES / f"case_{name}.pt", weights_only=True)
    backbone = build_backbone(fixture, FIXTURES)
    evl: EVL = build_decoder(fixture, backbone.grid).eval()
    evl.load_state_dict(fixture["trained_state"])
    num_layers = fixture["args"]["decoder_num_layers"]
    with torch.no_grad():
        _, plain = run_plain(fixture, backbone, dict(evl.named_parameters()))
        ours = evl(last_layers(backbone, fixture["video"], num_layers, relations=True))
    assert (ours - plain).abs().max() < 1e-5


def test_dropout_acts_only_where_it_is_asked_for():
    fixture = torch.load(FIXTURES / "case_all_on.pt", weights_only=True)
    backbone = build_backbone(fixture, FIXTURES)
    layers, logits = run_plain(fixture, backbone, fixture["trained_state"])
    args = fixture["args"]
    features = plain_model.gather_features(layers, args["decoder_num_layers"], args["num_frames"])
    sizes = {"num_heads": args["decoder_num_heads"], "grid": backbone.grid}
    for dropout in ({"mlp_dropout": 0.5}, {"head_dropout": 0.5}):
        assert not torch.equal(plain_model.decoder(fixture["trained_state"], features, **sizes, **dropout), logits)
