"""Reads of several streams as one: what they give, in which order, in how many round trips."""

from __future__ import annotations

import asyncio
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    DecodeError,
    NoStreamError,
    RedisConnection,
    SchemaError,
    WrongTypeError,
    infer_schema,
    read_stream,
    read_streams,
    scan_stream,
    scan_streams,
    stream_reader,
)
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, Numbers, add, add_numbers, expected, fill
from support.timing import later, within

SCHEMA = {"n": pl.Int64()}


ABC: Numbers = {"b": [1, 4, 5], "a": [2, 4], "a name of more than twelve bytes": [3]}


@pytest.mark.parametrize("order", ["stream", "id"])
def test_rows_of_a_list_come_in_order_and_say_where_they_come_from(
    server: Server, client: redis.Redis, protocol: str, order: Any
) -> None:
    fill(client, ABC)
    df = read_stream(server.url + protocol, list(ABC), SCHEMA, order=order)
    assert_frame_equal(df, expected(ABC, order))


def test_a_pattern_reads_the_streams_that_match_in_the_order_of_their_keys(
    server: Server, client: redis.Redis
) -> None:
    fill(client, ABC | {"other": [7]})
    client.set("a string", "x")
    df = read_streams(server.url, "[ab]*", SCHEMA)
    assert_frame_equal(df, expected(dict(sorted(ABC.items()))))
    again = asyncio.run(redfloe.read_streams_async(server.url, "[ab]*", SCHEMA))
    assert_frame_equal(again, df)
    assert read_streams(server.url)["_stream"].n_unique() == 4


@pytest.fixture
def url(any_server: Server) -> str:
    return any_server.url


@pytest.fixture
def abc(client: redis.Redis) -> list[str]:
    fill(client, ABC)
    return list(ABC)


class TestColumns:
    def test_the_stream_column_has_its_place_its_name_and_may_be_left_out(
        self, url: str, abc: list[str]
    ) -> None:
        df = read_stream(url, abc, SCHEMA, include_sequence=True, stream_column="key")
        assert df.columns == ["_id", "_ts", "_seq", "key", "n"]
        df = read_stream(url, abc, SCHEMA, include_stream=False)
        assert df.columns == ["_id", "_ts", "n"]

    def test_one_stream_has_the_column_where_it_is_asked_for(
        self, url: str, abc: list[str]
    ) -> None:
        assert read_stream(url, "b", SCHEMA).columns == ["_id", "_ts", "n"]
        df = read_stream(url, "b", SCHEMA, include_stream=True)
        assert_frame_equal(df, expected({"b": ABC["b"]}))
        frames = list(
            redfloe.iter_stream(
                url, "b", SCHEMA, "-", include_stream=True, on_idle="stop", block_ms=1
            )
        )
        assert_frame_equal(pl.concat(frames), expected({"b": ABC["b"]}))
        df = read_stream(
            url, "b", SCHEMA, group="g", consumer="c", include_stream=True, auto_ack=True
        )
        assert_frame_equal(df, expected({"b": ABC["b"]}))
        # The columns do not depend on how long the list is.
        assert_frame_equal(read_stream(url, ["b"], SCHEMA), expected({"b": ABC["b"]}))

    def test_a_field_of_its_name_is_refused_with_what_to_change(
        self, url: str, client: redis.Redis, abc: list[str]
    ) -> None:
        add(client, "c", [("1-0", {"_stream": "x"})])
        with pytest.raises(SchemaError, match=r"stream_column.*stream: c"):
            read_stream(url, [*abc, "c"])

    def test_keys_of_any_bytes(self, url: str, client: redis.Redis) -> None:
        keys = [b"\xff\x00", "größer".encode(), b"a\r\nb", b"", b"x" * 300]
        for number, key in enumerate(keys, 1):
            add(client, key, [(f"{number}-0", {"n": number})])
        df = read_stream(url, keys, SCHEMA)
        names = ["\\xff\x00", "größer", "a\r\nb", "", "x" * 300]
        assert df.select("_stream", "n").rows() == list(zip(names, range(1, 6), strict=True))
        assert sorted(redfloe.list_streams(url)["stream"]) == sorted(names)
        assert sorted(read_streams(url)["_stream"]) == sorted(names)

    def test_a_series_of_names_and_a_generator_are_lists(self, url: str, abc: list[str]) -> None:
        listed = redfloe.list_streams(url)["stream"]
        df = read_stream(url, listed, SCHEMA)
        assert_frame_equal(df, expected(dict(sorted(ABC.items()))))
        assert_frame_equal(read_stream(url, (key for key in abc), SCHEMA), expected(ABC))


class TestWhichEntries:
    def test_ranges_hold_for_each_stream(self, url: str, abc: list[str]) -> None:
        df = read_stream(url, abc, SCHEMA, start_id="2", end_id="(5-0")
        assert df["_id"].to_list() == ["4-0", "2-0", "4-0", "3-0"]
        assert read_stream(url, abc, SCHEMA, start_id="$").is_empty()

    @pytest.mark.parametrize("order", ["stream", "id"])
    def test_count_and_last_are_of_the_whole_result(
        self, url: str, abc: list[str], order: Any
    ) -> None:
        whole = expected(ABC, order)
        for number in range(8):
            df = read_stream(url, abc, SCHEMA, count=number, order=order)
            assert_frame_equal(df, whole.head(number))
            df = read_stream(url, abc, SCHEMA, last=number, order=order)
            assert_frame_equal(df, whole.tail(number))
            df = scan_stream(url, abc, SCHEMA, last=number, order=order).collect()
            assert_frame_equal(df, whole.tail(number))

    @pytest.mark.parametrize("order", ["stream", "id"])
    def test_last_of_streams_that_are_longer_than_a_page(self, url: str, order: Any) -> None:
        """Each is then asked alone."""
        length = 10_001
        ids = {key: [f"{n}-{seq}" for n in range(1, length + 1)] for seq, key in enumerate("ab")}
        for key in "ab":
            frame = pl.DataFrame({"id": ids[key], "n": [1] * length})
            redfloe.write_stream(url, frame, key, id_column="id")
        whole = read_stream(url, ["a", "b"], {}, order=order)
        assert whole.height == 2 * length
        for last in (length, length + 5_000, 2 * length, 3 * length):
            df = read_stream(url, ["a", "b"], {}, order=order, last=last)
            assert_frame_equal(df, whole.tail(last))

    def test_missing_streams_and_empty_lists_give_no_rows(self, url: str, abc: list[str]) -> None:
        df = read_stream(url, ["no", *abc, "none"], SCHEMA)
        assert_frame_equal(df, expected(ABC))
        for empty in (
            read_stream(url, [], SCHEMA),
            read_stream(url, ["no", "none"], SCHEMA, order="id"),
            read_streams(url, "no*", SCHEMA),
            scan_streams(url, "no*", SCHEMA).collect(),
            scan_stream(url, [], SCHEMA, order="id").collect(),
        ):
            assert_frame_equal(empty, expected({}))

    def test_must_exist_names_the_stream_that_does_not(self, url: str, abc: list[str]) -> None:
        for order in ("stream", "id"):
            with pytest.raises(NoStreamError, match="stream: nope"):
                read_stream(url, [*abc, "nope"], must_exist=True, order=order)
        with pytest.raises(NoStreamError, match="stream: nope"):
            scan_stream(url, [*abc, "nope"], must_exist=True)
        with pytest.raises(NoStreamError, match='pattern "nope'):
            read_streams(url, "nope*", must_exist=True)
        with pytest.raises(NoStreamError, match='pattern "nope'):
            asyncio.run(redfloe.read_streams_async(url, "nope*", must_exist=True))

    def test_waits_for_the_first_entry_of_any(self, url: str, client: redis.Redis) -> None:
        add(client, "a", [("1-0", {"n": 1})])
        with later(0.2, lambda: add(client, "b", [("2-0", {"n": 2})])):
            df = read_stream(url, ["a", "b"], SCHEMA, start_id="$", block_ms=10_000)
        assert_frame_equal(df, expected({"b": [2]}))
        start = time.monotonic()
        assert read_stream(url, ["a", "c"], SCHEMA, start_id="(1", block_ms=50).is_empty()
        # What comes after the end is not waited for in haste.
        assert read_stream(
            url, ["a", "b"], SCHEMA, start_id="1-1", end_id="1-2", block_ms=200
        ).is_empty()
        assert time.monotonic() - start >= 0.25


class TestSchemas:
    def test_fields_of_all_streams_are_columns(self, url: str, client: redis.Redis) -> None:
        add(client, "a", [("1-0", {"x": "1", "y": "2"})])
        add(client, "b", [("2-0", {"y": "3", "z": "4"})])
        for order in ("stream", "id"):
            df = read_stream(url, ["a", "b"], order=order, include_id=False)
            assert df.drop("_ts").rows() == [("a", "1", "2", None), ("b", None, "3", "4")]
            df = read_stream(url, ["a", "b"], order=order, infer_schema=True)
            assert df.select("x", "y", "z").dtypes == [pl.Int64] * 3
        df = scan_stream(url, ["a", "b"]).collect()
        assert df.columns == ["_id", "_ts", "_stream", "x", "y", "z"]
        assert infer_schema(url, ["a", "b"]) == dict.fromkeys("xyz", pl.Int64)

    def test_or_a_difference_raises(self, url: str, client: redis.Redis) -> None:
        add(client, "a", [("1-0", {"x": "1", "y": "2"}), ("3-0", {"x": "1"})])
        add(client, "b", [("2-0", {"x": "3"})])
        add(client, "c", [("2-0", {"x": "3", "y": "4"})])
        message = 'the stream "a" has the field "y", and "b" has not'
        for order in ("stream", "id"):
            options: Any = {"on_schema_mismatch": "raise", "order": order}
            assert len(read_stream(url, ["a", "c", "missing"], **options)) == 3
            assert len(read_stream(url, ["a", "b"], {"y": pl.Int64}, **options)) == 3
            for infer in (True, False):
                with pytest.raises(SchemaError, match=message):
                    read_stream(url, ["a", "b"], infer_schema=infer, **options)
            with pytest.raises(SchemaError, match=message):
                read_stream(url, ["a", "b"], progress=True, **options)
            with pytest.raises(SchemaError, match=message):
                stream_reader(url, ["a", "b"], **options)
            with pytest.raises((SchemaError, pl.exceptions.ComputeError), match=message):
                scan_stream(url, ["a", "b"], **options).collect()
        with pytest.raises(SchemaError, match=message):
            infer_schema(url, ["a", "b"], on_schema_mismatch="raise")

    def test_dtypes_differ_only_where_they_are_inferred(
        self, url: str, client: redis.Redis
    ) -> None:
        add(client, "a", [("1-0", {"x": "1"})])
        add(client, "b", [("2-0", {"x": "word"})])
        assert infer_schema(url, ["a", "b"]) == {"x": pl.String}
        with pytest.raises(SchemaError, match='"x" is Int64 in the stream "a", and String in "b"'):
            infer_schema(url, ["a", "b"], on_schema_mismatch="raise")
        lf = scan_stream(url, ["a", "b"], on_schema_mismatch="raise")
        assert lf.collect()["x"].to_list() == ["1", "word"]

    def test_payloads_rescue_and_null_values(self, url: str, client: redis.Redis) -> None:
        add(client, "a", [("1-0", {"data": '{"x": 1}'})])
        add(client, "b", [("2-0", {"data": '{"x": "many"}', "k": "v"})])
        for order in ("stream", "id"):
            df = read_stream(
                url,
                ["a", "b"],
                {"x": pl.Int64},
                payload="data",
                rescue_column="_rescued",
                order=order,
            )
            assert df.select("_stream", "x", "_rescued").rows() == [
                ("a", 1, None),
                ("b", None, '{"k":"v","x":"many"}'),
            ]
        df = read_stream(url, ["a", "b"], {"k": pl.String}, null_values="v")
        assert df["k"].to_list() == [None, None]

    @pytest.mark.parametrize("order", ["stream", "id"])
    def test_an_entry_that_does_not_fit_is_named_with_its_stream(
        self, url: str, client: redis.Redis, abc: list[str], order: Any
    ) -> None:
        add(client, "a", [("9-0", {"n": "nine"})])
        with pytest.raises(DecodeError, match=r"entry ID: 9-0.*stream: a\b"):
            read_stream(url, abc, SCHEMA, order=order)
        reader = stream_reader(url, abc, SCHEMA, order=order)
        with pytest.raises(pa.ArrowInvalid, match=r"DecodeError.*stream: a\b"):
            list(batches_of(reader))


def test_a_key_of_another_type_is_named(url: str, client: redis.Redis, abc: list[str]) -> None:
    client.set("text", "x")
    for order in ("stream", "id"):
        with pytest.raises(WrongTypeError, match="stream: text"):
            read_stream(url, [*abc, "text"], order=order)
    with pytest.raises(WrongTypeError, match="stream: text"):
        infer_schema(url, [*abc, "text"])
    with pytest.raises(WrongTypeError, match="stream: text"):
        read_stream(url, [*abc, "text"], start_id="$")


def test_what_cannot_be_right_is_refused_before_anything_is_sent() -> None:
    url, read, wrong = "redis://127.0.0.1:1", cast("Any", read_stream), cast("Any", redfloe)
    with pytest.raises(ValueError, match="'a' twice"):
        read(url, ["a", "b", b"a"])
    with pytest.raises(TypeError, match="each of several streams must be str or bytes, not int"):
        read(url, ["a", 1])
    with pytest.raises(TypeError, match='pass its column, frame\\["stream"\\]'):
        read(url, pl.DataFrame({"stream": ["a"]}))
    with pytest.raises(TypeError, match="stream must be str or bytes, not int"):
        read(url, 1)
    with pytest.raises(ValueError, match='order="id" has no meaning with a group'):
        read(url, ["a", "b"], group="g", consumer="c", order="id")
    with pytest.raises(ValueError, match='order must be "stream" or "id", not \'time\''):
        read(url, ["a", "b"], order="time")
    with pytest.raises(ValueError, match='on_schema_mismatch must be "union" or "raise"'):
        wrong.infer_schema(url, ["a"], on_schema_mismatch="ignore")
    with pytest.raises(TypeError, match="pattern must be str or bytes, not list; read_stream"):
        wrong.read_streams(url, ["a", "b"])
    with pytest.raises(TypeError, match="each of several streams must be str or bytes, not int"):
        wrong.StreamConsumer(url, ["a", 1], "g", "c")
    with pytest.raises(SchemaError, match="two metadata columns"):
        scan_streams(url, stream_column="_id")


# Against reads of each stream alone


STREAMS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "a name of more than twelve bytes"]),
    st.lists(st.integers(1, 60), max_size=40, unique=True).map(sorted),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    streams=STREAMS,
    order=st.sampled_from(["stream", "id"]),
    batch_size=st.integers(1, 50),
    batch_bytes=st.sampled_from([1, 200, 10**6]),
    count=st.none() | st.integers(0, 100),
    bounds=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_batches_of_every_size_are_those_of_plain_reads(
    any_server: Server,
    client: redis.Redis,
    streams: Numbers,
    order: Any,
    batch_size: int,
    batch_bytes: int,
    count: int | None,
    bounds: tuple[int, int],
) -> None:
    client.flushdb()
    fill(client, streams)
    first, last = bounds
    within = {
        stream: [number for number in numbers if first <= number <= last]
        for stream, numbers in streams.items()
    }
    whole = expected(within, order)
    whole = whole if count is None else whole.head(count)
    options: Any = {"order": order, "count": count, "start_id": first, "end_id": last}
    keys = list(streams)
    assert_frame_equal(read_stream(any_server.url, keys, SCHEMA, **options), whole)
    reader = stream_reader(
        any_server.url, keys, SCHEMA, batch_size=batch_size, batch_bytes=batch_bytes, **options
    )
    frames = [pl.DataFrame(batch) for batch in batches_of(reader)]
    if frames:
        assert max(map(len, frames)) <= batch_size
        assert_frame_equal(pl.concat(frames), whole)
    else:
        assert whole.is_empty()


def batches_of(reader: Any) -> Iterator[Any]:
    """Take an Arrow stream batch by batch."""
    yield from pa.RecordBatchReader.from_stream(reader)


FILTERS = st.recursive(
    st.sampled_from(
        [
            pl.col("_stream") == "a",
            pl.col("_stream") != "b",
            pl.col("_stream").is_in(["a", "c"]),
            pl.col("_stream").str.starts_with("a"),
            ~pl.col("_stream").str.contains("[bc]"),
            pl.col("_stream").is_null(),
            pl.col("n") > 20,
            pl.col("_ts").is_between(10, 40),
            pl.col("_id") == "7-0",
            pl.col("_stream").str.len_bytes() < pl.col("n"),
        ]
    ),
    lambda inner: st.tuples(inner, inner).flatmap(
        lambda two: st.sampled_from([two[0] & two[1], two[0] | two[1], ~two[0]])
    ),
    max_leaves=4,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    streams=STREAMS,
    order=st.sampled_from(["stream", "id"]),
    predicate=FILTERS,
    columns=st.lists(st.sampled_from(["_id", "_ts", "_stream", "n"]), unique=True, min_size=1),
    head=st.none() | st.integers(0, 50),
    head_first=st.booleans(),
)
@pytest.mark.slow
def test_scans_are_plain_reads_filtered(
    any_server: Server,
    client: redis.Redis,
    streams: Numbers,
    order: Any,
    predicate: pl.Expr,
    columns: list[str],
    head: int | None,
    head_first: bool,
) -> None:
    client.flushdb()
    fill(client, streams)

    def query(frame: pl.LazyFrame) -> pl.LazyFrame:
        if head is not None and head_first:
            frame = frame.head(head)
        frame = frame.filter(predicate).select(columns)
        return frame if head is None or head_first else frame.head(head)

    lf = scan_stream(any_server.url, list(streams), SCHEMA, order=order)
    assert_frame_equal(query(lf).collect(), query(expected(streams, order).lazy()).collect())


def keys_of(proxy: Proxy, *names: bytes) -> set[str]:
    """Give the keys of the commands of these names that went through the proxy."""
    return {command[1].decode() for command in proxy.commands if command[0] in names}


class TestScans:
    def test_streams_that_a_filter_excludes_are_not_asked_for(
        self, any_server: Server, abc: list[str]
    ) -> None:
        stream = pl.col("_stream")
        with Proxy(any_server.port) as proxy:
            lf = scan_streams(proxy.url, "*", SCHEMA)
            for kept, predicate in (
                ({"b"}, stream == "b"),
                ({"b"}, (stream == "b") & (pl.col("n") > 1)),
                ({"a", "b"}, stream.is_in(["a", "b"]) | (stream == "a")),
                ({"a", "b"}, stream.is_in(["a", "b"]) & ~stream.is_null()),
                ({"a", abc[2]}, stream.str.starts_with("a") & (stream.str.len_chars() > 0)),
                (set(abc), (stream == "b") | (pl.col("n") > 1)),
                (set(), (stream == "b") & (stream == "a")),
            ):
                proxy.commands.clear()
                df = lf.filter(predicate).collect()
                assert set(df["_stream"]) <= kept
                assert keys_of(proxy, b"XRANGE") == kept, predicate
                assert keys_of(proxy, b"XLEN", b"XREVRANGE") == kept, predicate

    def test_a_scan_is_a_snapshot(self, url: str, client: redis.Redis, abc: list[str]) -> None:
        lf = scan_streams(url, "*", SCHEMA)
        first = lf.collect()
        fill(client, {"b": [100], "new": [1]})
        assert_frame_equal(lf.collect(), first)
        assert_frame_equal(pl.concat([lf, lf]).collect(), pl.concat([first, first]))
        assert len(scan_streams(url, "*", SCHEMA).collect()) == len(first) + 2

    def test_streaming_and_progress(
        self, url: str, abc: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for order in ("stream", "id"):
            lf = scan_stream(url, abc, SCHEMA, order=order, progress=True)
            sums = lf.group_by("_stream").agg(pl.col("n").sum()).sort("_stream")
            assert sums.collect(engine="streaming")["n"].to_list() == [6, 3, 10]
            df = read_stream(url, abc, SCHEMA, order=order, progress=True)
            assert_frame_equal(df, expected(ABC, order))
            df = asyncio.run(
                redfloe.read_stream_async(url, abc, SCHEMA, order=order, progress=True)
            )
            assert_frame_equal(df, expected(ABC, order))
        assert "read of 3 streams" in capsys.readouterr().err

    def test_a_scan_can_be_pickled(self, url: str, abc: list[str]) -> None:
        lf = scan_streams(url, "*", SCHEMA)
        assert_frame_equal(pickle.loads(pickle.dumps(lf)).collect(), lf.collect())


def test_a_user_who_may_not_ask_for_lengths_reads_all_the_same(
    any_server: Server, client: redis.Redis
) -> None:
    streams = ABC | {"empty": [], "long": [*range(1, 2_000)]}
    fill(client, streams)
    client.acl_setuser(
        "reader",
        enabled=True,
        passwords=["+pass"],
        keys=["*"],
        commands=["-@all", "+xrange", "+xrevrange", "+scan"],
        reset=True,
    )
    try:
        with Proxy(any_server.port) as proxy:
            connection = RedisConnection(proxy.url, username="reader", password="pass")
            for order in ("stream", "id"):
                df = read_stream(connection, list(streams), SCHEMA, order=order)
                assert_frame_equal(df, expected(streams, order))
            # Numbers that come meanwhile do not make it go on.
            proxy.before(b"XRANGE", lambda _: client.xadd("long", {"n": 0}))
            df = read_stream(connection, list(streams), SCHEMA)
            assert_frame_equal(df, expected(streams))
    finally:
        client.acl_deluser("reader")


@pytest.mark.parametrize("order", ["stream", "id"])
def test_a_read_of_growing_streams_ends_where_they_were(
    any_server: Server, client: redis.Redis, order: Any
) -> None:
    streams: Numbers = {"long": [*range(1, 3_000)], "a": [1, 2], "b": [2]}
    fill(client, streams)

    def grow(_: int) -> None:
        pipeline = client.pipeline(transaction=False)
        for stream in streams:
            for _ in range(10):
                pipeline.xadd(stream, {"n": 0})
        pipeline.execute()

    with Proxy(any_server.port) as proxy:
        proxy.before(b"XRANGE", grow)
        df = read_stream(proxy.url, list(streams), SCHEMA, order=order)
    assert_frame_equal(df, expected(streams, order))


# Many, long, and faults


@pytest.mark.slow
def test_ten_thousand_streams_take_few_round_trips(any_server: Server, client: redis.Redis) -> None:
    script = """
    for stream = 0, 9999 do
        for n = 1, 3 do
            redis.call('XADD', string.format('s:%04d', stream), string.format('%d-0', n),
                'n', stream)
        end
    end
    """
    client.eval(script, 0)
    keys = [f"s:{number:04}" for number in range(10_000)]
    values = [number for number in range(10_000) for _ in range(3)]
    for order in ("stream", "id"):
        with Proxy(any_server.port) as proxy:
            df = read_streams(proxy.url, "s:*", SCHEMA, order=order)
            assert proxy.count(b"XRANGE") >= 10_000
            assert proxy.round_trips < 1_000
        assert df["n"].to_list() == (values if order == "stream" else [*range(10_000)] * 3)
        assert df["_stream"].to_list() == [keys[number] for number in df["n"]]


@pytest.mark.parametrize("order", ["stream", "id"])
@pytest.mark.slow
def test_long_streams_are_read_page_by_page_up_to_where_they_were(
    any_server: Server, client: redis.Redis, order: Any
) -> None:
    add_numbers(client, "long", 50_000)
    add_numbers(client, "longer", 70_000)
    add_numbers(client, "short", 3)
    streams = {"short": [*range(1, 4)], "long": [*range(1, 50_001)], "longer": [*range(1, 70_001)]}
    with Proxy(any_server.port) as proxy:
        df = read_stream(proxy.url, list(streams), NUMBER, order=order)
        counts = [int(command[-1]) for command in proxy.commands if command[0] == b"XRANGE"]
    assert_frame_equal(df, expected(streams, order))
    assert max(counts) <= 20_000


@pytest.mark.parametrize("order", ["stream", "id"])
@pytest.mark.slow
def test_a_lost_connection_loses_and_doubles_nothing(
    any_server: Server, client: redis.Redis, order: Any
) -> None:
    streams: Numbers = {f"s{number}": [*range(1, 1 + number * 7)] for number in range(60)}
    streams["long"] = [*range(1, 5_000)]
    fill(client, streams)
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, max_retries=50, retry_base_delay=0.001)
        for skip, size in ((0, 0), (3, 100), (30, 1_000), (50, 500), (59, 30_000)):
            fault = proxy.cut_after(size, once_seen=b"XRANGE", skip=skip, times=3)
            df = read_stream(connection, list(streams), SCHEMA, order=order)
            assert_frame_equal(df, expected(streams, order))
            assert fault.hits > 0
        for command in (b"XLEN", b"XREVRANGE"):
            fault = proxy.cut_after(3, once_seen=command, skip=1)
            df = read_stream(connection, list(streams), SCHEMA, order=order, last=5_000)
            assert_frame_equal(df, expected(streams, order).tail(5_000))
            assert fault.hits == 1


def test_ctrl_c_ends_a_read_of_many(any_server: Server, client: redis.Redis) -> None:
    fill(client, ABC)
    with Proxy(any_server.port) as proxy:
        for command in (b"XLEN", b"XRANGE"):
            proxy.stall_after(0, once_seen=command)
            interrupt = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
            interrupt.start()
            with within(5), pytest.raises(KeyboardInterrupt):
                read_stream(proxy.url, list(ABC), SCHEMA)
            interrupt.join()


def test_what_is_not_wanted_is_not_read(any_server: Server, client: redis.Redis) -> None:
    """Far beyond the count there is an entry that cannot be read."""
    for n in range(1, 40):
        client.xadd("x", {"n": "bad" if n == 20 else n}, id=f"{2 * n}-0")
        client.xadd("y", {"n": n}, id=f"{2 * n + 1}-0")
    schema = {"n": pl.Int64}
    frame = redfloe.read_stream(any_server.url, ["x", "y"], schema, count=2, order="id")
    assert frame["n"].to_list() == [1, 1]
    scan = redfloe.scan_stream(any_server.url, ["x", "y"], schema, order="id")
    assert scan.head(2).collect()["n"].to_list() == [1, 1]
