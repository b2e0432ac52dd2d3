"""`stream_reader` through the libraries that take an Arrow stream, on real servers."""

from __future__ import annotations

import datetime as dt
import gc
import json
import subprocess
import sys
import textwrap
import zoneinfo
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import datafusion
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import RedisConnection, RedisConnectionError, WrongTypeError, read_stream
from redfloe import stream_reader as make_reader
from redfloe._core import StreamReader
from support.clients import quick
from support.defects import defect_of
from support.proxy import Proxy
from support.secrets import PASSWORD, QUOTED, assert_discreet, with_password
from support.server import HOST, Server
from support.streams import NUMBER, add, add_numbers, add_values, numbers, page_sizes
from support.timing import eventually
from support.versions import FAILURES, POLARS

UTC = dt.UTC
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")

PAGES = (
    ("1-0", {"page": "/home", "ms": "120"}),
    ("2-0", {"page": "/docs", "ms": "340"}),
    ("3-0", {"page": "/docs"}),
    ("4-0", {"page": "/home", "ms": "80"}),
)
PAGE_SCHEMA: dict[str, Any] = {"page": pl.String, "ms": pl.Int64}


# Each consumer: a reader in, rows out


def by_polars(reader: StreamReader) -> list[tuple[Any, ...]]:
    return pl.DataFrame(reader).rows()


def by_pyarrow(reader: StreamReader) -> list[tuple[Any, ...]]:
    table = pa.table(reader)
    table.validate(full=True)
    return [tuple(row.values()) for row in table.to_pylist()]


def by_pandas(reader: StreamReader) -> list[tuple[Any, ...]]:
    df = pa.table(reader).to_pandas(types_mapper=pd.ArrowDtype)
    rows = df.itertuples(index=False, name=None)
    return [tuple(None if value is pd.NA else value for value in row) for row in rows]


def pandas_frame(reader: StreamReader) -> pd.DataFrame:
    """Make the frame as pandas 3 does by itself; its stubs do not know that yet."""
    frame: pd.DataFrame = pd.DataFrame.from_arrow(reader)  # type: ignore[attr-defined]
    return frame


def by_duckdb(reader: StreamReader) -> list[tuple[Any, ...]]:
    with duckdb.connect() as db:
        return db.register("reader", reader).sql("select * from reader").fetchall()


def by_datafusion(reader: StreamReader) -> list[tuple[Any, ...]]:
    context = datafusion.SessionContext()
    context.from_arrow(reader, "reader")
    table = context.sql("select * from reader").to_arrow_table()
    return [tuple(row.values()) for row in table.to_pylist()]


CONSUMERS = (by_polars, by_pyarrow, by_pandas, by_duckdb, by_datafusion)
Consumer = Callable[[StreamReader], list[tuple[Any, ...]]]
each_consumer = pytest.mark.parametrize("consume", CONSUMERS, ids=lambda one: one.__name__)

# The others would keep a proxy, which is Python, from running.
HOLD_GIL = (by_datafusion,) if POLARS >= (2, 1) else (by_datafusion, by_polars)
each_without_gil = pytest.mark.parametrize(
    "consume", [one for one in CONSUMERS if one not in HOLD_GIL], ids=lambda one: one.__name__
)


def batches_of(reader: StreamReader) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_stream(reader)


def sizes(reader: StreamReader) -> list[int]:
    return [batch.num_rows for batch in batches_of(reader)]


# The interface


@pytest.mark.parametrize("query", ["", "?protocol=resp3"], ids=["resp2", "resp3"])
def test_a_reader_gives_what_read_stream_gives(
    server: Server, client: redis.Redis, stream: str, query: str
) -> None:
    add_numbers(client, stream, 30_000)
    reader = make_reader(server.url + query, stream, NUMBER, batch_size=7_000)
    assert_frame_equal(pl.DataFrame(reader), numbers(30_000))


def test_repr(any_server: Server, stream: str) -> None:
    reader = make_reader(any_server.url, stream, NUMBER)
    assert isinstance(reader, StreamReader)
    assert repr(reader) == 'StreamReader(columns=["_id", "_ts", "n"])'


def test_the_capsules_have_the_names_of_the_interface(any_server: Server, stream: str) -> None:
    reader = make_reader(any_server.url, stream, NUMBER)
    assert '"arrow_schema"' in repr(reader.__arrow_c_schema__())
    assert '"arrow_array_stream"' in repr(reader.__arrow_c_stream__())


def test_the_schema_is_known_before_and_after(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    reader = make_reader(any_server.url, stream, NUMBER, include_sequence=True)
    before = pa.schema(reader)
    assert before.names == ["_id", "_ts", "_seq", "n"]
    assert [str(one) for one in before.types] == ["string", "int64", "uint64", "int64"]
    batches = batches_of(reader)
    assert batches.schema == pa.schema(reader) == before
    assert batches.read_all().num_rows == 3
    assert pa.schema(reader) == before


def test_another_schema_may_be_requested_and_is_not_given(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    requested = pa.schema({"_id": pa.string(), "_ts": pa.int64(), "n": pa.int8()})
    reader = make_reader(any_server.url, stream, NUMBER)
    stream_schema = pa.RecordBatchReader.from_stream(reader, schema=requested).schema
    assert stream_schema == pa.schema(reader)
    # pyarrow converts by itself.
    table = pa.table(make_reader(any_server.url, stream, NUMBER), schema=requested)
    assert table.schema == requested
    assert table["n"].to_pylist() == [1, 2, 3]


@each_consumer
def test_a_reader_may_be_read_again(
    any_server: Server, client: redis.Redis, stream: str, consume: Consumer
) -> None:
    add_numbers(client, stream, 3)
    reader = make_reader(any_server.url, stream, NUMBER)
    rows = consume(reader)
    assert [row[-1] for row in rows] == [1, 2, 3]
    assert consume(reader) == rows
    # Each read ends at what is the newest then.
    add_numbers(client, stream, 4, first=4)
    assert [row[-1] for row in consume(reader)] == [1, 2, 3, 4]


def test_reads_of_a_reader_are_apart(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 3)
    reader = make_reader(any_server.url, stream, NUMBER, batch_size=1)
    one, other = batches_of(reader), batches_of(reader)
    assert one.read_next_batch()["n"].to_pylist() == [1]
    assert [batch["n"].to_pylist() for batch in other] == [[1], [2], [3]]
    assert [batch["n"].to_pylist() for batch in one] == [[2], [3]]


def test_a_capsule_that_nobody_opens_reads_nothing(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        reader = make_reader(proxy.url, stream, NUMBER)
        assert reader.__arrow_c_stream__() is not None  # and dropped
        assert reader.__arrow_c_stream__(None) is not None
        assert proxy.connections == 0
        assert by_pyarrow(reader) == [("1-0", 1, 1), ("2-0", 2, 2), ("3-0", 3, 3)]


def test_a_relation_of_duckdb_may_be_looked_at_and_queried(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Its repr runs the query."""
    add_numbers(client, stream, 3)
    reader = make_reader(any_server.url, stream, NUMBER)
    with duckdb.connect() as db:
        db.register("entries", reader)
        relation = db.sql("select sum(n) as total from entries")
        assert "6" in repr(relation)
        assert relation.fetchall() == [(6,)]
        joined = "select count(*) from entries a join entries b using (n)"
        assert db.sql(joined).fetchall() == [(3,)]


def test_with_a_schema_nothing_is_sent_before_the_first_batch(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        reader = make_reader(proxy.url, stream, NUMBER)
        batches = batches_of(reader)
        assert proxy.connections == 0
        add_numbers(client, stream, 5)  # in time
        first = batches.read_next_batch()
        add_numbers(client, stream, 9, first=6)  # too late
        assert first.num_rows + batches.read_all().num_rows == 5


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": -1}, ValueError),
        ({"batch_size": 1.5}, TypeError),
        ({"batch_bytes": 0}, ValueError),
        ({"batch_bytes": "1"}, TypeError),
        ({"start_id": "x"}, ValueError),
        ({"count": -1}, ValueError),
        ({"schema": {"x": pl.Object}}, redfloe.SchemaError),
        ({"schema": {"_id": pl.String}}, redfloe.SchemaError),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_at_once(
    any_server: Server, stream: str, options: dict[str, Any], error: type[Exception]
) -> None:
    with Proxy(any_server.port) as proxy:
        with pytest.raises(error):
            make_reader(proxy.url, stream, **{"schema": NUMBER, **options})
        assert proxy.connections == 0


@pytest.mark.parametrize(
    "options",
    [
        {"start_id": "2", "end_id": "(4-0"},
        {"start_id": dt.datetime.fromtimestamp(0.003, UTC)},
        {"count": 3},
        {"count": 0},
        {"include_id": False, "include_sequence": True, "sequence_column": "n"},
        {"id_column": "id", "timestamp_column": "at", "timestamp_dtype": pl.Datetime("us", "UTC")},
        {"on_error": "null"},
        {"rescue_column": "_rescued"},
        {"null_values": ["four"]},
        {"schema": None},
    ],
    ids=str,
)
def test_options_are_those_of_read_stream(
    any_server: Server, client: redis.Redis, stream: str, options: dict[str, Any]
) -> None:
    add_values(client, stream, ["1", "2", None, "four", "5"])
    options = {"schema": {"x": pl.Int64}, **options}
    if not {"on_error", "rescue_column", "null_values", "end_id", "count"} & {*options}:
        client.xdel(stream, "4-0")
    reader = make_reader(any_server.url, stream, batch_size=2, **options)
    assert_frame_equal(pl.DataFrame(reader), read_stream(any_server.url, stream, **options))


# Batches


def test_batch_size_bounds_the_rows(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 2_500)
    for size in (1, 1_000, 2_500, 50_000):
        got = sizes(make_reader(any_server.url, stream, NUMBER, batch_size=size))
        full, rest = divmod(2_500, size)
        assert got == [size] * full + [rest] * (rest > 0)


def test_batch_bytes_bounds_the_batches(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["x" * 10_000] * 500)
    got = sizes(make_reader(any_server.url, stream, {"x": pl.String}, batch_bytes=1_000_000))
    assert sum(got) == 500
    # Checked after each piece of a reply that came over the socket.
    assert all(95 <= rows <= 150 for rows in got[:-1])


def test_every_batch_ends_in_whole_entries(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 20_000)
    reader = make_reader(any_server.url, stream, NUMBER, batch_size=777, batch_bytes=10_000)
    batches = [*batches_of(reader)]
    assert len(batches) > 20
    assert all(0 < batch.num_rows <= 777 for batch in batches)
    assert_frame_equal(pl.concat(pl.DataFrame(batch) for batch in batches), numbers(20_000))


def test_a_consumer_that_stops_leaves_the_rest_on_the_server(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 100_000)
    with Proxy(any_server.port) as proxy:
        batches = batches_of(make_reader(proxy.url, stream, NUMBER, batch_size=100))
        assert batches.read_next_batch().num_rows == 100
        assert sum(page_sizes(proxy)) < 5_000
        del batches
        assert sum(page_sizes(proxy)) < 5_000


def run(script: str, *args: str) -> Any:
    """Run a script in a process of its own; give what it prints, which is JSON."""
    code = "import json, os, sys, redfloe, pyarrow as pa, polars as pl\n" + textwrap.dedent(script)
    # Since Python 3.12 a fork warns where there are threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_memory_stays_far_below_the_stream_s_size(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.eval(
        "local text = string.rep('x', 1000)\n"
        "for n = 1, 300000 do redis.call('XADD', KEYS[1], n .. '-0', 'x', text) end",
        1,
        stream,
    )
    script = """
        import psutil
        reader = redfloe.stream_reader(
            sys.argv[1], sys.argv[2], {"x": pl.String}, batch_bytes=4_000_000
        )
        rss, rows, size = [], 0, 0
        for batch in pa.RecordBatchReader.from_stream(reader):
            rss.append(psutil.Process().memory_info().rss)
            rows, size = rows + batch.num_rows, size + batch.nbytes
        print(json.dumps([rows, size, max(rss) - rss[0]]))
    """
    rows, size, growth = run(script, any_server.url, stream)
    client.unlink(stream)
    assert rows == 300_000
    assert size > 300_000_000
    assert growth < 60_000_000


# Consumers


def test_duckdb_aggregates_filters_and_joins(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, PAGES)

    def reader() -> StreamReader:
        return make_reader(any_server.url, stream, PAGE_SCHEMA, batch_size=3)

    titles = pa.table({"page": ["/home", "/about"], "title": ["Start", "About"]})
    with duckdb.connect() as db:
        db.register("pages", reader())
        query = "select page, count(*), sum(ms) from pages group by page order by page"
        assert db.sql(query).fetchall() == [("/docs", 2, 340), ("/home", 2, 200)]

        db.register("pages", reader())
        query = "select _id, ms from pages where ms > 100 and page like '/d%'"
        assert db.sql(query).fetchall() == [("2-0", 340)]

        db.register("pages", reader())
        db.register("titles", titles)
        query = "select title, sum(ms) from pages join titles using (page) group by title"
        assert db.sql(query).fetchall() == [("Start", 200)]

        assert db.sql("select count(*) from pages").fetchall() == [(4,)]


def test_duckdb_finds_the_variable(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 10_000)
    reader = make_reader(any_server.url, stream, NUMBER, batch_size=1_000)
    rows = duckdb.execute("select count(*), sum(n) from reader").fetchall()
    assert rows == [(10_000, 50_005_000)]
    assert duckdb.execute("select count(*) from reader").fetchall() == [(10_000,)]
    assert reader is not None


def test_duckdb_keeps_the_rows_in_a_table_of_its_own(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, PAGES)
    with duckdb.connect() as db:
        db.register("reader", make_reader(any_server.url, stream, PAGE_SCHEMA))
        db.execute("create table pages as from reader")
        for _ in range(2):
            assert db.sql("select sum(ms) from pages").fetchall() == [(540,)]


def test_duckdb_stops_at_its_limit(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 100_000)
    with Proxy(any_server.port) as proxy, duckdb.connect() as db:
        db.register("reader", make_reader(proxy.url, stream, NUMBER, batch_size=100))
        assert db.sql("select n from reader limit 3").fetchall() == [(1,), (2,), (3,)]
        assert sum(page_sizes(proxy)) < 50_000


def test_pyarrow_takes_it_as_a_table_and_batch_by_batch(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, PAGES)
    table = pa.table(make_reader(any_server.url, stream, PAGE_SCHEMA, batch_size=3))
    table.validate(full=True)
    assert table["page"].num_chunks == 2
    batches = batches_of(make_reader(any_server.url, stream, PAGE_SCHEMA, batch_size=3))
    assert [batch.num_rows for batch in batches] == [3, 1]
    assert table.to_pydict() == {
        "_id": ["1-0", "2-0", "3-0", "4-0"],
        "_ts": [1, 2, 3, 4],
        "page": ["/home", "/docs", "/docs", "/home"],
        "ms": [120, 340, None, 80],
    }


def test_pandas_takes_it(any_server: Server, client: redis.Redis, stream: str) -> None:
    add(client, stream, PAGES)
    expected = pd.DataFrame(
        {
            "_id": ["1-0", "2-0", "3-0", "4-0"],
            "_ts": [1, 2, 3, 4],
            "page": ["/home", "/docs", "/docs", "/home"],
            "ms": [120.0, 340.0, None, 80.0],
        }
    )
    df = pandas_frame(make_reader(any_server.url, stream, PAGE_SCHEMA, batch_size=3))
    pd.testing.assert_frame_equal(df, expected)
    df = pa.table(make_reader(any_server.url, stream, PAGE_SCHEMA, batch_size=3)).to_pandas()
    pd.testing.assert_frame_equal(df, expected)


def test_datafusion_takes_it(any_server: Server, client: redis.Redis, stream: str) -> None:
    add(client, stream, PAGES)
    context = datafusion.SessionContext()
    context.from_arrow(make_reader(any_server.url, stream, PAGE_SCHEMA, batch_size=3), "pages")
    query = "select page, sum(ms) as ms from pages where _ts < 4 group by page order by page"
    for _ in range(2):  # it has read all of it
        assert context.sql(query).to_pydict() == {"page": ["/docs", "/home"], "ms": [340, 120]}


# Dtypes


class Case(NamedTuple):
    dtype: Any
    text: str
    value: object
    arrow: str
    duckdb: str
    polars: Any = None
    """Where it is not the dtype itself."""


ENUM = pl.Enum(["low", "high"])
ROW = pl.Struct({"a": pl.Int64, "b": pl.String})
CASES = (
    Case(pl.String(), "größer", "größer", "string", "VARCHAR"),
    Case(pl.String(), "x" * 50, "x" * 50, "string", "VARCHAR"),
    Case(pl.Binary(), "é", "é".encode(), "binary", "BLOB"),
    Case(
        pl.Categorical(),
        "low",
        "low",
        "dictionary<values=string, indices=uint32, ordered=0>",
        "VARCHAR",
    ),
    Case(
        ENUM,
        "high",
        "high",
        "dictionary<values=string, indices=uint8, ordered=0>",
        "VARCHAR",
    ),
    Case(pl.Int8(), "-128", -128, "int8", "TINYINT"),
    Case(pl.Int16(), "-7", -7, "int16", "SMALLINT"),
    Case(pl.Int32(), "-7", -7, "int32", "INTEGER"),
    Case(pl.Int64(), str(-(2**63)), -(2**63), "int64", "BIGINT"),
    Case(
        pl.Int128(),
        "9" * 38,
        Decimal("9" * 38),
        "decimal128(38, 0)",
        "DECIMAL(38,0)",
        pl.Decimal(38, 0),
    ),
    Case(pl.UInt8(), "255", 255, "uint8", "UTINYINT"),
    Case(pl.UInt16(), "7", 7, "uint16", "USMALLINT"),
    Case(pl.UInt32(), "7", 7, "uint32", "UINTEGER"),
    Case(pl.UInt64(), str(2**64 - 1), 2**64 - 1, "uint64", "UBIGINT"),
    Case(pl.Float32(), "1.5", 1.5, "float", "FLOAT"),
    Case(pl.Float64(), "0.1", 0.1, "double", "DOUBLE"),
    Case(pl.Decimal(10, 2), "1.5", Decimal("1.50"), "decimal128(10, 2)", "DECIMAL(10,2)"),
    Case(pl.Boolean(), "yes", True, "bool", "BOOLEAN"),
    Case(pl.Date(), "2024-02-29", dt.date(2024, 2, 29), "date32[day]", "DATE"),
    Case(pl.Time(), "12:30:00.000001", dt.time(12, 30, 0, 1), "time64[ns]", "TIME_NS"),
    Case(
        pl.Datetime("ms"),
        "2024-01-31T12:30:00",
        dt.datetime.fromisoformat("2024-01-31T12:30"),
        "timestamp[ms]",
        "TIMESTAMP_MS",
    ),
    Case(
        pl.Datetime("us", "UTC"),
        "2024-01-31T12:30:00",
        dt.datetime(2024, 1, 31, 12, 30, tzinfo=UTC),
        "timestamp[us, tz=UTC]",
        "TIMESTAMP WITH TIME ZONE",
    ),
    Case(
        pl.Datetime("ns", "America/New_York"),
        "2024-01-31T12:30:00",
        dt.datetime(2024, 1, 31, 12, 30, tzinfo=NEW_YORK),
        "timestamp[ns, tz=America/New_York]",
        "TIMESTAMPTZ_NS",
    ),
    Case(pl.Duration("ms"), "-1500", dt.timedelta(seconds=-1.5), "duration[ms]", "INTERVAL"),
    Case(pl.Duration("us"), "PT1H", dt.timedelta(hours=1), "duration[us]", "INTERVAL"),
    Case(pl.Duration("ns"), "PT1H", dt.timedelta(hours=1), "duration[ns]", "INTERVAL"),
    Case(pl.List(pl.Int64), "[1, null]", [1, None], "large_list<item: int64>", "BIGINT[]"),
    Case(pl.List(pl.String), '["a", null]', ["a", None], "large_list<item: string>", "VARCHAR[]"),
    Case(
        pl.List(pl.Categorical),
        '["a", "b"]',
        ["a", "b"],
        "large_list<item: dictionary<values=string, indices=uint32, ordered=0>>",
        "VARCHAR[]",
    ),
    Case(
        pl.List(ENUM),
        '["high"]',
        ["high"],
        "large_list<item: dictionary<values=string, indices=uint8, ordered=0>>",
        "VARCHAR[]",
    ),
    Case(
        pl.List(pl.Int128),
        "[1]",
        [Decimal(1)],
        "large_list<item: decimal128(38, 0)>",
        "DECIMAL(38,0)[]",
        pl.List(pl.Decimal(38, 0)),
    ),
    Case(pl.Array(pl.Int16, 2), "[1, 2]", [1, 2], "fixed_size_list<item: int16>[2]", "SMALLINT[2]"),
    Case(
        pl.Array(pl.String, (2, 1)),
        '[["a"], ["b"]]',
        [["a"], ["b"]],
        "fixed_size_list<item: fixed_size_list<item: string>[1]>[2]",
        "VARCHAR[1][2]",
    ),
    Case(
        ROW,
        '{"a": 1}',
        {"a": 1, "b": None},
        "struct<a: int64, b: string>",
        "STRUCT(a BIGINT, b VARCHAR)",
    ),
    Case(
        pl.List(ROW),
        '[{"b": "x"}]',
        [{"a": None, "b": "x"}],
        "large_list<item: struct<a: int64, b: string>>",
        "STRUCT(a BIGINT, b VARCHAR)[]",
    ),
)
Column = Callable[..., StreamReader]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.dtype}"[:60])


@pytest.fixture(scope="module")
def cases() -> Iterator[Server]:
    """A server with a stream for each case: the value, null, the value."""
    with Server("redis-7.0") as server:
        for case in CASES:
            add_values(server.client(), stream_of(case), [case.text, None, case.text])
        yield server


def stream_of(case: Case) -> str:
    return f"{case.dtype} {case.text}"


@pytest.fixture
def column(cases: Server) -> Column:
    """Give the column `x` of a case, in batches of a row each unless told otherwise."""

    def make(case: Case, batch_size: int = 1) -> StreamReader:
        return make_reader(
            cases.url,
            stream_of(case),
            {"x": case.dtype},
            include_id=False,
            include_timestamp=False,
            batch_size=batch_size,
        )

    return make


@each_case
def test_polars_takes_the_dtype(column: Column, case: Case) -> None:
    got = pl.DataFrame(column(case))["x"]
    assert got.dtype == (case.dtype if case.polars is None else case.polars)
    assert got.to_list() == [case.value, None, case.value]


@each_case
def test_pyarrow_takes_the_dtype(column: Column, case: Case) -> None:
    table = pa.table(column(case))
    table.validate(full=True)
    assert str(table.schema.field("x").type) == case.arrow
    assert table["x"].to_pylist() == [case.value, None, case.value]


@each_case
def test_pandas_takes_the_dtype(column: Column, case: Case) -> None:
    """As Arrow's own types: NumPy has none for many."""
    got = pa.table(column(case)).to_pandas(types_mapper=pd.ArrowDtype)["x"]
    assert got.isna().to_list() == [False, True, False]
    assert [got[0], got[2]] == [case.value, case.value]


@each_case
def test_duckdb_takes_the_dtype(column: Column, case: Case) -> None:
    # It refuses a batch whose lists of dictionaries are all empty.
    batch_size = 3 if "item: dictionary" in case.arrow else 1
    with duckdb.connect() as db:
        rows = db.register("reader", column(case, batch_size)).sql("select x from reader")
        assert [str(one) for one in rows.types] == [case.duckdb]
        if "TZ" in case.duckdb or "ZONE" in case.duckdb:
            # Its own datetimes with a zone need the package pytz.
            got = rows.to_arrow_table()["x"].to_pylist()
        else:
            got = [listed(value) for (value,) in rows.fetchall()]
    assert got == [case.value, None, case.value]


def listed(value: object) -> object:
    """Give DuckDB's arrays, which are tuples, as lists."""
    return [listed(one) for one in value] if isinstance(value, tuple) else value


@each_case
def test_datafusion_takes_the_dtype(column: Column, case: Case) -> None:
    context = datafusion.SessionContext()
    context.from_arrow(column(case), "reader")
    table = context.sql("select x from reader where x is not null").to_arrow_table()
    assert str(table.schema.field("x").type) == case.arrow
    assert table["x"].to_pylist() == [case.value, case.value]


@each_consumer
@pytest.mark.parametrize("dtype", [pl.Categorical(), pl.Enum(["a", "b", "c"])], ids=str)
def test_batches_have_dictionaries_of_their_own(
    any_server: Server, client: redis.Redis, stream: str, consume: Consumer, dtype: Any
) -> None:
    values = ["b", "a", None, "c", "c", "a", "b"]
    add_values(client, stream, values)
    options: dict[str, Any] = {"include_id": False, "include_timestamp": False}
    reader = make_reader(any_server.url, stream, {"x": dtype}, batch_size=2, **options)
    assert consume(reader) == [(value,) for value in values]


@pytest.mark.parametrize("dtype", [pl.Categorical(), pl.Enum(["a", "b"])], ids=str)
def test_sql_computes_with_dictionaries(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any
) -> None:
    add_values(client, stream, ["b", "a", None, "b", "b"])
    query = "select x, count(*) as n from reader where x > '' group by x order by x"

    def reader() -> StreamReader:
        return make_reader(any_server.url, stream, {"x": dtype}, batch_size=2)

    with duckdb.connect() as db:
        assert db.register("reader", reader()).sql(query).fetchall() == [("a", 1), ("b", 3)]
    context = datafusion.SessionContext()
    context.from_arrow(reader(), "reader")
    assert context.sql(query).to_pydict() == {"x": ["a", "b"], "n": [1, 3]}


@pytest.mark.parametrize("number", [10**38, -(10**38), 2**127 - 1, -(2**127)])
@pytest.mark.parametrize("nested", [False, True], ids=["column", "list"])
def test_an_int128_of_39_digits_is_no_decimal(
    any_server: Server, client: redis.Redis, stream: str, number: int, nested: bool
) -> None:
    add_values(client, stream, [f"[{number}]" if nested else str(number)])
    schema: dict[str, Any] = {"x": pl.List(pl.Int128) if nested else pl.Int128}
    with pytest.raises(pa.ArrowInvalid, match=r"DecodeError: .* has more digits .*1-0"):
        pa.table(make_reader(any_server.url, stream, schema))
    lenient = make_reader(any_server.url, stream, schema, on_error="null")
    assert pa.table(lenient)["x"].to_pylist() == [[None] if nested else None]


def fields_of(field: pa.Field) -> Iterator[pa.Field]:
    """Give a field and all those within it."""
    yield field
    for index in range(field.type.num_fields):
        yield from fields_of(field.type.field(index))


def test_our_own_marks_are_not_exported(any_server: Server, stream: str) -> None:
    row = pl.Struct({"a": pl.List(pl.Struct({"b": pl.Int128}))})
    schema: dict[str, Any] = {
        "x": pl.Int128,
        "list": pl.List(pl.Int128),
        "array": pl.Array(pl.Int128, 2),
        "row": row,
        "rows": pl.List(row),
    }
    exported = pa.schema(make_reader(any_server.url, stream, schema))
    fields = [one for field in exported for one in fields_of(field)]
    assert sum(field.type == pa.decimal128(38, 0) for field in fields) == 5
    assert [field.metadata for field in fields] == [None] * len(fields)
    # They are not in the batches either, which have a schema of their own.
    assert batches_of(make_reader(any_server.url, stream, schema)).schema.equals(
        exported, check_metadata=True
    )


@pytest.mark.parametrize("wrap", [lambda one: one, pl.List, lambda one: pl.Struct({"a": one})])
def test_polars_marks_are_kept_so_an_enum_stays_one(
    any_server: Server, client: redis.Redis, stream: str, wrap: Callable[[Any], Any]
) -> None:
    dtype = wrap(ENUM)
    reader = make_reader(any_server.url, stream, {"x": dtype})
    marked = [*fields_of(pa.schema(reader).field("x"))][-1]
    assert b"_PL_ENUM_VALUES2" in (marked.metadata or {})
    assert pl.DataFrame(reader).schema["x"] == dtype


# What pyarrow computes

KEYS = ["b", "a", None, "c", "a"]
TEXTS = [pl.String(), pl.Categorical(), pl.Enum(["c", "b", "a"])]
each_text = pytest.mark.parametrize("dtype", TEXTS, ids=["String", "Categorical", "Enum"])


@pytest.fixture
def texts(any_server: Server, client: redis.Redis, stream: str) -> Callable[[Any], pa.Table]:
    """Give `KEYS` as the column `x` of a dtype, in three batches, beside the column `_id`."""
    add_values(client, stream, KEYS)

    def make(dtype: Any) -> pa.Table:
        reader = make_reader(
            any_server.url, stream, {"x": dtype}, batch_size=2, include_timestamp=False
        )
        table = pa.table(reader)
        assert table["x"].num_chunks == 3
        return table

    return make


Texts = Callable[[Any], pa.Table]


@each_text
def test_pyarrow_filters_and_takes(texts: Texts, dtype: Any) -> None:
    table = texts(dtype)
    assert table.filter(pc.field("x") == "a")["_id"].to_pylist() == ["2-0", "5-0"]
    assert table.filter(pc.is_null(table["x"]))["_id"].to_pylist() == ["3-0"]
    assert table.take([3, 0, 2])["x"].to_pylist() == ["c", "b", None]
    assert table.slice(1, 3)["x"].to_pylist() == ["a", None, "c"]
    assert table["x"].unique().to_pylist() == ["b", "a", None, "c"]


@each_text
def test_pyarrow_casts_to_text_and_sorts(texts: Texts, dtype: Any) -> None:
    """It sorts rows along with dictionaries, but not by them."""
    table = texts(dtype)
    newest = table.sort_by([("_id", "descending")])
    assert newest["x"].to_pylist() == KEYS[::-1]
    if dtype != pl.String:
        with defect_of(pa.ArrowNotImplementedError, "dictionary"):
            assert table.sort_by("x")["x"].to_pylist() == ["a", "a", "b", "c", None]
    table = table.cast(pa.schema({"_id": pa.string(), "x": pa.string()}))
    assert table.sort_by("x")["x"].to_pylist() == ["a", "a", "b", "c", None]


@each_text
def test_pyarrow_gives_the_types_that_are_asked_of_it(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any
) -> None:
    add_values(client, stream, KEYS)
    plain = pa.schema({"_id": pa.string(), "_ts": pa.int64(), "x": pa.string()})
    reader = make_reader(any_server.url, stream, {"x": dtype}, batch_size=2)
    table = pa.table(reader, schema=plain)
    assert table.schema == plain
    assert table["x"].to_pylist() == KEYS


@each_text
def test_pyarrow_joins_and_groups(texts: Texts, dtype: Any) -> None:
    """It first wants to be told to unify dictionaries, if batches differ in theirs."""
    table = texts(dtype).unify_dictionaries()
    ids = pa.table({"_id": ["5-0", "1-0"], "ms": [50, 10]})
    joined = table.join(ids, "_id", join_type="inner").sort_by("ms")
    assert joined.select(["x", "ms"]).to_pydict() == {"x": ["b", "a"], "ms": [10, 50]}
    names = pa.table({"x": ["a", "b"], "name": ["A", "B"]})
    joined = table.join(names, "x", join_type="inner").sort_by("_id")
    assert joined["name"].to_pylist() == ["B", "A", "A"]
    groups = table.group_by("x").aggregate([("_id", "count")])
    assert dict(zip(groups["x"].to_pylist(), groups["_id_count"].to_pylist(), strict=True)) == {
        "b": 1,
        "a": 2,
        None: 1,
        "c": 1,
    }


def test_pyarrow_joins_batches_of_an_enum_as_they_are(texts: Texts) -> None:
    """They share one dictionary. With those of a Categorical, which differ, it may even abort."""
    ids = pa.table({"_id": ["1-0"], "ms": [10]})
    assert texts(TEXTS[2]).join(ids, "_id", join_type="inner")["x"].to_pylist() == ["b"]


@each_case
def test_pyarrow_filters_takes_and_sorts_rows_of_the_dtype(column: Column, case: Case) -> None:
    table = pa.table(column(case)).append_column("n", pa.array([3, 1, 2]))
    assert table.filter(pc.is_valid(table["x"]))["x"].to_pylist() == [case.value] * 2
    assert table.take([1, 2])["x"].to_pylist() == [None, case.value]
    assert table.sort_by("n")["x"].to_pylist() == [None, case.value, case.value]


@each_case
def test_pyarrow_writes_the_dtype_to_parquet(column: Column, case: Case, tmp_path: Path) -> None:
    table = pa.table(column(case))
    pq.write_table(table, tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["x"].to_pylist() == table["x"].to_pylist()


@each_case
def test_pyarrow_gives_the_dtype_to_pandas(column: Column, case: Case) -> None:
    """With the types of NumPy, which are other ones, and where a null is not always None."""
    got = pa.table(column(case)).to_pandas()["x"]
    assert len(got) == 3
    assert pd.isna(got[1])
    if "dictionary" in case.arrow and "item" not in case.arrow:
        assert isinstance(got.dtype, pd.CategoricalDtype)
    if isinstance(case.value, str | bytes | Decimal | dt.date | dict):
        assert got[0] == case.value
    elif isinstance(case.value, list) and case.dtype != pl.List(pl.Int64):
        assert [one.tolist() if hasattr(one, "tolist") else one for one in got[0]] == case.value


DEEP = pl.Struct({"c": pl.Categorical(), "e": pl.Enum(["a", "b"]), "l": pl.List(pl.Categorical())})


@pytest.mark.parametrize("batch_size", [1, 10])
def test_pyarrow_computes_with_nested_dictionaries(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path, batch_size: int
) -> None:
    values = [{"c": "x", "e": "b", "l": ["p", "q"]}, None, {"c": "y", "e": "a", "l": ["q"]}]
    add_values(client, stream, [one if one is None else json.dumps(one) for one in values])
    reader = make_reader(any_server.url, stream, {"x": DEEP}, batch_size=batch_size)
    table = pa.table(reader)
    table.validate(full=True)
    assert table["x"].to_pylist() == values
    assert table.filter(pc.is_valid(pc.field("x")))["x"].to_pylist() == [values[0], values[2]]
    assert table.filter(pc.field("x", "c") == "y")["x"].to_pylist() == [values[2]]
    assert table.take([2, 0])["x"].to_pylist() == [values[2], values[0]]
    assert table.sort_by([("_ts", "descending")])["x"].to_pylist() == values[::-1]
    text = pa.string()
    plain = pa.struct({"c": text, "e": text, "l": pa.large_list(text)})
    assert table["x"].cast(plain).to_pylist() == values
    pq.write_table(table, tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["x"].to_pylist() == values
    rows = table.to_pandas()["x"]
    assert [rows[0]["c"], rows[0]["e"], [*rows[0]["l"]]] == ["x", "b", ["p", "q"]]
    assert rows[1] is None


@pytest.mark.parametrize("dtype", [pl.List(pl.Categorical), pl.List(ENUM)], ids=str)
def test_duckdb_refuses_a_batch_of_empty_lists_of_dictionaries(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any
) -> None:
    """As DuckDB 2.0.0 does; 2.0.1 takes it. The guide says which."""
    add_values(client, stream, ["[]", '["low"]'])
    expected = [[], ["low"]]
    with defect_of(duckdb.Error, "only empty lists"):
        single = make_reader(any_server.url, stream, {"x": dtype}, batch_size=1)
        assert [row[-1] for row in by_duckdb(single)] == expected
    together = make_reader(any_server.url, stream, {"x": dtype}, batch_size=2)
    assert [row[-1] for row in by_duckdb(together)] == expected


@pytest.mark.parametrize("dtype", [pl.Categorical(), pl.Enum(["b", "a"])], ids=str)
def test_dictionaries_in_arrays(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any
) -> None:
    """Not by DuckDB: it takes the keys for the values, and some versions of it crash."""
    add_values(client, stream, ['["b"]', '["a"]'])
    for consume in (by_polars, by_pyarrow, by_pandas, by_datafusion):
        reader = make_reader(any_server.url, stream, {"x": pl.Array(dtype, 1)}, batch_size=1)
        assert [[*row[-1]] for row in consume(reader)] == [["b"], ["a"]]


# No columns, no schema, no entries


def test_without_columns_the_rows_are_still_counted(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 5)

    def reader() -> StreamReader:
        none: dict[str, Any] = {"include_id": False, "include_timestamp": False}
        return make_reader(any_server.url, stream, {}, batch_size=2, **none)

    assert sizes(reader()) == [2, 2, 1]
    assert pa.table(reader()).num_rows == 5
    if POLARS >= (1, 41):  # before, no frame without columns has a height
        assert pl.DataFrame(reader()).shape == (5, 0)
    assert len(by_datafusion(reader())) == 5
    assert pandas_frame(reader()).shape == (5, 0)
    with defect_of(duckdb.Error, "at least one column"):
        assert len(by_duckdb(reader())) == 5


def test_without_a_schema_the_fields_of_the_sample_are_text(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"b": "1"}), ("2-0", {"a": "2"}), ("3-0", {"late": "3"})])
    reader = make_reader(any_server.url, stream, infer_schema_length=2, batch_size=1)
    expected = {"_id": ["1-0", "2-0", "3-0"], "_ts": [1, 2, 3]}
    assert pa.table(reader).to_pydict() == {
        **expected,
        "b": ["1", None, None],
        "late": [None, None, "3"],
    }


def test_infer_schema_types_the_fields_of_the_sample(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"n": "1", "at": "2024-02-29"}), ("2-0", {"n": "2"})])
    reader = make_reader(any_server.url, stream, infer_schema=True)
    assert [str(one) for one in pa.schema(reader).types[2:]] == ["int64", "date32[day]"]
    assert by_pyarrow(reader) == [("1-0", 1, 1, dt.date(2024, 2, 29)), ("2-0", 2, 2, None)]


@each_consumer
@pytest.mark.parametrize("schema", [PAGE_SCHEMA, None], ids=["schema", "open"])
def test_a_missing_stream_has_no_rows(
    any_server: Server, stream: str, consume: Consumer, schema: dict[str, Any] | None
) -> None:
    reader = make_reader(any_server.url, stream, schema)
    assert pa.schema(reader).names == ["_id", "_ts", *(schema or {})]
    assert consume(reader) == []


# What goes wrong


def error_of(consume: Consumer, reader: StreamReader) -> Exception:
    """Give what the consumer raises, which is an exception of its own."""
    with pytest.raises(FAILURES) as raised:
        consume(reader)
    assert not isinstance(raised.value, redfloe.RedfloeError)
    assert_discreet(raised.value)
    error: Exception = raised.value
    return error


@each_consumer
def test_text_that_does_not_fit(
    any_server: Server, client: redis.Redis, stream: str, consume: Consumer
) -> None:
    add_values(client, stream, ["1", "2", "three", "4"])
    reader = make_reader(any_server.url, stream, {"x": pl.Int64}, batch_size=1)
    message = str(error_of(consume, reader))
    for part in (
        "DecodeError: ",
        "three",
        "is not an integer",
        "entry ID: 3-0",
        "field: x",
        f"stream: {stream}",
    ):
        assert part in message


def test_the_batches_before_an_error_are_given_and_none_after(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["1", "2", "three", "4"])
    reader = make_reader(any_server.url, stream, {"x": pl.Int64}, batch_size=1)
    batches = batches_of(reader)
    assert [batches.read_next_batch()["x"].to_pylist() for _ in range(2)] == [[1], [2]]
    with pytest.raises(pa.ArrowInvalid, match="3-0"):
        batches.read_next_batch()
    with pytest.raises(StopIteration):
        batches.read_next_batch()


@each_consumer
def test_a_server_that_is_not_there(stream: str, consume: Consumer) -> None:
    url = with_password(f"redis://{HOST}:1")
    reader = make_reader(RedisConnection(url, max_retries=0), stream, NUMBER)
    message = str(error_of(consume, reader))
    assert "RedisConnectionError: the server cannot be reached" in message
    assert f"(address: {HOST}:1, stream: {stream})" in message


def test_without_a_schema_a_server_that_is_not_there_is_missed_at_once(stream: str) -> None:
    with pytest.raises(RedisConnectionError):
        make_reader(RedisConnection(f"redis://{HOST}:1", max_retries=0), stream)


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    """A server that wants the password, with a stream `s` and a `text`."""
    with Server("redis-7.0", password=PASSWORD) as server:
        with server.client() as client:
            add_values(client, "s", ["1", "two"])
            client.set("text", "1")
        yield server


@each_consumer
@pytest.mark.parametrize(
    ("stream", "message"), [("s", "DecodeError: "), ("text", "WrongTypeError: ")]
)
def test_no_error_or_repr_holds_the_password(
    locked: Server, consume: Consumer, stream: str, message: str
) -> None:
    connection = RedisConnection(with_password(f"redis://{HOST}:{locked.port}"))
    reader = make_reader(connection, stream, {"x": pl.Int64})
    assert message in str(error_of(consume, reader))
    assert_discreet(error_of(consume, reader))
    for shown in (repr(reader), str(reader), repr(connection), str(pa.schema(reader))):
        assert PASSWORD not in shown
        assert QUOTED not in shown


@each_consumer
def test_no_error_of_a_refused_login_holds_the_password(
    any_server: Server, stream: str, consume: Consumer
) -> None:
    reader = make_reader(with_password(any_server.url, "nobody"), stream, NUMBER)
    assert "AuthenticationError: " in str(error_of(consume, reader))


@each_without_gil
@pytest.mark.parametrize(
    ("fault", "message"),
    [("stall_after", "RedisTimeoutError: "), ("cut_after", "RedisConnectionError: ")],
)
def test_no_error_of_a_faulty_connection_holds_the_password(
    locked: Server, consume: Consumer, fault: str, message: str
) -> None:
    with Proxy(locked.port) as proxy:
        getattr(proxy, fault)(3, once_seen=b"XRANGE", times=None)
        connection = quick(with_password(proxy.url), max_retries=1, response_timeout=0.2)
        reader = make_reader(connection, "s", {"x": pl.Int64})
        assert message in str(error_of(consume, reader))


@each_consumer
def test_a_key_of_another_type(
    any_server: Server, client: redis.Redis, stream: str, consume: Consumer
) -> None:
    client.set(stream, "text")
    assert "WRONGTYPE" in str(error_of(consume, make_reader(any_server.url, stream, NUMBER)))
    with pytest.raises(WrongTypeError):
        make_reader(any_server.url, stream)


@each_without_gil
def test_a_lost_connection_is_replaced(
    any_server: Server, client: redis.Redis, stream: str, consume: Consumer
) -> None:
    add_numbers(client, stream, 2_000)
    with Proxy(any_server.port) as proxy:
        cuts = [proxy.cut_after(size, once_seen=b"XRANGE", skip=1) for size in (0, 500, 5_000)]
        rows = consume(make_reader(quick(proxy.url), stream, NUMBER, batch_size=500))
        assert [cut.hits for cut in cuts] == [1, 1, 1]
        assert proxy.connections == 4
    assert rows == numbers(2_000).rows()


@each_without_gil
def test_a_connection_that_is_lost_too_often_is_an_error(
    any_server: Server, client: redis.Redis, stream: str, consume: Consumer
) -> None:
    add_numbers(client, stream, 2_000)
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(20, once_seen=b"XRANGE", skip=2, times=None)
        connection = quick(with_password(proxy.url), max_retries=2)
        proxy.replace_reply(b"+OK\r\n", once_seen=b"AUTH", times=None)
        proxy.replace_reply(b"-ERR unknown command\r\n", once_seen=b"HELLO", times=None)
        reader = make_reader(connection, stream, NUMBER, batch_size=500)
        assert "connection" in str(error_of(consume, reader))


def test_a_server_that_dies_in_the_middle(stream: str) -> None:
    password = "hush-hush"
    with Server("redis-7.0", password=password) as server:
        add_numbers(server.client(), stream, 100_000)
        connection = quick(server.url, max_retries=1)
        batches = batches_of(make_reader(connection, stream, NUMBER, batch_size=100))
        assert batches.read_next_batch().num_rows == 100
        server.kill()
        with pytest.raises(pa.ArrowException, match=f"address: {HOST}:{server.port}") as raised:
            batches.read_all()
        assert password not in str(raised.value)


def test_a_stream_that_is_trimmed_in_the_middle(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 20_000)
    batches = batches_of(make_reader(any_server.url, stream, NUMBER, batch_size=100))
    got: list[int] = batches.read_next_batch()["n"].to_pylist()
    client.xtrim(stream, minid=10_000, approximate=False)
    got += batches.read_all()["n"].to_pylist()
    assert got == sorted({*got})
    assert got[:100] == [*range(1, 101)]
    assert {*range(10_000, 20_001)} <= {*got}
    assert len(got) < 15_000


def test_a_stream_that_is_deleted_in_the_middle(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 20_000)
    batches = batches_of(make_reader(any_server.url, stream, NUMBER, batch_size=100))
    got: list[int] = batches.read_next_batch()["n"].to_pylist()
    client.delete(stream)
    got += batches.read_all()["n"].to_pylist()
    assert got == [*range(1, len(got) + 1)]
    assert len(got) < 10_000


# Threads, processes, lifetimes


def connections(client: redis.Redis, name: str) -> int:
    return sum(one["name"] == name for one in client.client_list())


def test_a_reader_is_consumed_on_other_threads(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 10_000)
    reader = make_reader(any_server.url, stream, NUMBER, batch_size=1_000)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        batches = one.submit(batches_of, reader).result()
        got = [pool.submit(batches.read_next_batch).result() for pool in (one, other) * 5]
    assert_frame_equal(pl.concat(pl.DataFrame(batch) for batch in got), numbers(10_000))


def test_many_takers_at_once_all_get_the_stream(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 100)
    reader = make_reader(any_server.url, stream, NUMBER)
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda _: len(by_pyarrow(reader)), range(8))] == [100] * 8


def test_two_readers_at_once(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 5_000)
    connection = RedisConnection(any_server.url, client_name=stream)
    both = [
        batches_of(make_reader(connection, stream, NUMBER, batch_size=size)) for size in (50, 70)
    ]
    got: list[list[int]] = [[], []]
    for _ in range(50):
        for rows, batches in zip(got, both, strict=True):
            rows.extend(batches.read_next_batch()["n"].to_pylist())
    for rows, batches in zip(got, both, strict=True):
        rows.extend(batches.read_all()["n"].to_pylist())
        assert rows == [*range(1, 5_001)]


def test_two_readers_in_one_query(any_server: Server, client: redis.Redis, stream: str) -> None:
    add(client, stream, PAGES)
    with duckdb.connect() as db:
        for name in ("a", "b"):
            db.register(name, make_reader(any_server.url, stream, PAGE_SCHEMA, batch_size=1))
        query = "select count(*), sum(a.ms) from a join b using (page)"
        assert db.sql(query).fetchall() == [(8, 1080)]


def test_a_reader_that_is_dropped_half_way_closes_its_connection(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 100_000)
    connection = RedisConnection(any_server.url, client_name=stream)
    batches = batches_of(make_reader(connection, stream, NUMBER, batch_size=100))
    batches.read_next_batch()
    assert connections(client, stream) == 1
    del batches
    gc.collect()
    eventually(lambda: connections(client, stream) == 0)


def test_a_reader_that_was_read_returns_its_connection(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 10_000)
    connection = RedisConnection(any_server.url, client_name=stream)
    for _ in range(3):
        assert len(by_duckdb(make_reader(connection, stream, NUMBER, batch_size=100))) == 10_000
        eventually(lambda: connections(client, stream) == 1)


def test_a_reader_that_nobody_reads_leaves_nothing(any_server: Server, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        for take in (False, True):
            reader = make_reader(proxy.url, stream, NUMBER)
            if take:
                reader.__arrow_c_stream__()
            del reader
            gc.collect()
        assert proxy.connections == 0


def test_batches_outlive_their_reader(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_values(client, stream, ["x" * 100, "y" * 100])
    batch = batches_of(make_reader(any_server.url, stream, {"x": pl.String})).read_next_batch()
    gc.collect()
    assert batch["x"].to_pylist() == ["x" * 100, "y" * 100]


def test_a_forked_child_reads_on_by_itself(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 20_000)
    script = """
        def reader():
            return redfloe.stream_reader(
                sys.argv[1], sys.argv[2], {"n": pl.Int64}, batch_size=100
            )
        half, unread = pa.RecordBatchReader.from_stream(reader()), reader()
        half.read_next_batch()
        def rest():
            both = [half.read_all(), pa.RecordBatchReader.from_stream(unread).read_all()]
            return [table["n"].to_pylist() for table in both]
        expected = [list(range(101, 20_001)), list(range(1, 20_001))]
        child = os.fork()
        if child == 0:
            os._exit(0 if rest() == expected else 1)
        code = os.waitpid(child, 0)[1]
        print(json.dumps([code, rest() == expected]))
    """
    assert run(script, any_server.url, stream) == [0, True]
