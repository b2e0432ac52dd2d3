"""What both Ray Data and Daft do with streams."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    NoStreamError,
    RedisConnection,
    RedisConnectionError,
    SchemaError,
    WrongTypeError,
)
from support.engines import Engine, sent
from support.secrets import PASSWORD, QUOTED
from support.server import Server
from support.streams import NUMBER, Fields, add, add_numbers, expected, fill, numbers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # of its own
    pytest.mark.timeout(120),  # the first starts Ray
]

LAST = 20_000
_NO_COLUMNS = {"include_id": False, "include_timestamp": False}


@pytest.fixture
def filled(any_server: Server, client: redis.Redis, stream: str) -> str:
    """A stream of 20,000 entries, too many to be counted."""
    add_numbers(client, stream, LAST)
    return stream


def read(engine: Engine, server: Server, stream: Any, schema: Any = NUMBER, **options: Any) -> Any:
    return engine.module.read_stream(server.url, stream, schema, **{engine.parts: 3}, **options)


def test_rows_are_those_of_read_stream(engine: Engine, any_server: Server, filled: str) -> None:
    """Of a stream in several parts, each time that the dataset is read."""
    dataset = read(engine, any_server, filled)
    for _ in range(2):
        assert_frame_equal(engine.frame(dataset).sort("_ts"), numbers(LAST))
    assert engine.count(read(engine, any_server, filled)) == LAST


def test_the_end_is_fixed(
    engine: Engine, any_server: Server, client: redis.Redis, filled: str
) -> None:
    dataset = read(engine, any_server, filled)
    add_numbers(client, filled, LAST + 100, first=LAST + 1)
    assert_frame_equal(engine.frame(dataset).sort("_ts"), numbers(LAST))
    bounded = read(engine, any_server, filled, start_id="11", end_id=LAST + 50)
    add_numbers(client, filled, LAST + 200, first=LAST + 101)
    assert_frame_equal(engine.frame(bounded).sort("_ts"), numbers(LAST + 50, first=11))


def test_filters_become_ranges(
    engine: Engine, any_server: Server, client: redis.Redis, filled: str
) -> None:
    """And the server sends little; what else they say is applied too."""
    ts, n, entry_id = engine.col("_ts"), engine.col("n"), engine.col("_id")
    everything = sent(client, lambda: engine.frame(read(engine, any_server, filled)))
    for condition, ns in (
        (ts > LAST - 5, range(LAST - 4, LAST + 1)),
        ((ts <= 9) & (n % 2 == 0), [2, 4, 6, 8]),
        ((ts >= 5) & (ts < 8) | (ts == 11), [5, 6, 7, 11]),
        (entry_id == "70-0", [70]),
        (entry_id.is_in(["9-0", "11-0"]), [9, 11]),
        (ts.is_in([3, 4]) & (n != 4), [3]),
        (ts > LAST, []),
    ):
        dataset = engine.where(read(engine, any_server, filled), condition)
        got: list[pl.DataFrame] = []
        size = sent(client, lambda: got.append(engine.frame(dataset)))  # noqa: B023
        assert sorted(got[0]["n"].to_list()) == [*ns], condition
        assert size < everything / 5, condition


def test_filters_that_are_no_ranges(engine: Engine, any_server: Server, filled: str) -> None:
    ts, n, entry_id = engine.col("_ts"), engine.col("n"), engine.col("_id")
    for condition, ns in (
        (~(ts > 3), [1, 2, 3]),
        ((ts < 3) | (n == 7), [1, 2, 7]),
        ((ts < 3) | (n < 3), [1, 2]),
        # As texts.
        ((entry_id < "1000-0") & (ts < 1100), [1, 10, 100]),
        # Which has no order.
        (ts.is_in([float("nan"), 5.0]), [5]),
    ):
        dataset = engine.where(read(engine, any_server, filled), condition)
        assert sorted(engine.frame(dataset)["n"].to_list()) == ns, condition
        assert engine.count(engine.where(read(engine, any_server, filled), condition)) == len(ns)


def test_filters_of_datetimes(
    engine: Engine, any_server: Server, client: redis.Redis, filled: str
) -> None:
    everything = sent(client, lambda: engine.frame(read(engine, any_server, filled)))
    dtype = pl.Datetime("ms", "UTC")
    at = datetime(1970, 1, 1, 0, 0, 0, 5_000, tzinfo=UTC)
    ts = engine.col("_ts")
    for condition, ns in (
        (ts < at, [1, 2, 3, 4]),
        ((ts > at) & (ts <= at.replace(microsecond=7_500)), [6, 7]),
    ):
        dataset = read(engine, any_server, filled, timestamp_dtype=dtype)
        got: list[pl.DataFrame] = []
        dataset = engine.where(dataset, condition)
        size = sent(client, lambda: got.append(engine.frame(dataset)))  # noqa: B023
        assert sorted(got[0]["n"].to_list()) == ns
        assert got[0].schema["_ts"] == dtype
        assert size < everything / 5


def test_other_fields_are_not_decoded(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [(f"{n}-0", {"n": n, "bad": "no number"}) for n in range(1, 4)])
    schema = {"n": pl.Int64, "bad": pl.Int64}
    dataset = engine.select(read(engine, any_server, stream, schema), "n")
    assert engine.frame(dataset).to_dict(as_series=False) == {"n": [1, 2, 3]}
    dataset = engine.where(read(engine, any_server, stream, schema), engine.col("_ts") > 1)
    # A column that only the filter needs is in the rows no more.
    assert engine.frame(engine.select(dataset, "n")).to_dict(as_series=False) == {"n": [2, 3]}
    assert engine.count(read(engine, any_server, stream, schema)) == 3
    with pytest.raises(Exception, match="bad") as raised:
        engine.frame(read(engine, any_server, stream, schema))
    assert "DecodeError" in f"{type(raised.value)} {raised.value} {raised.value.__cause__!r}"


def test_a_limit(engine: Engine, any_server: Server, filled: str) -> None:
    dataset = engine.limit(read(engine, any_server, filled), 7)
    assert engine.frame(dataset).height == 7
    some = engine.where(read(engine, any_server, filled), engine.col("n") > LAST - 10)
    assert engine.frame(engine.limit(some, 3))["n"].is_between(LAST - 9, LAST).sum() == 3


def test_several_streams(engine: Engine, any_server: Server, client: redis.Redis) -> None:
    """A partition has parts of several; those that a filter leaves out are not asked for."""
    streams = {"a": [1, 2, 3], "b": [2, 4], "c": [], "d": [*range(10, 500)]}
    fill(client, streams)
    by = ["_stream", "_ts"]
    whole = expected(streams)
    assert_frame_equal(engine.frame(read(engine, any_server, [*streams])).sort(by), whole)
    for condition, left in (
        (engine.col("_stream") == "b", pl.col("_stream") == "b"),
        (
            engine.col("_stream").is_in(["a", "b"]) & (engine.col("_ts") > 2),
            pl.col("_stream").is_in(["a", "b"]) & (pl.col("_ts") > 2),
        ),
    ):
        dataset = engine.where(read(engine, any_server, [*streams]), condition)
        got: list[pl.DataFrame] = []
        size = sent(client, lambda: got.append(engine.frame(dataset)))  # noqa: B023
        assert_frame_equal(got[0].sort(by), whole.filter(left))
        assert size < 12_000
    dataset = engine.limit(read(engine, any_server, [*streams]), 5)
    assert engine.frame(dataset).height == 5
    # One in a list is one of several.
    assert engine.frame(read(engine, any_server, ["b"]))["_stream"].to_list() == ["b", "b"]


@pytest.mark.parametrize("schema", [NUMBER, None])
def test_missing_and_empty_streams(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str, schema: Any
) -> None:
    client.xdel(stream, client.xadd(stream, {"n": 1}))
    for name in (stream, "missing", [stream, "missing"]):
        dataset = read(engine, any_server, name, schema)
        assert engine.count(dataset) == 0
        columns = redfloe.read_stream(any_server.url, name, schema).columns
        assert engine.columns(dataset) == columns
        assert engine.frame(dataset).columns == columns
    with pytest.raises(NoStreamError):
        read(engine, any_server, "missing", must_exist=True)


def test_odd_names_and_bytes(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str
) -> None:
    rows: list[Fields] = [{"a b": "1", "größe": "ü", "x.y": b"\xff\x00"}, {"a b": "2"}]
    add(client, b"\xff" + stream.encode(), [(f"{n}-{n}", row) for n, row in enumerate(rows, 1)])
    schema = {"a b": pl.Int64, "größe": pl.String, "x.y": pl.Binary}
    key = b"\xff" + stream.encode()
    whole = redfloe.read_stream(any_server.url, key, schema, include_sequence=True)
    got = engine.frame(read(engine, any_server, key, schema, include_sequence=True))
    assert_frame_equal(got.sort("_ts"), whole)
    dataset = engine.where(read(engine, any_server, key, schema), engine.col("a b") == 2)
    assert engine.frame(engine.select(dataset, "a b")).to_dict(as_series=False) == {"a b": [2]}


def test_fields_by_a_sample(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [(f"{n}-0", {"n": n, "t": f"x{n}"}) for n in range(1, 50)])
    text = engine.frame(read(engine, any_server, stream, None))
    assert_frame_equal(text.sort("_ts"), redfloe.read_stream(any_server.url, stream))
    typed = engine.frame(read(engine, any_server, stream, None, infer_schema=True))
    assert typed.schema["n"] == pl.Int64


def test_a_payload_and_what_does_not_fit(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"d": '{"n": 1, "x": [1]}'}), ("2-0", {"d": '{"n": "two"}'})])
    options: Any = {"payload": "d", "rescue_column": "_rescued"}
    dataset = read(engine, any_server, stream, **options)
    whole = redfloe.read_stream(any_server.url, stream, NUMBER, **options)
    assert_frame_equal(engine.frame(dataset).sort("_ts"), whole)
    dataset = engine.select(read(engine, any_server, stream, **options), "n")
    assert sorted(engine.frame(dataset)["n"].to_list(), key=str) == [1, None]


def test_every_dtype(engine: Engine, any_server: Server, stream: str) -> None:
    frame = pl.DataFrame(
        {
            "n": [1, None, 3],
            "u": [2**63, None, 0],
            "f": [1.5, None, float("inf")],
            "b": [True, None, False],
            "d": [datetime(2024, 1, 31, tzinfo=UTC).date(), None, None],
            "t": [datetime(2024, 1, 31, 12, tzinfo=UTC), None, None],
            "e": ["x", None, "y"],
            "m": [Decimal("1.25"), None, Decimal("2.50")],
            "l": [[1, 2], None, []],
            "s": [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}],
        },
        schema_overrides={"u": pl.UInt64, "e": pl.Enum(["x", "y"]), "m": pl.Decimal(10, 2)},
    )
    redfloe.write_stream(any_server.url, frame, stream, on_empty_row="skip")
    got = engine.frame(read(engine, any_server, stream, frame.schema)).sort("n")
    whole = redfloe.read_stream(any_server.url, stream, frame.schema)
    assert_frame_equal(got.cast(whole.schema), whole)


def test_arguments(engine: Engine, any_server: Server, client: redis.Redis, filled: str) -> None:
    """They are refused at once, and so is what the server says of the stream."""
    client.set("text", "no stream")
    with pytest.raises(WrongTypeError):
        read(engine, any_server, "text")
    with pytest.raises(RedisConnectionError):
        engine.module.read_stream(RedisConnection("redis://127.0.0.1:1", max_retries=0), "x")
    with pytest.raises(ValueError, match="order"):
        read(engine, any_server, [filled], order="id")
    with pytest.raises(TypeError, match="nonsense"):
        read(engine, any_server, filled, nonsense=1)
    for schema, options in (({"n": pl.Object}, {}), ({}, _NO_COLUMNS)):
        with pytest.raises(SchemaError):
            read(engine, any_server, filled, schema, **options)


def test_written_and_read_back(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = pl.DataFrame({"n": range(5_000), "text": [f"ä{n}" for n in range(5_000)]})
    assert engine.module.write_stream(engine.of(frame), any_server.url, stream) == 5_000
    back = redfloe.read_stream(any_server.url, stream, frame.schema)
    assert_frame_equal(back.select(frame.columns).sort("n"), frame)
    assert client.keys() == [stream.encode()]
    # What has been read is written without its metadata.
    dataset = read(engine, any_server, stream, frame.schema)
    assert engine.module.write_stream(dataset, any_server.url, "copy", fields=["n"]) == 5_000
    assert redfloe.read_stream(any_server.url, "copy").columns == ["_id", "_ts", "n"]


def test_a_named_job_is_written_once(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str
) -> None:
    dataset = engine.of(pl.DataFrame({"n": range(100)}))
    for _ in range(2):
        written = engine.module.write_stream(dataset, any_server.url, stream, job="2026-11-27")
        assert (written, client.xlen(stream)) == (100, 100)
    engine.module.write_stream(dataset, any_server.url, stream, job="2026-11-28")
    assert client.xlen(stream) == 200
    assert len(client.keys()) == 3  # the stream, and a marker of each job


def test_ids_of_their_own(
    engine: Engine, any_server: Server, client: redis.Redis, filled: str
) -> None:
    """In order, and rows that are in are left out, wherever the first run ended."""
    copied = [f"{n}-0" for n in range(1, 12_346)]
    add(client, "copy", [(entry_id, {"n": entry_id[:-2]}) for entry_id in copied])
    dataset = read(engine, any_server, filled)
    written = engine.module.write_stream(dataset, any_server.url, "copy", id_column="_id")
    assert written == LAST - 12_345
    assert_frame_equal(redfloe.read_stream(any_server.url, "copy", NUMBER), numbers(LAST))
    assert engine.module.write_stream(dataset, any_server.url, "copy", id_column="_id") == 0
    with pytest.raises(ValueError, match="job"):
        engine.module.write_stream(dataset, any_server.url, "copy", id_column="_id", job="x")
    with pytest.raises(ValueError, match="job is empty"):
        engine.module.write_stream(dataset, any_server.url, "copy", job="")


@pytest.mark.parametrize("entry_id", ["5", "05-0", "5-*", "bad", "+"])
def test_ids_that_are_not_whole(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str, entry_id: str
) -> None:
    """A second run would not know them by the text that the server gives them."""
    rows = engine.of(pl.DataFrame({"id": ["4-0", entry_id], "n": [1, 2]}))
    with pytest.raises(ValueError, match="is no whole entry ID"):
        engine.module.write_stream(rows, any_server.url, stream, id_column="id")
    assert not client.exists(stream)


def test_a_write_that_fails_leaves_nothing(
    engine: Engine, any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = pl.DataFrame({"n": [None if n == 2_500 else n for n in range(3_000)]})
    with pytest.raises(Exception, match="row"):
        engine.module.write_stream(engine.of(frame), any_server.url, stream)
    assert not client.exists(stream)
    assert all(client.pttl(key) > 0 for key in client.scan_iter())
    written = engine.module.write_stream(
        engine.of(frame), any_server.url, stream, on_empty_row="skip"
    )
    assert (written, client.xlen(stream)) == (2_999, 2_999)
    for options in ({"nonsense": 1}, {"maxlen": 5}):
        with pytest.raises(TypeError):
            engine.module.write_stream(engine.of(frame), any_server.url, stream, **options)
    assert engine.module.write_stream(engine.of(frame[:0]), any_server.url, "none") == 0


def test_no_password_is_shown(
    engine: Engine, capfd: pytest.CaptureFixture[str], stream: str
) -> None:
    """Neither in plans nor in errors nor in what an engine prints."""
    with Server("redis-7.0", password=PASSWORD) as server:
        add_numbers(server.client(), stream, 10)
        secret = server.url.replace(PASSWORD, QUOTED)
        for url in (secret, RedisConnection(secret)):
            dataset = engine.module.read_stream(url, stream, NUMBER)
            dataset = engine.where(dataset, engine.col("n") > 2)
            shown = engine.plan(dataset)
            assert engine.frame(dataset).height == 8
            engine.module.write_stream(dataset, url, "copy")
            bad = engine.module.read_stream(url, stream, {"n": pl.Date})
            with pytest.raises(Exception) as raised:
                engine.frame(bad)
            shown += f"{raised.value!r} {raised.value} {raised.value.__cause__!r}"
            shown += "".join(capfd.readouterr())
            assert "DecodeError" in shown
            assert PASSWORD not in shown
            assert QUOTED not in shown
        server.kill()
        with pytest.raises(Exception) as raised:
            engine.module.write_stream(dataset, RedisConnection(secret, max_retries=0), "copy")
        assert PASSWORD not in f"{raised.value!r} {raised.value}" + "".join(capfd.readouterr())
