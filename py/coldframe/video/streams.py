"""Opening a video: only what is one, by lists of containers and codecs, and plain reasons for everything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard
from av.video.stream import VideoStream

from coldframe.errors import UserError

# FFmpeg's names. It also reads pictures, paints texts, and follows playlists to other files: none of these is a video.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,kux,asf,asf_o,ogg,nut,mxf,gxf,ivf,obu,av1,wtv,rm,dv,nsv,swf,"
    "dhav,ty,pva,h264,hevc,vvc,evc,m4v,h261,h263,vc1,vc1test,cavsvideo,avs2,avs3,dirac,mjpeg,gif,apng"
)
_CODEC_NAMES = (
    "h264 hevc vvc evc av1 vp3 vp4 vp5 vp6 vp6a vp6f vp7 vp8 vp9 theora dirac snow cavs avs2 avs3 "
    "mpeg1video mpeg2video mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4v3 h261 h263 h263i h263p flv1 "
    "wmv1 wmv2 wmv3 vc1 mss1 mss2 rv10 rv20 rv30 rv40 svq1 svq3 cinepak indeo2 indeo3 indeo4 indeo5 "
    "mjpeg mjpegb jpeg2000 prores dnxhd cfhd dvvideo hap dxv aic speedhq "
    "ffv1 ffvhuff huffyuv utvideo lagarith magicyuv rawvideo v210 v308 v408 v410 yuv4 r210 qtrle rpza smc 8bps "
    "msrle msvideo1 cscd tscc tscc2 screenpresso g2m fraps zmbv flashsv flashsv2 png gif apng "
)
CODECS = frozenset(_CODEC_NAMES.split())
# Containers of moving pictures that hold a still one just as well.
_PICTURE_CONTAINERS = {"gif", "apng", "mjpeg"}
# ISO/IEC 23008-12 and AVIF: `avis`, `hevc`, `msf1` are sequences, which may move.
_PICTURE_BRANDS = {"avif", "heic", "heix", "heim", "heis", "mif1", "mif2", "miaf", "avci", "jpeg", "j2ki", "vvic"}
_SEQUENCE_BRANDS = {"avis", "hevc", "hevx", "hevm", "hevs", "msf1", "avcs", "vvis"}
_PICTURE_HEADS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"8BPS": "PSD",
    b"\0\0\1\0": "ICO",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"v/1\x01": "EXR",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    **{f"P{i}{space}".encode(): "PNM" for i in range(1, 8) for space in " \n"},
}


NOT_A_VIDEO = "not-a-video"


class BadVideo(UserError):  # noqa: N818 (it is a value as often as an exception)
    """A video that cannot be read: its path and a plain reason. Survives pickling, unlike PyAV's own exceptions.

    `fault`, for those who decide by it: `missing`, `empty`, `not-a-video`, `unreadable` by what the file holds, or
    `unreachable`, where the system did not give what it holds.
    """

    def __init__(self, path: str, reason: str, fault: str = "unreadable") -> None:
        super().__init__(f"{path}  {reason}", "bad_video")
        self.args = (path, reason, fault)  # what pickle makes it from again
        self.path = path
        self.reason = reason
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.path}  {self.reason}"


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yields the container and its first moving picture, one decoder thread (workers share the machine).

    Raises BadVideo instead of everything PyAV raises, also from the body.
    """
    try:
        # "file:" keeps FFmpeg from taking a colon in the path for a protocol. The list holds before anything is read.
        options = {"format_whitelist": CONTAINERS}
        with av.open(f"file:{path}", metadata_errors="replace", options=options) as container:
            stream = choose_stream(path, container)
            stream.codec_context.thread_count = 1
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all  # its packets are not even read
            yield container, stream
    except (FFmpegError, OSError, UnicodeError) as error:
        raise BadVideo(path, *_explain(path, error)) from None


def choose_stream(path: str, container: InputContainer) -> VideoStream:
    """Returns the first moving picture. Raises BadVideo where there is none."""
    major, brands = _read_brands(container)
    pictures = sorted(brands & _PICTURE_BRANDS)
    if pictures and major not in _SEQUENCE_BRANDS:
        raise BadVideo(
            path, f"is a still image ({major if major in pictures else pictures[0]}), not a video", NOT_A_VIDEO
        )
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        only = ", only sound" if container.streams.audio else ""
        raise BadVideo(path, f"has no video track{only}", NOT_A_VIDEO)
    if major in _SEQUENCE_BRANDS:  # beside the frames there is a cover
        streams.sort(key=lambda stream: -stream.frames)
    known = [s for s in streams if s.codec_context.codec.canonical_name in CODECS]
    if not known:
        name = streams[0].codec_context.codec.canonical_name
        raise BadVideo(path, f"has a track of {name}, which is not a video codec", NOT_A_VIDEO)
    return known[0]


def is_picture_container(container: InputContainer) -> bool:
    """Returns whether a single frame of it is a still image, as of a GIF; a video of one frame is a video."""
    return container.format.name in _PICTURE_CONTAINERS or _read_brands(container)[0] in _SEQUENCE_BRANDS


def _read_brands(container: InputContainer) -> tuple[str, set[str]]:
    """Returns the major brand of an MP4-like file and all of them; nothing of another one."""
    major, others = (
        container.metadata.get(f"{key}_brand{end}", "") for key, end in (("major", ""), ("compatible", "s"))
    )
    return major, {major, *(others[i : i + 4] for i in range(0, len(others), 4))}


def _explain(path: str, error: Exception) -> tuple[str, str]:
    """Returns the reason in plain words, and the fault."""
    if isinstance(error, FileNotFoundError):
        return "does not exist", "missing"
    text = getattr(error, "strerror", None) or str(error)
    if not isinstance(error, (av.error.InvalidDataError, av.error.ArgumentError)):
        return f"cannot be read: {text}", "unreachable" if isinstance(error, OSError) else "unreadable"
    with Path(path).open("rb") as file:
        head = file.read(4096)
    if not head:
        return "is empty (0 bytes)", "empty"
    if head[4:8] == b"ftyp":
        why = "its index (moov atom) is missing; the file was cut off or is still being written"
        return f"cannot be decoded: {why}", "unreadable"
    kind = _name_kind(head)
    if kind is not None:
        return f"is {kind}, not a video", NOT_A_VIDEO
    return f"is not a video in a format that FFmpeg knows ({text})", NOT_A_VIDEO


def _name_kind(head: bytes) -> str | None:
    """Returns what a file is that begins so, where it is a picture or a text."""
    picture = next((name for magic, name in _PICTURE_HEADS.items() if head.startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        picture = "WebP"
    if picture is not None:
        return f"a still image ({picture})"
    text = head.decode("utf-8", errors="ignore")
    if text.startswith(("#EXTM3U", "ffconcat", "[playlist]", "<MPD")):
        return "a playlist"
    if text.startswith(("WEBVTT", "[Script Info]")) or " --> " in text:
        return "a file of subtitles"
    is_text = len(text.encode()) > len(head) - 4 and all(sign.isprintable() or sign in "\t\n\r\f\x1b" for sign in text)
    return "a text" if is_text else None
