"""Which frames of a video, and decoding exactly those: `read_frames` raises `BadVideo` where it cannot."""

from coldframe.video.frames import read_frames
from coldframe.video.streams import BadVideo

__all__ = ["BadVideo", "read_frames"]
