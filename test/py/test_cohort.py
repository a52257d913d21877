"""The cohort's promises: alone or together bit for bit, nothing not finite in a weight, batches that add up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coldframe.assembly import models
from coldframe.train import checkpoint, resume
from coldframe.train.cohort import Cohort
from coldframe.train.schedule import learning_rate, stream_seed
from coldframe.train.targets.mixup import mix_batch
from coldframe.train.trial import Trial, build_trial
from small import settings

CPU = torch.device("cpu")


def make_cohort(**trials: dict[str, Any]) -> Cohort:
    built = {name: settings(**changes) for name, changes in trials.items()}
    backbone, _, _ = models.build_backbone(next(iter(built.values())), CPU, "fp32")
    return Cohort([build_trial(name, s, backbone, CPU, "fp32") for name, s in built.items()], backbone, CPU, "fp32")


def make_batch(step: int, num_clips: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    clips = torch.randn(num_clips, 3, 3, 24, 24, generator=generator)
    return clips, torch.randint(5, (num_clips,), generator=generator)


def train(cohort: Cohort, num_steps: int = 4) -> dict[str, list[float]]:
    losses: dict[str, list[float]] = {trial.name: [] for trial in cohort.trials}
    for step in range(num_steps):
        for name, result in cohort.step(step, *make_batch(step)).items():
            losses[name].append(result.loss)
    return losses


def weights(cohort: Cohort, name: str) -> dict[str, Tensor]:
    trial = next(trial for trial in cohort.trials if trial.name == name)
    return {key: parameter.detach().clone() for key, parameter in trial.named_parameters()}


DIFFERENT_TRIALS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shallow": {"model__decoder__num_layers": 1, "train__seed": 3},
    "still": {
        "model__temporal__cross_attention": False,
        "model__temporal__conv": False,
        "train__lr": 0.01,
        "train__clip_grad_norm": 0.5,
    },
    "smooth": {"train__label_smoothing": 0.1, "train__warmup_steps": 2, "train__weight_decay": 0.0},
    "deep": {"model__decoder__num_layers": 3, "model__temporal__position_embedding": False, "train__decay_all": False},
    "narrow": {
        "model__decoder__qkv_dim": 8,
        "model__decoder__num_heads": 2,
        "model__decoder__mlp_factor": 1.5,
        "model__decoder__mlp_dropout": 0.0,
        "model__decoder__query_init": "normal",
        "model__head__dropout": 0.1,
        "train__ema_decay": 0.8,
    },
}


def test_a_trial_in_a_cohort_equals_the_trial_alone_whatever_it_differs_in() -> None:
    together = make_cohort(**DIFFERENT_TRIALS)
    losses = train(together)
    assert len({tuple(values) for values in losses.values()}) == len(DIFFERENT_TRIALS)
    for name, changes in DIFFERENT_TRIALS.items():
        alone = make_cohort(**{name: changes})
        assert train(alone)[name] == losses[name], name
        for key, value in weights(alone, name).items():
            assert torch.equal(value, weights(together, name)[key]), (name, key)


def test_a_trial_that_stops_goes_on_and_loses_others_on_its_way_equals_the_trial_alone(tmp_path: Path) -> None:
    trials = DIFFERENT_TRIALS | {"wild": {"train__lr": 1e30}}
    first, second = make_cohort(**trials), make_cohort(**DIFFERENT_TRIALS)
    digest = models.hash_weights(first.backbone)
    for step in range(3):
        results = first.step(step, *make_batch(step))
        first.drop([name for name, result in results.items() if result.diverged is not None])
    assert "wild" not in [trial.name for trial in first.trials]
    header = {"step": 3, "backbone_sha256": digest, "classes": None}
    resume.restore(second, checkpoint.save(tmp_path, first, header, None), digest, None, True)
    second.drop(["plain"])
    for step in range(3, 6):
        second.step(step, *make_batch(step))
    for trial in second.trials:
        alone = make_cohort(**{trial.name: DIFFERENT_TRIALS[trial.name]})
        train(alone, 6)
        for key, value in weights(alone, trial.name).items():
            assert torch.equal(value, weights(second, trial.name)[key]), (trial.name, key)
        assert all(map(torch.equal, trial.average.values(), alone.trials[0].average.values()))


def test_the_mean_of_the_weights_is_scored_and_the_weights_are_trained() -> None:
    cohort, raw = make_cohort(main={"train__ema_decay": 0.7}), make_cohort(main={})
    expected = weights(cohort, "main")
    for step in range(3):
        assert cohort.step(step, *make_batch(step)) == raw.step(step, *make_batch(step))
        for key, value in weights(cohort, "main").items():
            expected[key] = 0.7 * expected[key] + 0.3 * value
    for key, value in cohort.trials[0].average.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)
    clips, _ = make_batch(9)
    scores = cohort.scores(clips)["main"]
    assert all(torch.equal(value, weights(raw, "main")[key]) for key, value in weights(cohort, "main").items())
    assert not torch.equal(scores, raw.scores(clips)["main"])
    with torch.no_grad():
        for key, parameter in raw.trials[0].named_parameters():
            parameter.copy_(cohort.trials[0].average[key])
    assert torch.equal(scores, raw.scores(clips)["main"])


def test_without_ema_no_mean_is_kept() -> None:
    cohort = make_cohort(main={})
    train(cohort, 1)
    assert not cohort.trials[0].average


def test_the_mean_begins_with_the_weights_that_training_begins_with() -> None:
    cohort = make_cohort(main={"train__ema_decay": 0.999999, "train__lr": 0.1})
    with torch.no_grad():
        for _, parameter in cohort.trials[0].named_parameters():  # as run.init_from does after building
            parameter.add_(1)
    before = weights(cohort, "main")
    train(cohort, 1)
    for key, value in cohort.trials[0].average.items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-5)


def test_gradients_of_one_trial_at_a_time_take_memory() -> None:
    cohort = make_cohort(**DIFFERENT_TRIALS)
    alive: list[set[str]] = []

    def look(trial: Trial) -> None:
        alive.append({t.name for t in cohort.trials if any(p.grad is not None for _, p in t.named_parameters())})

    for trial in cohort.trials:
        trial.optimizer.register_step_pre_hook(lambda *_, trial=trial: look(trial))
    cohort.step(0, *make_batch(0))
    assert alive == [{name} for name in DIFFERENT_TRIALS]


def test_dropping_a_trial_does_not_change_the_others() -> None:
    kept, pruned = make_cohort(**DIFFERENT_TRIALS), make_cohort(**DIFFERENT_TRIALS)
    train(kept)
    for step in range(4):
        if step == 2:
            pruned.drop(["plain", "still"])
        pruned.step(step, *make_batch(step))
    for key, value in weights(kept, "shallow").items():
        assert torch.equal(value, weights(pruned, "shallow")[key]), key


def test_a_trial_that_diverges_is_told_and_keeps_finite_weights_while_the_others_go_on() -> None:
    cohort = make_cohort(wild={"train__lr": 1e30}, calm={})
    results = [cohort.step(step, *make_batch(step)) for step in range(3)]
    assert results[0]["wild"].diverged is None
    told = [result["wild"].diverged for result in results[1:]]
    assert all(text is not None and "not finite" in text and "train.lr" in text for text in told)
    assert all(result["calm"].diverged is None for result in results)
    before = weights(cohort, "wild")
    cohort.step(3, *make_batch(3))
    assert all(torch.equal(value, weights(cohort, "wild")[key]) for key, value in before.items())
    assert train(make_cohort(calm={}), 3)["calm"] == [result["calm"].loss for result in results]


def test_two_shards_give_the_loss_and_gradient_of_one_batch() -> None:
    changes = {"model__decoder__mlp_dropout": 0.0, "model__head__dropout": 0.0}
    whole, halves = make_cohort(main=changes), make_cohort(main=changes | {"train__micro_batches": 2})
    for step in range(3):
        one, two = (cohort.step(step, *make_batch(step))["main"] for cohort in (whole, halves))
        assert one.loss == pytest.approx(two.loss, abs=1e-6)
        assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-5)
        assert one.top1 == two.top1


def test_shards_of_a_short_batch_count_by_their_clips() -> None:
    """Three clips, since one video was bad, in shards of two and one."""
    changes = {"model__decoder__mlp_dropout": 0.0, "model__head__dropout": 0.0}
    whole, parts = make_cohort(main=changes), make_cohort(main=changes | {"train__micro_batches": 2})
    one, two = (cohort.step(0, *make_batch(0, 3))["main"] for cohort in (whole, parts))
    assert one.loss == pytest.approx(two.loss, abs=1e-6)
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-5)


def test_a_gradient_that_is_not_finite_reaches_no_weight_though_its_loss_is() -> None:
    cohort = make_cohort(main={})
    before = weights(cohort, "main")
    cohort.trials[0].model.get_parameter("proj.2.bias").register_hook(lambda gradient: gradient * math.inf)
    result = cohort.step(0, *make_batch(0))["main"]
    assert math.isfinite(result.loss)
    assert result.diverged is not None
    assert result.diverged.startswith("the gradient is not finite")
    assert all(torch.equal(value, weights(cohort, "main")[key]) for key, value in before.items())


def test_frozen_means_frozen_no_graph_and_the_same_bytes() -> None:
    cohort = make_cohort(main={})
    digest = models.hash_weights(cohort.backbone)
    assert all(layer.tokens_NTLC.grad_fn is None for layer in cohort.features(make_batch(0)[0]).values())
    train(cohort)
    assert models.hash_weights(cohort.backbone) == digest
    assert all(parameter.grad is None for parameter in cohort.backbone.parameters())
    assert not any(name.startswith("backbone") for name, _ in cohort.trials[0].named_parameters())


@pytest.mark.parametrize("num_layers", [1, 3])
def test_a_backbone_that_is_not_frozen_learns(num_layers: int) -> None:
    cohort = make_cohort(main={"model__backbone__freeze": False, "model__decoder__num_layers": num_layers})
    before = weights(cohort, "main")
    train(cohort, 2)
    changed = {key for key, value in weights(cohort, "main").items() if not torch.equal(value, before[key])}
    assert {"backbone.conv1.weight", "backbone.transformer.resblocks.0.attn.in_proj_weight"} <= changed


def test_gradients_are_clipped_to_the_norm() -> None:
    free, clipped = make_cohort(main={}), make_cohort(main={"train__clip_grad_norm": 1e-3})
    for cohort in (free, clipped):
        cohort.step(0, *make_batch(0))
    norms = [
        math.sqrt(sum(float(state["exp_avg"].square().sum()) for state in c.trials[0].optimizer.state.values())) / 0.1
        for c in (free, clipped)  # after one step Adam's first moment is a tenth of the gradient
    ]
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_the_rate_warms_up_and_then_falls_along_half_a_cosine() -> None:
    train_settings = settings(train__steps=10, train__warmup_steps=4, train__lr=2.0).train
    rates = [learning_rate(step, train_settings) for step in range(10)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[7] == pytest.approx(1.0)
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)


def test_without_warm_up_the_rate_is_torchs_cosine_annealing() -> None:
    train_settings = settings(train__steps=7).train
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=train_settings.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    for step in range(7):
        assert learning_rate(step, train_settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_streams_of_different_places_differ() -> None:
    seeds = {stream_seed(seed, "dropout", step, shard) for seed in range(3) for step in range(3) for shard in range(3)}
    assert len(seeds) == 27
    assert stream_seed(1, "init") == stream_seed(1, "init")


def test_each_shard_of_each_step_has_dropout_of_its_own() -> None:
    cohort = make_cohort(main={"train__seed": 5, "data__seed": 2, "train__micro_batches": 2})
    seeds: list[int] = []
    cohort.trials[0].model.register_forward_pre_hook(lambda *_: seeds.append(torch.initial_seed()))
    for step in range(2):
        cohort.step(step, *make_batch(step))
    assert seeds == [stream_seed(5, "dropout", step, shard) for step in range(2) for shard in range(2)]


def test_scaled_gradients_are_unscaled_before_they_are_measured_and_clipped() -> None:
    """What fp16 does on a GPU, with a scaler of the CPU."""
    plain, scaled = (make_cohort(main={"train__clip_grad_norm": 0.01}) for _ in range(2))
    scaled.trials[0].scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    one, other = (cohort.step(0, *make_batch(0))["main"] for cohort in (plain, scaled))
    assert one.grad_norm > 0.02
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    for key, value in weights(plain, "main").items():
        assert torch.allclose(value, weights(scaled, "main")[key], atol=1e-6), key


def test_mixing_off_gives_the_labels_themselves() -> None:
    clips, labels = make_batch(0)
    mixed, targets = mix_batch(clips, labels, settings(), 0)
    assert mixed is clips
    assert targets is labels


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_mixed_targets_follow_the_mixed_pixels_and_depend_on_the_step_only(mixup: float, cutmix: float) -> None:
    mixing = settings(train__mixup=mixup, train__cutmix=cutmix)
    clips = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 16, 20).contiguous()
    labels = torch.tensor([0, 1, 2, 3])
    kept_shares = set()
    for step in range(6):
        mixed, targets = mix_batch(clips, labels, mixing, step)
        again, _ = mix_batch(clips, labels, mixing, step)
        assert torch.equal(mixed, again)
        assert torch.allclose(targets.sum(dim=1), torch.ones(4))
        # Pixels hold their clip's label, so their mean is the target's mean.
        assert torch.allclose(mixed.mean(dim=(1, 2, 3, 4)), targets @ torch.arange(5.0), atol=1e-5)
        kept_shares.add(round(targets[0, 0].item(), 6))
    assert len(kept_shares) > 3


def test_a_step_with_mixed_targets_trains() -> None:
    cohort = make_cohort(main={"train__mixup": 0.8, "train__cutmix": 1.0})
    clips, labels = make_batch(0)
    clips, targets = mix_batch(clips, labels, cohort.trials[0].settings, 0)
    assert math.isfinite(cohort.step(0, clips, targets)["main"].loss)


def test_bfloat16_scores_are_close_to_float32_and_float32_themselves() -> None:
    whole = make_cohort(main={})
    half_settings = settings(train__precision="bf16")
    backbone, _, _ = models.build_backbone(half_settings, CPU, "bf16")
    half = Cohort([build_trial("main", half_settings, backbone, CPU, "bf16")], backbone, CPU, "bf16")
    clips, labels = make_batch(0)
    scores, rough = whole.scores(clips)["main"], half.scores(clips)["main"]
    assert rough.dtype == torch.float32
    assert 0 < (scores - rough).abs().max() < 0.02
    assert math.isfinite(half.step(0, clips, labels)["main"].loss)


def test_the_last_blocks_of_a_backbone_learn_alone_at_their_own_rate() -> None:
    changes = {"model__backbone__freeze": False, "model__backbone__train_blocks": 2, "train__backbone_lr": 1e-5}
    cohort = make_cohort(main=changes)
    trial = cohort.trials[0]
    whole = {name: value.clone() for name, value in cohort.backbone.state_dict().items()}
    before = weights(cohort, "main")
    train(cohort, 1)
    moved = {name for name, value in cohort.backbone.state_dict().items() if not torch.equal(value, whole[name])}
    assert {name.split(".")[2] for name in moved} == {"1", "2"}
    steps = {key: (value - before[key]).abs().max().item() for key, value in weights(cohort, "main").items()}
    assert steps["backbone.transformer.resblocks.2.mlp.c_fc.weight"] <= 1.1e-5
    assert steps["proj.2.weight"] > 5e-4
    assert [group["lr"] for group in trial.optimizer.param_groups] == pytest.approx([1e-3, 1e-5])


def test_decay_may_spare_norms_biases_positions_and_the_query() -> None:
    trial = make_cohort(main={"train__decay_all": False}).trials[0]
    decay = {}
    for group in trial.optimizer.param_groups:
        decay.update({id(parameter): group["weight_decay"] for parameter in group["params"]})
    spared = {name for name, parameter in trial.named_parameters() if decay[id(parameter)] == 0}
    assert {"decoder.cls_token", "decoder.temporal_pos_embed.0", "proj.0.weight", "proj.2.bias"} <= spared
    assert not any(name.endswith(("q_proj.weight", "proj.2.weight", "w1", "temporal_conv.0.weight")) for name in spared)
    assert len(make_cohort(main={}).trials[0].optimizer.param_groups) == 1
