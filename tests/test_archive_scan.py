"""`scan_archive_and_stream`: the past from files, the present from the server, each entry once."""

from __future__ import annotations

import datetime as dt
import pickle
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import DataLossError, scan_archive_and_stream
from redfloe._lake.parquet import ParquetArchive
from support.archives import DAY, HOUR, archive, files, numbers
from support.server import Server
from support.streams import NUMBER, add, add_numbers
from support.timing import eventually


def scan(url: Any, to: Path, stream: Any = "s", schema: Any = NUMBER, **options: Any) -> Any:
    return scan_archive_and_stream(url, stream, schema, to=to, **options)


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_both_are_one(any_server: Server, client: redis.Redis, tmp_path: Path, engine: Any) -> None:
    ids = [f"{DAY + n * HOUR}-0" for n in range(30)]
    add(client, "s", ((entry, {"n": n}) for n, entry in enumerate(ids[:20])))
    archive(any_server.url, tmp_path, max_rows=7)
    add(client, "s", ((entry, {"n": n}) for n, entry in enumerate(ids[20:], 20)))
    both = scan(any_server.url, tmp_path).collect(engine=engine)
    assert both["_id"].to_list() == ids
    assert both["n"].to_list() == [*range(30)]
    assert both["date"].to_list() == [dt.date(2026, 11, 27)] * 24 + [dt.date(2026, 11, 28)] * 6
    # As it is however much of it is archived, before and after a trim.
    archive(any_server.url, tmp_path)
    client.xtrim("s", maxlen=0, approximate=False)
    assert scan(any_server.url, tmp_path).collect(engine=engine).equals(both)


def test_before_anything_is_archived(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    frame = scan(any_server.url, tmp_path / "lake").collect()
    assert frame.schema == {"_id": pl.String, "_ts": pl.Int64, "n": pl.Int64, "date": pl.Date}
    add_numbers(client, "s", 3)
    assert scan(any_server.url, tmp_path / "lake").collect()["n"].to_list() == [1, 2, 3]
    assert not (tmp_path / "lake").exists()


def test_what_is_archived_after_the_call_comes_from_the_stream(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, "s", 3)
    archive(any_server.url, tmp_path)
    add_numbers(client, "s", 6, first=4)
    both = scan(any_server.url, tmp_path)
    archive(any_server.url, tmp_path)
    assert both.collect()["n"].to_list() == [*range(1, 7)]
    # And where it is gone from there, there is an error instead of a gap.
    client.xtrim("s", minid="6-0", approximate=False)
    with pytest.raises((DataLossError, pl.exceptions.ComputeError), match="call scan_archive_and_"):
        both.select("n").collect()
    assert scan(any_server.url, tmp_path).collect()["n"].to_list() == [*range(1, 7)]


def test_what_is_archived_and_trimmed_before_the_query(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Although nothing was archived when it was made, so that there was no position."""
    add_numbers(client, "s", 3)
    both = scan(redis70.url, tmp_path)
    add_numbers(client, "s", 6, first=4)
    assert both.collect().height == 6
    archive(redis70.url, tmp_path)
    assert both.collect().height == 6
    client.xtrim("s", minid="5-0", approximate=False)
    with pytest.raises((DataLossError, pl.exceptions.ComputeError), match="call scan_archive_and_"):
        both.collect()
    assert scan(redis70.url, tmp_path).collect()["n"].to_list() == [*range(1, 7)]


def test_what_is_archived_and_trimmed_while_it_is_made(
    redis70: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_numbers(client, "s", 300)
    look = ParquetArchive.look

    def then_archive(self: ParquetArchive) -> None:
        look(self)
        monkeypatch.undo()
        archive(redis70.url, tmp_path, trim_after="1h")

    monkeypatch.setattr(ParquetArchive, "look", then_archive)
    both = scan(redis70.url, tmp_path)
    assert client.xlen("s") == 100
    assert both.collect()["n"].to_list() == [*range(1, 301)]


def test_filters_and_columns_reach_both(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    ids = [f"{DAY + n * HOUR}-0" for n in range(60)]
    add(client, "s", ((entry, {"n": n, "x": n}) for n, entry in enumerate(ids[:50])))
    schema = {"n": pl.Int64, "x": pl.Int64}
    archive(any_server.url, tmp_path, schema=schema)
    assert len(files(tmp_path)) == 3
    add(client, "s", ((entry, {"n": n, "x": "none"}) for n, entry in enumerate(ids[50:], 50)))
    both = scan(any_server.url, tmp_path, schema=schema)
    last = both.filter(pl.col("_ts") >= DAY + 49 * HOUR).select("n")
    with pytest.raises(Exception, match='"none"'):
        both.collect()
    assert last.collect()["n"].to_list() == [*range(49, 60)]
    # Days are folders, of which those that do not count are not opened.
    (tmp_path / files(tmp_path)[0]).write_bytes(b"broken")
    newer = both.filter(pl.col("date") >= dt.date(2026, 11, 28), pl.col("n") < 30).select("n")
    assert newer.collect()["n"].to_list() == [*range(24, 30)]
    assert newer.head(2).collect()["n"].to_list() == [24, 25]


def test_new_fields(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    for n, fields in enumerate([{"a": 1}, {"a": 2, "b": "x"}, {"a": 3, "c": "y"}], 1):
        client.xadd("s", fields, id=f"{n}-0")  # type: ignore[arg-type]  # they are fields
        if n < 3:
            archive(any_server.url, tmp_path, schema={"a": pl.Int8})
    rows = scan(any_server.url, tmp_path, schema=None).select("a", "b", "c").collect()
    assert rows.rows() == [(1, None, None), (2, "x", None), (3, None, "y")]
    assert rows.schema == {"a": pl.Int8, "b": pl.String, "c": pl.String}
    left_out = scan(any_server.url, tmp_path, schema=None, on_new_fields="ignore").collect()
    assert left_out.columns == ["_id", "_ts", "a", "b", "date"]
    kept = scan(any_server.url, tmp_path, schema=None, on_new_fields="rescue").collect()
    assert kept["_rescued"].to_list() == [None, None, '{"c":"y"}']


def test_several_streams(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    streams = ["1", "b/c"]
    add_numbers(client, "1", 3)
    archive(any_server.url, tmp_path, streams)
    add_numbers(client, "1", 4, first=4)
    add_numbers(client, "b/c", 2)
    both = scan(any_server.url, tmp_path, streams).select("_stream", "n").collect()
    assert both.rows() == [("1", 1), ("1", 2), ("1", 3), ("1", 4), ("b/c", 1), ("b/c", 2)]
    archive(any_server.url, tmp_path, streams)
    again = scan(any_server.url, tmp_path, streams).select("_stream", "n").collect()
    assert again.equals(both)


def test_it_can_be_pickled(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, "s", 3)
    archive(any_server.url, tmp_path, until="2-0", every="1ms")
    both = pickle.loads(pickle.dumps(scan(any_server.url, tmp_path)))
    assert both.collect()["n"].to_list() == [1, 2, 3]


def test_while_it_is_archived_and_trimmed(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Whoever asks sees all entries up to some of the newest ones, each once."""
    last, ends = add_numbers(client, "s", 300), 0
    options = {"to": tmp_path, "every": "5ms", "block_ms": 5, "until": "2000-0", "trim_after": "1m"}
    thread = threading.Thread(
        target=redfloe.archive, args=(any_server.url, "s", NUMBER), kwargs=options
    )
    thread.start()
    eventually(lambda: len(numbers(tmp_path)) >= 300)
    while last < 2000:
        last += add_numbers(client, "s", min(last + 100, 2000), first=last + 1)
        try:
            found = scan(any_server.url, tmp_path).collect()["n"].to_list()
        except (DataLossError, pl.exceptions.ComputeError) as error:
            assert "call scan_archive_and_stream again" in str(error)  # noqa: PT017
            continue
        assert found == [*range(1, last + 1)]
        ends += 1
    thread.join(20)
    assert numbers(tmp_path) == [*range(1, 2001)]
    assert ends > 0
    assert client.xlen("s") < 200
