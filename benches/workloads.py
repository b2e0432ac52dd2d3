"""The streams that the contenders read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from formats import fill_with_messages, fill_with_records

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

Schema = dict[str, Any]
EVENTS: Schema = {
    "user": pl.String,
    "action": pl.String,
    "amount": pl.Int64,
    "score": pl.Float64,
    "valid": pl.Boolean,
}
#: The first event's milliseconds; each next one has one more.
FIRST_EVENT = 1_704_067_200_000

#: Events from number ARGV[1] up to and without ARGV[2]. The server makes them itself: ten million
#: would take a client minutes.
_EVENTS = """
local actions = {'click', 'view', 'purchase'}
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
    redis.call('XADD', KEYS[1], string.format('%d-0', 1704067200000 + number),
        'user', string.format('user_%06d_name', number * 7919 % 50000),
        'action', actions[number % 3 + 1],
        'amount', string.format('%d', number * 31 % 100000),
        'score', string.format('%.2f', number * 0.37),
        'valid', number % 2 == 1 and 'true' or 'false')
end
"""


#: The same events, each as one JSON document in the field `data`.
_DOCUMENTS = """
local actions = {'click', 'view', 'purchase'}
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
    redis.call('XADD', KEYS[1], string.format('%d-0', 1704067200000 + number), 'data',
        string.format(
            '{"user": "user_%06d_name", "action": "%s", "amount": %d, "score": %.2f, "valid": %s}',
            number * 7919 % 50000, actions[number % 3 + 1], number * 31 % 100000, number * 0.37,
            number % 2 == 1 and 'true' or 'false'))
end
"""

#: The same, each as one MessagePack map.
_PACKED = """
local actions = {'click', 'view', 'purchase'}
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
    redis.call('XADD', KEYS[1], string.format('%d-0', 1704067200000 + number), 'data',
        cmsgpack.pack({
            user = string.format('user_%06d_name', number * 7919 % 50000),
            action = actions[number % 3 + 1],
            amount = number * 31 % 100000,
            score = number * 0.37,
            valid = number % 2 == 1,
        }))
end
"""


@dataclass(frozen=True)
class Workload:
    """A stream to read, and what of it to read."""

    stream: str
    title: str
    entries: int
    schema: Schema
    fill: Callable[[redis.Redis, Workload], None]


def fill_with_events(client: redis.Redis, workload: Workload, script: str = _EVENTS) -> None:
    """Add entries of a string, a low-cardinality string, an integer, a float and a boolean."""
    for first in range(0, workload.entries, 100_000):
        last = min(first + 100_000, workload.entries)
        client.eval(script, 1, workload.stream, first, last)


def fill_with_documents(client: redis.Redis, workload: Workload) -> None:
    """Add the same as JSON, as producers write it."""
    fill_with_events(client, workload, _DOCUMENTS)


def fill_with_packed(client: redis.Redis, workload: Workload) -> None:
    """Add the same as MessagePack."""
    fill_with_events(client, workload, _PACKED)


#: In how many streams the same events are spread.
SPREAD = 10_000
#: A number of streams from number ARGV[1] on, with 100 events each.
_SPREAD = """
local actions = {'click', 'view', 'purchase'}
for stream = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
    local key = string.format('%s:%05d', KEYS[1], stream)
    for number = stream * 100, stream * 100 + 99 do
        redis.call('XADD', key, string.format('%d-0', 1704067200000 + number),
            'user', string.format('user_%06d_name', number * 7919 % 50000),
            'action', actions[number % 3 + 1],
            'amount', string.format('%d', number * 31 % 100000),
            'score', string.format('%.2f', number * 0.37),
            'valid', number % 2 == 1 and 'true' or 'false')
    end
end
"""


def fill_with_spread_events(client: redis.Redis, workload: Workload) -> None:
    """Add the same entries to many streams, whose names begin with the workload's."""
    for first in range(0, SPREAD, 1_000):
        client.eval(_SPREAD, 1, workload.stream, first, first + 1_000)


def fill_with_flights(client: redis.Redis, workload: Workload) -> None:
    """Add the demo's flights, as the demo publishes them."""
    from redfloe._demo import load_flights

    with client.pipeline(transaction=False) as pipeline:
        for row in load_flights().drop("_ts").iter_rows(named=True):
            entry_id = row.pop("_id")
            fields: dict[Any, Any] = {name: v for name, v in row.items() if v is not None}
            pipeline.xadd(workload.stream, fields, id=entry_id)
        pipeline.execute()


def _flight_schema() -> Schema:
    from redfloe._demo import load_flights

    return dict(load_flights().drop("_id", "_ts").schema)


WORKLOADS = {
    workload.stream: workload
    for workload in (
        Workload("events", "1,000,000 entries of 5 fields", 1_000_000, EVENTS, fill_with_events),
        Workload(
            "documents",
            "1,000,000 JSON documents of 5 keys",
            1_000_000,
            EVENTS,
            fill_with_documents,
        ),
        Workload(
            "packed",
            "1,000,000 MessagePack maps of 5 keys",
            1_000_000,
            EVENTS,
            fill_with_packed,
        ),
        Workload(
            "messages",
            "1,000,000 Protobuf messages of 5 fields",
            1_000_000,
            EVENTS,
            fill_with_messages,
        ),
        Workload(
            "records",
            "1,000,000 Avro records of 5 fields",
            1_000_000,
            EVENTS,
            fill_with_records,
        ),
        Workload(
            "flights", "27,004 flights of 19 fields", 27_004, _flight_schema(), fill_with_flights
        ),
        Workload(
            "spread",
            "1,000,000 entries of 5 fields in 10,000 streams",
            1_000_000,
            EVENTS,
            fill_with_spread_events,
        ),
        Workload("many", "10,000,000 entries of 5 fields", 10_000_000, EVENTS, fill_with_events),
    )
}
