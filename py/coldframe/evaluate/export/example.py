"""Names the class of a video with an exported model: python EXAMPLE.py VIDEO. Needs onnxruntime, numpy and av alone."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime

model = onnxruntime.InferenceSession(str(Path(__file__).with_suffix(".onnx")), providers=["CPUExecutionProvider"])
about = json.loads(model.get_modelmeta().custom_metadata_map["coldframe"])
num_frames, stride, size = about["num_frames"], about["stride"], about["size"]

with av.open(sys.argv[1]) as file:
    frames = [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in file.decode(video=0)]

# The clip in the middle: every `stride`-th frame, or without a stride the middle of as many equal parts.
last = len(frames) - 1
if stride is None:
    places = [round(last / num_frames * (i + 0.5)) for i in range(num_frames)]
else:
    start = max(0, last - stride * (num_frames - 1)) // 2
    places = [min(start + i * stride, last) for i in range(num_frames)]
clip = np.stack([frames[place] for place in places]).astype(np.float32)

# The short side becomes `size`, bilinearly; then the square in the middle.
height, width = clip.shape[1:3]
short = min(height, width)
for axis, length in ((1, height), (2, width)):
    target = length * size // short
    at = np.maximum((np.arange(target, dtype=np.float32) + 0.5) * (length / target) - 0.5, 0)
    low = at.astype(int)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
    clip = clip.take(low, axis) * (1 - share) + clip.take(np.minimum(low + 1, length - 1), axis) * share
top, left = (clip.shape[1] - size) // 2, (clip.shape[2] - size) // 2
clip = clip[:, top : top + size, left : left + size].transpose(3, 0, 1, 2)[None].astype(np.float32)

probabilities = model.run(None, {"video": clip})[0][0]
for label in np.argsort(-probabilities)[:5]:
    print(about["classes"][label], f"{probabilities[label]:.4f}")
