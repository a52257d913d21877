"""The session: what TypeScript can ask of the runtime. One session lives in a process; serve/ carries the words (and
answers `forecast` and `probe` itself).

Every verb takes and returns plain JSON values and is bounded in time: `advance` by its number of steps, `evaluate` by
seconds, so that stopping, pruning and progress take effect within about a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from coldframe import heartbeat
from coldframe.assembly import batches, forecast
from coldframe.cache import parts
from coldframe.cache.write import Extraction
from coldframe.evaluate.evaluation import ensemble
from coldframe.evaluate.export.features import Choice, FeatureExport
from coldframe.machine import environment, lock, meeting
from coldframe.machine.device import choose_device, choose_precision, explain_lack
from coldframe.prepare.clips import Preparation, Share
from coldframe.session import inference, inspection, stored, training, watching
from coldframe.session.running import Running, open_running
from coldframe.settings import Settings
from coldframe.video import codecs


class Session:
    """The verbs. What was opened is `running`; caches and clips that are being made stand beside it."""

    def __init__(self) -> None:
        self._running: Running | None = None
        self._extraction: Extraction | None = None
        self._merge: parts.Merge | None = None
        self._preparation: Preparation | None = None
        self._features: FeatureExport | None = None

    @property
    def running(self) -> Running:
        """What `open` built."""
        assert self._running is not None, "the session is not open"
        return self._running

    # --- questions that need nothing opened ---

    def describe(self, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns the environment and, for a configuration, the sizes of its model and the memory it will take; the
        machine is asked for what a training needs. `lacks` says that it has not the device that the configuration
        names; None otherwise."""
        model, lacks = None, None
        if settings is not None:
            wanted = Settings.from_json(settings)
            lacks = explain_lack(wanted.launch.device)
            if lacks is None:  # else a run on another machine is planned
                choose_precision(wanted.train.precision, choose_device(wanted.launch.device))
                batches.refuse_lacking(wanted, "train")
            model = forecast.describe_model(wanted)
        here = environment.describe_environment(codecs.describe_decoder())
        return {"environment": here, "model": model, "lacks": lacks}

    def memory(self, device: str) -> dict[str, Any]:
        """Returns bytes: this process's peak so far, its loader workers' together, and what is free for a model."""
        return environment.describe_memory(torch.device(choose_device(device)))

    def meet(self) -> dict[str, Any]:
        """Returns whether processes of this machine can train together, and GPUs where there are several."""
        return {"meetings": meeting.try_meeting()}

    def ensemble(self, paths: list[str]) -> dict[str, Any]:
        """Returns the accuracy of each file of scores and of their mean."""
        return ensemble(paths)

    def inspect(self, path: str) -> dict[str, Any]:
        """Returns what a file of weights or a checkpoint folder is. Raises UserError that says what it is instead."""
        return inspection.identify(Path(path))

    # --- training, evaluation, prediction ---

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
        assert self._running is None, "a session is opened once"
        folder = None if run_dir is None else Path(run_dir)
        self._running = open_running(mode, trials, lists, classes, folder, resume)
        return self._running.describe()

    def advance(self, steps: int) -> dict[str, Any]:
        """Returns the results of the next `steps` optimizer steps, fewer when the run ends or every trial diverged."""
        return training.advance(self.running, steps)

    def evaluate(self, seconds: float, output: str) -> dict[str, Any]:
        """Returns how far the evaluation is after about `seconds` more; `results` when the list is through, and the
        scores of every video then lie in the folder `output`."""
        return inference.evaluate(self.running, seconds, Path(output))

    def save(self) -> dict[str, Any]:
        """Returns the path of the checkpoint that now holds this step."""
        return training.save(self.running)

    def spare(self, steps: list[int], best: int | None) -> dict[str, Any]:
        """Returns nothing of note; the checkpoints of these steps stay from now on, and `best` names one of them."""
        return training.spare(self.running, steps, best)

    def convert(self, to: str, output: str) -> dict[str, Any]:
        """Returns the path of this step's checkpoint, written as `coldframe` (a folder) or `upstream` (a .pth file)."""
        return training.convert(self.running, to, Path(output))

    def drop(self, trials: list[str]) -> dict[str, Any]:
        """Returns the names of the trials that go on."""
        self.running.drop(trials)
        return {"trials": [trial.name for trial in self.running.cohort.trials]}

    def predict(self, paths: list[str], top: int, parts: list[list[int] | None] | None = None) -> dict[str, Any]:
        """Returns the `top` classes of each video with their probabilities, or the reason why it cannot be read."""
        return inference.predict(self.running, paths, top, parts)

    def open_timeline(self, path: str, *choices: Any, **named: Any) -> dict[str, Any]:
        """Returns how a video will be gone through, or the reason why it cannot be; one at a time is open. The choices
        are those of `watching.open_timeline`."""
        return watching.open_timeline(self.running, path, *choices, **named)

    def advance_timeline(self, seconds: float, top: int) -> dict[str, Any]:
        """Returns what of that video is found in about `seconds` more; when it is through, of all of it, too."""
        return watching.advance_timeline(self.running, seconds, top)

    def close_timeline(self, top: int) -> dict[str, Any]:
        """Returns the same of what was seen so far, and lets go of the video: a stream has no end of its own."""
        return watching.close_timeline(self.running, top)

    def explain(self, path: str, *choices: Any, **named: Any) -> dict[str, Any]:
        """Returns where the decoder looks in the clip in the middle of a video, or the reason why it cannot be read.
        The choices are those of `watching.explain_video`."""
        return watching.explain_video(self.running, path, *choices, **named)

    def export(self, file: str, precision: str, about: dict[str, Any]) -> dict[str, Any]:
        """Returns what was written: the only trial with its backbone, as a `.onnx` or `.pt2` file, `about` in it."""
        return inference.export(self.running, Path(file), precision, about)

    def compare_export(self, file: str, seconds: float, most: int) -> dict[str, Any]:
        """Returns how far comparing that file with the trial on videos of the list, at most so many, is after about
        `seconds` more."""
        return inference.compare_export(self.running, Path(file), seconds, most)

    def export_features(
        self, seconds: float, folder: str, layer: int, is_normed: bool, per: str, form: str
    ) -> dict[str, Any]:
        """Returns how far writing features of the list into the folder is after about `seconds` more."""
        if self._features is None:
            choice = Choice(layer, is_normed, per, form)
            self._features = stored.start_export(self.running, Path(folder), choice)
        return self._features.advance(seconds)

    # --- feature caches and prepared clips ---

    def check_features(self, trials: list[dict[str, Any]], lists: dict[str, str | None]) -> dict[str, Any]:
        """Returns what the feature cache of these settings holds. Raises UserError where `open` would refuse it."""
        return stored.check_features([Settings.from_json(each) for each in trials], lists)

    def forecast_features(self, settings: dict[str, Any], lists: dict[str, str | None]) -> dict[str, Any]:
        """Returns what the feature cache of a configuration takes and saves; it is then ready to be built."""
        self._extraction = Extraction(Settings.from_json(settings), lists)
        return self._extraction.forecast(heartbeat.progress, stored.train_on)

    def build_features(self, seconds: float) -> dict[str, Any]:
        """Returns how far the feature cache is after about `seconds` more."""
        assert self._extraction is not None
        return self._extraction.advance(seconds, heartbeat.progress)

    def save_features(self) -> dict[str, Any]:
        """Returns nothing of note; what is computed of the feature cache is written."""
        assert self._extraction is not None
        self._extraction.flush()
        return {}

    def plan_features(self, settings: dict[str, Any], lists: dict[str, str | None]) -> dict[str, Any]:
        """Returns what `forecast_features` does without what takes a backbone: nothing is measured."""
        return parts.plan(Settings.from_json(settings), lists)

    def share_features(
        self, settings: dict[str, Any], lists: dict[str, str | None], folder: str, index: int, count: int
    ) -> dict[str, Any]:
        """Returns notes; the `index`-th of `count` parts of the feature cache is then ready to be built in a folder."""
        share = parts.Share(Path(folder), index, count)
        self._extraction = Extraction(Settings.from_json(settings), lists, share)
        return {"notes": self._extraction.notes}

    def merge_features(
        self,
        settings: dict[str, Any],
        lists: dict[str, str | None],
        folders: list[str],
        most_clips: int,
        seconds: float,
    ) -> dict[str, Any]:
        """Returns how far making one feature cache of its parts is after about `seconds` more."""
        if self._merge is None:
            self._merge = parts.Merge(Settings.from_json(settings), lists, [Path(f) for f in folders], most_clips)
        merged = self._merge.advance(seconds, heartbeat.progress)
        if merged["done"]:
            self._merge.close()
            self._merge = None
        return merged

    def forecast_clips(self, settings: dict[str, Any], lists: dict[str, str | None], folder: str) -> dict[str, Any]:
        """Returns what re-encoding the clips of the lists takes; it can then be begun."""
        self._preparation = Preparation(Settings.from_json(settings), lists, Path(folder))
        return self._preparation.forecast(heartbeat.progress)

    def share_clips(
        self,
        settings: dict[str, Any],
        lists: dict[str, str | None],
        folder: str,
        part: str,
        index: int,
        count: int,
    ) -> dict[str, Any]:
        """Returns nothing of note; the `index`-th of `count` parts of the re-encoding can then be begun. What it has
        done is kept in the folder `part`."""
        share = Share(Path(part), index, count)
        self._preparation = Preparation(Settings.from_json(settings), lists, Path(folder), share)
        return {}

    def merge_clips(
        self,
        settings: dict[str, Any],
        lists: dict[str, str | None],
        folder: str,
        parts: list[str],
        bad: dict[str, str],
    ) -> dict[str, Any]:
        """Returns what `prepare_clips` does, after taking over what the parts have re-encoded; what of it is not there
        can then be prepared."""
        self._preparation = Preparation(Settings.from_json(settings), lists, Path(folder))
        return self._preparation.merge([Path(part) for part in parts], bad, heartbeat.progress)

    def prepare_clips(self, seconds: float) -> dict[str, Any]:
        """Returns how far the re-encoding is after about `seconds` more."""
        assert self._preparation is not None
        return self._preparation.advance(seconds, heartbeat.progress)

    def close(self) -> dict[str, Any]:
        """Returns nothing of note; files are flushed, loader workers gone, the run folder free."""
        for each in (self._features, self._running, self._extraction, self._merge, self._preparation):
            if each is not None:
                each.close()
        self._running = None
        lock.release_held()
        return {}
