"""Streams with known entries, and the frames that they must give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl
import redis

from support.proxy import Proxy

Fields = Mapping[Any, str | bytes | int | float]

#: A command's words.
Command = tuple[str | int, ...]

#: The numbers of each stream's entries, in order.
Numbers = dict[str, list[int]]

#: The schema of numbered entries.
NUMBER = {"n": pl.Int64()}

#: Thousands of entries a millisecond, which a pipeline would take seconds for.
_NUMBER = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    redis.call('XADD', KEYS[1], string.format('%d-0', n), 'n', string.format('%d', n))
end
"""


def add(client: redis.Redis, stream: str | bytes, entries: Iterable[tuple[str, Fields]]) -> None:
    """Add entries of given IDs."""
    pipeline = client.pipeline(transaction=False)
    for entry_id, fields in entries:
        pipeline.xadd(stream, dict(fields), id=entry_id)
    pipeline.execute()


def add_raw(
    client: redis.Redis, stream: str | bytes, entry_id: str, *words: str | bytes | int
) -> None:
    """Add an entry of alternating names and values, where a name may come twice."""
    # redis-py leaves its types out.
    client.execute_command("XADD", stream, entry_id, *words)


def add_values(
    client: redis.Redis, stream: str | bytes, values: Iterable[str | bytes | None], field: str = "x"
) -> None:
    """Add an entry for each value, `1-0` and on; None adds one that lacks the field."""
    add(
        client,
        stream,
        (
            (f"{number}-0", {"other": "-"} if value is None else {field: value})
            for number, value in enumerate(values, 1)
        ),
    )


def reconnecting(client: redis.Redis, *commands: Command) -> None:
    """Hang up on everybody else, and do this before anybody is back."""
    pipeline = client.pipeline(transaction=True)
    pipeline.client_kill_filter(_type="normal", skipme=True)
    for command in commands:
        pipeline.execute_command(*command)
    pipeline.execute()


def add_numbers(client: redis.Redis, stream: str | bytes, last: int, *, first: int = 1) -> int:
    """Add the entries `first-0` to `last-0`, all at once; return how many.

    The field `n` of each holds its number.
    """
    client.eval(_NUMBER, 1, stream, first, last)
    return last - first + 1


def fill(client: redis.Redis, streams: Numbers) -> None:
    """Add an entry `ms-0` for each number, which is also its field `n`."""
    pipeline = client.pipeline(transaction=False)
    for stream, ns in streams.items():
        for n in ns:
            pipeline.xadd(stream, {"n": n}, id=f"{n}-0")
    pipeline.execute()


def numbers(last: int, *, first: int = 1) -> pl.DataFrame:
    """Give the frame that these entries make with the schema `NUMBER`."""
    values = range(first, last + 1)
    return pl.DataFrame(
        {"_id": [f"{n}-0" for n in values], "_ts": values, "n": values},
        schema={"_id": pl.String, "_ts": pl.Int64, "n": pl.Int64},
    )


def expected(streams: Numbers, order: str = "stream") -> pl.DataFrame:
    """Give the frame that reads of each stream alone make together."""
    rows = [(n, place, stream) for place, (stream, ns) in enumerate(streams.items()) for n in ns]
    if order == "id":
        rows.sort()
    return pl.DataFrame(
        {
            "_id": [f"{n}-0" for n, _, _ in rows],
            "_ts": [n for n, _, _ in rows],
            "_stream": [stream for _, _, stream in rows],
            "n": [n for n, _, _ in rows],
        },
        schema={"_id": pl.String, "_ts": pl.Int64, "_stream": pl.String, **NUMBER},
    )


def pairs(frame: pl.DataFrame) -> list[tuple[str, int]]:
    """List the stream and the number of each row."""
    return list(frame.select("_stream", "n").iter_rows())


def rows_of(frames: Iterable[pl.DataFrame]) -> Numbers:
    """Give the numbers that came of each stream, in the order in which they did."""
    rows: Numbers = {}
    for frame in frames:
        for stream, number in pairs(frame):
            rows.setdefault(stream, []).append(number)
    return rows


def take_rows(frames: Iterator[pl.DataFrame], rows: int) -> Numbers:
    """Take frames until they have that many rows; give them by stream."""
    got: list[pl.DataFrame] = []
    while sum(map(len, got)) < rows:
        got.append(next(frames))
    return rows_of(got)


def page_sizes(proxy: Proxy) -> list[int]:
    """List how many entries each page that went through the proxy asked for."""
    return [int(command[-1]) for command in proxy.commands if command[0] == b"XRANGE"]
