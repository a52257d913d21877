"""A camera in the network: a server of RTSP (RFC 2326) for one client, which sends the H.264 of a file in packets of
RTP (RFC 6184) over the connection itself."""

from __future__ import annotations

import base64
import socket
import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av

CLOCK = 90_000  # of RTP's times
MOST_BYTES = 1200  # of a packet
FU_A = 28  # a piece of a larger unit
GOODBYE = struct.pack(">BBHIBBHI", 0x80, 201, 1, 1, 0x81, 203, 1, 1)  # of RTCP: a report of nothing, and the end


def serve_camera(path: Path, *, falls_silent: bool = False) -> str:
    """Returns the address. What falls silent says no goodbye."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with server, connection:
            _converse(connection, path, falls_silent)

    threading.Thread(target=serve, daemon=True).start()
    return f"rtsp://127.0.0.1:{server.getsockname()[1]}/stream"


def _converse(connection: socket.socket, path: Path, falls_silent: bool) -> None:
    """Answers until it is asked to play; then all comes at once, and the client leaves when it likes."""
    reader = connection.makefile("rb")
    verb = ""
    while verb != "PLAY":
        request = _read_request(reader)
        verb, headers = request[0].split()[0], dict(line.lower().split(": ", 1) for line in request[1:])
        body = _describe(path) if verb == "DESCRIBE" else ""
        more = {
            "OPTIONS": "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",
            "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n",
            "SETUP": f"Transport: {headers.get('transport', '').upper()}\r\n",
        }
        answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{more.get(verb, '')}\r\n{body}"
        connection.sendall(answer.encode())
    goodbye = [] if falls_silent else [(1, GOODBYE)]
    for channel, packet in [*((0, packet) for packet in _packetize(path)), *goodbye]:
        connection.sendall(struct.pack(">cBH", b"$", channel, len(packet)) + packet)
    while reader.read(1):
        pass


def _read_request(reader: BinaryIO) -> list[str]:
    lines = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        lines.append(line.decode().strip())
    return lines


def _describe(path: Path) -> str:
    sets = ",".join(base64.b64encode(unit).decode() for unit in _read_sets(path))
    return (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=control:trackID=0\r\n"
        f"a=rtpmap:96 H264/{CLOCK}\r\na=fmtp:96 packetization-mode=1; sprop-parameter-sets={sets}\r\n"
    )


def _read_sets(path: Path) -> list[bytes]:
    """Returns the parameter sets, one of the sequence and one of the pictures, of the file's header (avcC)."""
    with av.open(str(path)) as container:
        header = bytes(container.streams.video[0].codec_context.extradata or b"")
    end = 8 + int.from_bytes(header[6:8], "big")
    return [header[8:end], header[end + 3 : end + 3 + int.from_bytes(header[end + 1 : end + 3], "big")]]


def _packetize(path: Path) -> Iterator[bytes]:
    number = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is None:
                continue
            pieces = [piece for unit in _split(bytes(packet)) for piece in _cut(unit)]
            time = round(packet.pts * Fraction(packet.time_base or 1) * CLOCK)
            for piece in pieces:
                kind = 96 | (0x80 if piece is pieces[-1] else 0)
                yield struct.pack(">BBHII", 0x80, kind, number & 0xFFFF, time & 0xFFFFFFFF, 1) + piece
                number += 1


def _split(packet: bytes) -> Iterator[bytes]:
    """Yields the units of an MP4's packet, each of which has its length before it."""
    while packet:
        size = int.from_bytes(packet[:4], "big")
        yield packet[4 : 4 + size]
        packet = packet[4 + size :]


def _cut(unit: bytes) -> list[bytes]:
    if len(unit) <= MOST_BYTES:
        return [unit]
    parts = [unit[start : start + MOST_BYTES] for start in range(1, len(unit), MOST_BYTES)]
    head, kind = unit[0] & 0xE0 | FU_A, unit[0] & 0x1F
    ends = [0x80, *[0] * (len(parts) - 2), 0x40]
    return [bytes([head, end | kind]) + part for part, end in zip(parts, ends, strict=True)]
