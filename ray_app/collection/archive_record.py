"""How one record of the raw archive looks in bytes: encode, and decode with every check.

A record is

* a zstd *skippable frame* of 40 bytes holding our header: tag, version, fetch id, length and CRC-32 of the next
  frame, CRC-32 of the header itself;
* one zstd frame: a line of JSON (request, status, headers, fetched_at, collector, fetch id), the body, a newline.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import asdict

import orjson
import zstandard

from ray_app.errors import ArchiveError
from ray_app.sources.base import Exchange, Request

_SKIPPABLE = struct.pack("<I", 0x184D2A5C)
_TAG = b"CDAR"
_VERSION = 1
#: skippable magic, its size, tag, version, reserved, fetch id, frame length, frame CRC, reserved, header CRC
HEADER = struct.Struct("<4sI4sHHQIIII")
#: what every header begins with
MARK = _SKIPPABLE + struct.pack("<I", HEADER.size - 8) + _TAG


def encode(exchange: Exchange, collector: str, fetch_id: int, level: int) -> bytes:
    """The whole record: header and frame."""
    meta = {
        "fetch_id": fetch_id,
        "collector": collector,
        "request": asdict(exchange.request),
        "status": exchange.status,
        "headers": dict(exchange.headers),
        "fetched_at": exchange.fetched_at,
        "body_bytes": len(exchange.body),
    }
    content = b"".join((orjson.dumps(meta, option=orjson.OPT_SORT_KEYS), b"\n", exchange.body, b"\n"))
    frame = zstandard.ZstdCompressor(level=level, write_content_size=True).compress(content)
    fields = (_SKIPPABLE, HEADER.size - 8, _TAG, _VERSION, 0, fetch_id, len(frame), zlib.crc32(frame), 0)
    bare = HEADER.pack(*fields, 0)
    return HEADER.pack(*fields, zlib.crc32(bare[:-4])) + frame


def parse_header(head: bytes) -> tuple[int, int, int] | None:
    """(fetch id, frame length, frame CRC) of a header; None if it is not a whole, sound one."""
    if len(head) < HEADER.size or not head.startswith(MARK):
        return None
    *_, version, _, fetch_id, length, crc, _, header_crc = HEADER.unpack(head)
    if zlib.crc32(head[:-4]) != header_crc or version != _VERSION:
        return None
    return fetch_id, length, crc


def decode(frame: bytes, where: str) -> tuple[Exchange, str]:
    """The exchange of a frame and the collector that asked; ArchiveError names ``where`` if it is not one of ours."""
    try:
        content = zstandard.ZstdDecompressor().decompress(frame)
        line, _, rest = content.partition(b"\n")
        meta = orjson.loads(line)
        body = rest[: meta["body_bytes"]]
        exchange = Exchange(Request(**meta["request"]), meta["status"], meta["headers"], body, meta["fetched_at"])
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{where}: the record is not what this version writes ({error})") from error
    return exchange, meta["collector"]
