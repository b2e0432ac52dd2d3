"""`iter_stream` and `stream_batches` over several streams."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import polars as pl
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import redfloe
from redfloe import DataLossError, DecodeError, NoStreamError, RedisConnection, WrongTypeError
from support.loops import Follow, following
from support.proxy import Proxy
from support.server import Server
from support.streams import Numbers, add, add_numbers, fill, rows_of, take_rows
from support.timing import SLACK, later, within

SCHEMA = {"n": pl.Int64()}
DRAIN: Any = {"start_id": "-", "on_idle": "stop", "block_ms": 20}


def test_what_is_there_and_what_comes_of_all_streams(
    server: Server, client: redis.Redis, protocol: str, follow: Follow
) -> None:
    fill(client, {"a": [1, 2], "b": [2]})
    with following(follow, server.url + protocol, ["a", "b", "late"], SCHEMA, "-") as batches:
        first = next(batches)
        assert first.columns == ["_id", "_ts", "_stream", "n"]
        got = [first]
        with later(0.1, lambda: fill(client, {"b": [3], "late": [1]})):
            while sum(map(len, got)) < 5:
                got.append(next(batches))
        assert rows_of(got) == {"a": [1, 2], "b": [2, 3], "late": [1]}


def test_by_default_only_what_comes_after_the_call(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    fill(client, {"a": [1, 2], "b": [7]})
    with following(follow, any_server.url, ["a", "b", "c"], SCHEMA) as batches:
        if isinstance(batches, redfloe.BatchIterator):
            fill(client, {"a": [3], "b": [8], "c": [1]})
            expected = {"a": [3], "b": [8], "c": [1]}
            assert take_rows(batches, 3) == expected
        else:
            with later(0.1, lambda: fill(client, {"b": [8]})):
                assert rows_of([next(batches)]) == {"b": [8]}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    streams=st.dictionaries(
        st.sampled_from("abcde"), st.lists(st.integers(1, 500), unique=True).map(sorted)
    ),
    batch_size=st.integers(1, 60),
    batch_bytes=st.sampled_from([1, 300, 10**6]),
    count=st.none() | st.integers(0, 50),
)
def test_draining_gives_each_entry_once_in_the_order_of_its_stream(
    any_server: Server,
    client: redis.Redis,
    streams: Numbers,
    batch_size: int,
    batch_bytes: int,
    count: int | None,
) -> None:
    client.flushdb()
    fill(client, streams)
    frames = list(
        redfloe.iter_stream(
            any_server.url,
            list(streams),
            SCHEMA,
            count=count,
            batch_size=batch_size,
            batch_bytes=batch_bytes,
            **DRAIN | {"block_ms": 2},
        )
    )
    assert all(0 < len(frame) <= batch_size for frame in frames)
    got = rows_of(frames)
    whole = {stream: numbers for stream, numbers in streams.items() if numbers}
    if count is None:
        assert got == whole
    else:
        assert sum(map(len, frames)) == min(count, sum(map(len, whole.values())))
        assert all(numbers == whole[stream][: len(numbers)] for stream, numbers in got.items())


def test_a_hot_stream_does_not_starve_the_quiet_ones(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    quiet = [f"quiet-{number}" for number in range(99)]
    add_numbers(client, "hot", 100_000)
    fill(client, {stream: [1] for stream in quiet})
    seen: set[str] = set()
    rows = 0
    with following(follow, any_server.url, ["hot", *quiet], SCHEMA, "-", batch_size=100) as batches:
        for number, batch in enumerate(batches):
            seen |= set(batch["_stream"])
            rows += len(batch)
            if seen >= set(quiet):
                break
            assert number < 100, "10,000 rows of the hot stream came before one of each other"
    # Nor does it wait for them.
    started = time.monotonic()
    frames = redfloe.iter_stream(
        any_server.url, ["hot", *quiet], SCHEMA, batch_size=10_000, **DRAIN
    )
    assert sum(map(len, frames)) == 100_099
    assert time.monotonic() - started < 3 * SLACK


def test_a_writer_beside_loses_nothing(any_server: Server, client: redis.Redis) -> None:
    streams = [f"s{number}" for number in range(7)]
    added: Numbers = {stream: [] for stream in streams}

    def write() -> None:
        for number in range(1, 1_500):
            stream = streams[number * number % 7]
            client.xadd(stream, {"n": number})
            added[stream].append(number)

    writer = threading.Thread(target=write)
    with redfloe.iter_stream(
        any_server.url, streams, SCHEMA, "-", batch_size=50, block_ms=500, on_idle="stop"
    ) as batches:
        writer.start()
        got = rows_of(batches)
    writer.join()
    assert got == {stream: numbers for stream, numbers in added.items() if numbers}


def test_a_lost_connection_loses_and_doubles_nothing(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    streams: Numbers = {f"s{number}": [*range(1, 30 * number)] for number in range(1, 12)}
    fill(client, streams)
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, max_retries=50, retry_base_delay=0.001)
        for size, skip in ((0, 0), (100, 1), (5_000, 0), (20_000, 2)):
            fault = proxy.cut_after(size, once_seen=b"XREAD", skip=skip, times=3)
            with following(
                follow, connection, list(streams), SCHEMA, batch_size=70, **DRAIN
            ) as batches:
                assert rows_of(batches) == streams
            assert fault.hits > 0


def test_a_stream_that_is_deleted_does_not_stop_the_others(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    fill(client, {"a": [1], "b": [1]})
    with following(follow, any_server.url, ["a", "b"], SCHEMA, "-", block_ms=50) as batches:
        take_rows(batches, 2)
        client.delete("a")
        with later(0.2, lambda: fill(client, {"b": [2]})):
            assert rows_of([next(batches)]) == {"b": [2]}
        # It is there again, with greater IDs.
        fill(client, {"a": [5]})
        assert rows_of([next(batches)]) == {"a": [5]}


def test_a_stream_that_is_begun_anew_is_noticed_and_named(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    fill(client, {"a": [10], "b": [10]})
    with following(follow, any_server.url, ["a", "b"], SCHEMA, "-", block_ms=50) as batches:
        take_rows(batches, 2)
        client.delete("b")
        fill(client, {"b": [3]})
        with within(10), pytest.raises(DataLossError, match=r"created again.*stream: b\b"):
            next(batches)


def test_a_busy_stream_hides_none_that_is_begun_anew(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    fill(client, {"a": [10], "b": [10]})
    ended = threading.Event()

    def write() -> None:
        with any_server.client() as busy:
            while not ended.is_set():
                busy.xadd("a", {"n": 1})

    with following(follow, any_server.url, ["a", "b"], SCHEMA, "-", block_ms=50) as batches:
        got: list[pl.DataFrame] = []
        while sum(map(len, got)) < 2:
            got.append(next(batches))
        client.delete("b")
        fill(client, {"b": [3]})
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            with within(10), pytest.raises(DataLossError, match=r"created again.*stream: b\b"):
                got.extend(batches)
        finally:
            ended.set()
            writer.join()


def test_a_stream_that_comes_back_begins_at_the_start(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    fill(client, {"ev:a": [2_000], "ev:b": [2_000]})
    options: Any = {"pattern": "ev:*", "discover_ms": 50, "block_ms": 20}
    with following(follow, any_server.url, schema=SCHEMA, start_id="2000-0", **options) as batches:
        take_rows(batches, 2)
        client.delete("ev:b")
        fill(client, {"ev:a": [2_001]})
        assert rows_of([next(batches)]) == {"ev:a": [2_001]}
        time.sleep(0.3)
        with later(0.3, lambda: fill(client, {"ev:b": [5, 6_000]})), within(5):
            assert rows_of([next(batches)]) == {"ev:b": [6_000]}


def test_errors_name_the_stream(any_server: Server, client: redis.Redis, follow: Follow) -> None:
    fill(client, {"a": [1, 2], "b": [1]})
    add(client, "b", [("2-0", {"n": "two"})])
    with following(follow, any_server.url, ["a", "b"], SCHEMA, **DRAIN) as batches:
        got: list[pl.DataFrame] = []
        with pytest.raises(DecodeError, match=r"entry ID: 2-0.*stream: b\b"):
            got.extend(batches)
        assert rows_of(got)["b"] == [1]
        with pytest.raises(DecodeError, match=r"entry ID: 2-0.*stream: b\b"):
            list(batches)
    client.set("text", "x")
    with (
        following(follow, any_server.url, ["a", "text"], SCHEMA, "-") as batches,
        pytest.raises(WrongTypeError, match="stream: text"),
    ):
        next(batches)
    with (
        pytest.raises(NoStreamError, match="stream: nope"),
        following(follow, any_server.url, ["a", "nope"], SCHEMA, "-", must_exist=True) as batches,
    ):
        next(batches)


def test_a_stream_of_a_pattern_that_becomes_something_else_is_left_out(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    """As one that is deleted; and it is read again when it is a stream once more."""
    client.set("s:text", "x")
    fill(client, {"s:a": [1], "s:b": [1]})
    options: Any = {"pattern": "s:*", "block_ms": 50, "discover_ms": 60_000}
    with following(follow, any_server.url, None, SCHEMA, "-", **options) as batches:
        assert take_rows(batches, 2) == {"s:a": [1], "s:b": [1]}
        client.delete("s:b")
        client.set("s:b", "x")
        for number in range(2, 6):
            with later(0.05, partial(fill, client, {"s:a": [number]})), within(3):
                assert rows_of([next(batches)]) == {"s:a": [number]}


def test_without_a_schema_and_with_inference(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    add(client, "a", [("1-0", {"x": "1"})])
    add(client, "b", [("2-0", {"y": "2"})])
    frames = list(follow(any_server.url, ["a", "b"], **DRAIN))
    assert pl.concat(frames, how="diagonal").columns == ["_id", "_ts", "_stream", "x", "y"]
    frame = pl.concat(follow(any_server.url, ["a", "b"], infer_schema=True, **DRAIN))
    assert frame.select("x", "y").dtypes == [pl.Int64, pl.Int64]
    with (
        later(0.2, lambda: add(client, "b", [("3-0", {"z": "0.5"})])),
        following(follow, any_server.url, ["a", "b"], start_id="2-1", infer_schema=True) as batches,
    ):
        assert next(batches).schema["z"] == pl.Float64


def test_none_gives_nothing_and_waits_end(any_server: Server, follow: Follow) -> None:
    assert list(follow(any_server.url, [], SCHEMA)) == []
    assert list(follow(any_server.url, ["a", "b"], SCHEMA, count=0)) == []
    with within(5):
        assert list(follow(any_server.url, ["a", "b"], SCHEMA, **DRAIN)) == []


def test_ten_thousand_streams(any_server: Server, client: redis.Redis) -> None:
    script = """
    for stream = 0, 9999 do
        redis.call('XADD', string.format('s:%04d', stream), '1-0', 'n', stream)
    end
    """
    client.eval(script, 0)
    keys = [f"s:{number:04}" for number in range(10_000)]
    frames = redfloe.iter_stream(any_server.url, keys, SCHEMA, batch_size=3_000, **DRAIN)
    assert rows_of(frames) == {key: [number] for number, key in enumerate(keys)}
    with redfloe.iter_stream(any_server.url, keys, SCHEMA) as batches:
        assert "streams=['s:0000'" in repr(batches)
        client.xadd("s:5000", {"n": 1})
        assert next(batches)["_stream"].to_list() == ["s:5000"]


def test_batches_are_collected(any_server: Server, client: redis.Redis, follow: Follow) -> None:
    fill(client, {"a": [1], "b": [1]})
    with (
        later(0.2, lambda: fill(client, {"a": [2]})),
        following(
            follow, any_server.url, ["a", "b"], SCHEMA, "-", batch_timeout_ms=1_000
        ) as batches,
    ):
        assert rows_of([next(batches)]) == {"a": [1, 2], "b": [1]}


# Patterns


def test_a_pattern_follows_what_matches_and_what_will(
    server: Server, client: redis.Redis, follow: Follow
) -> None:
    fill(client, {"ev:a": [1, 2], "other": [1]})
    options: Any = {"pattern": "ev:*", "discover_ms": 50, "schema": SCHEMA}
    with following(follow, server.url, start_id="-", **options) as batches:
        assert rows_of([next(batches)]) == {"ev:a": [1, 2]}
        with later(0.1, lambda: fill(client, {"ev:b": [7], "other": [2]})):
            assert rows_of([next(batches)]) == {"ev:b": [7]}
        fill(client, {"ev:b": [8], "ev:a": [3]})
        assert take_rows(batches, 2) == {"ev:a": [3], "ev:b": [8]}


def test_a_pattern_may_match_nothing_yet(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    options: Any = {"pattern": "ev:*", "discover_ms": 50, "schema": SCHEMA}
    with following(follow, any_server.url, **options) as batches:
        with later(0.2, lambda: fill(client, {"ev:a": [1]})):
            assert rows_of([next(batches)]) == {"ev:a": [1]}
        client.delete("ev:a")
        # It is gone for a while, and then another stream of its name.
        with later(0.5, lambda: fill(client, {"ev:a": [1]})):
            assert rows_of([next(batches)]) == {"ev:a": [1]}
    with within(5):
        assert list(follow(any_server.url, pattern="no:*", **DRAIN)) == []
    with pytest.raises(NoStreamError, match='pattern "no:'):
        next(follow(any_server.url, pattern="no:*", must_exist=True))


def test_a_pattern_with_inference_and_lost_connections(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, max_retries=50, retry_base_delay=0.001)
        for name in (b"SCAN", b"XREAD"):
            client.flushdb()
            fill(client, {f"ev:{number}": [1, 2, 3] for number in range(5)})
            options: Any = {"pattern": "ev:*", "discover_ms": 30, "infer_schema": True}
            fault = proxy.cut_after(3, once_seen=name, times=2)
            with following(follow, connection, start_id="-", **options) as batches:
                got: list[pl.DataFrame] = []
                while sum(map(len, got)) < 15:
                    got.append(next(batches))
                with later(0.1, lambda: fill(client, {"ev:new": [4], "ev:0": [4]})):
                    while sum(map(len, got)) < 17:
                        got.append(next(batches))
            assert fault.hits == 2
            assert got[0].schema["n"] == pl.Int64
            whole = {f"ev:{number}": [1, 2, 3] for number in range(5)}
            assert rows_of(got) == whole | {"ev:0": [1, 2, 3, 4], "ev:new": [4]}


def test_either_a_stream_or_a_pattern(any_server: Server, follow: Follow) -> None:
    for arguments in ({}, {"stream": "a", "pattern": "b"}):
        with pytest.raises(TypeError, match="give either stream or pattern"):
            follow(any_server.url, **arguments)
    with pytest.raises(ValueError, match="a group needs a consumer"):
        follow(any_server.url, pattern="a*", group="g")
    with pytest.raises(ValueError, match="discover_ms must not be negative"):
        follow(any_server.url, pattern="a*", discover_ms=-1)
    if follow is redfloe.iter_stream:
        batches = redfloe.iter_stream(any_server.url, pattern="a*")
        assert "pattern='a*'" in repr(batches)
