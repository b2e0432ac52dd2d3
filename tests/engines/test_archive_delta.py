"""Archives as Delta tables: the position is in the transaction that has the rows."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import threading
from pathlib import Path
from typing import Any

import deltalake
import polars as pl
import pytest
import redis
from deltalake.exceptions import CommitFailedError

import redfloe
from redfloe import DataLossError, FencedError, SchemaError, scan_archive_and_stream
from support.archives import DAY, HOUR, NOW
from support.buckets import BUCKET, bucket
from support.disks import largest_file
from support.processes import python
from support.server import Server
from support.streams import NUMBER, add, add_numbers
from support.timing import SLACK


def archive(url: Any, to: Any, stream: Any = "s", schema: Any = NUMBER, **options: Any) -> Any:
    return redfloe.archive(url, stream, schema, to=to, format="delta", **(NOW | options))


def scan(url: Any, to: Any, stream: Any = "s", schema: Any = NUMBER, **options: Any) -> Any:
    return scan_archive_and_stream(url, stream, schema, to=to, format="delta", **options)


def numbers(to: Any, **options: Any) -> list[int]:
    frame = pl.read_delta(str(to), **options)
    assert frame["_id"].is_unique().all()
    return sorted(frame["n"].to_list())


def test_it_goes_on_where_it_ended(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, "s", 7)
    result = archive(any_server.url, tmp_path, max_rows=3)
    assert result == redfloe.ArchiveResult(7, {"s": "7-0"}, 0)
    table = deltalake.DeltaTable(tmp_path)
    assert table.version() == 3  # it is created first
    assert table.metadata().partition_columns == ["date"]
    add_numbers(client, "s", 9, first=8)
    again = redfloe.archive_async(any_server.url, "s", to=tmp_path, format="delta", **NOW)
    assert asyncio.run(again).entries == 2
    assert archive(any_server.url, tmp_path).entries == 0
    assert numbers(tmp_path) == [*range(1, 10)]


def test_a_batch_is_one_transaction(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Of all its streams and partitions, also by a field."""
    for stream in ("a", "b"):
        ids = [f"{DAY + n * HOUR}-0" for n in (1, 25, 49)]
        add(client, stream, ((entry, {"n": n % 2}) for n, entry in enumerate(ids)))
    archive(any_server.url, tmp_path, ["a", "b"], partition_by=["date", "n"])
    table = deltalake.DeltaTable(tmp_path)
    assert table.version() == 1
    assert table.metadata().partition_columns == ["date", "n"]
    rows = pl.read_delta(str(tmp_path)).sort("_stream", "_id").select("_stream", "date", "n").rows()
    days = ["2026-11-27", "2026-11-28", "2026-11-29"]
    wanted = [(stream, day, n % 2) for stream in ("a", "b") for n, day in enumerate(days)]
    assert rows == wanted
    both = scan(any_server.url, tmp_path, ["a", "b"], partition_by=["date", "n"])
    assert both.filter(pl.col("_stream") == "b").collect().height == 3


def test_it_survives_maintenance(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    for last in range(1, 6):
        client.xadd("s", {"n": last}, id=f"{last}-0")
        archive(any_server.url, tmp_path)
    table = deltalake.DeltaTable(tmp_path)
    table.optimize.compact()
    table.create_checkpoint()
    table.vacuum(0, enforce_retention_duration=False, dry_run=False)
    table.cleanup_metadata()
    client.xadd("s", {"n": 6}, id="6-0")
    assert archive(any_server.url, tmp_path).entries == 1
    assert numbers(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_dtypes(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    schema: dict[str, Any] = {
        "binary": pl.Binary,
        "decimal": pl.Decimal(10, 2),
        "when": pl.Datetime("ms", "Europe/Berlin"),
        "enum": pl.Enum(["a", "b"]),
        "small": pl.UInt8,
        "list": pl.List(pl.Struct({"x": pl.Int8})),
        "array": pl.Array(pl.Int64, 2),
    }
    fields: dict[Any, Any] = {
        "binary": b"\xff\x00",
        "decimal": "1.25",
        "when": "2026-11-27T12:00:00+01:00",
        "enum": "b",
        "small": "200",
        "list": '[{"x": 1}]',
        "array": "[1, 2]",
    }
    options: dict[str, Any] = {"include_sequence": True, "timestamp_dtype": pl.Datetime}
    for n in range(1, 4):  # by the schema, and by the table's
        client.xadd("s", fields, id=f"{n}-{2**64 - 1 if n == 9 else 0}")
        archive(any_server.url, tmp_path, schema=schema if n < 3 else None, **options)
    found = pl.read_delta(str(tmp_path)).sort("_id").select(*schema, "_seq")
    when = dt.datetime(2026, 11, 27, 11, tzinfo=dt.UTC)
    wanted = (b"\xff\x00", *found["decimal"].to_list()[:1], when, "b", 200, [{"x": 1}], [1, 2], 0)
    assert found.rows() == [wanted] * 3
    assert found.schema["small"] == pl.Int16
    both = scan(any_server.url, tmp_path, schema=schema, **options).collect()
    assert both.select(*schema, "_seq").equals(found)


@pytest.mark.parametrize(
    "dtype", [pl.Time, pl.Duration("ms"), pl.Int128, pl.Struct({"a": pl.List(pl.Duration)})]
)
def test_dtypes_that_delta_lacks(
    any_server: Server, client: redis.Redis, tmp_path: Path, dtype: Any
) -> None:
    client.xadd("s", {"x": "1"}, id="1-0")
    with pytest.raises(SchemaError, match="Delta has no"):
        archive(any_server.url, tmp_path, schema={"x": dtype}, on_error="null")
    assert not (tmp_path / "_delta_log").exists()


def test_new_fields(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    client.xadd("s", {"n": 1}, id="1-0")
    archive(any_server.url, tmp_path)
    client.xadd("s", {"n": 2, "new": "x"}, id="2-0")
    with pytest.raises(SchemaError, match="entry 2-0 has the field 'new'"):
        archive(any_server.url, tmp_path, on_new_fields="raise")
    assert scan(any_server.url, tmp_path).select("n", "new").collect().rows() == [
        (1, None),
        (2, "x"),
    ]
    archive(any_server.url, tmp_path)
    client.xadd("s", {"n": 3, "more": "y"}, id="3-0")
    archive(any_server.url, tmp_path, on_new_fields="rescue")
    rows = pl.read_delta(str(tmp_path)).sort("_id").select("n", "new", "_rescued").rows()
    assert rows == [(1, None, None), (2, "x", None), (3, None, '{"more":"y"}')]


def test_a_table_that_is_no_archive(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    deltalake.write_deltalake(tmp_path / "mine", pl.DataFrame({"n": [1]}))
    with pytest.raises(ValueError, match="is no archive of 's'"):
        archive(any_server.url, tmp_path / "mine", partition_by=None)
    with pytest.raises(ValueError, match=r"has the partitions \[\], and not \['date'\]"):
        archive(any_server.url, tmp_path / "mine")
    add_numbers(client, "s", 3)
    add_numbers(client, "t", 3)
    archive(any_server.url, tmp_path / "one")
    with pytest.raises(ValueError, match="is no archive of 't'"):
        archive(any_server.url, tmp_path / "one", "t")
    with pytest.raises(ValueError, match="is the archive of one stream, or of several"):
        archive(any_server.url, tmp_path / "one", ["s"])


def test_no_partition_of_that_name(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, "s", 3)
    with pytest.raises(SchemaError, match="there is no field 'sku', and no such part of the time"):
        archive(any_server.url, tmp_path, partition_by="sku")


def test_loss(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, "s", 3)
    archive(any_server.url, tmp_path)
    add_numbers(client, "s", 6, first=4)
    both = scan(any_server.url, tmp_path).select("n")
    client.xtrim("s", minid="5-0", approximate=False)
    with pytest.raises(DataLossError, match="trimmed past 3-0"):
        archive(any_server.url, tmp_path)
    with pytest.raises((DataLossError, pl.exceptions.ComputeError), match="scan_archive_and"):
        both.collect()
    assert archive(any_server.url, tmp_path, on_data_loss="continue").entries == 2
    assert numbers(tmp_path) == [1, 2, 3, 5, 6]


def test_two_archivers(
    any_server: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is slower at a position has not written anything."""
    add_numbers(client, "s", 3)
    archive(any_server.url, tmp_path)
    add_numbers(client, "s", 6, first=4)
    write, is_first = deltalake.write_deltalake, [True]

    def late(*arguments: Any, **options: Any) -> None:
        if is_first.pop():
            is_first.append(False)
            archive(any_server.url, tmp_path, until="5-0", every="1ms")
        else:
            is_first.append(False)
        write(*arguments, **options)

    monkeypatch.setattr(deltalake, "write_deltalake", late)
    with pytest.raises(FencedError, match="another archiver writes to") as raised:
        archive(any_server.url, tmp_path)
    assert isinstance(raised.value.__cause__, CommitFailedError)
    assert numbers(tmp_path) == [1, 2, 3, 4, 5]
    assert archive(any_server.url, tmp_path).entries == 1


def test_a_table_that_somebody_changes_meanwhile(
    any_server: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_numbers(client, "s", 3)
    archive(any_server.url, tmp_path)
    add_numbers(client, "s", 6, first=4)
    write, fields = (
        deltalake.write_deltalake,
        [deltalake.Field("mine", deltalake.schema.PrimitiveType("string"))],
    )

    def late(*arguments: Any, **options: Any) -> None:
        if fields:
            deltalake.DeltaTable(tmp_path).alter.add_columns([fields.pop()])
        write(*arguments, **options)

    monkeypatch.setattr(deltalake, "write_deltalake", late)
    assert archive(any_server.url, tmp_path).entries == 3
    assert numbers(tmp_path) == [*range(1, 7)]


def test_two_at_once(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    """Also where both want to create the table."""

    def run() -> None:
        for _ in range(40):
            try:
                archive(any_server.url, tmp_path, until="100-0", every="10ms")
            except FencedError:
                continue
            return

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for last in range(10, 110, 10):
        add_numbers(client, "s", last, first=last - 9)
        threads[0].join(0.02)
    for thread in threads:
        thread.join(30 * SLACK)
    assert numbers(tmp_path) == [*range(1, 101)]


#: A process that dies at the n-th write of a file in the table's directory, or its log.
WORKER = """
import signal
import polars as pl

url, to, delay = sys.argv[1:]
def die():
    time.sleep(float(delay))
    os.kill(os.getpid(), signal.SIGKILL)

import deltalake
write, count = deltalake.write_deltalake, 0
def writing(*arguments, **options):
    global count
    count += 1
    if count == 2:
        threading.Thread(target=die).start()
    write(*arguments, **options)
deltalake.write_deltalake = writing
redfloe.archive(url, "s", {"n": pl.Int64}, to=to, format="delta", max_rows=2, every="1ms")
"""


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.004, 0.006, 0.01, 0.02])
def test_one_that_is_killed_while_it_commits(
    any_server: Server, client: redis.Redis, tmp_path: Path, delay: float
) -> None:
    add_numbers(client, "s", 100)
    with python(WORKER, any_server.url, str(tmp_path), str(delay)) as process:
        assert process.wait(20 * SLACK) == -signal.SIGKILL
    before = numbers(tmp_path)
    assert before == [*range(1, len(before) + 1)]
    assert archive(any_server.url, tmp_path).entries == 100 - len(before)
    assert numbers(tmp_path) == [*range(1, 101)]


def test_a_table_in_a_bucket(any_server: Server, client: redis.Redis) -> None:
    to = f"s3://{BUCKET}/table"
    add_numbers(client, "s", 3)
    with bucket() as storage:
        options: dict[str, Any] = {"storage_options": storage}
        assert archive(any_server.url, to, **options).entries == 3
        add_numbers(client, "s", 5, first=4)
        assert archive(any_server.url, to, **options).entries == 2
        assert numbers(to, **options) == [1, 2, 3, 4, 5]
        client.xadd("s", {"n": 6}, id="6-0")
        both = scan(any_server.url, to, **options).select("n").collect()
        assert sorted(both["n"].to_list()) == [1, 2, 3, 4, 5, 6]


def test_ids_that_are_larger_than_deltas_numbers(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    client.xadd("s", {"n": 1}, id=f"5-{2**63}")
    with pytest.raises(ValueError, match="is larger than a table's numbers"):
        archive(any_server.url, tmp_path)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'redfloe\[delta\]'"):
        archive("redis://127.0.0.1:1", "lake")


def test_with_another_dtype_of_times(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, "s", 2)
    archive(any_server.url, tmp_path)
    add_numbers(client, "s", 3, first=3)
    with pytest.raises(SchemaError, match="keep its timestamp_dtype"):
        archive(any_server.url, tmp_path, timestamp_dtype=pl.Datetime("us", "UTC"))
    assert numbers(tmp_path) == [1, 2]


def test_dtypes_within_others(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    schema = {
        "list": pl.List(pl.UInt8),
        "struct": pl.Struct({"a": pl.UInt64, "b": pl.List(pl.Datetime("ms"))}),
        "array": pl.Array(pl.UInt16, 2),
        "categories": pl.List(pl.Categorical),
    }
    fields = {
        "list": "[200]",
        "struct": '{"a": 1, "b": [0]}',
        "array": "[1, 65535]",
        "categories": '["x"]',
    }
    for last in (1, 2):  # the second goes on with the columns that the first has made
        add(client, "s", [(f"{last}-0", fields)])
        assert archive(any_server.url, tmp_path, schema=schema).entries == 1
    rows = pl.read_delta(str(tmp_path))
    assert rows["list"].to_list() == [[200], [200]]
    assert rows["array"].to_list() == [[1, 65535]] * 2
    assert rows["struct"].struct.field("a").to_list() == [1, 1]


def test_where_an_archive_of_files_is(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, "s", 2)
    redfloe.archive(any_server.url, "s", NUMBER, to=tmp_path, **NOW)
    with pytest.raises(ValueError, match='is an archive of Parquet files: pass format="parquet"'):
        archive(any_server.url, tmp_path)


@pytest.mark.parametrize(
    "name", ["a b", "50%", "a#b", "a?b", "[x]", "a|b", "{x}", "ü", "year=2024", "date=2024-01-01"]
)
def test_a_place_where_polars_finds_no_table(tmp_path: Path, name: str) -> None:
    """delta-rs panics at some, and writes to others what Polars cannot read."""
    for to in (tmp_path / name / "lake", f"s3://{BUCKET}/{name}/lake"):
        for refused in (archive, scan):
            with pytest.raises(ValueError, match="Polars does not find the files of a Delta"):
                refused("redis://127.0.0.1:1", to)
    assert not (tmp_path / name).exists()


def test_a_place_with_an_odd_name_that_is_none(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    to = tmp_path / "a+b,c@d:e&f(g)-~!$';.x"
    add_numbers(client, "s", 3)
    archive(redis70.url, to, until="2-0", every="1ms")
    assert sorted(scan(redis70.url, to).collect()["n"]) == [1, 2, 3]
    assert [*tmp_path.iterdir()] == [to]


def test_a_directory_that_is_not_absolute(
    redis70: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    add_numbers(client, "s", 4)
    archive(redis70.url, Path("lake"))
    both = scan(redis70.url, "lake")
    monkeypatch.chdir("/")
    assert both.collect()["n"].to_list() == [1, 2, 3, 4]


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_disk_that_is_full(
    redis70: Server, client: redis.Redis, tmp_path: Path, is_begun: bool
) -> None:
    to = tmp_path / "table"
    add_numbers(client, "s", 9)
    if is_begun:
        archive(redis70.url, to, until="3-0", every="1ms")
    with largest_file(0), pytest.raises(OSError, match="File too large"):
        archive(redis70.url, to)
    assert archive(redis70.url, to).entries == (6 if is_begun else 9)
    assert numbers(to) == [*range(1, 10)]


def test_a_place_where_nothing_may_be_written(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, "s", 3)
    with pytest.raises(OSError, match="'/sys/lake'"):
        archive(redis70.url, "/sys/lake")
    (tmp_path / "file").touch()
    for refused in (archive, scan):
        with pytest.raises(NotADirectoryError, match="is a file"):
            refused(redis70.url, tmp_path / "file")


@pytest.mark.parametrize("when", ["first", "later"])
def test_fields_that_differ_by_case(
    redis70: Server, client: redis.Redis, tmp_path: Path, when: str
) -> None:
    client.xadd("s", {"n": 1}, id="1-0")
    if when == "later":
        archive(redis70.url, tmp_path)
    client.xadd("s", {"n": 2, "N": "x"}, id="2-0")
    with pytest.raises(SchemaError, match="Delta takes the fields 'n' and 'N' for one"):
        archive(redis70.url, tmp_path)
    archive(redis70.url, tmp_path, on_new_fields="rescue")
    rows = pl.read_delta(str(tmp_path)).sort("_id").select("n", "_rescued").rows()
    assert rows == [(1, None), (2, '{"N":"x"}')]


@pytest.mark.parametrize("dtype", [pl.Binary, pl.List(pl.Int64)])
def test_dtypes_that_are_no_partitions(
    redis70: Server, client: redis.Redis, tmp_path: Path, dtype: Any
) -> None:
    client.xadd("s", {"x": "[1]"})
    with pytest.raises(SchemaError, match=r"Delta has no partitions by .* as which 'x' is read"):
        archive(redis70.url, tmp_path, schema={"x": dtype}, partition_by="x")
    assert not (tmp_path / "_delta_log").exists()
