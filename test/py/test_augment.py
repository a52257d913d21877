"""RandAugment and crops against the original's outputs (test/fixtures/parity)."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coldframe.data.augment import (
    Operation,
    RandAugment,
    apply_operation,
    crop_box,
    crop_corners,
    draw_argument,
    eval_views,
    paint,
    training_view,
)
from coldframe.data.shear import slide
from coldframe.errors import UserError

PARITY = Path(__file__).parent.parent / "fixtures" / "parity"
RAND_AUGMENT = torch.load(PARITY / "rand_augment.pt", weights_only=True)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 20, 28, 3), dtype=np.uint8)


def bicubic() -> Image.Resampling:
    return Image.Resampling.BICUBIC


@pytest.mark.parametrize("case", RAND_AUGMENT["ops"], ids=lambda case: f"{case['name']}-{case['magnitude']}")
def test_an_operation_equals_the_original(case):
    argument = draw_argument(case["name"], case["magnitude"], random.Random(case["random_seed"]))
    assert ([] if argument is None else [argument]) == case["args"]
    picture = apply_operation(case["name"], Image.fromarray(RAND_AUGMENT["image"].numpy()), argument, bicubic)
    np.testing.assert_array_equal(np.asarray(picture), case["output"].numpy())


@pytest.mark.parametrize("case", RAND_AUGMENT["policies"], ids=lambda case: f"{case['policy']}-{case['random_seed']}")
def test_a_policy_draws_and_paints_as_the_original(case):
    augment = RandAugment(case["policy"], case["interpolation"])
    rngs = random.Random(case["random_seed"]), np.random.RandomState(case["numpy_seed"])
    np.testing.assert_array_equal(augment(case["frames"].numpy(), *rngs), case["output"].numpy())


# ---- painting only what the crop keeps -------------------------------------------------------------------------------


def paint_whole(frames: list[np.ndarray], operations: list[Operation]) -> list[np.ndarray]:
    """Every operation on every whole frame through Pillow, one after the other."""
    painted = []
    for number, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        for operation in operations:
            chosen = (operation.filters or [None])[number if operation.filters else 0]
            picture = apply_operation(operation.name, picture, operation.argument, lambda chosen=chosen: chosen)
        painted.append(np.asarray(picture))
    return painted


def draw_frames(rng: np.random.Generator, num_frames: int, height: int, width: int) -> list[np.ndarray]:
    """Smooth areas, flat areas and single wild pixels."""
    small = rng.integers(0, 256, (num_frames, max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    frames = [np.array(Image.fromarray(frame).resize((width, height))) for frame in small]
    for frame in frames:
        frame[: height // 4] = rng.integers(0, 256, 3)
        wild = rng.random((height, width)) < 0.1
        frame[wild] = rng.integers(0, 256, (wild.sum(), 3))
    return frames


@pytest.mark.parametrize("seed", range(150))
def test_painting_a_box_gives_the_bytes_of_painting_whole_frames_and_cutting(seed):
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    height, width = draw.choice([(20, 28), (64, 96), (97, 61), (6, 33)])
    frames = draw_frames(rng, draw.choice([1, 3]), height, width)
    policy = f"rand-m{draw.randint(0, 10)}-n{draw.randint(1, 8)}" + draw.choice(["", "-mstd0.5-inc1", "-w0"])
    augment = RandAugment(policy, draw.choice(["bicubic", "bicubic", "bilinear", "random"]))
    operations = augment.draw(len(frames), draw, np.random.RandomState(seed))
    top, left, h, w = crop_box(height, width, draw, np.random.RandomState(seed))
    found = paint(frames, operations, (top, left, h, w))
    expected = [frame[top : top + h, left : left + w] for frame in paint_whole(frames, operations)]
    np.testing.assert_array_equal(found, expected, err_msg=f"{policy} {[op.name for op in operations]}")


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "Rotate"])
@pytest.mark.parametrize("argument", [0.0, 0.1, -0.3, 0.25, 0.5, -0.45, 2.9999999999999996 / 64, 3.0])
def test_moving_gives_pillows_bytes_at_awkward_arguments(name, argument):
    frames = draw_frames(np.random.default_rng(1), 2, 64, 64)
    operations = [Operation(name, argument, [bicubic()] * 2)]
    np.testing.assert_array_equal(
        paint(frames, operations, (5, 7, 40, 50)), [frame[5:45, 7:57] for frame in paint_whole(frames, operations)]
    )


def test_rows_that_rounding_tears_are_left_to_pillow():
    frames = [np.zeros((4, 256, 3), np.uint8)]
    assert slide(frames, (1, 0, 3.0, 0, 1, 0), (0, 0, 4, 256), (0, 0, 0)) is not None
    assert slide(frames, (1, 0, 2.9999999999999996, 0, 1, 0), (0, 0, 4, 256), (0, 0, 0)) is None
    assert slide(frames, (0.9, 0.1, 0, -0.1, 0.9, 0), (0, 0, 4, 256), (0, 0, 0)) is None


def test_the_operations_are_the_same_in_every_frame():
    augment = RandAugment("rand-m9-n4-mstd0.5-inc1")
    same = np.repeat(FRAMES[:1], 3, axis=0)
    for seed in range(20):
        out = augment(same, random.Random(seed), np.random.RandomState(seed))
        assert (out == out[:1]).all()


def test_every_policy_keeps_shape_and_type_at_the_largest_and_the_smallest_magnitude():
    for policy in ("rand-m10-n15-inc1", "rand-m0-n15", "rand-n13-w0", "rand-m10-n13-w0-inc1"):
        out = RandAugment(policy, "random")(FRAMES, random.Random(1), np.random.RandomState(1))
        assert out.shape == FRAMES.shape
        assert out.dtype == np.uint8


def test_keeping_no_bits_is_black():
    assert np.asarray(apply_operation("PosterizeIncreasing", Image.fromarray(FRAMES[0]), 0, bicubic)).max() == 0


def test_inc0_is_off():
    plain, off, on = (RandAugment(f"rand-m3-n9{end}") for end in ("", "-inc0", "-inc1"))
    outs = [augment(FRAMES, random.Random(2), np.random.RandomState(2)) for augment in (plain, off, on)]
    assert (outs[0] == outs[1]).all()
    assert (outs[0] != outs[2]).any()


@pytest.mark.parametrize(
    "policy", ["rand-x3", "augmix-m3", "rand-m11", "rand-n0", "rand-w1", "rand-n14-w0", "", "rand-m3-m4"]
)
def test_a_policy_that_is_not_known_is_refused_with_what_is_allowed(policy):
    with pytest.raises(UserError, match=r"data\.augment .*rand-m7-n4-mstd0\.5-inc1"):
        RandAugment(policy)


def test_all_problems_of_a_policy_come_at_once():
    with pytest.raises(UserError, match=r"'x3' is not known; m12 is outside 0\.\.10"):
        RandAugment("rand-x3-m12")


def test_a_filter_that_transforms_cannot_use_is_refused():
    with pytest.raises(UserError, match="bilinear, bicubic, random"):
        RandAugment("rand-m1", "lanczos")


def test_crop_boxes_lie_inside_whatever_the_shape():
    for height, width in ((1, 1), (7, 300), (300, 7), (256, 340)):
        for seed in range(50):
            top, left, h, w = crop_box(height, width, random.Random(seed), np.random.RandomState(seed))
            assert 0 <= top <= top + h <= height
            assert 0 <= left <= left + w <= width
            assert h * w > 0


def test_test_crops_stand_where_the_originals_stand():
    for case in torch.load(PARITY / "data.pt", weights_only=True)["spatial_crops"]:
        size = case["spatial_size"]
        corners = crop_corners(case["height"], case["width"], size, case["spatial_views"])
        assert [[top, left, size, size] for top, left in corners] == case["crops_top_left_h_w"]


def test_mirroring_flips_about_half_of_the_clips_and_nothing_else():
    num_flipped = 0
    for seed in range(60):
        plain, mirrored = (
            training_view(FRAMES, 12, None, mirror, random.Random(seed), np.random.RandomState(seed))
            for mirror in (False, True)
        )
        flipped = torch.allclose(mirrored, plain.flip(-1), atol=1e-3)
        assert flipped != torch.equal(mirrored, plain)
        num_flipped += flipped
    assert 15 < num_flipped < 45


def test_views_are_ordered_spatial_major():
    frames = np.zeros((2, 8, 24, 3), np.uint8)
    frames[0, :, :8], frames[0, :, 8:16], frames[0, :, 16:] = 10, 20, 30
    frames[1] = frames[0] + 100
    views = eval_views(frames, [[0, 0, 0], [1, 1, 1]], 8, 3)
    assert views.shape == (6, 3, 3, 8, 8)
    assert views.mean(dim=(1, 2, 3, 4)).tolist() == [10, 110, 20, 120, 30, 130]
