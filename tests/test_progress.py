"""Progress bars of scans and writes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import read_stream, scan_stream, sink_stream, write_stream
from redfloe._progress import share_of
from support.clients import quick
from support.server import Server
from support.streams import NUMBER, add, add_numbers

NOWHERE = "redis://127.0.0.1:1"
FRAME = pl.DataFrame({"n": range(2_500)})


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Give the last that bars have shown."""
    pytest.importorskip("tqdm")
    return lambda: capsys.readouterr().err.replace("\n", "\r").strip("\r").split("\r")[-1]


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_a_scan_shows_rows_bytes_and_its_end(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    engine: Any,
    shown: Callable[[], str],
) -> None:
    add_numbers(client, stream, 3_000)
    lf = scan_stream(any_server.url, stream, NUMBER, progress=True)
    df = lf.filter(pl.col("n") % 2 == 0).collect(engine=engine)
    assert df.height == 1_500
    bar = shown()
    assert bar.startswith(f"scan of '{stream}': 100%")
    assert "3.00k/3.00k" in bar
    assert "rows/s" in bar
    assert "0.1 MB" in bar


def test_a_scan_shows_the_share_of_its_ids(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    shown: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redfloe._reading.scan._BATCH_SIZE", 100)
    add(client, stream, [(f"{number}-0", {"n": number}) for number in [*range(1, 101), 1001]])
    lf = scan_stream(any_server.url, stream, NUMBER, progress=True)
    batches = iter(lf.collect_batches(chunk_size=100, maintain_order=True))
    assert next(batches).height == 100
    assert sum(batch.height for batch in batches) == 1
    assert "101/101" in shown()


@pytest.mark.parametrize(
    "options",
    [
        {"schema": NUMBER},
        {"schema": {"n": pl.Categorical}},
        {},
        {"rescue_column": "rest", "max_columns": 2},
        {"schema_overrides": {"absent": pl.Int8, "m": pl.Int128}},
        {"infer_schema": True},
        {"last": 150},
        {"count": 250},
        {"count": 0},
        {"start_id": "500"},
    ],
    ids=str,
)
def test_a_read_with_a_bar_gives_the_same_frame(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    options: dict[str, Any],
    shown: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redfloe._reading.read._BATCH_SIZE", 100)
    add_numbers(client, stream, 250)
    add(client, stream, [(f"{number}-0", {"m": number, "k": 1}) for number in range(251, 301)])
    df = read_stream(any_server.url, stream, progress=True, **options)
    assert_frame_equal(df, read_stream(any_server.url, stream, **options))
    bar = shown()
    assert bar.startswith(f"read of '{stream}': 100%") if df.height else True
    assert df.n_chunks() <= 1


@pytest.mark.parametrize("options", [{"group": "g", "consumer": "c"}, {"block_ms": 5}])
def test_a_read_that_may_wait_has_no_bar(stream: str, options: dict[str, Any]) -> None:
    pytest.importorskip("tqdm")
    with pytest.raises(ValueError, match="progress shows"):
        read_stream(quick(NOWHERE), stream, NUMBER, progress=True, **options)


@pytest.mark.parametrize(
    ("last", "bounds", "share"),
    [
        ("5-0", ((0, 0), (10, 0)), 0.5),
        ("10-3", ((0, 0), (10, 5)), 1.0),
        ("11-0", ((0, 0), (10, 0)), 1.0),
        ("20-0", ((10, 0), (30, 0)), 0.5),
        ("10-7", ((10, 0), (10, 9)), None),
    ],
)
def test_the_share_is_told_by_the_range(last: str, bounds: Any, share: float | None) -> None:
    assert share_of(last, bounds) == share


def test_an_empty_scan_shows_nothing(
    any_server: Server, stream: str, shown: Callable[[], str]
) -> None:
    assert scan_stream(any_server.url, stream, NUMBER, progress=True).collect().is_empty()
    assert shown() == ""


def test_a_write_shows_its_rows(
    any_server: Server, client: redis.Redis, stream: str, shown: Callable[[], str]
) -> None:
    write_stream(any_server.url, FRAME, stream, progress=True)
    assert client.xlen(stream) == 2_500
    assert shown().startswith(f"write_stream to '{stream}': 100%")


@pytest.mark.skipif(not hasattr(pl.LazyFrame, "collect_batches"), reason="needs Polars 1.34")
def test_a_sink_shows_its_rows(
    any_server: Server, client: redis.Redis, stream: str, shown: Callable[[], str]
) -> None:
    assert sink_stream(any_server.url, FRAME.lazy(), stream, chunk_size=100, progress=True) == 2_500
    bar = shown()
    assert bar.startswith(f"sink_stream to '{stream}': 100%")
    assert "2.50k/2.50k" in bar


def test_a_bar_that_ends_early_is_left_as_it_stands(
    any_server: Server, client: redis.Redis, stream: str, shown: Callable[[], str]
) -> None:
    client.set(stream, "text")
    with pytest.raises(TypeError, match="not a stream"):
        write_stream(any_server.url, FRAME, stream, progress=True)
    assert "0.00/2.50k" in shown()


def test_a_callable_is_called_as_before(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    seen: list[int] = []
    write_stream(any_server.url, FRAME, stream, progress=seen.append)
    assert seen[-1] == 2_500
    write_stream(any_server.url, FRAME, stream, progress=False)
    write_stream(any_server.url, FRAME, stream, progress=None)
    assert client.xlen(stream) == 7_500


CALLS: list[Callable[[Any], object]] = [
    lambda progress: read_stream(quick(NOWHERE), "s", NUMBER, progress=progress),
    lambda progress: scan_stream(quick(NOWHERE), "s", NUMBER, progress=progress),
    lambda progress: write_stream(quick(NOWHERE), FRAME, "s", progress=progress),
    lambda progress: sink_stream(quick(NOWHERE), FRAME.lazy(), "s", progress=progress),
]


@pytest.mark.parametrize("call", CALLS)
def test_without_tqdm_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], object]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
        call(True)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", [5, "yes"])
def test_what_is_no_progress_is_refused(call: Callable[[Any], object], wrong: Any) -> None:
    with pytest.raises(TypeError, match="progress must be True"):
        call(wrong)
