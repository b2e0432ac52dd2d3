"""JSON that anybody may have written, and the envelopes of natricine and FastStream."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def loaded(text: str | bytes) -> Any:
    """Give what a JSON document says; ValueError where it is none, or nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        msg = "it is nested too deep"
        raise ValueError(msg) from None


# MessagePack, as far as metadata goes: a map of texts.


def pack_texts(texts: Mapping[str, Any]) -> bytes:
    """Give a map of texts in MessagePack."""
    size = len(texts)
    parts = [bytes([0x80 | size]) if size < 16 else struct.pack(">BH", 0xDE, size)]
    for name, value in texts.items():
        if not isinstance(value, str):
            msg = f"natricine's metadata are texts, and {name!r} is a {type(value).__name__}"
            raise TypeError(msg)
        for text in (name.encode(), value.encode()):
            parts += [_header(len(text)), text]
    return b"".join(parts)


def _header(length: int) -> bytes:
    if length < 32:
        return bytes([0xA0 | length])
    if length < 2**8:
        return struct.pack(">BB", 0xD9, length)
    if length < 2**16:
        return struct.pack(">BH", 0xDA, length)
    return struct.pack(">BI", 0xDB, length)


def unpack_texts(packed: bytes | None) -> dict[str, Any]:
    """Give a map of texts; what is none is kept under the name "metadata"."""
    if not packed:
        return {}
    try:
        return _unpacked(packed)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError):
        return {"metadata": packed}


def _unpacked(packed: bytes) -> dict[str, Any]:
    head = packed[0]
    if 0x80 <= head < 0x90:
        size, at = head & 0x0F, 1
    elif head == 0xDE:
        size, at = struct.unpack_from(">H", packed, 1)[0], 3
    else:
        raise ValueError
    texts = []
    for _ in range(2 * size):
        head = packed[at]
        if 0xA0 <= head < 0xC0:
            length, at = head & 0x1F, at + 1
        elif head in _LENGTHS:
            form, width = _LENGTHS[head]
            length, at = struct.unpack_from(form, packed, at + 1)[0], at + 1 + width
        else:
            raise ValueError
        if at + length > len(packed):
            raise ValueError
        texts.append(packed[at : at + length].decode())
        at += length
    return dict(zip(texts[::2], texts[1::2], strict=True))


_LENGTHS = {0xD9: (">B", 1), 0xDA: (">H", 2), 0xDB: (">I", 4)}

# FastStream

_IDENTITY = b"\x89BIN\r\n\x1a\n"


def parse_envelope(data: bytes | None) -> tuple[bytes | None, dict[str, Any]]:
    """Give the data and the headers of a message; what is no envelope is data itself."""
    if data is None:
        return None, {}
    try:
        if data.startswith(_IDENTITY):
            return _parsed(data)
        envelope = loaded(data)
        return envelope["data"].encode(), dict(envelope["headers"])
    except (ValueError, struct.error, KeyError, TypeError, AttributeError):
        return data, {}


def _parsed(data: bytes) -> tuple[bytes, dict[str, Any]]:
    version, headers_at, data_at = struct.unpack_from(">HII", data, len(_IDENTITY))
    if version != 1 or not headers_at <= data_at <= len(data):
        raise ValueError
    (count,) = struct.unpack_from(">H", data, headers_at)
    at = headers_at + 2
    texts = []
    for _ in range(2 * count):
        (length,) = struct.unpack_from(">H", data, at)
        at += 2
        texts.append(data[at : at + length].decode())
        at += length
    return data[data_at:], dict(zip(texts[::2], texts[1::2], strict=True))
