"""Windows of event time, without a server: which rows they take, and when they close."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from redfloe import SchemaError
from redfloe._processing.windows.machine import Turn
from support.windows import SCHEMA, Row, Windowed, as_rows, model

V, W = pl.col("v"), pl.col("w")
#: All that can be put together, of rows with nulls.
AGGS: dict[str, pl.Expr] = {
    "n": pl.len(),
    "len": V.len(),
    "count": V.count(),
    "nulls": V.null_count(),
    "sum": V.sum(),
    "min": V.min(),
    "max": W.max(),
    "text": pl.col("s").max(),
    "mean": W.mean(),
    "mean_of_nulls": V.mean(),
    "std": W.std(),
    "var": W.var(ddof=0),
    "first": V.first(),
    "last": pl.col("s").filter(V > 3).last(),
    "first_value": V.drop_nulls().first(),
    "any": (V > 8).any(),
    "all": (V > 1).all(),
    "where": W.filter((V < 5) & pl.col("s").is_in(["a", "b"])).sum() / pl.len(),
    "much": -V.sum().cast(pl.Float64) * 2 - 1,
    "row": pl.when(V > 3).then(V * 2).otherwise(pl.lit(0)).abs().sum(),
    "price": W.cast(pl.Decimal(10, 2)).sum(),
    "span": (pl.col("at") - pl.col("at").dt.truncate("1h")).sum(),
    "chars": pl.col("s").str.len_chars().sum(),
}
STREAM = {
    "at": pl.Datetime("us", "UTC"),
    "k": pl.String,
    "v": pl.Int32,
    "w": pl.Float64,
    "s": pl.String,
}
BEGIN = datetime(2024, 3, 1, tzinfo=UTC)
LENGTHS = [
    ("1m", None, timedelta(minutes=9)),
    ("1m", "150s", timedelta(minutes=9)),
    ("1m", "40s", timedelta(minutes=9)),
    ("1w", None, timedelta(days=50)),
    ("1mo", None, timedelta(days=90)),
    ("1d", "3d", timedelta(days=40)),  # and in Berlin a day of 23 hours
]


@pytest.mark.parametrize(("every", "period", "span"), LENGTHS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_the_batches_are_it_is_what_polars_makes_of_the_stream(
    every: str, period: str | None, span: timedelta, data: st.DataObject
) -> None:
    zone = data.draw(st.sampled_from(["UTC", "Europe/Berlin"]))
    row = st.tuples(
        st.floats(0, 1).map(lambda part: BEGIN + span * part),
        st.sampled_from(["a", "b", None]),
        st.one_of(st.none(), st.integers(0, 12)),
        st.floats(-100, 100),
        st.sampled_from("abc"),
    )
    drawn = data.draw(st.lists(row, min_size=1, max_size=40))
    df = pl.DataFrame(
        drawn,
        {
            "at": pl.Datetime("us", "UTC"),
            "k": pl.String,
            "v": pl.Int32,
            "w": pl.Float64,
            "s": pl.String,
        },
        orient="row",
    ).with_columns(pl.col("at").dt.convert_time_zone(zone))
    # Sums alone are merged in another way.
    only_sums = ("n", "sum", "mean", "where", "price", "span")
    aggs = {name: AGGS[name] for name in (data.draw(st.sampled_from([AGGS, only_sums])))}
    window = Windowed(df.schema, every=every, period=period, by="k", aggs=aggs)
    window.take_all(df, data.draw(st.lists(st.integers(0, 20), max_size=4)))
    assert all(late.is_empty() for late in window.late)
    found = pl.concat(window.closed)
    # Polars leaves out windows that begin before that of a key's first row, which overlap with it.
    first = pl.col("at").dt.truncate(every).min().alias("begin")
    firsts = df.group_by("k").agg(first)
    found = found.join(firsts, on="k", nulls_equal=True, maintain_order="left")
    found = found.filter(pl.col("_lower_boundary") >= pl.col("begin")).drop("begin")
    wanted = (
        df.sort("at", maintain_order=True)
        .group_by_dynamic("at", every=every, period=period, group_by="k", include_boundaries=True)
        .agg(**aggs)
        .select(found.columns)
    )
    # Where all values are equal, a root makes 1e-8 of a variance that Polars rounds to 1e-16.
    squared = pl.col("^std$") ** 2
    assert_frame_equal(
        found.with_columns(squared),
        wanted.sort("_lower_boundary", "k").with_columns(squared),
        rel_tol=1e-9,
        abs_tol=1e-9,
    )


ROWS = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from(["a", "b", None]), st.integers(-9, 9)),
    max_size=40,
)


@pytest.mark.parametrize(
    "how",
    [{"every": 30}, {"every": 30, "period": 75}, {"every": 30, "period": 20}, {"gap": 25}],
    ids=["tumbling", "hopping", "gaps", "sessions"],
)
@pytest.mark.parametrize("lateness", [None, 0, 40])
@given(rows=ROWS, sizes=st.lists(st.integers(0, 20), max_size=5))
@settings(max_examples=30, deadline=None)
def test_which_rows_are_late_does_not_depend_on_the_batches(
    how: dict[str, int], lateness: int | None, rows: list[Row], sizes: list[int]
) -> None:
    spans = {name: timedelta(seconds=length) for name, length in how.items()}
    aggs = {"n": pl.len(), "total": pl.col("value").sum()}
    patience = None if lateness is None else timedelta(seconds=lateness)
    window = Windowed(SCHEMA, by=["key"], aggs=aggs, lateness=patience, **spans)
    window.take_all(as_rows(rows), sizes)
    wanted, late = model(rows, lateness=lateness, **({"period": 30} | how))
    seconds = pl.selectors.datetime().to_physical() // 1_000
    found = pl.concat(window.closed).with_columns(seconds)
    assert sorted(found.rows(), key=repr) == wanted
    assert pl.concat(window.late).with_columns(seconds).rows() == late
    # Each comes once, as soon as the watermark is there.
    assert found.select("_lower_boundary", "key").is_duplicated().sum() == 0


def minutes(**options: Any) -> Windowed:
    return Windowed(SCHEMA, **{"every": "1m", "aggs": {"n": pl.len()}, **options})


def test_rows_without_a_time_are_late() -> None:
    window = minutes(lateness="0s")
    rows = as_rows([(1, "a", 1), (2, "b", 2), (200, "c", 3)])
    rows = rows.with_columns(pl.when(pl.col("key") != "b").then("at"))
    stepped = window.take(rows)
    assert stepped.late.rows() == [(None, "b", 2)]
    assert stepped.closed["n"].to_list() == [1]
    assert window.take(rows[1:2]).late.height == 1


@pytest.mark.parametrize("how", [{"every": "1m"}, {"every": "1mo", "period": "1y"}, {"gap": "9w"}])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_that_no_calendar_has_are_late(how: dict[str, Any], unit: Any) -> None:
    """Polars panics at them, and one of the far future would close everything."""
    sane = 10**15 if unit == "ns" else 10**12
    odd = [2**63 - 1, -(2**63) + 1, 2**62 + 1, -(2**62) - 1]
    schema = pl.Schema({"at": pl.Datetime(unit, "Europe/Berlin")})
    frame = pl.DataFrame({"at": [*odd, sane, None]}, {"at": pl.Int64}).cast(schema)
    window = Windowed(schema, aggs={"n": pl.len()}, lateness="1s", **how)
    assert window.take(frame).late["at"].to_physical().to_list() == [*odd, None]
    assert window.take(frame[:1]).closed.is_empty()
    assert window.standing.watermark == sane - 10 ** {"ms": 3, "us": 6, "ns": 9}[unit]


def test_the_clock_closes_windows_of_a_quiet_stream() -> None:
    """No sooner than the watermark would: at the end of the window and the lateness after it."""
    window = minutes(lateness="30s", idle_close="10s", close_at_end=False)
    window.take(as_rows([(20, "a", 1), (70, "a", 1)]))
    none = as_rows([])
    assert window.take(none, Turn(200_000, 9_999, is_last=False)).closed.is_empty()
    assert window.take(none, Turn(89_999, 50_000, is_last=False)).closed.is_empty()
    assert window.take(none, Turn(90_000, 10_000, is_last=False)).closed.height == 1
    assert window.take(none, Turn(149_999, 10_000, is_last=True)).closed.is_empty()
    assert window.take(none, Turn(150_000, 10_000, is_last=True)).closed.height == 1
    assert window.open.frame().is_empty()
    # What comes for them now is late.
    assert window.take(as_rows([(119, "a", 1)])).late.height == 1


def test_nothing_closes_a_window_that_is_not_asked_to() -> None:
    window = minutes(close_at_end=False)
    window.take(as_rows([(20, "a", 1), (9_999, "a", 1)]))
    assert window.take(as_rows([]), Turn(10**12, 10**9, is_last=True)).closed.is_empty()
    assert window.open.frame().height == 2
    assert window.standing.watermark is None


def test_without_lateness_a_window_that_the_end_has_closed_stays_closed() -> None:
    window = minutes()
    window.take(as_rows([(20, "a", 1)]))
    assert window.take(as_rows([]), Turn(0, 0, is_last=True)).closed.height == 1
    stepped = window.take(as_rows([(30, "a", 1), (60, "a", 1)]))
    assert (stepped.late.height, window.standing.next_end) == (1, 120_000)


def test_integers_are_milliseconds() -> None:
    schema = pl.Schema({"_ts": pl.Int64})
    window = Windowed(schema, time="_ts", every=60_000, aggs={"n": pl.len()})
    window.take_all(pl.DataFrame({"_ts": [59_999, 60_000]}), [])
    closed = pl.concat(window.closed)
    assert closed["_lower_boundary"].dtype == pl.Datetime("ms", "UTC")
    assert closed.select(pl.selectors.datetime().to_physical()).rows() == [
        (0, 60_000),
        (60_000, 120_000),
    ]


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        (V.median(), "median"),
        (V.quantile(0.5), "quantile"),
        (V.n_unique(), "n_unique"),
        (V.implode(), "implode"),
        (V.product(), "product"),
        (V.mode(), "mode"),
        (V.sort().first(), "sort"),
        (V.cum_sum().sum(), "cum_sum"),
        (V.shift().sum(), "shift"),
        (V.unique().len(), "unique"),
        (V.head(2).sum(), "slice"),
        (V.sum().over("s"), "over|window"),
        (V.sum().round(2), "round"),
        (V.map_elements(abs, pl.Int64).sum(), "anonymous_function"),
        ((V - V.mean()).sum(), "mean"),
        (V.any(ignore_nulls=False), "any"),
        (V, "no aggregate"),
        (V.sum() / W, "no aggregate"),
        (pl.all().sum(), "no aggregate|selector"),
        (pl.col("^v.*$").sum(), "several columns|one column"),
        (pl.lit(1).sum(), "no column"),
        (pl.lit(1), "no aggregate"),
        (pl.col("s").mean(), "of numbers"),
        (pl.col("c").max(), "order"),
    ],
    ids=lambda value: value if isinstance(value, str) else "of",
)
def test_what_cannot_be_put_together_is_refused_by_name(expression: pl.Expr, name: str) -> None:
    schema = pl.Schema(
        {
            "at": pl.Datetime("us"),
            "v": pl.Int64(),
            "w": pl.Float64(),
            "s": pl.String(),
            "c": pl.Categorical(),
        }
    )
    with pytest.raises(ValueError, match=f"(?s)aggregate 'x'.*({name}).*supported|({name})"):
        Windowed(schema, every="1m", aggs={"x": expression})


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"every": None}, ValueError, "either every, or gap"),
        ({"gap": "1m"}, ValueError, "either every, or gap"),
        ({"every": None, "gap": "1m", "period": "1m"}, ValueError, "period belongs"),
        ({"every": None, "gap": "1mo"}, ValueError, "months"),
        ({"every": "1x"}, ValueError, "as Polars writes it"),
        ({"every": "1h1mo"}, ValueError, "every is no length"),
        ({"every": "0s"}, ValueError, "more than 0"),
        ({"every": -1}, ValueError, "as Polars writes it"),
        ({"every": 1.5}, TypeError, "not float"),
        ({"period": "1d", "every": "1s"}, ValueError, "in 86,401|windows"),
        ({"lateness": "1mo"}, ValueError, "lateness cannot be in months"),
        ({"idle_close": 0}, ValueError, "at least a millisecond"),
        ({"by": ["key", "key"]}, ValueError, "twice"),
        ({"by": "^key$"}, ValueError, "a pattern"),
        ({"aggs": {}}, ValueError, "at least one"),
        ({"aggs": {"key": pl.len()}, "by": "key"}, ValueError, "another column"),
        ({"aggs": {"n": "len"}}, TypeError, "an expression"),
        ({"by": "nothing"}, SchemaError, "no column 'nothing'"),
        ({"time": "key"}, SchemaError, "must be a Datetime"),
        ({"aggs": {"n": pl.col("nothing").sum()}}, SchemaError, "nothing"),
        ({"every": "1us"}, ValueError, r"every must be whole milliseconds.*Datetime\('us'\)"),
        ({"period": "1m1500ns"}, ValueError, r"period must be whole.*Datetime\('ns'\)"),
        ({"every": None, "gap": "1500us"}, ValueError, "gap must be whole milliseconds"),
        ({"lateness": "1us"}, ValueError, "lateness must be whole milliseconds"),
    ],
)
def test_what_cannot_be_declared(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        minutes(**options)


def test_columns_that_are_kept_have_names_of_their_own() -> None:
    schema = pl.Schema({"at": SCHEMA["at"], "a:len": pl.String()})
    with pytest.raises(ValueError, match="'a:len'; rename it"):
        Windowed(schema, every="1m", by="a:len", aggs={"a": pl.len()})


@pytest.mark.parametrize("every", ["30m", "1h", "2h", "5h", "12h", "1d"])
@pytest.mark.parametrize("month", [3, 10])
def test_windows_are_one_after_the_other_where_clocks_are_changed(every: str, month: int) -> None:
    zone = pl.Datetime("ms", "Europe/Berlin")
    if every == "2h":
        half_past_three = pl.Series([datetime(2024, 3, 31, 1, 30, tzinfo=UTC)]).cast(zone)
        try:
            half_past_three.dt.truncate(every)
        except pl.exceptions.ComputeError:
            pytest.skip("this Polars truncates to a time that the zone does not have")
    begin, end = (
        datetime(2024, month, 26, 12, tzinfo=UTC),
        datetime(2024, month, 31, 12, tzinfo=UTC),
    )
    rows = pl.DataFrame({"at": pl.datetime_range(begin, end, "30m", eager=True).cast(zone)})
    window = Windowed(pl.Schema({"at": zone}), every=every, aggs={"n": pl.len()}, lateness="0s")
    closed = pl.concat(window.take_all(rows, [7] * 10).closed).sort("_lower_boundary")
    assert closed["n"].sum() == len(rows)
    assert closed["_upper_boundary"][:-1].equals(closed["_lower_boundary"][1:])


def test_a_column_without_a_name() -> None:
    schema = pl.Schema({"at": SCHEMA["at"], "": pl.String()})
    window = Windowed(schema, every="1m", by="", aggs={"n": pl.len(), "last": pl.col("").last()})
    rows = pl.DataFrame({"at": [0, 1, 2], "": ["a", "b", "a"]}).cast({"at": SCHEMA["at"]})
    window.take_all(rows, [1])
    assert sorted(pl.concat(window.closed)[["", "n", "last"]].rows()) == [
        ("a", 2, "a"),
        ("b", 1, "b"),
    ]


def test_a_definition_is_told_from_another_and_from_itself_made_anew() -> None:
    def text(**options: Any) -> Any:
        return minutes(**options).definition.text

    assert text() == text(lateness="1s", idle_close="1m", close_at_end=False)
    assert text(every=60_000) == text(every=timedelta(minutes=1)) == text(every="60s") == text()
    value = pl.col("value")
    assert text(aggs={"n": value.filter(value > 3).sum()}) == text(
        aggs={"n": value.filter(value > 3).sum().alias("x")}
    )
    others = [
        text(every="2m"),
        text(period="2m"),
        text(every=None, gap="1m"),
        text(by="key"),
        text(aggs={"n": value.sum()}),
        text(aggs={"n": value.filter(value > 3).sum()}),
        text(aggs={"n": value.filter(value > 4).sum()}),
        text(aggs={"n": value.filter(value.is_in([1, 2])).sum()}),
        text(aggs={"n": value.filter(value.is_in([1, 3])).sum()}),
        text(aggs={"n": value.sum() * 2}),
    ]
    assert all(one != other for n, one in enumerate(others) for other in [text(), *others[:n]])
