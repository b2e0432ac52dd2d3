"""Field text to dtypes, end to end: what a server sends and what Polars holds."""

from __future__ import annotations

import datetime as dt
import json
import math
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import DecodeError, RedisConnection, SchemaError, infer_schema, read_stream
from support.proxy import ScriptedServer
from support.server import Server
from support.streams import add, add_raw, add_values

UTC = dt.UTC
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")


def moment(text: str) -> dt.datetime:
    """Give a datetime, naive where the text has no offset."""
    return dt.datetime.fromisoformat(text)


def read(server: Server, stream: str, dtype: Any, **options: Any) -> pl.Series:
    """Read the field `x` as that dtype."""
    df = read_stream(
        server.url, stream, {"x": dtype}, include_id=False, include_timestamp=False, **options
    )
    return df["x"]


def integers(low: int, high: int) -> dict[str, int]:
    return {"0": 0, "-0": 0, "7": 7, "+7": 7, "007": 7, str(low): low, str(high): high}


# The dtype table: each dtype with texts and what they mean.
TABLE: list[tuple[Any, Mapping[str, object]]] = [
    (pl.String, {"text": "text", "größer 🧊": "größer 🧊", "": "", "x" * 5_000: "x" * 5_000}),
    (pl.Binary, {"text": b"text", "": b"", "é": "é".encode()}),
    (pl.Categorical, {"low": "low", "high": "high", "größer": "größer"}),
    (pl.Enum(["low", "größer", "a;b"]), {"low": "low", "größer": "größer", "a;b": "a;b"}),
    (pl.Int8, integers(-(2**7), 2**7 - 1)),
    (pl.Int16, integers(-(2**15), 2**15 - 1)),
    (pl.Int32, integers(-(2**31), 2**31 - 1)),
    (pl.Int64, integers(-(2**63), 2**63 - 1)),
    (pl.Int128, integers(-(2**127), 2**127 - 1)),
    (pl.UInt8, {"0": 0, "7": 7, "255": 255}),
    (pl.UInt16, {"0": 0, "65535": 65535}),
    (pl.UInt32, {"0": 0, "4294967295": 2**32 - 1}),
    (pl.UInt64, {"0": 0, "18446744073709551615": 2**64 - 1}),
    (pl.Float32, {"1.5": 1.5, "-2": -2.0, "1e3": 1000.0, "inf": math.inf, "-inf": -math.inf}),
    (
        pl.Float64,
        {
            "0.1": 0.1,
            "-2": -2.0,
            "1e-3": 0.001,
            "2.5E+2": 250.0,
            "inf": math.inf,
            "-inf": -math.inf,
            "1.7976931348623157e308": 1.7976931348623157e308,
            "5e-324": 5e-324,
        },
    ),
    (
        pl.Decimal(10, 2),
        {
            "1.50": Decimal("1.50"),
            "-0.01": Decimal("-0.01"),
            "7": Decimal("7.00"),
            "99999999.99": Decimal("99999999.99"),
            "1.5e2": Decimal("150.00"),
            "1.500": Decimal("1.50"),
        },
    ),
    (pl.Decimal(38, 0), {"9" * 38: Decimal("9" * 38), "-" + "9" * 38: Decimal("-" + "9" * 38)}),
    (
        pl.Boolean,
        dict.fromkeys(["true", "True", "TRUE", "t", "T", "yes", "YES", "1"], True)
        | dict.fromkeys(["false", "False", "f", "F", "no", "No", "0"], False),
    ),
    (
        pl.Date,
        {
            "2024-02-29": dt.date(2024, 2, 29),
            "1969-12-31": dt.date(1969, 12, 31),
            "0001-01-01": dt.date(1, 1, 1),
            "9999-12-31": dt.date(9999, 12, 31),
        },
    ),
    (
        pl.Time,
        {
            "12:30": dt.time(12, 30),
            "00:00:00": dt.time(0),
            "23:59:59.999999": dt.time(23, 59, 59, 999999),
        },
    ),
    (
        pl.Datetime("ms"),
        {
            "2024-01-31T12:30:00": moment("2024-01-31T12:30"),
            "2024-01-31 12:30:00.125": moment("2024-01-31T12:30:00.125"),
            "2024-01-31T12:30:00+01:00": moment("2024-01-31T11:30"),
            "2024-01-31T12:30": moment("2024-01-31T12:30"),
            "2024-01-31 12:30Z": moment("2024-01-31T12:30"),
            "1704067200123": moment("2024-01-01T00:00:00.123"),
            "-1": moment("1969-12-31T23:59:59.999"),
        },
    ),
    (
        pl.Datetime("us", "UTC"),
        {
            "2024-01-31T12:30:00.000001Z": dt.datetime(2024, 1, 31, 12, 30, 0, 1, UTC),
            "2024-01-31T12:30:00": dt.datetime(2024, 1, 31, 12, 30, tzinfo=UTC),
            "2024-01-31T12:30:00-05:00": dt.datetime(2024, 1, 31, 17, 30, tzinfo=UTC),
            "1704067200000001": dt.datetime(2024, 1, 1, 0, 0, 0, 1, UTC),
        },
    ),
    (
        pl.Datetime("ns", "America/New_York"),
        {
            # Without an offset the text is the wall clock of the column's zone.
            "2024-01-31T12:30:00": dt.datetime(2024, 1, 31, 12, 30, tzinfo=NEW_YORK),
            "2024-07-31T12:30:00": dt.datetime(2024, 7, 31, 12, 30, tzinfo=NEW_YORK),
            "2024-01-31T12:30:00Z": dt.datetime(2024, 1, 31, 7, 30, tzinfo=NEW_YORK),
            "1704067200000001000": dt.datetime(2023, 12, 31, 19, 0, 0, 1, NEW_YORK),
        },
    ),
    (
        pl.Duration("ms"),
        {
            "1500": dt.timedelta(seconds=1.5),
            "-1500": dt.timedelta(seconds=-1.5),
            "PT1.5S": dt.timedelta(seconds=1.5),
            "P1DT2H3M": dt.timedelta(days=1, hours=2, minutes=3),
            "-PT1S": dt.timedelta(seconds=-1),
        },
    ),
    (pl.Duration("us"), {"1": dt.timedelta(microseconds=1), "PT1H": dt.timedelta(hours=1)}),
    (pl.Duration("ns"), {"1000": dt.timedelta(microseconds=1), "PT1H": dt.timedelta(hours=1)}),
    (
        pl.List(pl.Int64),
        {"[1, -2,3]": [1, -2, 3], "[]": [], "[null, 1]": [None, 1], " [ 1 ] ": [1]},
    ),
    (pl.List(pl.Int128), {f"[{2**100}, null, {-(2**127)}]": [2**100, None, -(2**127)]}),
    (pl.List(pl.String), {'["a", "\\u00e9\\n\\"", ""]': ["a", 'é\n"', ""], "[null]": [None]}),
    (pl.List(pl.Boolean), {"[true, false]": [True, False]}),
    (pl.List(pl.Binary), {'["AP8="]': [b"\x00\xff"]}),
    (pl.List(pl.Categorical), {'["a", "b", "a"]': ["a", "b", "a"]}),
    (pl.List(pl.Enum(["a", "b"])), {'["b", null]': ["b", None]}),
    (pl.List(pl.Decimal(5, 2)), {'[1.25, "1.5"]': [Decimal("1.25"), Decimal("1.50")]}),
    (pl.List(pl.Date), {'["2024-02-29"]': [dt.date(2024, 2, 29)]}),
    (pl.List(pl.Time), {'["12:30"]': [dt.time(12, 30)]}),
    (
        pl.List(pl.Datetime("us", "UTC")),
        {
            '["2024-01-31T12:30:00Z", 0]': [
                dt.datetime(2024, 1, 31, 12, 30, tzinfo=UTC),
                dt.datetime(1970, 1, 1, tzinfo=UTC),
            ]
        },
    ),
    (
        pl.List(pl.Duration("ms")),
        {'["PT1S", 1]': [dt.timedelta(seconds=1), dt.timedelta(0, 0, 1000)]},
    ),
    (pl.List(pl.List(pl.Float64)), {"[[1.5], [], null, [null]]": [[1.5], [], None, [None]]}),
    (pl.Array(pl.Int16, 2), {"[1, 2]": [1, 2], "[null, 2]": [None, 2]}),
    (pl.Array(pl.String, (2, 1)), {'[["a"], ["b"]]': [["a"], ["b"]]}),
    (
        pl.Struct({"a": pl.Int64, "b": pl.String}),
        {
            '{"a": 1, "b": "x"}': {"a": 1, "b": "x"},
            '{"b": "x", "more": [1]}': {"a": None, "b": "x"},
            "{}": {"a": None, "b": None},
        },
    ),
    (
        pl.List(pl.Struct({"at": pl.Datetime("ms"), "in": pl.Array(pl.String, 1), "n": pl.Int128})),
        {
            f'[{{"at": "2024-01-31T12:30:00", "in": ["t"], "n": {2**100}}}]': [
                {"at": moment("2024-01-31T12:30"), "in": ["t"], "n": 2**100}
            ]
        },
    ),
]


@pytest.mark.parametrize(("dtype", "texts"), TABLE, ids=lambda value: str(value)[:60])
def test_texts_become_values_of_the_dtype(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any, texts: Mapping[str, object]
) -> None:
    add_values(client, stream, [*texts, None])
    column = read(any_server, stream, dtype)
    assert column.dtype == dtype
    assert column.to_list() == [*texts.values(), None]
    # What Polars computes with it holds, too: the buffers are as Polars wants them.
    assert column.null_count() == 1
    assert pl.concat([column, column]).gather([len(texts), 0]).to_list() == [
        None,
        next(iter(texts.values())),
    ]


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in TABLE], ids=str)
def test_an_empty_read_has_the_dtype(any_server: Server, stream: str, dtype: Any) -> None:
    column = read(any_server, stream, dtype)
    assert column.dtype == dtype
    assert column.len() == 0
    assert pl.concat([column, column]).len() == 0


def test_a_dtype_class_stands_for_its_default(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    schema = {"a": pl.Datetime, "b": pl.Duration, "c": pl.Decimal, "d": pl.Categorical}
    expected = {
        "a": pl.Datetime("us"),
        "b": pl.Duration("us"),
        "c": pl.Decimal(38, 0),
        "d": pl.Categorical(),
    }
    df = read_stream(any_server.url, stream, schema)
    assert df.drop("_id", "_ts").schema == expected
    add(client, stream, [("1-0", {"a": "1970-01-01", "b": "PT1S", "c": "5", "d": "x"})])
    df = read_stream(any_server.url, stream, schema)
    assert df.drop("_id", "_ts").schema == expected
    assert df.row(0)[2:] == (
        moment("1970-01-01T00:00"),
        dt.timedelta(seconds=1),
        Decimal(5),
        "x",
    )


def test_python_types_stand_for_dtypes(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    schema: dict[str, Any] = {"a": int, "b": float, "c": str, "d": bool, "e": dt.date, "f": bytes}
    add(client, stream, [("1-0", {"a": 1, "b": 2, "c": 3, "d": 1, "e": "2024-01-01", "f": "x"})])
    df = read_stream(any_server.url, stream, schema)
    assert df.row(0)[2:] == (1, 2.0, "3", True, dt.date(2024, 1, 1), b"x")


def test_floats_take_nan(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_values(client, stream, ["nan", "NaN"])
    for dtype in (pl.Float32, pl.Float64):
        assert read(any_server, stream, dtype).is_nan().all()


def test_nanoseconds_are_exact(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_values(client, stream, ["2024-01-01T00:00:00.123456789", "1704067200123456789"])
    column = read(any_server, stream, pl.Datetime("ns"))
    assert column.dt.epoch("ns").to_list() == [1704067200123456789] * 2
    client.delete(stream)
    add_values(client, stream, ["12:00:00.123456789"])
    assert read(any_server, stream, pl.Time).dt.nanosecond().to_list() == [123456789]


def test_binary_takes_any_bytes(any_server: Server, client: redis.Redis, stream: str) -> None:
    values = [bytes(range(256)), b"\r\n", b"\x00" * 20, b""]
    add_values(client, stream, values)
    assert read(any_server, stream, pl.Binary).to_list() == values


def test_categories_are_shared_with_other_columns(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["b", "a", None, "b"])
    column = read(any_server, stream, pl.Categorical)
    other = pl.Series(["a", "b", "c", "b"], dtype=pl.Categorical)
    assert (column == other).to_list() == [False, False, None, True]
    assert column.value_counts(sort=True)["count"].to_list()[0] == 2


def test_an_enum_keeps_the_order_of_its_members(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["high", "low", "high"])
    column = read(any_server, stream, pl.Enum(["low", "middle", "high"]))
    assert column.sort().to_list() == ["low", "high", "high"]
    assert column.to_physical().to_list() == [2, 0, 2]


def test_an_enum_may_have_many_members(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    members = [f"member {n}" for n in range(70_000)]
    add_values(client, stream, [members[0], members[299], members[-1]])
    for size in (300, 70_000):
        column = read(any_server, stream, pl.Enum(members[:size]), on_error="null")
        assert column.dtype == pl.Enum(members[:size])
        assert column.to_list() == [members[0], members[299], members[-1] if size > 300 else None]


# Texts that do not fit

MISFITS: list[tuple[Any, list[str | bytes]]] = [
    (pl.String, [b"\xff", "abc".encode("utf-16"), b"\xed\xa0\x80"]),
    (pl.Categorical, [b"\xff"]),
    (pl.Enum(["a"]), ["b", "A", b"\xff"]),
    (pl.Int8, ["128", "-129", "1.0", "1e1", "x", " 1", "1 ", "0x1", "1_0", b"\xff", "\u0661"]),
    (pl.Int64, ["9223372036854775808", "-9223372036854775809", "true"]),
    (pl.Int128, [str(2**127), "1.5"]),
    (pl.UInt8, ["256", "-1"]),
    (pl.UInt64, ["18446744073709551616", "-1"]),
    (pl.Float32, ["one", "1,5", "1.5.2", "--1", "1e39"]),
    (pl.Float64, ["one", "0x1p3", "1e", "1e400", "-1e400"]),
    (pl.Decimal(4, 2), ["100", "0.001", "x", "nan"]),
    (pl.Boolean, ["2", "on", "tru", "yes please"]),
    (pl.Date, ["2024-02-30", "31.01.2024", "2024-01-31T00:00:00", "19753", "2024-1-1"]),
    (pl.Time, ["24:00:00", "12", "12:60", "noon", "9:30", "10:00 PM"]),
    (pl.Datetime("ms"), ["2024-02-30T00:00:00", "yesterday", "1.5"]),
    (pl.Datetime("ns"), ["3000-01-01T00:00:00", "9223372036854775808"]),
    (pl.Datetime("us", "America/New_York"), ["2024-03-10T02:30:00"]),  # skipped by the clocks
    (pl.Datetime("us", "America/New_York"), ["2024-11-03T01:30"]),  # shown twice
    (pl.Duration("ms"), ["1h", "P1Y", "1.5", "one", "9223372036854775808"]),
    (pl.List(pl.Int64), ["1", "{}", "[1", "1,2", "[1] [2]"]),
    (pl.Array(pl.Int64, 2), ["[1]", "[1, 2, 3]", "[]"]),
    (pl.Struct({"a": pl.Int64}), ["[]", '{"a": 1', "x"]),
]

#: Texts of which only a part does not fit: its place, itself, and what is left.
INNER_MISFITS: list[tuple[Any, str, str, str, object]] = [
    (pl.List(pl.Float64), "[1e400]", "[0]", "1e400", [None]),
    (pl.List(pl.Int64), "[1, 1.5]", "[1]", "1.5", [1, None]),
    (pl.List(pl.Int64), '["x", 2]', "[0]", "x", [None, 2]),
    (pl.List(pl.List(pl.Int64)), "[[1], 2]", "[1]", "2", [[1], None]),
    (pl.Array(pl.Int8, 2), "[1, 128]", "[1]", "128", [1, None]),
    (pl.Array(pl.Array(pl.Int8, 1), 2), "[[1], [2, 3]]", "[1]", "[2, 3]", [[1], None]),
    (pl.Struct({"a": pl.Int64}), '{"a": "x"}', ".a", "x", {"a": None}),
    (pl.Struct({"a b": pl.Date}), '{"a b": "x"}', '["a b"]', "x", {"a b": None}),
    (pl.Struct({"a": pl.Enum(["u"])}), '{"a": {"b": 1}}', ".a", '{"b": 1}', {"a": None}),
]


@pytest.mark.parametrize(
    ("dtype", "text"), [(dtype, text) for dtype, texts in MISFITS for text in texts], ids=str
)
def test_texts_that_do_not_fit(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any, text: str | bytes
) -> None:
    """Raised with all that helps to find it, or null, or kept."""
    add(client, stream, [("1-0", {"x": text}), ("2-7", {"other": "-"})])
    with pytest.raises(DecodeError) as raised:
        read(any_server, stream, dtype)
    for part in (f"stream: {stream}", "entry ID: 1-0", "field: x", f"dtype: {dtype_word(dtype)}"):
        assert part in str(raised.value)
    assert raised.value.code is None

    column = read(any_server, stream, dtype, on_error="null")
    assert column.dtype == dtype
    assert column.to_list() == [None, None]

    df = read_stream(any_server.url, stream, {"x": dtype}, rescue_column="rest")
    assert df["x"].to_list() == [None, None]
    kept = json.loads(df["rest"][0])["x"]
    if isinstance(text, bytes) and not is_utf8(text):
        assert list(kept) == ["$base64"]
    else:
        assert kept == (text if isinstance(text, str) else text.decode())
    assert df["rest"][1] == '{"other":"-"}'


@pytest.mark.parametrize(("dtype", "text", "place", "misfit", "left"), INNER_MISFITS, ids=str)
def test_a_part_that_does_not_fit_is_null_alone(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    dtype: Any,
    text: str,
    place: str,
    misfit: str,
    left: object,
) -> None:
    add(client, stream, [("1-0", {"x": text})])
    with pytest.raises(DecodeError) as raised:
        read(any_server, stream, dtype)
    assert raised.value.field == f"x{place}"
    assert f" at x{place} " in str(raised.value)
    column = read(any_server, stream, dtype, on_error="null")
    assert (column.dtype, column.to_list()) == (dtype, [left])
    df = read_stream(any_server.url, stream, {"x": dtype}, rescue_column="rest")
    assert df["x"].to_list() == [left]
    assert json.loads(df["rest"][0]) == {f"x{place}": misfit}


def test_a_decimal_without_a_scale_says_that_it_has_none(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"x": "1.50", "y": '[{"z": 1.25}]'})])
    advice = r"scale; pl\.Decimal has scale 0; write pl\.Decimal\(18, 2\), say"
    with pytest.raises(DecodeError, match=advice):
        read(any_server, stream, pl.Decimal)
    with pytest.raises(DecodeError, match=r"at y\[0\]\.z .*" + advice):
        read_stream(any_server.url, stream, {"y": [{"z": pl.Decimal(5)}]})
    with pytest.raises(DecodeError, match="on_error"):
        read_stream(any_server.url, stream, {"y": [{"z": pl.Decimal(5, 1)}]})


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def dtype_word(dtype: Any) -> str:
    """Give the dtype's name as Polars writes it, without its parameters."""
    return str(dtype).split("(")[0]


def test_only_what_does_not_fit_is_null(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(
        client,
        stream,
        [
            ("1-0", {"x": "1", "y": "2024-01-01"}),
            ("2-0", {"x": "one", "y": "2024-01-02"}),
            ("3-0", {"x": "3", "y": "today"}),
        ],
    )
    df = read_stream(any_server.url, stream, {"x": pl.Int64, "y": pl.Date}, on_error="null")
    assert df["x"].to_list() == [1, None, 3]
    assert df["y"].to_list() == [dt.date(2024, 1, 1), dt.date(2024, 1, 2), None]


def test_a_misfit_is_quoted_shortened_and_printable(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["line\nbreak " + "x" * 1_000_000])
    with pytest.raises(DecodeError) as raised:
        read(any_server, stream, pl.Int64)
    message = str(raised.value)
    assert '"line\\nbreak xxx' in message
    assert "1000011 bytes" in message
    assert len(message) < 500


def test_the_first_misfit_of_a_later_page_is_named(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["1"] * 1_200 + ["x"] + ["1"] * 1_000)
    with pytest.raises(DecodeError, match="entry ID: 1201-0"):
        read(any_server, stream, pl.Int64)


def test_an_unread_field_may_hold_anything(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_raw(client, stream, "1-0", "x", "1", "y", b"\xff", b"\xff", "z")
    assert read(any_server, stream, pl.Int64).to_list() == [1]


# Nulls


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in TABLE], ids=str)
def test_empty_text_is_null_for_every_dtype_but_string_and_binary(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any
) -> None:
    add_values(client, stream, [""])
    expected = {pl.String: "", pl.Binary: b""}.get(dtype)
    assert read(any_server, stream, dtype).to_list() == [expected]


@pytest.mark.parametrize(
    ("null_values", "x", "y"),
    [
        (None, ["NA", "-", "1", ""], ["NA", "-", "1", ""]),
        ("NA", [None, "-", "1", ""], [None, "-", "1", ""]),
        (["NA", "-"], [None, None, "1", ""], [None, None, "1", ""]),
        (("",), ["NA", "-", "1", None], ["NA", "-", "1", None]),
        ({"x": "NA"}, [None, "-", "1", ""], ["NA", "-", "1", ""]),
        ({"x": ["NA", ""], "y": "-"}, [None, "-", "1", None], ["NA", None, "1", ""]),
        ([], ["NA", "-", "1", ""], ["NA", "-", "1", ""]),
    ],
)
@pytest.mark.parametrize("schema", [None, {"x": pl.String, "y": pl.String}])
def test_null_values(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    schema: dict[str, Any] | None,
    null_values: Any,
    x: list[str | None],
    y: list[str | None],
) -> None:
    texts = ["NA", "-", "1", ""]
    add(client, stream, ((f"{n}-0", {"x": t, "y": t}) for n, t in enumerate(texts, 1)))
    df = read_stream(any_server.url, stream, schema, null_values=null_values)
    assert df["x"].to_list() == x
    assert df["y"].to_list() == y


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["prise"], r"null_values names 'prise' \(did you mean 'price'\?\), which"),
        (["prise", "xyz", "n"], r"names 'prise' \(did you mean 'price'\?\), 'xyz', which"),
    ],
)
def test_null_values_of_fields_that_are_not_read_are_refused(
    any_server: Server, stream: str, names: list[str], message: str
) -> None:
    options: dict[str, Any] = {"null_values": dict.fromkeys(names, "n/a")}
    schema = {"price": pl.Float64, "n": pl.Int64}
    url = any_server.url
    for call in (redfloe.read_stream, redfloe.scan_stream, redfloe.iter_stream):
        with pytest.raises(ValueError, match=message):
            call(url, stream, schema, **options)
    with pytest.raises(ValueError, match=message):
        redfloe.StreamConsumer(url, stream, schema=schema, **options)
    # What decides which fields there are is not known, or the payload is meant.
    assert read_stream(url, stream, **options).height == 0
    assert read_stream(url, stream, schema, null_values={"d": "-"}, payload="d").height == 0
    lf = redfloe.scan_stream(url, stream, schema, null_values={"price": "n/a"})
    assert lf.select("n").collect().height == 0


def test_null_values_come_before_parsing(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["NA", "-1", "5"])
    assert read(any_server, stream, pl.Int64, null_values=["NA", "-1"]).to_list() == [None, None, 5]


def test_what_is_null_outside_is_null_inside_json(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    texts = ['{"n": "", "s": "", "l": ["", "NA", 1]}', '{"n": "NA", "s": "NA", "l": ""}']
    add_values(client, stream, texts)
    dtype = pl.Struct({"n": pl.Int64, "s": pl.String, "l": pl.List(pl.Int64)})
    for null_values in ("NA", {"x": ["NA"]}):
        assert read(any_server, stream, dtype, null_values=null_values).to_list() == [
            {"n": None, "s": "", "l": [None, None, 1]},
            {"n": None, "s": None, "l": None},
        ]


def test_a_local_time_that_is_none_says_why(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    berlin = pl.Datetime("ms", "Europe/Berlin")
    for text, reason in [
        ("2023-10-29T02:30:00", "is ambiguous in Europe/Berlin"),
        ("2023-03-26T02:30:00", "does not exist in Europe/Berlin"),
    ]:
        client.delete(stream)
        add_values(client, stream, [text])
        with pytest.raises(DecodeError, match=f'"{text}" {reason}.*offset.*on_error="null"'):
            read(any_server, stream, berlin)
        client.delete(stream)
        add_values(client, stream, [f"{text}+02:00"])
        assert read(any_server, stream, berlin).null_count() == 0


# The rescue column


def test_the_rescue_column_keeps_what_did_not_fit(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(
        client,
        stream,
        [
            ("1-0", {"n": "1"}),
            ("2-0", {"n": "two", "more": 'a "quote"', b"\xff": b"\xfe"}),
            ("3-0", {"n": ""}),
        ],
    )
    add_raw(client, stream, "4-0", "n", "4", "twice", "a", "twice", "b")
    df = read_stream(any_server.url, stream, {"n": pl.Int64}, rescue_column="_rescued")
    assert df.columns == ["_id", "_ts", "n", "_rescued"]
    assert df["n"].to_list() == [1, None, None, 4]
    rescued = [None if text is None else json.loads(text) for text in df["_rescued"]]
    assert rescued == [
        None,
        {"n": "two", "more": 'a "quote"', "\\xff": {"$base64": "/g=="}},
        None,
        {"twice": ["a", "b"]},
    ]


def test_nothing_raises_with_a_rescue_column(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("18446744073709551615-0", {"n": "x"})])
    df = read_stream(any_server.url, stream, {"n": pl.Int64}, rescue_column="r", on_error="raise")
    assert df["_ts"].to_list() == [None]
    assert json.loads(df["r"][0])["n"] == "x"


# Non-UTF-8 names


def test_a_field_name_that_is_not_utf8(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_raw(client, stream, "1-0", b"\xff\xfe", "1", "ok", "2")
    with pytest.raises(DecodeError, match=r"\\xff"):
        read_stream(any_server.url, stream)
    assert read_stream(any_server.url, stream, {"ok": pl.Int8})["ok"].to_list() == [2]


# Schemas


@pytest.mark.parametrize(
    "schema",
    [
        {"b": pl.Int64, "a": pl.String},
        {"b": pl.Int64(), "a": pl.Utf8()},
        pl.Schema({"b": pl.Int64, "a": pl.String}),
        [("b", pl.Int64), ("a", pl.String)],
        (("b", pl.Int64()), ["a", pl.String]),
    ],
    ids=["classes", "instances", "pl.Schema", "list", "tuple"],
)
def test_a_schema_may_be_given_in_several_forms(
    any_server: Server, client: redis.Redis, stream: str, schema: Any
) -> None:
    add(client, stream, [("1-0", {"a": "x", "b": "1"})])
    df = read_stream(any_server.url, stream, schema)
    assert_frame_equal(df, pl.DataFrame({"_id": ["1-0"], "_ts": [1], "b": [1], "a": ["x"]}))


def test_a_wide_schema(any_server: Server, client: redis.Redis, stream: str) -> None:
    schema = {f"field {n}": pl.Int32 for n in range(10_000)}
    add(client, stream, [("1-0", {name: n for n, name in enumerate(schema)})])
    df = read_stream(any_server.url, stream, schema)
    assert df.row(0)[2:] == tuple(range(10_000))


@pytest.fixture
def silent() -> Iterator[ScriptedServer]:
    """A server that must hear nothing."""
    with ScriptedServer(lambda command: None) as server:
        yield server
        assert server.connections == 0


BAD_DTYPES = [
    pl.Object,
    pl.Object(),
    pl.Null,
    pl.Unknown,
    *(getattr(pl, name) for name in ("UInt128", "Float16") if hasattr(pl, name)),
    pl.List,
    pl.Array,
    pl.Struct,
    pl.Enum,
    pl.List(pl.Null),
    pl.List(pl.Object),
    pl.List(pl.List(pl.Object)),
    pl.Array(pl.Object, 2),
    pl.Struct({"a": pl.Object}),
    pl.Struct({"a": pl.List(pl.Null)}),
    pl.Datetime("us", "Nowhere/Land"),
    pl.Datetime("us", "*"),
    pl.List(pl.Datetime("us", "Nowhere/Land")),
    object,
    type(None),
]


@pytest.mark.parametrize("dtype", BAD_DTYPES, ids=str)
def test_dtypes_that_cannot_work_are_refused_before_anything_is_sent(
    silent: ScriptedServer, dtype: Any
) -> None:
    with pytest.raises(SchemaError, match=r"'?x'?|time zone"):
        read_stream(silent.url, "s", {"x": dtype})


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"_id": pl.String}, "id_column"),
        ({"_ts": pl.Int64}, "timestamp_column"),
        ({"_seq": pl.UInt64}, "sequence_column"),
        ({"rest": pl.String}, "rescue_column"),
        ({"a\0b": pl.Int64}, "NUL"),
        ({"a": pl.Struct({"b\0": pl.Int64})}, "NUL"),
        ([("a", pl.Int64), ("a", pl.Int64)], "'a' twice"),
        ([("a", pl.Int64), ("b", pl.Int64), ("a", pl.String)], "'a' twice"),
    ],
)
def test_schemas_that_contradict_themselves_are_refused_before_anything_is_sent(
    silent: ScriptedServer, schema: Any, what: str
) -> None:
    with pytest.raises(SchemaError, match=what):
        read_stream(silent.url, "s", schema, include_sequence=True, rescue_column="rest")


@pytest.mark.parametrize(
    "options",
    [
        {"timestamp_column": "_id"},
        {"include_sequence": True, "sequence_column": "_ts"},
        {"rescue_column": "_id"},
        {"timestamp_dtype": pl.String},
        {"timestamp_dtype": pl.Date},
        {"timestamp_dtype": pl.List},
        {"timestamp_dtype": pl.Datetime("us", "Nowhere/Land")},
    ],
    ids=str,
)
def test_metadata_columns_that_cannot_be_are_refused_before_anything_is_sent(
    silent: ScriptedServer, options: dict[str, Any]
) -> None:
    with pytest.raises(SchemaError):
        read_stream(silent.url, "s", **options)


# Arguments


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"stream": 5}, TypeError),
        ({"stream": None}, TypeError),
        ({"stream": "\ud800"}, ValueError),
        ({"schema": 5}, TypeError),
        ({"schema": "ab"}, TypeError),
        ({"schema": ["a"]}, TypeError),
        ({"schema": [("a", pl.Int64, 1)]}, TypeError),
        ({"schema": {1: pl.Int64}}, TypeError),
        ({"schema": {"a": "Int64"}}, TypeError),
        ({"schema": {"a": None}}, TypeError),
        ({"schema": {"a": 5}}, TypeError),
        ({"schema": {"a": dict}}, ValueError),
        ({"start_id": ""}, ValueError),
        ({"start_id": "x"}, ValueError),
        ({"start_id": "1-"}, ValueError),
        ({"start_id": "-1"}, ValueError),
        ({"start_id": "1-2-3"}, ValueError),
        ({"start_id": "((1-0"}, ValueError),
        ({"start_id": "("}, ValueError),
        ({"start_id": "(-"}, ValueError),
        ({"start_id": " 1-0"}, ValueError),
        ({"start_id": "1-0\r\nFLUSHALL"}, ValueError),
        ({"start_id": "+1"}, ValueError),
        ({"start_id": ">"}, ValueError),
        ({"start_id": "18446744073709551616"}, ValueError),
        ({"start_id": "1-18446744073709551616"}, ValueError),
        ({"start_id": "\u0661"}, ValueError),
        ({"start_id": 5.0}, TypeError),
        ({"start_id": b"1-0"}, TypeError),
        ({"start_id": dt.time(1)}, TypeError),
        ({"start_id": moment("1969-12-31T23:59:59")}, ValueError),
        ({"end_id": "x"}, ValueError),
        ({"end_id": 5.0}, TypeError),
        ({"end_id": moment("1969-12-31T00:00")}, ValueError),
        ({"count": -1}, ValueError),
        ({"count": "5"}, TypeError),
        ({"count": 1.0}, TypeError),
        ({"block_ms": -1}, ValueError),
        ({"block_ms": "5"}, TypeError),
        ({"block_ms": 0.5}, TypeError),
        ({"infer_schema": True, "infer_schema_length": -1}, ValueError),
        ({"infer_schema": True, "schema": {"a": pl.Int64}}, ValueError),
        ({"on_error": "ignore"}, ValueError),
        ({"on_error": None}, TypeError),
        ({"null_values": 5}, TypeError),
        ({"null_values": [5]}, TypeError),
        ({"null_values": b"NA"}, TypeError),
        ({"null_values": {"a": 5}}, TypeError),
        ({"null_values": {5: "a"}}, TypeError),
        ({"rescue_column": 5}, TypeError),
        ({"id_column": None}, TypeError),
        ({"timestamp_column": 5}, TypeError),
        ({"sequence_column": b"x"}, TypeError),
        ({"timestamp_dtype": "Int64"}, TypeError),
        ({"timestamp_dtype": None}, TypeError),
        ({"include_ids": True}, TypeError),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    silent: ScriptedServer, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        read_stream(silent.url, **{"stream": "s", **options})
    [*_, parameter] = options
    assert isinstance(raised.value, UnicodeEncodeError) or parameter in str(raised.value)


@pytest.mark.parametrize("url", [5, None, b"redis://localhost"], ids=str)
def test_a_url_is_text_or_a_connection(url: Any) -> None:
    with pytest.raises(TypeError, match="url must be a str or a RedisConnection"):
        read_stream(url, "s")
    with pytest.raises(TypeError, match="url must be a str or a RedisConnection"):
        infer_schema(url, "s")


# Inference

INFERENCE: list[tuple[list[str], Any]] = [
    (["1", "-2", "0"], pl.Int64),
    (["1", "2.5"], pl.Float64),
    (["1e3", "nan"], pl.Float64),
    (["true", "FALSE"], pl.Boolean),
    (["2024-01-31", "2024-02-29"], pl.Date),
    (["2024-01-31T12:00:00", "2024-01-31 12:00:00.5"], pl.Datetime("us")),
    (["2024-01-31T12:00:00Z", "2024-01-31T12:00:00+01:00"], pl.Datetime("us", "UTC")),
    (["1", "x"], pl.String),
    (["yes", "no"], pl.String),
    (["0501", "1.5"], pl.String),
    (["9223372036854775808"], pl.String),
    (["", "1"], pl.Int64),
    (["", ""], pl.String),
    (["[1]"], pl.String),
]


@pytest.mark.parametrize(("texts", "dtype"), INFERENCE, ids=str)
def test_inference(
    any_server: Server, client: redis.Redis, stream: str, texts: list[str], dtype: Any
) -> None:
    add_values(client, stream, texts)
    schema = infer_schema(any_server.url, stream)
    assert schema == pl.Schema({"x": dtype})
    assert isinstance(schema, pl.Schema)
    inferred = read_stream(any_server.url, stream, infer_schema=True)
    # The schema serves a read, and gives what inferring on the way gives.
    assert_frame_equal(inferred, read_stream(any_server.url, stream, schema))


def test_inference_keeps_the_order_of_fields_and_leaves_metadata_out(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"b": "1", "a": "x"}), ("2-0", {"c": "2024-01-01", "b": "2"})])
    schema = infer_schema(server.url, stream)
    assert list(schema.items()) == [("b", pl.Int64()), ("a", pl.String()), ("c", pl.Date())]
    df = read_stream(server.url, stream, infer_schema=True)
    assert df.columns == ["_id", "_ts", "b", "a", "c"]
    assert df["b"].to_list() == [1, 2]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 100])
def test_inference_looks_at_so_many_entries(
    any_server: Server, client: redis.Redis, stream: str, length: int
) -> None:
    add(client, stream, [("1-0", {"x": "1"}), ("2-0", {"x": "x"}), ("3-0", {"x": "2.5", "y": "5"})])
    # Of two entries it is the oldest and the newest.
    both = {"x": pl.Float64, "y": pl.Int64}
    expected: list[Any] = [{}, {"x": pl.Int64}, both, {"x": pl.String, "y": pl.Int64}]
    schema = infer_schema(any_server.url, stream, infer_schema_length=length)
    assert schema == pl.Schema(expected[min(length, 3)])
    df = read_stream(
        any_server.url,
        stream,
        infer_schema=True,
        infer_schema_length=length,
        on_error="null",
    )
    # What first appears later is text.
    assert df.drop("_id", "_ts").schema == {"x": pl.String, "y": pl.String} | schema
    assert df.height == 3


def test_inference_looks_only_at_what_is_read(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"x": "x"}), ("2-0", {"x": "2"}), ("3-0", {"x": "3.5"})])
    assert infer_schema(any_server.url, stream, start_id="2") == {"x": pl.Float64}
    assert infer_schema(any_server.url, stream, start_id="2", end_id="(3-0") == {"x": pl.Int64}
    df = read_stream(any_server.url, stream, start_id="2", count=1, infer_schema=True)
    assert df["x"].to_list() == [2]


def test_inference_passes_over_null_values(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["NA", "1", "-"])
    assert infer_schema(any_server.url, stream) == {"x": pl.String}
    for null_values in (["NA", "-"], {"x": ["NA", "-"]}):
        assert infer_schema(any_server.url, stream, null_values=null_values) == {"x": pl.Int64}
        df = read_stream(any_server.url, stream, infer_schema=True, null_values=null_values)
        assert df["x"].to_list() == [None, 1, None]


def test_inference_of_nothing(server: Server, stream: str) -> None:
    assert infer_schema(server.url, stream) == pl.Schema()
    df = read_stream(server.url, stream, infer_schema=True)
    assert df.schema == {"_id": pl.String, "_ts": pl.Int64}


def test_inference_of_text_that_is_not_utf8(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, [b"\xff", "1"])
    assert infer_schema(any_server.url, stream) == {"x": pl.Binary}
    frame = read_stream(any_server.url, stream, infer_schema=True)
    assert frame["x"].to_list() == [b"\xff", b"1"]


def test_a_text_beyond_the_sample_that_does_not_fit(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_values(client, stream, ["1"] * 100 + ["x"] + ["1"] * 50)
    with pytest.raises(DecodeError, match="entry ID: 101-0"):
        read_stream(any_server.url, stream, infer_schema=True)
    df = read_stream(any_server.url, stream, infer_schema=True, rescue_column="rest")
    assert df["rest"][100] == '{"x":"x"}'


def test_an_inferred_field_never_overwrites_a_metadata_column(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"_id": "1"})])
    with pytest.raises(SchemaError, match="id_column"):
        read_stream(any_server.url, stream, infer_schema=True)
    df = read_stream(any_server.url, stream, infer_schema=True, id_column="id")
    assert df.row(0) == ("1-0", 1, 1)


def test_inference_takes_a_connection_and_any_key(any_server: Server, client: redis.Redis) -> None:
    add_values(client, b"\xff", ["1"])
    assert infer_schema(RedisConnection(any_server.url), b"\xff") == {"x": pl.Int64}
    client.set("text", "x")
    with pytest.raises(redfloe.WrongTypeError):
        infer_schema(any_server.url, "text")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"start_id": "x"}, ValueError),
        ({"end_id": 5.0}, TypeError),
        ({"infer_schema_length": -1}, ValueError),
        ({"infer_schema_length": 1.5}, TypeError),
        ({"null_values": 5}, TypeError),
    ],
    ids=str,
)
def test_wrong_arguments_of_inference_are_refused_before_anything_is_sent(
    silent: ScriptedServer, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        infer_schema(silent.url, "s", **options)


# Odd fields


@pytest.mark.parametrize("schema", [None, {"a": pl.String}], ids=["open", "schema"])
def test_of_a_repeated_field_the_last_wins(
    server: Server, client: redis.Redis, stream: str, schema: dict[str, Any] | None
) -> None:
    add_raw(client, stream, "1-0", "a", "1", "a", "2", "a", "3")
    add_raw(client, stream, "2-0", "a", "4")
    assert read_stream(server.url, stream, schema)["a"].to_list() == ["3", "4"]


def test_only_the_winning_value_of_a_repeated_field_must_fit(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_raw(client, stream, "1-0", "x", "one", "x", "2")
    assert read(any_server, stream, pl.Int64).to_list() == [2]


@pytest.mark.parametrize("schema", [None, {"": pl.String, "a": pl.String}], ids=["open", "schema"])
def test_a_field_name_may_be_empty(
    server: Server, client: redis.Redis, stream: str, schema: dict[str, Any] | None
) -> None:
    add_raw(client, stream, "1-0", "", "1", "a", "2")
    df = read_stream(server.url, stream, schema)
    assert df.rows(named=True) == [{"_id": "1-0", "_ts": 1, "": "1", "a": "2"}]


@pytest.mark.parametrize("name", ["line\nbreak", "größe 🧊", "_", "x" * 3_000, " ", "\x01"])
def test_a_field_name_may_be_any_text(
    any_server: Server, client: redis.Redis, stream: str, name: str
) -> None:
    add_raw(client, stream, "1-0", name, "1")
    assert read_stream(any_server.url, stream)[name].to_list() == ["1"]
    assert read_stream(any_server.url, stream, {name: pl.Int64})[name].to_list() == [1]


def test_a_field_name_with_a_nul_is_refused(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Arrow's interface passes names on as C strings."""
    add_raw(client, stream, "1-0", "a\0b", "1", "a", "2")
    with pytest.raises(SchemaError, match=r"a\\0b"):
        read_stream(any_server.url, stream)
    assert read_stream(any_server.url, stream, {"a": pl.Int64})["a"].to_list() == [2]


def test_entries_without_a_common_field(server: Server, client: redis.Redis, stream: str) -> None:
    names: Sequence[str] = [f"field {n}" for n in range(300)]
    add(client, stream, ((f"{n}-0", {name: str(n)}) for n, name in enumerate(names, 1)))
    df = read_stream(server.url, stream)
    assert df.columns == ["_id", "_ts", *names]
    assert df.height == 300
    for n, name in enumerate(names, 1):
        column = df[name]
        assert column.null_count() == 299
        assert column[n - 1] == str(n)
