"""`archive` to Parquet files: what is in them, what they are called, and what goes on where."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import FencedError, NoStreamError, SchemaError
from redfloe._lake.folder import Folder
from support.archives import DAY, HOUR, NOW, archive, archive_in, cancelled, files, numbers, read
from support.consumers import World
from support.server import Server
from support.streams import NUMBER, add, add_numbers
from support.timing import eventually


def at(hours: float, n: int = 0) -> str:
    return f"{DAY + int(hours * HOUR)}-{n}"


def test_files_are_named_after_their_entries(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    add_numbers(client, "s", 7)
    result = archive_in(world, any_server.url, tmp_path / "lake", max_rows=3)
    assert result == redfloe.ArchiveResult(7, {"s": "7-0"}, 0)
    day = "date=1970-01-01"
    assert files(tmp_path / "lake") == [
        f"{day}/1-0_3-0.parquet",
        f"{day}/4-0_6-0.parquet",
        f"{day}/7-0_7-0.parquet",
    ]
    frame = read(tmp_path / "lake")
    assert frame.schema == {"_id": pl.String, "_ts": pl.Int64, "n": pl.Int64, "date": pl.Date}
    assert frame["n"].to_list() == [*range(1, 8)]


def test_it_goes_on_where_it_ended(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    add_numbers(client, "s", 3)
    assert archive_in(world, any_server.url, tmp_path).entries == 3
    assert archive_in(world, any_server.url, tmp_path).entries == 0
    add_numbers(client, "s", 5, first=4)
    assert archive_in(world, any_server.url, tmp_path) == redfloe.ArchiveResult(2, {"s": "5-0"}, 0)
    assert files(tmp_path) == ["date=1970-01-01/1-0_3-0.parquet", "date=1970-01-01/4-0_5-0.parquet"]


def test_a_batch_is_cut_where_a_partition_ends(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    ids = [at(23.5), at(23.9), at(24), at(24, 1), at(72)]
    add(client, "s", ((entry, {"n": n}) for n, entry in enumerate(ids)))
    archive(any_server.url, tmp_path / "date")
    assert files(tmp_path / "date") == [
        f"date=2026-11-27/{ids[0]}_{ids[1]}.parquet",
        f"date=2026-11-28/{ids[2]}_{ids[3]}.parquet",
        f"date=2026-11-30/{ids[4]}_{ids[4]}.parquet",
    ]
    days = read(tmp_path / "date")["date"].to_list()
    assert days == [dt.date(2026, 11, day) for day in (27, 27, 28, 28, 30)]
    archive(any_server.url, tmp_path / "hour", partition_by=["year", "month", "day", "hour"])
    assert files(tmp_path / "hour")[-1] == (
        f"year=2026/month=2026-11/day=2026-11-30/hour=2026-11-30T00/{ids[4]}_{ids[4]}.parquet"
    )
    archive(any_server.url, tmp_path / "flat", partition_by=None)
    assert files(tmp_path / "flat") == [f"{ids[0]}_{ids[4]}.parquet"]


def test_ids_that_tell_no_time(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    """They come last, whatever the clock says: IDs only grow."""
    ids = [at(0), f"{2**50}-0", f"{2**63 - 1}-{2**64 - 1}"]
    add(client, "s", ((entry, {"n": n}) for n, entry in enumerate(ids)))
    archive(any_server.url, tmp_path)
    assert files(tmp_path) == [
        f"date=2026-11-27/{ids[0]}_{ids[0]}.parquet",
        f"date=__HIVE_DEFAULT_PARTITION__/{ids[1]}_{ids[2]}.parquet",
    ]
    assert archive(any_server.url, tmp_path).entries == 0
    assert numbers(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("is_there", [True, False])
def test_an_empty_stream(
    any_server: Server, client: redis.Redis, tmp_path: Path, is_there: bool
) -> None:
    if is_there:
        redfloe.create_stream(any_server.url, "s")
    assert archive(any_server.url, tmp_path) == redfloe.ArchiveResult(0, {}, 0)
    assert files(tmp_path) == []
    add_numbers(client, "s", 2)
    assert archive(any_server.url, tmp_path).entries == 2


def test_files_are_bounded_by_bytes(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add(client, "s", ((f"{n}-0", {"x": "x" * 300_000}) for n in range(1, 9)))
    archive(any_server.url, tmp_path, schema=None, max_bytes=600_000)
    assert 3 <= len(files(tmp_path)) <= 4
    assert read(tmp_path).height == 8


def test_a_huge_entry(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    big = "x" * 20_000_000
    add(client, "s", [("1-0", {"x": "a"}), ("2-0", {"x": big}), ("3-0", {"x": "c"})])
    archive(any_server.url, tmp_path, schema={"x": pl.String}, max_bytes=1_000_000)
    assert read(tmp_path)["x"].to_list() == ["a", big, "c"]


def test_files_are_bounded_by_time(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    """Entries that come one by one are collected, from the first one on."""
    add_numbers(client, "s", 2)
    options = {"to": tmp_path, "every": "300ms", "block_ms": 20, "until": "9-0"}
    thread = threading.Thread(target=redfloe.archive, args=(any_server.url, "s"), kwargs=options)
    thread.start()
    eventually(lambda: files(tmp_path) != [])
    assert files(tmp_path) == ["date=1970-01-01/1-0_2-0.parquet"]
    for n in range(3, 10):
        client.xadd("s", {"n": n}, id=f"{n}-0")
    thread.join(20)
    assert files(tmp_path)[-1] == "date=1970-01-01/3-0_9-0.parquet"


def test_dtypes(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    schema: dict[str, Any] = {
        "binary": pl.Binary,
        "decimal": pl.Decimal(10, 2),
        "time": pl.Time,
        "when": pl.Datetime("ms", "Europe/Berlin"),
        "span": pl.Duration("ms"),
        "enum": pl.Enum(["a", "b"]),
        "list": pl.List(pl.Struct({"x": pl.UInt8})),
        "big": pl.UInt64,
    }
    fields: dict[Any, Any] = {
        "binary": b"\xff\x00",
        "decimal": "1.25",
        "time": "12:00:01",
        "when": "2026-11-27T12:00:00+01:00",
        "span": "1500",
        "enum": "b",
        "list": '[{"x": 1}]',
        "big": str(2**64 - 1),
    }
    add(client, "s", [("1-0", fields), ("2-0", {"big": "1"})])
    options: dict[str, Any] = {"include_sequence": True, "timestamp_dtype": pl.Datetime}
    archive(any_server.url, tmp_path, schema=schema, **options)
    wanted = redfloe.read_stream(any_server.url, "s", schema, **options)
    found = read(tmp_path)
    assert found.drop("date").equals(wanted)
    assert found.drop("date").schema == wanted.schema
    # Also where nobody says them any more.
    client.xadd("s", fields, id="3-0")
    archive(any_server.url, tmp_path, schema=None, **options)
    assert read(tmp_path).drop("date").schema == wanted.schema


def test_payloads(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    add(client, "s", [("1-0", {"data": '{"a": 1, "b": [1, 2]}'}), ("2-0", {"data": '{"a": 2}'})])
    options: dict[str, Any] = {"schema": None, "payload": "data", "infer_schema": True}
    archive(any_server.url, tmp_path, **options)
    client.xadd("s", {"data": '{"a": 3, "c": "new"}'}, id="3-0")
    archive(any_server.url, tmp_path, **options)
    assert read(tmp_path).select("a", "c").rows() == [(1, None), (2, None), (3, "new")]


class TestSeveralStreams:
    def test_each_has_its_folder_and_its_position(
        self, any_server: Server, client: redis.Redis, tmp_path: Path, world: World
    ) -> None:
        streams: list[Any] = ["a/b", b"\xff", "c"]
        add_numbers(client, "a/b", 3)
        add_numbers(client, b"\xff", 2)
        url, options = any_server.url, {"to": tmp_path, **NOW}

        def run() -> redfloe.ArchiveResult:
            if world.runner is None:
                return redfloe.archive(url, streams, NUMBER, **options)
            made: redfloe.ArchiveResult = world.do(
                redfloe.archive_async(url, streams, NUMBER, **options)
            )
            return made

        assert run() == redfloe.ArchiveResult(5, {"a/b": "3-0", "\\xff": "2-0"}, 0)
        add_numbers(client, "c", 1)
        add_numbers(client, "a/b", 4, first=4)
        assert run().entries == 2
        assert sorted(files(tmp_path)) == [
            "_stream=%5Cxff/date=1970-01-01/1-0_2-0.parquet",
            "_stream=a%2Fb/date=1970-01-01/1-0_3-0.parquet",
            "_stream=a%2Fb/date=1970-01-01/4-0_4-0.parquet",
            "_stream=c/date=1970-01-01/1-0_1-0.parquet",
        ]

    def test_one_that_is_added_and_one_that_is_left_out(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        add_numbers(client, "a", 3)
        add_numbers(client, "b", 2)
        archive(any_server.url, tmp_path, ["a"])
        assert archive(any_server.url, tmp_path, ["b", "a"]).entries == 2
        assert archive(any_server.url, tmp_path, ["b"]).offsets == {"b": "2-0"}


class TestNewFields:
    @pytest.fixture
    def begun(self, any_server: Server, client: redis.Redis, tmp_path: Path) -> Path:
        add(client, "s", [("1-0", {"n": 1})])
        archive(any_server.url, tmp_path)
        add(client, "s", [("2-0", {"n": 2}), ("3-0", {"n": 3, "new": "x"})])
        return tmp_path

    def test_become_columns(self, any_server: Server, client: redis.Redis, begun: Path) -> None:
        archive(any_server.url, begun)
        assert read(begun).select("n", "new").rows() == [(1, None), (2, None), (3, "x")]
        # They stay, also in files without any.
        client.xadd("s", {"n": 4}, id="4-0")
        archive(any_server.url, begun)
        newest = pl.read_parquet(begun / files(begun)[-1], hive_partitioning=False)
        assert newest.columns == ["_id", "_ts", "n", "new"]

    def test_are_kept_with_what_does_not_fit(
        self, any_server: Server, client: redis.Redis, begun: Path
    ) -> None:
        client.xadd("s", {"n": "four"}, id="4-0")
        archive(any_server.url, begun, on_new_fields="rescue")
        assert read(begun).select("n", "_rescued").rows() == [
            (1, None),
            (2, None),
            (3, '{"new":"x"}'),
            (None, '{"n":"four"}'),
        ]

    def test_raise(self, any_server: Server, client: redis.Redis, begun: Path) -> None:
        with pytest.raises(SchemaError, match="entry 3-0 has the field 'new', which the archive"):
            archive(any_server.url, begun, on_new_fields="raise")
        assert numbers(begun) == [1]
        assert archive(any_server.url, begun, on_new_fields="raise", until="2-0").entries == 1
        assert archive(any_server.url, begun).entries == 1

    def test_are_left_out(self, any_server: Server, client: redis.Redis, begun: Path) -> None:
        archive(any_server.url, begun, on_new_fields="ignore")
        assert read(begun).columns == ["_id", "_ts", "n", "date"]

    def test_need_a_schema_to_be_rescued(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        options: dict[str, Any] = {"schema": None, "on_new_fields": "rescue", "infer_schema": True}
        with pytest.raises(ValueError, match='on_new_fields="rescue" needs a schema'):
            archive(any_server.url, tmp_path, **options)
        add_numbers(client, "s", 2)
        archive(any_server.url, tmp_path, **options)
        client.xadd("s", {"n": 3, "m": 4}, id="3-0")
        archive(any_server.url, tmp_path, **options)
        assert read(tmp_path).select("n", "_rescued").rows() == [
            (1, None),
            (2, None),
            (3, '{"m":"4"}'),
        ]

    def test_that_are_called_as_a_partition_is(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        client.xadd("s", {"date": "x"}, id="1-0")
        with pytest.raises(SchemaError, match=r"'date'.*=.day. is called otherwise"):
            archive(any_server.url, tmp_path, schema=None)
        archive(any_server.url, tmp_path, schema=None, partition_by="day")
        assert read(tmp_path).select("date", "day").rows() == [("x", dt.date(1970, 1, 1))]

    def test_another_dtype(self, any_server: Server, client: redis.Redis, begun: Path) -> None:
        with pytest.raises(SchemaError, match="has the field 'n' as Int64, and not as String"):
            archive(any_server.url, begun, schema={"n": pl.String})


def test_what_does_not_fit_raises_and_loses_nothing(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add(client, "s", [("1-0", {"n": 1}), ("2-0", {"n": "two"}), ("3-0", {"n": 3})])
    with pytest.raises(redfloe.DecodeError, match="2-0"):
        archive(any_server.url, tmp_path, max_rows=1)
    assert numbers(tmp_path) == [1]
    assert archive(any_server.url, tmp_path, rescue_column="_misfits").entries == 2
    assert numbers(tmp_path) == [1, None, 3]


class TestPlace:
    @pytest.mark.parametrize(
        "options",
        [
            {"timestamp_dtype": pl.Datetime("us", "UTC")},
            {"id_column": "n", "schema": {}},
            {"include_sequence": True},
        ],
        ids=["times", "ids", "numbers"],
    )
    def test_with_other_columns_that_are_no_fields(
        self, redis70: Server, client: redis.Redis, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        add_numbers(client, "s", 3)
        archive(redis70.url, tmp_path)
        add_numbers(client, "s", 5, first=4)
        with pytest.raises(SchemaError, match="or archive to another place"):
            archive(redis70.url, tmp_path, **options)
        assert numbers(tmp_path) == [1, 2, 3]

    @pytest.mark.parametrize("on_new_fields", ["add", "rescue", "ignore"])
    def test_a_field_called_as_the_partition_of_a_sample(
        self, redis70: Server, client: redis.Redis, tmp_path: Path, on_new_fields: str
    ) -> None:
        client.xadd("s", {"date": "x"})
        with pytest.raises(SchemaError, match="a field 'date', as the partitions are called"):
            archive(redis70.url, tmp_path, schema=None, on_new_fields=on_new_fields)
        assert files(tmp_path) == []

    @pytest.mark.parametrize("streams", [[b"\xff", rb"\xff"], ["s", "s"]])
    def test_streams_that_cannot_be_told_apart(
        self, redis70: Server, tmp_path: Path, streams: list[Any]
    ) -> None:
        with pytest.raises(ValueError, match="two of the streams are called"):
            archive(redis70.url, tmp_path, streams)
        with pytest.raises(ValueError, match="two of the streams are called"):
            redfloe.scan_archive_and_stream(redis70.url, streams, NUMBER, to=tmp_path)

    def test_a_folder_that_is_a_link(
        self, redis70: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        add_numbers(client, "s", 3)
        archive(redis70.url, tmp_path / "lake", ["s"])
        (tmp_path / "lake" / "_stream=s").rename(tmp_path / "large")
        (tmp_path / "lake" / "_stream=s").symlink_to(tmp_path / "large")
        add_numbers(client, "s", 5, first=4)
        assert archive(redis70.url, tmp_path / "lake", ["s"]).entries == 2

    def test_a_stream_with_the_name_of_a_file(
        self, redis70: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        add_numbers(client, "orders.parquet", 3)
        archive(redis70.url, tmp_path, ["orders.parquet"])
        assert archive(redis70.url, tmp_path, ["orders.parquet"]).entries == 0

    def test_a_listing_that_misses_what_is_put_meanwhile(
        self,
        redis70: Server,
        client: redis.Redis,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        add_numbers(client, "s", 4)
        archive(redis70.url, tmp_path, max_rows=1)
        every = files(tmp_path)
        given = iter([[every[0], every[2]], every])
        monkeypatch.setattr(Folder, "names", lambda _: next(given))
        scan = redfloe.scan_archive_and_stream(redis70.url, "s", NUMBER, to=tmp_path)
        assert scan.collect()["n"].to_list() == [1, 2, 3, 4]

    def test_of_another_stream(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        add_numbers(client, "s", 3)
        add_numbers(client, "other", 5)
        archive(any_server.url, tmp_path)
        with pytest.raises(ValueError, match="is of the stream 's': give the archive of 'other'"):
            archive(any_server.url, tmp_path, "other")

    @pytest.mark.parametrize("options", [{"partition_by": "hour"}, {"stream": ["s"]}])
    def test_of_another_layout(
        self, any_server: Server, client: redis.Redis, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        add_numbers(client, "s", 3)
        archive(any_server.url, tmp_path)
        with pytest.raises(ValueError, match=r"with folders by \['date'\], and not by"):
            archive(any_server.url, tmp_path, **options)

    def test_of_other_files(self, any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
        pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "mine.parquet")
        with pytest.raises(ValueError, match=r"holds mine\.parquet, no file of an archive"):
            archive(any_server.url, tmp_path)
        (tmp_path / "1-0_2-0.parquet").touch()
        (tmp_path / "mine.parquet").rename(tmp_path / "mine")
        with pytest.raises(ValueError, match="is no whole Parquet file: delete it"):
            archive(any_server.url, tmp_path, partition_by=None)
        (tmp_path / "mine").rename(tmp_path / "1-0_2-0.parquet")
        with pytest.raises(ValueError, match="is of no archive"):
            archive(any_server.url, tmp_path, partition_by=None)

    def test_files_that_overlap(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        add_numbers(client, "s", 6)
        archive(any_server.url, tmp_path, partition_by=None)
        (tmp_path / "4-0_9-0.parquet").write_bytes((tmp_path / "1-0_6-0.parquet").read_bytes())
        with pytest.raises(ValueError, match="has entries twice, in 1-0_6-0"):
            archive(any_server.url, tmp_path, partition_by=None)

    def test_files_that_were_merged(
        self, any_server: Server, client: redis.Redis, tmp_path: Path
    ) -> None:
        """What is old may be replaced, or deleted."""
        add_numbers(client, "s", 6)
        archive(any_server.url, tmp_path, partition_by=None, max_rows=2)
        merged = pl.scan_parquet([tmp_path / name for name in files(tmp_path)[:2]])
        merged.collect().write_parquet(tmp_path / "1-0_4-0.parquet")
        for name in ("1-0_2-0.parquet", "3-0_4-0.parquet"):
            (tmp_path / name).unlink()
        add_numbers(client, "s", 8, first=7)
        assert archive(any_server.url, tmp_path, partition_by=None).entries == 2
        assert numbers(tmp_path) == [*range(1, 9)]

    def test_two_archivers(
        self, any_server: Server, client: redis.Redis, tmp_path: Path, world: World
    ) -> None:
        add_numbers(client, "s", 3)
        options: dict[str, Any] = {"to": tmp_path, "until": "4-0", "every": "1ms"}
        first = threading.Thread(
            target=redfloe.archive, args=(any_server.url, "s", NUMBER), kwargs=options
        )
        first.start()
        eventually(lambda: files(tmp_path) != [])
        with pytest.raises(FencedError, match="another archiver writes to"):
            archive_in(world, any_server.url, tmp_path)
        client.xadd("s", {"n": 4}, id="4-0")
        first.join(20)
        assert archive_in(world, any_server.url, tmp_path).entries == 0
        assert numbers(tmp_path) == [1, 2, 3, 4]


def test_a_task_that_is_cancelled(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    if world.runner is None:
        pytest.skip("there is no task")
    add_numbers(client, "s", 3)
    doing = redfloe.archive_async(any_server.url, "s", NUMBER, to=tmp_path, every="1ms")
    world.do(cancelled(doing, 0.2))
    # It has let go of the place.
    add_numbers(client, "s", 5, first=4)
    archive_in(world, any_server.url, tmp_path)
    assert numbers(tmp_path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": "soon"}, 'every is a span of time, such as "30s"'),
        ({"trim_after": "0s"}, "trim_after must be longer than 0 s"),
        ({"partition_by": "sku"}, "partition_by takes year, month, date, day, hour for Parquet"),
        ({"partition_by": ["day", "day"]}, "names a column twice"),
        ({"format": "iceberg"}, "format"),
        ({"on_new_fields": "drop"}, "on_new_fields"),
        ({"on_data_loss": "ignore"}, "on_data_loss"),
        ({"compression": "best"}, "compression"),
        ({"include_id": False}, "include_id has to be True"),
        ({"stream": ["s"], "include_stream": False}, "include_stream has to be True"),
        ({"stream": []}, "names no stream"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"max_rows": 2.5}, "max_rows must be int, not float"),
        ({"max_bytes": -1}, "max_bytes must not be negative"),
        ({"until": "tomorrow"}, 'until "tomorrow" is malformed'),
        ({"until": 2.5}, "until must be str, int, date or datetime, not float"),
        ({"start_id": "today"}, 'start_id "today" is malformed'),
        ({"partition_by": 5}, "partition_by must be str, several of them or None, not int"),
        ({"partition_by": ["date", 5]}, "partition_by must be"),
        ({"every": 5}, "every must be str or a timedelta, not int"),
        ({"to": ""}, "to is empty"),
        ({"to": 5}, "to must be a path or a URL, not int"),
        ({"to": b"lake"}, "to must be a path or a URL, not bytes"),
    ],
)
def test_arguments_that_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    to = tmp_path / "lake"
    with pytest.raises((ValueError, TypeError), match=message):
        redfloe.archive(**{"url": "redis://127.0.0.1:1", "stream": "s", "to": to, **options})
    assert not to.exists()


def test_a_stream_that_must_exist(any_server: Server, tmp_path: Path, client: redis.Redis) -> None:
    with pytest.raises(NoStreamError):
        archive(any_server.url, tmp_path, must_exist=True)
