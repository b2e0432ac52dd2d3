"""How things are shown: what is read or written where, and how far. Never a password."""

import reprlib

from redfloe._arguments import Request
from redfloe._core import AsyncBatchReader, BatchReader, RedisConnection
from redfloe._errors import RedfloeError
from redfloe._words import readable


def target(url: RedisConnection, stream: bytes | None, request: Request | None = None) -> str:
    """Say which stream of which server it is, if it is one, and for whom it is read."""
    parts = [repr(url)]
    many = None if request is None else request["many"]
    if many is not None and many["pattern"] is not None:
        parts.append(f"pattern={_name(many['pattern'][0])}")
    elif many is not None:
        parts.append(f"streams={reprlib.repr([readable(key) for key in many['streams']])}")
    elif stream is not None:
        parts.append(f"stream={_name(stream)}")
    if request is not None and request["group"] is not None:
        group = request["group"]
        parts += [f"group={_name(group['group'])}", f"consumer={_name(group['consumer'])}"]
    return ", ".join(parts)


def position(reader: BatchReader | AsyncBatchReader) -> str:
    """Say how many entries were handed out, and which was the last."""
    try:
        stats = reader.stats
    except RedfloeError:  # in a forked child, whose parent was using the reader
        return "position unknown"
    last = "" if stats.last_id is None else f", last_id={stats.last_id!r}"
    return f"entries={stats.entries}{last}"


def _name(name: bytes) -> str:
    try:
        return repr(name.decode())
    except UnicodeDecodeError:
        return repr(name)
