"""Predicates as Polars passes them to a source, and the entry IDs that they bound."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from functools import reduce
from math import inf
from operator import and_, or_
from typing import Literal
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.io.plugins import register_io_source

from redfloe._reading.pushdown import (
    EVERYTHING,
    NOTHING,
    Bounds,
    EntryIdPair,
    id_bounds,
    without_dynamic,
)

END = 2**64 - 1
NAN = float("nan")
MS, US, NS = pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns")
MS_UTC, BERLIN = pl.Datetime("ms", "UTC"), pl.Datetime("us", "Europe/Berlin")
INT = pl.Int64()
entry_id, ts, v = pl.col("_id"), pl.col("_ts"), pl.col("v")


def frame(ids: list[EntryIdPair], dtype: pl.DataType) -> pl.DataFrame:
    """Lay the entries out as `read_stream` does."""
    per_ms = {"us": 1_000, "ns": 1_000_000}.get(getattr(dtype, "time_unit", ""), 1)
    fits = [ms if ms * per_ms < 2**63 else None for ms, _ in ids]
    values = [None if ms is None else ms * per_ms for ms in fits]
    return pl.DataFrame(
        {
            "_id": pl.Series([f"{ms}-{seq}" for ms, seq in ids], dtype=pl.String),
            "_ts": pl.Series(values, dtype=pl.Int64).cast(dtype),
            "v": pl.Series([float(seq % 7) for _, seq in ids], dtype=pl.Float64),
        }
    )


def pushed(
    predicate: pl.Expr, dtype: pl.DataType = INT, data: pl.DataFrame | None = None
) -> pl.Expr | None:
    """Give the optimizer's own form of the predicate."""
    seen: list[pl.Expr | None] = []
    rows = frame([], dtype) if data is None else data

    def source(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        seen.append(predicate)
        found = rows if predicate is None else rows.filter(predicate)
        yield found if with_columns is None else found.select(with_columns)

    register_io_source(source, schema=rows.schema).filter(predicate).collect()
    return seen[0] if seen else None


def bounds(predicate: pl.Expr | None, dtype: pl.DataType = INT) -> Bounds:
    assert predicate is not None
    return id_bounds(predicate, id_column="_id", timestamp_column="_ts", timestamp_dtype=dtype)


def span(first: int | None, last: int | None) -> Bounds:
    return (first or 0, 0), (END if last is None else last, END)


def utc(milliseconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def naive(milliseconds: float) -> datetime:
    return utc(milliseconds).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (ts > 5, span(6, None)),
        (ts >= 5, span(5, None)),
        (ts < 5, span(None, 4)),
        (ts <= 5, span(None, 5)),
        (ts == 5, span(5, 5)),
        (pl.lit(5) < ts, span(6, None)),
        (pl.lit(5) >= ts, span(None, 5)),
        (ts != 5, EVERYTHING),
        (ts.eq_missing(5), EVERYTHING),
        (ts.is_between(5, 9), span(5, 9)),
        (ts.is_between(5, 9, closed="left"), span(5, 8)),
        (ts.is_between(5, 9, closed="right"), span(6, 9)),
        (ts.is_between(5, 9, closed="none"), span(6, 8)),
        (ts.is_between(5, v), span(5, None)),
        (ts.is_between(9, 5), NOTHING),
        (ts.is_in([9, 5, 7]), span(5, 9)),
        (ts.is_in([9, None, 7]), span(7, 9)),
        (ts.is_in([9, None, 7], nulls_equal=True), EVERYTHING),
        (ts.is_in(pl.Series("named", [9, 5])), span(5, 9)),
        (ts.is_in([]), NOTHING),
        ((ts > 5) & (ts < 9) & (v > 1), span(6, 8)),
        ((ts > 9) & (ts < 5), NOTHING),
        ((ts == 5) | (ts == 9), span(5, 9)),
        ((ts == 5) | (v > 1), EVERYTHING),
        ((ts == 5) | ((ts < 3) & (ts > 7)), span(5, 5)),
        (pl.any_horizontal(ts == 5, ts == 9), span(5, 9)),
        (pl.all_horizontal(ts >= 5, ts <= 9), span(5, 9)),
        ((ts.alias("other") >= 5).alias("another"), span(5, None)),
        (pl.when(v > 1).then(ts > 5).otherwise(ts == 3), span(3, None)),
        (pl.lit(5) * 1000 <= ts, span(5000, None)),
        (ts > -5, EVERYTHING),
        (ts < 0, NOTHING),
        (ts <= -1, NOTHING),
        (ts > 2**53 - 1, span(2**53, None)),
        (ts > 2**53, EVERYTHING),
        (ts == pl.lit(5, dtype=pl.Int32), span(5, 5)),
        (ts == pl.lit(5, dtype=pl.Int128), span(5, 5)),
        (ts >= 2.5, span(3, None)),
        (ts > 2.0, span(3, None)),
        (ts < 1704067200000.9999, span(None, 1704067200000)),
        (ts.is_between(1.5, 4, closed="right"), span(2, 4)),
        (ts > float(2**53), EVERYTHING),
        ((ts < inf) & (ts >= 5), span(5, None)),
        ((ts < NAN) & (ts >= 5), span(5, None)),
        (ts // 1000 == 5, EVERYTHING),
        (ts - 5 > 5, EVERYTHING),
        (ts > v, EVERYTHING),
        (ts.is_null(), EVERYTHING),
        (ts.is_not_null() & (ts > 5), span(6, None)),
        ((ts > 5) ^ (ts > 9), EVERYTHING),
        (ts.cast(pl.String) > "5", EVERYTHING),
        (ts.cast(MS) >= naive(5), span(5, None)),
        (ts.cast(MS) < naive(5.5), span(None, 4)),  # Polars cuts the literal to the column's unit
        (ts.cast(MS_UTC) > utc(5), span(6, None)),
        (ts.cast(US) >= naive(5), span(5000, None)),
        (ts.cast(MS).cast(US) < naive(5.5), span(None, 5)),
        (pl.from_epoch("_ts", time_unit="ms") >= naive(5), span(5, None)),
        ((ts * 1000).cast(US) > naive(5.5), span(6, None)),
        # A product that wraps around is in any interval.
        ((ts * 1000).cast(US) < naive(5.5), EVERYTHING),
        (entry_id == "5-1", ((5, 1), (5, 1))),
        (pl.lit("5-1") == entry_id, ((5, 1), (5, 1))),
        (entry_id.is_in(["10-0", "9-7", "none", None]), ((9, 7), (10, 0))),
        (entry_id == f"{END}-{END}", ((END, END), (END, END))),
        (entry_id == f"{END + 1}-0", NOTHING),
        (entry_id == "05-1", NOTHING),
        (entry_id == "5", NOTHING),
        (entry_id == "\u0665-1", NOTHING),
        (entry_id == "5-1\n", NOTHING),
        (entry_id > "5-1", EVERYTHING),
        (entry_id <= "5-1", EVERYTHING),
        (entry_id != "5-1", EVERYTHING),
        (entry_id.is_between(pl.lit("5-1"), pl.lit("6-1")), EVERYTHING),
        (entry_id.str.starts_with("5"), EVERYTHING),
        ((entry_id == "5-1") & (ts <= 5), ((5, 1), (5, 1))),
        ((entry_id == "5-1") & (ts > 5), NOTHING),
        ((entry_id == "5-1") | (ts == 7), ((5, 1), (7, END))),
    ],
    ids=str,
)
def test_milliseconds(predicate: pl.Expr, expected: Bounds) -> None:
    assert bounds(pushed(predicate)) == expected


@pytest.mark.parametrize("dtype", [MS, US, NS, MS_UTC, BERLIN], ids=str)
def test_datetimes(dtype: pl.Datetime) -> None:
    zone = None if dtype.time_zone is None else ZoneInfo(dtype.time_zone)

    def at(milliseconds: float) -> pl.Expr:
        if zone is None:
            return pl.lit(naive(milliseconds))
        return pl.lit(utc(milliseconds)).dt.convert_time_zone(zone.key)

    def parts(predicate: pl.Expr) -> Bounds:
        return bounds(pushed(predicate, dtype), dtype)

    assert parts(at(5) < ts) == span(6, None)
    assert parts(at(5) <= ts) == span(5, None)
    assert parts(at(5) > ts) == span(None, 4)
    assert parts(at(5) == ts) == span(5, 5)
    assert parts(ts.is_between(at(5), at(9), closed="left")) == span(5, 8)
    assert parts(ts.is_between(at(5), at(9), closed="right")) == span(6, 9)
    assert parts(at(5) - timedelta(milliseconds=2) <= ts) == span(3, None)
    assert parts(at(-5) > ts) == NOTHING
    literal = pl.datetime(1970, 1, 2, time_zone=dtype.time_zone)
    start = int(datetime(1970, 1, 2, tzinfo=zone or UTC).timestamp() * 1000)
    assert parts(literal <= ts) == span(start, None)
    if dtype.time_zone != BERLIN.time_zone:  # whose days begin when the version says
        assert parts(date(1970, 1, 2) <= ts) == span(start, None)
    text = pl.lit("1970-01-02").str.to_datetime(time_zone=dtype.time_zone)
    assert parts(text <= ts) == span(start, None)


def test_between_the_milliseconds() -> None:
    for predicate, expected in (
        (ts > naive(5.5), span(6, None)),
        (ts >= naive(5.5), span(6, None)),
        (ts < naive(5.5), span(None, 5)),
        (ts <= naive(5.5), span(None, 5)),
        (ts == naive(5.5), NOTHING),
        (ts.is_in([naive(9.5), naive(4.5)]), span(5, 9)),
        (ts.is_in([naive(9), naive(4)]), span(4, 9)),
        (ts >= naive(-0.5), EVERYTHING),
        (ts <= naive(-0.5), NOTHING),
    ):
        assert bounds(pushed(predicate, US), US) == expected, predicate


def test_zones() -> None:
    instant = datetime(2024, 6, 1, 12, tzinfo=timezone(timedelta(hours=-7)))
    millis = int(instant.timestamp() * 1000)
    assert bounds(pushed(ts >= instant, MS_UTC), MS_UTC) == span(millis, None)
    in_berlin = pl.lit(instant).dt.convert_time_zone("Europe/Berlin")
    assert bounds(pushed(ts >= in_berlin, BERLIN), BERLIN) == span(millis, None)
    moved = ts.cast(MS_UTC) >= instant
    assert bounds(pushed(moved, BERLIN), BERLIN) == span(millis, None)


def test_a_number_counts_in_the_column_s_unit() -> None:
    assert bounds(pushed(ts >= 5_500, US), US) == span(6, None)
    assert bounds(pushed(ts >= 5, MS), MS) == span(5, None)
    assert bounds(pushed(ts.cast(pl.Int64) >= 5_500, US), US) == span(6, None)
    assert bounds(pushed(ts >= 5_500.5, US), US) == EVERYTHING


def test_null_is_no_bound_but_matches_nothing() -> None:
    comparison = ts > pl.lit(None, dtype=pl.Int64)
    assert bounds(comparison) == NOTHING
    assert bounds(comparison | (ts == 5)) == span(5, 5)
    assert bounds(pl.lit(value=False)) == NOTHING


@pytest.mark.parametrize("literal", [2**63, 2**64, -(2**70), pl.lit(2**63, dtype=pl.UInt64)])
def test_numbers_beyond_the_column(literal: int | pl.Expr) -> None:
    """Each version has its form for them; none may lose a row."""
    data = frame([(0, 1), (2**62, 1), (2**63 - 1, 1), (END, 1)], INT)
    for predicate in (literal < ts, literal >= ts):
        reached = pushed(predicate, INT, data)
        if reached is not None:
            assert_within(data, reached, INT)


def test_columns_that_are_not_read() -> None:
    predicate = (ts > 5) & (entry_id == "9-1")
    for id_column, timestamp_column, expected in (
        (None, None, EVERYTHING),
        (None, "_ts", span(6, None)),
        ("_id", None, ((9, 1), (9, 1))),
        ("id", "ts", EVERYTHING),
    ):
        found = id_bounds(
            predicate,
            id_column=id_column,
            timestamp_column=timestamp_column,
            timestamp_dtype=INT,
        )
        assert found == expected


@pytest.mark.parametrize(
    "predicate",
    [
        v.map_elements(bool, return_dtype=pl.Boolean),
        v.map_batches(lambda values: values > 1, return_dtype=pl.Boolean) & (v > 1),
        ts > ts.mean(),
        ts > pl.lit(5).shuffle(),
        ts > pl.lit(pl.Series([5, 6])),
        ts == pl.lit("5"),
        ts == pl.lit("no date").str.to_datetime(),
        ts == pl.lit(object(), allow_object=True),
        ts == pl.element(),
        pl.all() > 5,
        pl.struct("_ts") == pl.lit(5),
        ts,
    ],
)
def test_unknown_is_everything(predicate: pl.Expr) -> None:
    assert bounds(predicate) == EVERYTHING


def test_unknown_dtype_is_everything() -> None:
    assert bounds(ts > 5, pl.String()) == EVERYTHING


def test_deep() -> None:
    either = reduce(or_, [ts == number for number in range(400)])
    assert bounds(either) in (span(0, 399), EVERYTHING)


ENTRIES = [(ms, seq) for ms in range(40) for seq in range(ms % 3 + 1)]
TOP = {
    "sort-head": lambda frame: frame.sort("v", "_ts").head(3),
    "sort-by-one": lambda frame: frame.sort("_ts", descending=True).head(1),
    "top_k": lambda frame: frame.top_k(1, by="_ts"),
    "filtered": lambda frame: frame.filter(ts > 20, v < inf).sort("_ts").head(1),
    "bottom_k": lambda frame: frame.filter((ts > 20) | (v > 1)).bottom_k(4, by="_ts"),
    "grouped": lambda frame: frame.group_by("_ts").agg(pl.len()).sort("_ts").head(3),
}


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize("pure", [True, False])
@pytest.mark.parametrize("query", TOP.values(), ids=TOP.keys())
def test_dynamic_predicates_are_left_to_polars(
    query: Callable[[pl.LazyFrame], pl.LazyFrame],
    pure: bool,
    engine: Literal["in-memory", "streaming"],
) -> None:
    """Polars 1.39 to 1.43 panic otherwise."""
    data = frame(ENTRIES, INT)

    def source(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        within = EVERYTHING
        if predicate is not None:
            within = bounds(predicate)
            predicate = without_dynamic(predicate)
        for start in range(0, len(ENTRIES), 10):
            ids = ENTRIES[start : start + 10]
            rows = frame([each for each in ids if within[0] <= each <= within[1]], INT)
            if predicate is not None:
                rows = rows.filter(predicate)
            rows = rows if n_rows is None else rows.head(n_rows)
            yield rows if with_columns is None else rows.select(with_columns)

    lazy = register_io_source(source, schema=data.schema, validate_schema=True, is_pure=pure)
    found, expected = query(lazy).collect(engine=engine), query(data.lazy()).collect()
    assert found.sort(pl.all()).equals(expected.sort(pl.all()))


def test_without_dynamic_keeps_the_rest() -> None:
    text = '{"Display":{"inputs":[{"Column":"v"}],"fmt_str":"dynamic_pred: 1639e554"}}'
    try:
        dynamic = pl.Expr.deserialize(io.StringIO(text), format="json")
    except pl.exceptions.ComputeError:
        pytest.skip("this Polars has no such node")
    rest = (ts > 5) & (v < inf)
    assert without_dynamic(dynamic) is None
    assert without_dynamic(dynamic & dynamic) is None
    for predicate in (dynamic & rest, rest & dynamic, (ts > 5) & dynamic & (v < inf)):
        kept = without_dynamic(predicate)
        assert kept is not None
        assert kept.meta.eq(rest)
        assert bounds(predicate) == span(6, None)
    assert without_dynamic(rest) is rest
    lookalike = v.cast(pl.String) == "dynamic_pred: 1639e554"
    assert without_dynamic(lookalike) is lookalike


def assert_within(data: pl.DataFrame, predicate: pl.Expr, dtype: pl.DataType) -> None:
    first, last = bounds(predicate, dtype)
    for text in data.filter(predicate)["_id"]:
        ms, seq = map(int, text.split("-"))
        assert first <= (ms, seq) <= last, (text, predicate)


MILLIS = st.one_of(
    st.integers(0, 30),
    st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1, 2**63, END]),
)
IDS = st.lists(st.tuples(MILLIS, st.integers(0, 3)), min_size=1, max_size=12)
COMPARE: list[Callable[[pl.Expr, pl.Expr], pl.Expr]] = [
    lambda left, right: left == right,
    lambda left, right: left != right,
    lambda left, right: left < right,
    lambda left, right: left <= right,
    lambda left, right: left > right,
    lambda left, right: left >= right,
]


def comparisons(column: pl.Expr, literal: st.SearchStrategy[pl.Expr]) -> st.SearchStrategy[pl.Expr]:
    closed: st.SearchStrategy[Literal["both", "left", "right", "none"]]
    closed = st.sampled_from(["both", "left", "right", "none"])
    return st.one_of(
        st.builds(lambda compare, value: compare(column, value), st.sampled_from(COMPARE), literal),
        st.builds(lambda compare, value: compare(value, column), st.sampled_from(COMPARE), literal),
        st.builds(column.is_between, literal, literal, closed),
    )


def leaves(dtype: pl.DataType) -> st.SearchStrategy[pl.Expr]:
    numbers = st.one_of(st.integers(-3, 33), st.integers(-(2**63), 2**63 - 1))
    floats = st.one_of(st.floats(-2, 33), st.floats())
    moments = st.floats(-2, 33).map(naive)
    texts = st.builds("{}-{}".format, MILLIS, st.integers(0, 3))
    strategies = [
        comparisons(entry_id, texts.map(pl.lit)),
        st.lists(texts, max_size=3).map(entry_id.is_in),
        comparisons(v, st.floats(0, 3).map(pl.lit)),
    ]
    if isinstance(dtype, pl.Datetime):
        strategies += [
            comparisons(ts, moments.map(pl.lit)),
            comparisons(ts.cast(MS), moments.map(pl.lit)),
            comparisons(ts.cast(pl.Int64), numbers.map(pl.lit)),
        ]
    else:
        strategies += [
            comparisons(ts, numbers.map(pl.lit)),
            comparisons(ts, floats.map(pl.lit)),
            comparisons(ts * 1000, numbers.map(pl.lit)),
            comparisons((ts * 1000).cast(pl.Float64), floats.map(pl.lit)),
            comparisons(ts.cast(MS), moments.map(pl.lit)),
            comparisons((ts * 1000).cast(US), moments.map(pl.lit)),
            st.lists(numbers, max_size=3).map(ts.is_in),
        ]
    return st.one_of(strategies)


def predicates(dtype: pl.DataType) -> st.SearchStrategy[pl.Expr]:
    return st.recursive(
        leaves(dtype),
        lambda inner: st.one_of(
            st.builds(and_, inner, inner),
            st.builds(or_, inner, inner),
            st.builds(lambda predicate: ~predicate, inner),
        ),
        max_leaves=5,
    )


@settings(max_examples=200)
@given(data=st.data(), dtype=st.sampled_from([INT, MS, US, NS]), ids=IDS)
@pytest.mark.slow
def test_every_row_lies_within_the_bounds(
    data: st.DataObject, dtype: pl.DataType, ids: list[EntryIdPair]
) -> None:
    rows = frame(ids, dtype)
    predicate = data.draw(predicates(dtype))
    assert_within(rows, predicate, dtype)
    reached = pushed(predicate, dtype, rows)
    if reached is not None:
        assert_within(rows, reached, dtype)
