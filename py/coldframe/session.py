"""The session: what TypeScript can ask of the runtime. One session lives in a process; serve.py carries the words (and
answers `forecast` itself).

Every verb takes and returns plain JSON values and is bounded in time: `advance` by its number of steps, `evaluate` by
seconds, so that stopping, pruning and progress take effect within about a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coldframe import heartbeat
from coldframe.cache.read import Cache, StoredFeatures, open_cache
from coldframe.cache.write import Extraction
from coldframe.data.clips import Batch, normalize_, read_list
from coldframe.data.loader import to_device
from coldframe.errors import UserError
from coldframe.evaluate.evaluation import Evaluation, ensemble, explain_broken
from coldframe.machine import environment, lock
from coldframe.machine.device import choose_device, choose_precision
from coldframe.prepare.clips import Preparation
from coldframe.settings import Settings
from coldframe.train import build, checkpoint, forecast, inspection, upstream
from coldframe.train.cohort import Cohort
from coldframe.train.initial import initialize
from coldframe.train.metrics import Metrics
from coldframe.train.mixup import mix_batch
from coldframe.video import codecs, frames


class Session:
    """A cohort with its data, its step and its run folder."""

    def __init__(self) -> None:
        self.step = 0
        self._cohort: Cohort | None = None
        self._train: Iterator[Batch] | None = None
        self._evaluation: Evaluation | None = None
        self._num_unread = 0  # clips since the last one that could be read
        self._metrics: Metrics | None = None
        self._cache: Cache | None = None
        self._extraction: Extraction | None = None
        self._preparation: Preparation | None = None

    # --- verbs ---

    def describe(self, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns the environment and, for a configuration, the sizes of its model and the memory it will take."""
        model = None
        if settings is not None:
            wanted = Settings.from_json(settings)
            choose_precision(wanted.train.precision, choose_device(wanted.launch.device))  # a run here is asked about
            build.refuse_lacking(wanted, "describe", {})
            model = forecast.describe_model(wanted)
        return {"environment": environment.describe_environment(codecs.describe_decoder()), "model": model}

    def memory(self, device: str) -> dict[str, Any]:
        """Returns bytes: this process's peak so far, its loader workers' together, and what is free for a model."""
        return environment.describe_memory(torch.device(choose_device(device)))

    def open(
        self,
        mode: str,
        trials: list[dict[str, Any]],
        lists: dict[str, str | None],
        classes: list[str] | None,
        run_dir: str | None,
        resume: str = "never",
    ) -> dict[str, Any]:
        """Returns what was built. `mode`: train, evaluate or predict; `resume`: auto, never or a checkpoint.

        Trials that the checkpoint no longer holds were dropped before it: they stay away.
        """
        assert self._cohort is None, "a session is opened once"
        self.settings = Settings.from_json(trials[0]["settings"])
        self.mode, self.lists, self.classes = mode, lists, classes
        self.run_dir = None if run_dir is None else Path(run_dir)
        if self.run_dir is not None and mode == "train":
            lock.hold(self.run_dir)
            checkpoint.recover(self.run_dir / "checkpoints")
        build.refuse_lacking(self.settings, mode, lists)
        resumed_from = self._find_checkpoint(resume)
        trials = build.choose_trials(trials, resumed_from)
        self.configs = {trial["name"]: trial["settings"] for trial in trials}
        self.device = torch.device(choose_device(self.settings.launch.device))
        self.precision, notes = choose_precision(self.settings.train.precision, str(self.device))
        notes += forecast.describe_launches(self.settings, self.device.type) if mode == "train" else []
        if mode == "train" and self.run_dir is not None:  # without a folder it is converted, not trained
            self._start_early(resumed_from)
        backbone, self.backbone_sha256, more = build.build_backbone(self.settings, self.device, self.precision)
        notes += more
        self._cache = self._open_cache(trials)
        heartbeat.progress()
        built = [
            build.build_trial(
                trial["name"], Settings.from_json(trial["settings"]), backbone, self.device, self.precision
            )
            for trial in trials
        ]
        source = backbone if self._cache is None else StoredFeatures(self._cache.layout, backbone)
        self._cohort = Cohort(built, source, self.device, self.precision)
        self._restore(resumed_from, notes)
        if self.settings.train.compile:
            build.compile_models(self._cohort)
        if self.run_dir is not None and mode == "train":
            run = self.settings.run
            self._metrics = Metrics(self.run_dir, self.step, run.tensorboard, run.wandb, self.configs)
        return {
            "step": self.step,
            "trials": [trial.name for trial in built],
            "resumed_from": None if resumed_from is None else str(resumed_from),
            "device": str(self.device),
            "precision": self.precision,
            "backbone_sha256": self.backbone_sha256,
            "parameters": build.count_parameters(self._cohort),
            "environment": environment.describe_environment(codecs.describe_decoder()),
            "notes": notes,
        }

    def advance(self, steps: int) -> dict[str, Any]:
        """Returns the results of the next `steps` optimizer steps, fewer when the run ends or every trial diverged."""
        cohort = self.cohort
        results: list[dict[str, Any]] = []
        bad: list[dict[str, str]] = []
        dropped: list[dict[str, Any]] = []
        last = min(self.step + steps, self.settings.train.steps)
        while self.step < last and cohort.trials:
            results.append(self._one_step(cohort, bad, dropped))
            heartbeat.progress()
        return {"step": self.step, "steps": results, "bad": bad, "dropped": dropped}

    def evaluate(self, seconds: float, output: str) -> dict[str, Any]:
        """Returns how far the evaluation is after about `seconds` more; `results` when the list is through, and the
        scores of every video then lie in the folder `output`."""
        if self._evaluation is None:
            self._evaluation = self._start_evaluation()
        evaluation = self._evaluation
        num_bad = len(evaluation.bad)
        done = evaluation.advance(seconds, heartbeat.progress)
        bad = [{"path": path, "reason": reason} for path, reason in evaluation.bad[num_bad:]]
        if bad and self.settings.data.on_bad_video == "fail":
            self._evaluation = None
            raise UserError(_bad_video_text(bad[0]))
        results = None
        dropped: dict[str, str] = {}
        if done:
            self._evaluation = None
            dropped = self._drop_broken(evaluation)
            results = evaluation.results()
            evaluation.write_scores(Path(output), alone=self.mode == "evaluate")
            if self._metrics is not None:
                self._metrics.write_evaluation(self.step, results)
        return {
            "done": done,
            "num_seen": evaluation.num_seen,
            "num_total": evaluation.num_videos,
            "bad": bad,
            "dropped": [{"trial": name, "step": self.step, "why": why} for name, why in dropped.items()],
            "results": results,
        }

    def save(self) -> dict[str, Any]:
        """Returns the path of the checkpoint that now holds this step."""
        assert self.run_dir is not None
        if self._metrics is not None:
            self._metrics.flush()
        keep = self.settings.run.keep_checkpoints
        path = checkpoint.save(self.run_dir / "checkpoints", self.cohort, self._header(), keep)
        return {"path": str(path), "step": self.step}

    def ensemble(self, paths: list[str]) -> dict[str, Any]:
        """Returns the accuracy of each file of scores and of their mean."""
        return ensemble(paths)

    def convert(self, to: str, output: str) -> dict[str, Any]:
        """Returns the path of this step's checkpoint, written as `coldframe` (a folder) or `upstream` (a .pth file)."""
        if to == "upstream":
            with self.cohort.trials[0].averaged():  # the original knows no mean of the weights: the result goes there
                notes = upstream.write(Path(output), self.cohort.trials[0], self.step)
            return {"path": output, "step": self.step, "notes": notes}
        path = checkpoint.save(Path(output), self.cohort, self._header(), None)
        return {"path": str(path), "step": self.step, "notes": []}

    def drop(self, trials: list[str]) -> dict[str, Any]:
        """Returns the names of the trials that go on."""
        self._drop(trials)
        return {"trials": [trial.name for trial in self.cohort.trials]}

    def probe(self, paths: list[str]) -> dict[str, Any]:
        """Returns frames, size, rate and codec of each video, or the reason why it cannot be read."""
        return {"videos": [frames.describe(path) for path in paths]}

    def predict(self, paths: list[str], top: int) -> dict[str, Any]:
        """Returns the `top` classes of each video with their probabilities, or the reason why it cannot be read."""
        predictions: list[dict[str, Any]] = []
        for batch, path in zip(build.prediction_batches(self.settings, paths), paths, strict=True):
            heartbeat.progress()
            if batch.bad:
                predictions.append({"path": path, "reason": batch.bad[0].reason, "classes": None})
                continue
            scores_VK = next(iter(self.cohort.scores(self._prepare(batch.clips[0])).values()))
            if not scores_VK.isfinite().all():
                reason = f"its scores are not finite. {explain_broken(self.cohort.trials[0])}"
                predictions.append({"path": path, "reason": reason, "classes": None})
                continue
            best = scores_VK.mean(dim=0).topk(min(top, scores_VK.shape[1]))
            classes = [
                {"label": label, "name": self.classes[label] if self.classes else str(label), "probability": value}
                for value, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            predictions.append({"path": path, "reason": None, "classes": classes})
        return {"predictions": predictions}

    def inspect(self, path: str) -> dict[str, Any]:
        """Returns what a file of weights or a checkpoint folder is. Raises UserError that says what it is instead."""
        return inspection.identify(Path(path))

    def check_features(self, trials: list[dict[str, Any]], lists: dict[str, str | None]) -> dict[str, Any]:
        """Returns what the feature cache of these settings holds. Raises UserError where `open` would refuse it."""
        settings = [Settings.from_json(each) for each in trials]
        _, digest, _ = build.build_backbone(settings[0], torch.device("cpu"), "fp32")
        return open_cache(settings, digest, lists).describe()

    def forecast_features(self, settings: dict[str, Any], lists: dict[str, str | None]) -> dict[str, Any]:
        """Returns what the feature cache of a configuration takes and saves; it is then ready to be built."""
        self._extraction = Extraction(Settings.from_json(settings), lists)
        return self._extraction.forecast(heartbeat.progress)

    def build_features(self, seconds: float) -> dict[str, Any]:
        """Returns how far the feature cache is after about `seconds` more."""
        assert self._extraction is not None
        return self._extraction.advance(seconds, heartbeat.progress)

    def save_features(self) -> dict[str, Any]:
        """Returns nothing of note; what is computed of the feature cache is written."""
        assert self._extraction is not None
        self._extraction.flush()
        return {}

    def forecast_clips(self, settings: dict[str, Any], lists: dict[str, str | None], folder: str) -> dict[str, Any]:
        """Returns what re-encoding the clips of the lists takes; it can then be begun."""
        self._preparation = Preparation(Settings.from_json(settings), lists, Path(folder))
        return self._preparation.forecast(heartbeat.progress)

    def prepare_clips(self, seconds: float) -> dict[str, Any]:
        """Returns how far the re-encoding is after about `seconds` more."""
        assert self._preparation is not None
        return self._preparation.advance(seconds, heartbeat.progress)

    def close(self) -> dict[str, Any]:
        """Returns nothing of note; files are flushed, loader workers gone, the run folder free."""
        if self._metrics is not None:
            self._metrics.close()
        if self._extraction is not None:
            self._extraction.close()
        if self._preparation is not None:
            self._preparation.close()
        self._train = self._evaluation = self._cohort = None
        lock.release_held()
        return {}

    # --- parts ---

    @property
    def cohort(self) -> Cohort:
        assert self._cohort is not None, "the session is not open"
        return self._cohort

    def _header(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "backbone_sha256": self.backbone_sha256,
            "classes": self.classes,
            "config": {trial.name: self.configs[trial.name] for trial in self.cohort.trials},
        }

    def _drop(self, names: list[str]) -> None:
        self.cohort.drop(names)
        if self._metrics is not None:
            self._metrics.drop(names)

    def _drop_broken(self, evaluation: Evaluation) -> dict[str, str]:
        """Returns why trials leave whose scores are not finite. Raises UserError when none is left."""
        broken = evaluation.take_broken()
        if len(broken) == len(self.cohort.trials):
            raise UserError("\n".join(f"trial {name}  {why}" for name, why in broken.items()))
        self._drop(list(broken))
        return broken

    def _find_checkpoint(self, resume: str) -> Path | None:
        if resume not in ("auto", "never"):
            return Path(resume)
        assert self.run_dir is not None or resume == "never"
        return checkpoint.find_latest(self.run_dir / "checkpoints") if self.run_dir and resume == "auto" else None

    def _restore(self, path: Path | None, notes: list[str]) -> None:
        if path is not None:
            training = self.mode == "train"
            self.step = build.restore(self.cohort, path, self.backbone_sha256, self.classes, training, notes)
        elif self.mode == "train" and self.settings.run.init_from is not None:
            for trial in self.cohort.trials:
                notes += initialize(trial, Path(self.settings.run.init_from), self.backbone_sha256, self.classes)

    def _one_step(self, cohort: Cohort, bad: list[dict[str, str]], dropped: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        if self._train is None:
            self._train = self._start_training()
        batch = next(self._train)
        unreadable = [{"path": video.path, "reason": video.reason} for video in batch.bad]
        if unreadable and self.settings.data.on_bad_video == "fail":
            raise UserError(_bad_video_text(unreadable[0]))
        bad += unreadable
        loaded = time.perf_counter()
        if not len(batch.labels):
            self._leave_out(unreadable)
            seconds = loaded - started
            return {"step": self.step, "clips": 0, "data_seconds": seconds, "step_seconds": seconds, "trials": {}}
        self._num_unread = 0
        clips_NCTHW, targets = mix_batch(self._prepare(batch.clips), batch.labels, self.settings, self.step)
        outcome = cohort.step(self.step, clips_NCTHW, targets, heartbeat.progress)
        self.step += 1
        if self._metrics is not None:
            self._metrics.write_step(self.step, outcome)
        gone = {name: result.diverged for name, result in outcome.items() if result.diverged is not None}
        for name, why in gone.items():
            dropped.append({"trial": name, "step": self.step, "why": f"step {self.step}: {why}"})
        self._drop(list(gone))
        return {
            "step": self.step,
            "clips": len(batch.labels),
            "data_seconds": loaded - started,
            "step_seconds": time.perf_counter() - started,
            "trials": {
                name: {"loss": result.loss, "lr": result.lr, "grad_norm": result.grad_norm, "top1": result.top1}
                for name, result in outcome.items()
            },
        }

    def _leave_out(self, unreadable: list[dict[str, str]]) -> None:
        """Passes a step without a clip: rates and random streams belong to steps, so the others stay as they are."""
        self.step += 1
        self._num_unread += len(unreadable)
        list_file = self.lists["train"]
        num_videos = 0 if list_file is None else len(read_list(list_file))
        if self._num_unread >= 2 * num_videos * self.settings.data.clips_per_video:  # a whole pass over the list
            first = unreadable[0]
            raise UserError(
                f"data.train_list  none of its {num_videos} videos can be read. The first: {first['path']}  "
                f"{first['reason']}. Mend the videos or the list.",
                "bad_video",
            )

    def _prepare(self, clips: Tensor) -> Tensor:
        on_device = clips.to(self.device, non_blocking=True)
        if self._cache is not None:
            return on_device
        return normalize_(on_device, self.settings.data.mean, self.settings.data.std)

    def _open_cache(self, trials: list[dict[str, Any]]) -> Cache | None:
        if self.settings.data.features is None or not any(self.lists.values()) or self.mode == "predict":
            return None
        return open_cache([Settings.from_json(trial["settings"]) for trial in trials], self.backbone_sha256, self.lists)

    def _start_early(self, resumed_from: Path | None) -> None:
        """Lets loader workers decode the first batch while the models are built."""
        if self.settings.data.features is None and (resumed_from is None or resumed_from.is_dir()):
            self.step = 0 if resumed_from is None else checkpoint.read_header(resumed_from)["step"]
            self._train = self._start_training()

    def _start_training(self) -> Iterator[Batch]:
        list_file = self.lists["train"]
        if self._cache is None:
            batches = build.training_batches(self.settings, list_file, self.step, self.device)
        else:
            assert list_file is not None
            pin = self.device.type == "cuda"
            batches = self._cache.training_batches(self.settings, list_file, self.step, pin)
        return to_device(batches, self.device)

    def _start_evaluation(self) -> Evaluation:
        assert self.lists["val"] is not None, "evaluation needs data.val_list"
        if self._cache is None:
            batches, num_videos = build.evaluation_batches(self.settings, self.lists["val"], self.device)
        else:
            pin = self.device.type == "cuda"
            batches, num_videos = self._cache.evaluation_batches(self.settings, self.lists["val"], pin)
        num_views = self.settings.eval.spatial_views * self.settings.eval.temporal_views
        return Evaluation(self.cohort, to_device(batches, self.device), self._prepare, num_videos, num_views)


def _bad_video_text(video: dict[str, str]) -> str:
    return (
        f"{video['path']}  {video['reason']}. data.on_bad_video is fail; skip leaves such videos out and reports them."
    )
