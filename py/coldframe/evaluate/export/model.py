"""A trial with its backbone as one model for other programs (`export`), and whether it gives what coldframe gives.

Shapes: N clips, T frames, S size (pixels, square), K classes
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coldframe import heartbeat
from coldframe.backbones.interface import Source
from coldframe.data.clips import EvalViews, normalize_, read_list, scale_and_shift
from coldframe.decoders.interface import Decoder
from coldframe.errors import UserError
from coldframe.machine.files import hash_file
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.video.frames import BadVideo

OPSET = 20  # onnxruntime 1.17 (February 2024) and later; the first with GELU as an operator
# protobuf takes no message of 2 GiB: larger weights lie in a file beside the model.
_LARGEST_MESSAGE_BYTES = 2**31 - 2**24
_NUM_NOISE = 4
Scores = NDArray[np.float32]
Part = TypeVar("Part", Decoder, Source)
Run = Callable[[NDArray[np.float32]], Scores]


class Whole(nn.Module):
    """What is exported. Takes clips (N, 3, T, S, S), float32, RGB in 0..255, and gives probabilities (N, K)."""

    def __init__(self, cohort: Cohort, settings: Settings) -> None:
        super().__init__()
        backbone, decoder = cohort.backbone, cohort.trials[0].model
        # Constants from here on: what is exported learns no more, and what learns goes on.
        self.decoder = _freeze(copy.deepcopy(decoder))
        self.backbone = backbone if cohort.frozen else _freeze(copy.deepcopy(backbone))
        self.scores = cohort.trials[0].objective.scores
        data = settings.data
        constants = scale_and_shift(tuple(data.mean), tuple(data.std), cohort.device, torch.float32)
        self.scale, self.shift = (nn.Buffer(each) for each in constants)

    def forward(self, video: Tensor) -> Tensor:
        layers = self.backbone(torch.addcmul(self.shift, video, self.scale), self.decoder.wants)
        return self.scores(self.decoder(layers))


def write_onnx(cohort: Cohort, settings: Settings, file: Path, precision: str, about: dict[str, Any]) -> dict[str, Any]:
    """Writes `file` (and FILE.data beside it where the weights are large). `precision`: fp32; fp16, whose inputs and
    outputs stay float32; int8, the weights of matrix products alone. `about` goes into its metadata as `coldframe`.

    Returns opset, size_bytes, and sha256 by the name of a file. Raises UserError without the packages that it takes.
    """
    _refuse_lacking_packages()
    is_large = 4 * sum(each.numel() for each in _whole(cohort, settings).state_dict().values()) > _LARGEST_MESSAGE_BYTES
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that are not needed here
    with heartbeat.beating(), torch.no_grad(), cohort.trials[0].averaged():
        program = torch.onnx.export(
            _program(cohort, settings),
            dynamo=True,
            opset_version=OPSET,
            input_names=["video"],
            output_names=["probabilities"],
            verbose=False,
        )
        assert program is not None
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        ClearMetadataAndDocStringPass()(program.model)  # the lines of our sources, with their folders, for every node
        program.model.metadata_props["coldframe"] = json.dumps(about)
        program.save(file, external_data=is_large)
        shrink(file, precision, is_large)
    return {"opset": OPSET, **_identify(_files(file))}


def shrink(file: Path, precision: str, is_large: bool) -> None:
    """Makes an exported file compute in fp16 or int8, in its place; fp32 stays as it is."""
    if precision == "fp16":
        import onnx
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        # Layer norms stay in float32, as in training: their deviations are outputs, too, and always float32.
        kept = [*DEFAULT_OP_BLOCK_LIST, "LayerNormalization"]
        halved = convert_float_to_float16(onnx.load(file), keep_io_types=True, op_block_list=kept)
        for each in _files(file):
            each.unlink()
        onnx.save(halved, file, save_as_external_data=is_large, location=f"{file.name}.data")
    elif precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # In a folder of its own: under the old name the new weights would be put behind the old ones.
        with TemporaryDirectory(dir=file.parent) as folder:
            smaller = Path(folder, file.name)
            quantize_dynamic(file, smaller, weight_type=QuantType.QInt8, use_external_data_format=is_large)
            for each in _files(file):
                each.unlink()
            for each in _files(smaller):
                each.rename(file.with_name(each.name))


def write_torch(cohort: Cohort, settings: Settings, file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Writes `file`, a `torch.export` archive, and its weights beside it as FILE.safetensors."""
    from safetensors.torch import save_file

    with heartbeat.beating(), torch.no_grad(), cohort.trials[0].averaged():
        torch.export.save(_program(cohort, settings), file, extra_files={"coldframe.json": json.dumps(about)})
        state = {name: each.contiguous() for name, each in _whole(cohort, settings).state_dict().items()}
        weights = file.with_suffix(".safetensors")
        save_file(state, weights, metadata={"coldframe": json.dumps(about)})
    return {"opset": None, **_identify([file]), "sha256": _identify([file, weights])["sha256"]}


class Comparison:
    """The exported file against the cohort it was made of, clip by clip: the centre view of videos of a list, evenly
    spread over it, or noise without one."""

    def __init__(self, cohort: Cohort, settings: Settings, file: Path, list_file: str | None, most: int) -> None:
        self._cohort, self._settings = cohort, settings
        self._run = _open_onnx(file) if file.suffix == ".onnx" else _open_torch(file)
        listed = [] if list_file is None else read_list(list_file)
        self.num_total = min(most, len(listed)) or _NUM_NOISE
        items = [listed[i * len(listed) // self.num_total] for i in range(self.num_total)] if len(listed) else []
        data = settings.data
        self._clips = (
            None
            if not items
            else EvalViews(
                items,
                num_frames=data.num_frames,
                stride=None if data.sampling == "tsn" else data.stride,
                size=data.size,
                spatial_views=1,
                temporal_views=1,
                reader=data.reader,
            )
        )
        self.num_seen = self.num_bad = self.num_agreeing = 0
        self.largest_difference = 0.0
        self.hits = np.zeros(2, int)  # of coldframe, of the file

    def advance(self, seconds: float) -> dict[str, Any]:
        """Returns how far it is after about `seconds` more, and what was found so far."""
        end = time.monotonic() + seconds
        while self.num_seen < self.num_total and time.monotonic() < end:
            self._compare(self.num_seen)
            self.num_seen += 1
            heartbeat.progress()
        num_good, data = max(1, self.num_seen - self.num_bad), self._settings.data
        return {
            "done": self.num_seen == self.num_total,
            "num_seen": self.num_seen,
            "num_total": self.num_total,
            "num_bad": self.num_bad,
            "is_noise": self._clips is None,
            "largest_difference": self.largest_difference,
            "agreement": self.num_agreeing / num_good,
            "top1": None if self._clips is None or data.labels == "multi" else [int(n) / num_good for n in self.hits],
        }

    def _compare(self, number: int) -> None:
        data, label = self._settings.data, None
        if self._clips is None:
            generator = torch.Generator().manual_seed(number)
            clip_NCTHW = torch.rand(1, 3, data.num_frames, data.size, data.size, generator=generator) * 255
        else:
            item = self._clips[number]
            if isinstance(item.clip, BadVideo):
                self.num_bad += 1
                return
            clip_NCTHW, label = item.clip, item.label
        found_NK = self._run(clip_NCTHW.numpy())
        normal = normalize_(clip_NCTHW.clone(), data.mean, data.std)
        known_NK = next(iter(self._cohort.scores(normal).values())).numpy()
        self.largest_difference = max(self.largest_difference, float(np.abs(found_NK - known_NK).max()))
        best = np.array([known_NK[0].argmax(), found_NK[0].argmax()])
        self.num_agreeing += int(best[0] == best[1])
        self.hits += best == label


def _freeze(part: Part) -> Part:
    for parameter in part.parameters():
        parameter.requires_grad_(False)
    return part


def _whole(cohort: Cohort, settings: Settings) -> Whole:
    return Whole(cohort, settings).eval()


def _program(cohort: Cohort, settings: Settings) -> torch.export.ExportedProgram:
    """Returns the traced model, of any number of clips."""
    data = settings.data
    clips = torch.rand(2, 3, data.num_frames, data.size, data.size) * 255
    return torch.export.export(
        _whole(cohort, settings), (clips,), dynamic_shapes={"video": {0: torch.export.Dim("batch", min=1)}}
    )


def _open_onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda clips: session.run(None, {"video": clips})[0]  # type: ignore[no-any-return]


def _open_torch(file: Path) -> Run:
    module = torch.export.load(file).module()
    return lambda clips: module(torch.from_numpy(clips)).numpy()  # type: ignore[no-any-return]


def _refuse_lacking_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"export onnx  needs the package {name}. Run `make setup`: it installs what is pinned.")


def _identify(files: list[Path]) -> dict[str, Any]:
    size = sum(each.stat().st_size for each in files)
    return {"size_bytes": size, "sha256": {each.name: hash_file(each) for each in files}}


def _files(file: Path) -> list[Path]:
    return [each for each in (file, file.with_name(f"{file.name}.data")) if each.exists()]
