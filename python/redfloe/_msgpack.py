"""Python's values as MessagePack, as a frame's are written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from struct import Struct

from redfloe._payload import check_depth, check_member, no_text
from redfloe._values import builtin

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLOAT, _INSTANT = Struct(">Bd"), Struct(">BBbIq")
#: The standard's sizes of one, two and four bytes.
_SIZES = (Struct(">BB"), Struct(">BH"), Struct(">BI"))


def packed(given: object, where: str, depth: int = 0) -> bytes:
    check_depth(given, depth)
    value = builtin(given)
    match value:
        case None:
            return b"\xc0"
        case str():
            return _text(value)
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return _integer(value)
        case float():
            return _FLOAT.pack(0xCB, value)
        case Decimal():
            return _text(str(value))
        case bytes():
            return _head(len(value), (0xC4, 0xC5, 0xC6)) + value
        case datetime(tzinfo=zone) if zone is not None:
            since = value - _EPOCH
            seconds = since.days * 86_400 + since.seconds
            return _INSTANT.pack(0xC7, 12, -1, since.microseconds * 1_000, seconds)
        case date() | time():
            return _text(value.isoformat())
        case list() | tuple():
            items = (
                packed(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)
            )
            return _head(len(value), (None, 0xDC, 0xDD), 0x90, 15) + b"".join(items)
        case Mapping():
            members = (_member(name, item, where, depth) for name, item in value.items())
            return _head(len(value), (None, 0xDE, 0xDF), 0x80, 15) + b"".join(members)
    raise no_text(value, where, "form in MessagePack")


def _member(name: object, item: object, where: str, depth: int) -> bytes:
    return _text(check_member(name, where)) + packed(item, f"{where}[{name!r}]", depth + 1)


def _text(text: str) -> bytes:
    raw = text.encode()
    return _head(len(raw), (0xD9, 0xDA, 0xDB), 0xA0, 31) + raw


def _integer(value: int) -> bytes:
    if -32 <= value < 128:
        return value.to_bytes(1, signed=value < 0)
    for power, size in enumerate((1, 2, 4, 8)):
        if value > 0 and value < 1 << 8 * size:
            return bytes((0xCC + power,)) + value.to_bytes(size)
        if value < 0 and value >= -1 << 8 * size - 1:
            return bytes((0xD0 + power,)) + value.to_bytes(size, signed=True)
    return _text(str(value))  # which a Decimal or Int128 column reads


def _head(
    size: int, marks: tuple[int | None, int, int], short: int = 0, most_of_short: int = -1
) -> bytes:
    """Give what comes before that many bytes or values, in as few bytes as it takes."""
    if size <= most_of_short:
        return bytes((short | size,))
    for mark, form, most in zip(marks, _SIZES, (0xFF, 0xFFFF, 0xFFFF_FFFF), strict=True):
        if mark is not None and size <= most:
            return form.pack(mark, size)
    msg = "a value of the payload is larger than MessagePack allows"
    raise ValueError(msg)
