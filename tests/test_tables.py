"""Tables of processors: hashes of JSON rows, kept as frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import DecodeError, SchemaError
from redfloe._processing.table import Table, table_request
from support.processing import load_table, load_table_async, save
from support.server import Server

LONG_AGO = datetime(1, 1, 1)  # noqa: DTZ001  # a column without a zone is meant


def at(minute: int) -> datetime:
    return datetime(2024, 1, 1, 12, minute, tzinfo=UTC)


STOCK = {"left": pl.Int64, "name": pl.String}


def load(url: Any, key: Any = "sku", schema: Any = STOCK) -> Table:
    return load_table(url, b"table", table_request(key, schema))


def load_in_loop(url: Any) -> Table:
    return asyncio.run(load_table_async(url, b"table", table_request("sku", STOCK)))


def rows(table: Table) -> list[Any]:
    return sorted(table.frame().rows(), key=repr)


@pytest.mark.parametrize("load", [load, load_in_loop])
def test_rows_are_json_that_any_client_can_read(
    server: Server, client: redis.Redis, load: Callable[..., Table]
) -> None:
    table = load(server.url)
    assert len(table) == 0
    assert table.frame().schema == table.schema == {"sku": pl.String, **STOCK}
    frame = pl.DataFrame({"name": ["pen", None], "sku": ["A-1", "B é"], "left": [7, None]})
    table.upsert(frame)
    assert save(client, table) == (2, 0)
    assert client.hgetall("table") == {
        b"A-1": b'{"left":7,"name":"pen"}',
        "B é".encode(): b"{}",
    }
    again = load(server.url)
    assert rows(again) == [("A-1", 7, "pen"), ("B é", None, None)]
    assert again.frame().schema == table.schema


def test_a_lookup_has_a_row_for_each_key_in_their_order(any_server: Server) -> None:
    table = load(any_server.url)
    table.upsert(pl.DataFrame({"sku": ["a", "b"], "left": [1, 2], "name": ["x", None]}))
    found = table.lookup(pl.Series("other", ["b", "zz", "a", None, "b"]))
    assert found.rows() == [
        ("b", 2, None),
        ("zz", None, None),
        ("a", 1, "x"),
        (None, None, None),
        ("b", 2, None),
    ]
    assert found.schema == table.schema
    assert table.contains(["b", "zz", "a"]).to_list() == [True, False, True]
    assert table.lookup([]).rows() == []
    sold = pl.DataFrame({"sku": ["a", "c"], "quantity": [1, 1]})
    joined = sold.hstack(table.lookup(sold).drop("sku"))
    assert joined.rows() == [("a", 1, 1, "x"), ("c", 1, None, None)]


def test_the_last_of_rows_with_one_key_counts(any_server: Server, client: redis.Redis) -> None:
    table = load(any_server.url)
    table.upsert(
        pl.DataFrame({"sku": ["a", "b", "a"], "left": [1, 2, 3], "name": [None, None, "y"]})
    )
    assert rows(table) == [("a", 3, "y"), ("b", 2, None)]
    assert save(client, table) == (2, 0)


def test_only_what_differs_is_written(any_server: Server, client: redis.Redis) -> None:
    table = load(any_server.url)
    frame = pl.DataFrame({"sku": [f"{n}" for n in range(1000)], "left": range(1000)})
    table.upsert(frame.with_columns(name=pl.lit("x")))
    assert save(client, table) == (1000, 0)
    changed = table.frame().with_columns(left=pl.when(pl.col("left") < 3).then(0).otherwise("left"))
    table.upsert(changed)
    assert [key for key, _ in table.changes()[0]] == [b"1", b"2"]
    table.delete(["1", "5", "not there"])
    table.upsert(pl.DataFrame({"sku": ["new"], "left": [1], "name": ["x"]}))
    assert table.delete(["new"]) == 1
    assert save(client, table) == (1, 2)
    assert save(client, table) == (0, 0)
    assert client.hlen("table") == 998
    table.clear()
    assert save(client, table) == (0, 998)


def test_a_rollback_gives_back_what_was_saved(any_server: Server, client: redis.Redis) -> None:
    table = load(any_server.url)
    table.upsert(pl.DataFrame({"sku": ["a", "b"], "left": [1, 2], "name": ["x", "y"]}))
    save(client, table)
    before = rows(table)
    table.upsert(pl.DataFrame({"sku": ["a", "c"], "left": [9, 9], "name": ["z", "z"]}))
    table.delete(["b"])
    assert rows(table) == [("a", 9, "z"), ("c", 9, "z")]
    table.rollback()
    assert rows(table) == before
    assert table.changes() == ([], [])
    assert table.contains(["c"]).to_list() == [False]


EVERYTHING: dict[str, tuple[Any, list[Any]]] = {
    "text": (pl.String, ["", 'q"\\\n\x01é', None]),
    "bytes": (pl.Binary, [b"\x00\xff", b"", None]),
    "category": (pl.Categorical, ["a", "b", None]),
    "member": (pl.Enum(["x", "y"]), ["y", "x", None]),
    "flag": (pl.Boolean, [True, False, None]),
    "small": (pl.Int8, [-128, 127, None]),
    "large": (pl.Int64, [2**63 - 1, -(2**63), None]),
    "larger": (pl.Int128, [2**100, -1, None]),
    "unsigned": (pl.UInt64, [2**64 - 1, 0, None]),
    "float": (pl.Float64, [float("inf"), -0.0, None]),
    "single": (pl.Float32, [0.1, 1e-45, None]),
    "decimal": (pl.Decimal(38, 2), [Decimal("12345678901234567890.25"), Decimal("-0.01"), None]),
    "day": (pl.Date, [date(1, 1, 1), date(9999, 12, 31), None]),
    "time": (pl.Time, [time(0), time(23, 59, 59, 999_999), None]),
    "at": (pl.Datetime("us"), [LONG_AGO, LONG_AGO.replace(microsecond=1), None]),
    "zoned": (pl.Datetime("ms", "Europe/Berlin"), [datetime(2024, 7, 1, tzinfo=UTC)] * 2 + [None]),
    "span": (pl.Duration("us"), [timedelta(microseconds=-1), timedelta(days=9), None]),
    "list": (pl.List(pl.List(pl.String)), [[["a"], None, []], [], None]),
    "array": (pl.Array(pl.Int16, 2), [[1, None], [2, 3], None]),
    "struct": (pl.Struct({"a": pl.Binary, "b": pl.Date}), [{"a": b"x", "b": date(2024, 1, 1)},
               {"a": None, "b": None}, None]),
}  # fmt: skip


def test_values_of_every_dtype_survive(any_server: Server, client: redis.Redis) -> None:
    schema = {name: dtype for name, (dtype, _) in EVERYTHING.items()}
    data = {
        name: pl.Series(name, values).dt.convert_time_zone("Europe/Berlin").cast(dtype)
        if name == "zoned"
        else pl.Series(name, values, dtype=dtype)
        for name, (dtype, values) in EVERYTHING.items()
    }
    frame = pl.DataFrame(data).insert_column(0, pl.Series("id", [1, 2, 3]))
    table = load(any_server.url, "id", {"id": pl.Int64, **schema})
    table.upsert(frame)
    assert table.frame().equals(frame)
    save(client, table)
    assert client.hget("table", "3") == b"{}"
    for value in client.hvals("table"):
        json.loads(value, parse_constant=pytest.fail)
    again = load(any_server.url, "id", {"id": pl.Int64, **schema})
    assert again.frame().sort("id").equals(frame)
    assert again.frame().schema == frame.schema
    # As loaded, and as written, they are the same: nothing differs.
    again.upsert(frame)
    assert again.changes() == ([], [])


def test_nan_survives(any_server: Server, client: redis.Redis) -> None:
    table = load(any_server.url, "id", {"x": pl.Float64})
    table.upsert(pl.DataFrame({"id": ["a"], "x": [float("nan")]}))
    save(client, table)
    assert load(any_server.url, "id", {"x": pl.Float64}).frame()["x"].is_nan().all()


KEYS: dict[Any, tuple[list[Any], list[bytes] | None]] = {
    pl.String: (["a", "", "é"], [b"a", b"", "é".encode()]),
    pl.Binary: ([b"\xff", b""], [b"\xff", b""]),
    pl.Categorical: (["a", "b"], [b"a", b"b"]),
    pl.Enum(["x", "y"]): (["y", "x"], [b"y", b"x"]),
    pl.Boolean: ([True, False], [b"true", b"false"]),
    pl.Int8: ([-7, 0], [b"-7", b"0"]),
    pl.UInt64: ([2**64 - 1], [b"18446744073709551615"]),
    pl.Int128: ([2**100], [b"1267650600228229401496703205376"]),
    pl.Decimal(10, 2): ([Decimal("1.50")], [b"1.50"]),
    pl.Date: ([date(2024, 2, 29)], [b"2024-02-29"]),
    pl.Time: ([time(1, 2, 3)], [b"01:02:03"]),
    pl.Duration("ms"): ([timedelta(seconds=1)], [b"1000"]),
    pl.Datetime("ms", "UTC"): ([datetime(2024, 1, 1, tzinfo=UTC)], None),
    pl.Datetime("us"): ([LONG_AGO, LONG_AGO.replace(microsecond=1)], None),
}


@pytest.mark.parametrize("dtype", KEYS, ids=str)
def test_keys_of_a_dtype_are_its_text(any_server: Server, client: redis.Redis, dtype: Any) -> None:
    keys, texts = KEYS[dtype]
    schema: Any = {"k": dtype, "v": pl.Int64}
    frame = pl.DataFrame({"k": keys, "v": range(len(keys))}, schema=schema)
    table = load(any_server.url, "k", schema)
    table.upsert(frame)
    save(client, table)
    if texts is not None:
        assert sorted(client.hkeys("table")) == sorted(texts)
    again = load(any_server.url, "k", schema)
    assert again.lookup(frame["k"]).equals(frame)
    assert again.lookup(keys).equals(frame)
    assert again.frame().schema == frame.schema
    # The same keys in one of two columns.
    client.delete("table")
    pair = load(any_server.url, ["k", "w"], {**schema, "w": pl.String})
    both = frame.with_columns(w=pl.lit('", "'))
    pair.upsert(both)
    save(client, pair)
    again = load(any_server.url, ["k", "w"], {**schema, "w": pl.String})
    assert again.lookup(both).equals(both.select("k", "w", "v"))
    assert again.frame().schema == pair.schema


def test_keys_of_several_columns_are_json_arrays(any_server: Server, client: redis.Redis) -> None:
    schema = {"shop": pl.Int64, "left": pl.Int64}
    table = load(any_server.url, ["sku", "shop"], schema)
    frame = pl.DataFrame({"sku": ["a", "a", "b,1"], "shop": [1, 2, 1], "left": [5, 6, 7]})
    table.upsert(frame)
    save(client, table)
    assert client.hget("table", '["a",2]') == b'{"left":6}'
    assert client.hget("table", json.dumps(["b,1", 1], separators=(",", ":"))) == b'{"left":7}'
    again = load(any_server.url, ["sku", "shop"], schema)
    asked = pl.DataFrame({"left": [0, 0], "shop": [2, 9], "sku": ["a", "a"]})
    assert again.lookup(asked).rows() == [("a", 2, 6), ("a", 9, None)]
    assert again.lookup(asked.select(pl.struct("sku", "shop")).to_series()).rows() == [
        ("a", 2, 6),
        ("a", 9, None),
    ]
    assert again.delete(asked) == 1
    with pytest.raises(TypeError, match=r"\['sku', 'shop'\]: pass a frame"):
        again.lookup(["a"])


@pytest.mark.parametrize(
    ("frame", "error", "match"),
    [
        ({"sku": ["a", None], "left": [1, 1], "name": ["", ""]}, ValueError, '"sku".*row: 1'),
        ({"sku": ["a"], "left": [1]}, SchemaError, "no column 'name'"),
        ({"sku": ["a"], "left": [1.5], "name": [""]}, SchemaError, "'left' is Float64.*Int64"),
        ({"sku": [1], "left": [1], "name": [""]}, SchemaError, "'sku' is Int64.*String"),
        ({"sku": ["a"], "left": [2**100], "name": [""]}, SchemaError, "'left' has values"),
    ],
)
def test_rows_that_do_not_fit_change_nothing(
    any_server: Server, frame: dict[str, Any], error: type[Exception], match: str
) -> None:
    table = load(any_server.url)
    table.upsert(pl.DataFrame({"sku": ["a"], "left": [5], "name": ["x"]}))
    overrides = {"left": pl.Int128} if frame["left"] == [2**100] else None
    with pytest.raises(error, match=match):
        table.upsert(pl.DataFrame(frame, schema_overrides=overrides))
    assert rows(table) == [("a", 5, "x")]


def test_what_loses_nothing_is_cast(any_server: Server) -> None:
    table = load(
        any_server.url, "sku", {"left": pl.Int64, "x": pl.Float64, "tags": pl.List(pl.String)}
    )
    table.upsert(
        pl.DataFrame({"sku": ["a"], "left": [1], "x": [2], "tags": [[]], "more": [0]}).cast(
            {"left": pl.UInt8, "sku": pl.Categorical}
        )
    )
    table.upsert(
        pl.DataFrame({"sku": ["b"], "left": [None], "x": [None], "tags": [None]}).cast(
            {"sku": pl.String}
        )
    )
    assert rows(table) == [("a", 1, 2.0, []), ("b", None, None, None)]


@pytest.mark.parametrize(
    ("keys", "error", "match"),
    [
        ("a", TypeError, r"pass \['a'\]"),
        (5, TypeError, r"pass \[5\]"),
        ([1], SchemaError, "not all String"),
        (pl.Series([1]), SchemaError, "Int64"),
        (pl.DataFrame({"x": ["a"]}), SchemaError, "'sku'"),
    ],
)
def test_keys_of_another_kind_are_refused(
    any_server: Server, keys: Any, error: type[Exception], match: str
) -> None:
    table = load(any_server.url)
    for act in (table.lookup, table.contains, table.delete):
        with pytest.raises(error, match=match):
            act(keys)
    with pytest.raises(ValueError, match="the key is null"):
        table.delete([None])


@pytest.mark.parametrize(
    ("dtype", "stored", "key"),
    [
        (pl.Decimal(10, 2), Decimal("1.50"), Decimal("1.501")),
        (pl.Datetime("ms"), LONG_AGO, LONG_AGO.replace(microsecond=1)),
        (pl.Datetime("ms", "UTC"), at(0), at(0).replace(microsecond=1)),
        (pl.Duration("ms"), timedelta(0), timedelta(microseconds=1)),
        (pl.Date, date(2024, 1, 1), at(0)),
    ],
)
def test_a_key_is_never_rounded(any_server: Server, dtype: Any, stored: Any, key: Any) -> None:
    """Its row would be another's, and be deleted."""
    table = load(any_server.url, "k", {"k": dtype, "v": pl.Int64})
    table.upsert(pl.DataFrame({"k": [stored], "v": [1]}, schema={"k": dtype, "v": pl.Int64}))
    for act in (table.lookup, table.contains, table.delete):
        with pytest.raises(SchemaError, match=r"the key .* is no .*cast it|the keys are not all"):
            act([stored, key])
    assert table.delete([stored]) == 1


def test_a_key_without_a_zone_is_the_clock_of_the_columns(any_server: Server) -> None:
    table = load(any_server.url, "k", {"k": pl.Datetime("ms", "UTC"), "v": pl.Int64})
    table.upsert(pl.DataFrame({"k": [at(0)], "v": [1]}).cast({"k": pl.Datetime("ms", "UTC")}))
    assert table.contains([at(0).replace(tzinfo=None), at(1)]).to_list() == [True, False]


@pytest.mark.parametrize(
    ("given", "dtype", "value"),
    [
        (pl.Int64, pl.Float64, 2**53 + 1),
        (pl.Int64, pl.Float64, 2**63 - 1),
        (pl.UInt64, pl.Float64, 2**64 - 1),
        (pl.Int32, pl.Float32, 2**24 + 1),
        (pl.List(pl.Int64), pl.List(pl.Float64), [1, 2**53 + 1]),
    ],
)
def test_a_value_is_never_rounded(any_server: Server, given: Any, dtype: Any, value: Any) -> None:
    table = load(any_server.url, "k", {"x": dtype})
    frame = pl.DataFrame({"k": ["a"], "x": [value]}, schema={"k": pl.String, "x": given})
    with pytest.raises(SchemaError, match=r"'x' has values that .* would round; cast it"):
        table.upsert(frame)
    assert len(table) == 0
    table.upsert(frame.cast({"x": dtype}))
    assert len(table) == 1


@pytest.mark.parametrize(
    ("key", "schema", "error", "match"),
    [
        ("k", {"k": pl.Float64, "v": pl.Int64}, SchemaError, '"k".*Float64.*cast it'),
        ("k", {"k": pl.List(pl.String), "v": pl.Int64}, SchemaError, '"k".*List'),
        ("k", {}, SchemaError, "a column beside it"),
        ([], {"v": pl.Int64}, SchemaError, "at least one column"),
        (["k", "k"], {"v": pl.Int64}, SchemaError, "none twice"),
        (7, {"v": pl.Int64}, TypeError, "key must name"),
        ("k", {"v": pl.Object}, SchemaError, "no text form"),
        ("k", {"v": pl.List(pl.Categorical)}, SchemaError, "categories inside"),
    ],
)
def test_a_table_that_cannot_be_is_refused(
    key: Any, schema: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        table_request(key, schema)


def test_a_key_takes_its_dtype_from_the_input() -> None:
    request = table_request("k", {"v": pl.Int64}, known={"k": pl.Int32, "v": pl.String})
    assert request["key"] == {"k": pl.Int32}
    assert request["schema"] == {"v": pl.Int64}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("A-1", '{"left":"many"}',
         ['"many" is not an integer', 'key: "A-1"', "column: left", "dtype: Int64"]),
        ("A-1", '{"left":1', ["is not a JSON object", 'key: "A-1"']),
        ("A-1", "[1]", ["is not a JSON object", 'key: "A-1"']),
        ("A-1", '{"left":9223372036854775808}', ["column: left"]),
        ("A\xff", b'{"name":"\xff"}', ["column: name"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("others", [3, 20_000])
def test_a_row_that_does_not_fit_is_named(
    any_server: Server, client: redis.Redis, field: str, value: Any, said: list[str], others: int
) -> None:
    client.hset("table", mapping={f"k{n}": '{"left":1}' for n in range(others)})
    client.hset("table", field, value)
    with pytest.raises(DecodeError) as caught:
        load(any_server.url)
    for words in [*said, "table: table", "change the table's schema"]:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "schema", "field", "match"),
    [
        ("k", {"k": pl.Int64, "v": pl.Int64}, "007", '"007".*no key of it.*written "7"'),
        ("k", {"k": pl.Int64, "v": pl.Int64}, "seven", '"seven" is not an integer.*column: k'),
        ("k", {"k": pl.Int64, "v": pl.Int64}, "", '"", which is no key'),
        ("k", {"k": pl.String, "v": pl.Int64}, b"\xff", "column: k"),
        (["k", "l"], {"v": pl.Int64}, '["a", "b"]', r"no key of it.*written"),
        (["k", "l"], {"v": pl.Int64}, '["a"]', "no key of it"),
        (["k", "l"], {"v": pl.Int64}, "a", "no key of it"),
        (["k", "l"], {"v": pl.Int64}, '["a",null]', "no key of it"),
    ],
)
def test_a_field_that_is_no_key_is_named(
    any_server: Server, client: redis.Redis, key: Any, schema: Any, field: Any, match: str
) -> None:
    client.hset("table", field, '{"v":1}')
    with pytest.raises(DecodeError, match=match):
        load(any_server.url, key, schema)


@pytest.mark.parametrize(
    ("key", "field", "row", "column"),
    [
        ("sku", "a", '{"row":"many"}', "row"),
        ("sku", "a", '{"key":"many"}', "key"),
        ("sku", "a", '{"row_":"many"}', "row_"),
        (["row", "key"], '[1,"many"]', "{}", "key"),
        (["row", "key"], '["many",1]', "{}", "row"),
    ],
)
def test_a_column_of_any_name_is_named(
    any_server: Server, client: redis.Redis, key: Any, field: str, row: str, column: str
) -> None:
    names = {"row", "key", "row_"}
    client.hset("table", field, row)
    with pytest.raises(DecodeError, match=f"column: {column},"):
        load(any_server.url, key, dict.fromkeys(sorted(names), pl.Int64))


def test_another_schema(any_server: Server, client: redis.Redis) -> None:
    client.hset("table", mapping={"a": '{"left":1,"old":{"x":2}}', "b": '{"left":2,"old":3}'})
    # A new column is null in older rows; what the schema lacks is no column.
    table = load(any_server.url)
    assert rows(table) == [("a", 1, None), ("b", 2, None)]
    # It stays in rows that are not written, and is gone from those that are.
    table.upsert(pl.DataFrame({"sku": ["a"], "left": [5], "name": ["x"]}))
    save(client, table)
    assert client.hgetall("table") == {
        b"a": b'{"left":5,"name":"x"}',
        b"b": b'{"left":2,"old":3}',
    }


def test_a_frame_of_another_library_is_taken(any_server: Server) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = load(any_server.url)
    table.upsert(pyarrow.table({"sku": ["a"], "left": [1], "name": ["x"]}))
    assert table.lookup(pyarrow.table({"sku": ["a"]})).rows() == [("a", 1, "x")]


def test_what_a_lookup_gave_stays(any_server: Server, client: redis.Redis) -> None:
    """Rows that are replaced, merged and packed do not change frames that were taken."""
    table = load(any_server.url)
    frame = pl.DataFrame({"sku": [f"{n}" for n in range(500)], "left": range(500)})
    table.upsert(frame.with_columns(name=pl.lit("a text that does not fit into a view")))
    taken, before = table.frame(), table.frame().rows()
    for _ in range(10):
        table.upsert(table.frame().with_columns(pl.col("left") + 1, name=pl.lit("new")))
        save(client, table)
    assert taken.rows() == before
    assert table.frame()["left"].sum() == sum(range(500)) + 5000
