"""Where archives of Parquet files are: odd names, files of others, disks that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import scan_archive_and_stream
from redfloe._lake.job import Job
from support.archives import NOW, archive, files, read
from support.disks import largest_file
from support.server import Server
from support.streams import NUMBER, add, add_numbers

ODD = ["a b", "50%", "%41", "a?b#c", "[x]*", "ü☃", "{x}", "a=b", "date=2024-01-01", ".hidden", "_x"]


def scan(url: Any, to: Any, stream: Any = "s", **options: Any) -> pl.DataFrame:
    return scan_archive_and_stream(url, stream, NUMBER, to=to, **options).collect()


@pytest.mark.parametrize("name", ODD)
def test_a_directory_with_an_odd_name(
    redis70: Server, client: redis.Redis, tmp_path: Path, name: str
) -> None:
    """Whose name is neither a pattern, nor quoted, nor a partition."""
    to = tmp_path / name / "lake"
    add_numbers(client, "s", 3)
    archive(redis70.url, to)
    add_numbers(client, "s", 5, first=4)
    assert archive(redis70.url, to).entries == 2
    client.xadd("s", {"n": 6}, id="6-0")
    found = scan(redis70.url, to)
    assert found["n"].to_list() == [1, 2, 3, 4, 5, 6]
    assert found.schema == {"_id": pl.String, "_ts": pl.Int64, "n": pl.Int64, "date": pl.Date}
    assert [file.parent.parent for file in tmp_path.rglob("*.parquet")] == [to, to]


def test_a_directory_that_looks_like_partitions(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Also one of a field's name, for several streams, and with no partitions of its own."""
    add_numbers(client, "s", 3)
    for partition_by in ("date", ["year", "hour"], None):
        to = tmp_path / f"{partition_by and partition_by[0]}" / "n=7" / "_stream=t"
        archive(redis70.url, to, ["s"], until="2-0", every="1ms", partition_by=partition_by)
        found = scan(redis70.url, to, ["s"], partition_by=partition_by)
        assert found.select("_stream", "n").rows() == [("s", 1), ("s", 2), ("s", 3)]
        late = scan_archive_and_stream(
            redis70.url, ["s"], NUMBER, to=to, partition_by=partition_by
        ).filter(pl.col("_stream") == "s", pl.col("n") > 1)
        assert late.collect().equals(found[1:])


@pytest.mark.parametrize("where", ["archive", "scan"])
def test_a_directory_that_is_not_absolute(
    redis70: Server,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """It is where it was when it was named."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    add_numbers(client, "s", 4)
    if where == "scan":
        archive(redis70.url, Path("lake"))
        both = scan_archive_and_stream(redis70.url, "s", NUMBER, to="lake")
        monkeypatch.chdir("elsewhere")
        assert both.collect()["n"].to_list() == [1, 2, 3, 4]
        return
    write = pl.DataFrame.write_parquet

    def then_elsewhere(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        monkeypatch.chdir(tmp_path / "elsewhere")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", then_elsewhere)
    archive(redis70.url, Path("lake"), max_rows=2)
    assert len(files(tmp_path / "lake")) == 2


STREAMS: list[Any] = ["a/b", "..", ".", "", "a b", "a%2Fb", "ü☃", b"\xff", "*", "a=b", "_redfloe"]


def test_streams_with_odd_names(redis70: Server, client: redis.Redis, tmp_path: Path) -> None:
    """All readers see the same names."""
    for last in (1, 2):
        for stream in STREAMS:
            client.xadd(stream, {"n": last}, id=f"{last}-0")
        assert archive(redis70.url, tmp_path, STREAMS).entries == len(STREAMS)
    names = {"\\xff" if stream == b"\xff" else stream for stream in STREAMS}
    pattern = f"{tmp_path}/**/*.parquet"
    for frame in (
        pl.scan_parquet(pattern, hive_partitioning=True).collect(),
        scan(redis70.url, tmp_path, STREAMS),
    ):
        assert {*frame["_stream"]} == names
        assert frame.height == 2 * len(STREAMS)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ("x" * 250, r"is too long for the name of a folder.*leave it out of the list of streams"),
        ("__HIVE_DEFAULT_PARTITION__", "is Hive's name for no value: archive that stream by its"),
    ],
    ids=["long", "null"],
)
def test_streams_that_no_folder_can_be_called(
    redis70: Server, client: redis.Redis, tmp_path: Path, stream: str, message: str
) -> None:
    """By itself a stream needs no folder."""
    add_numbers(client, stream, 3)
    for refused in (archive, scan):
        with pytest.raises(ValueError, match=message):
            refused(redis70.url, tmp_path / "lake", ["a", stream])
    assert not (tmp_path / "lake").exists()
    archive(redis70.url, tmp_path / "lake", stream)
    assert scan(redis70.url, tmp_path / "lake", stream)["n"].to_list() == [1, 2, 3]


def test_files_that_readers_leave_out(redis70: Server, client: redis.Redis, tmp_path: Path) -> None:
    """Hidden ones, markers, checksums, and what other writers have begun."""
    add_numbers(client, "s", 3)
    archive(redis70.url, tmp_path)
    day = tmp_path / "date=1970-01-01"
    for name in (".x.parquet", "_x.parquet", "_SUCCESS", ".1-0_3-0.parquet.crc", "x.parquet.tmp"):
        (tmp_path / name).touch()
        (day / name).touch()
    for folder in ("_temporary", ".spark-staging"):
        (day / folder).mkdir()
        (day / folder / "part-0.parquet").touch()
    add_numbers(client, "s", 5, first=4)
    assert archive(redis70.url, tmp_path).entries == 2
    assert scan(redis70.url, tmp_path)["n"].to_list() == [1, 2, 3, 4, 5]


def test_where_a_table_is(redis70: Server, client: redis.Redis, tmp_path: Path) -> None:
    """A Delta table that has no rows yet."""
    add_numbers(client, "s", 3)
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(ValueError, match='is a Delta table: pass format="delta"'):
        archive(redis70.url, tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("refused", [archive, scan])
def test_a_place_that_is_a_file(
    redis70: Server, client: redis.Redis, tmp_path: Path, refused: Any
) -> None:
    add_numbers(client, "s", 3)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        refused(redis70.url, tmp_path / "file")


def test_a_place_where_nothing_may_be_written(redis70: Server, client: redis.Redis) -> None:
    """Which is so for every user."""
    add_numbers(client, "s", 3)
    with pytest.raises(OSError, match="/sys/lake"):
        archive(redis70.url, Path("/sys/lake"))


def test_a_disk_that_is_full(redis70: Server, client: redis.Redis, tmp_path: Path) -> None:
    texts = [f"{n * 7919 % 2**32:032x}" for n in range(3000)]
    add(client, "s", ((f"{n}-0", {"n": n, "x": texts[n]}) for n in range(1, 3000)))
    options: dict[str, Any] = {"compression": "uncompressed"}
    archive(redis70.url, tmp_path, schema=None, until="9-0", every="1ms", **options)
    with largest_file(50_000), pytest.raises(OSError, match=r"File too large: '.*\.part'") as full:
        archive(redis70.url, tmp_path, schema=None, **options)
    assert full.value.errno == 27
    assert [entry.name for entry in (tmp_path / "_redfloe").iterdir()] == ["lock"]
    assert read(tmp_path)["n"].to_list() == [str(n) for n in range(1, 10)]
    assert archive(redis70.url, tmp_path, schema=None, **options).entries == 2990


def test_until_now_is_what_each_stream_has_now(
    redis70: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose IDs are ahead keeps no other one's entries coming, nor waits for them."""
    client.xadd("ahead", {"n": 1}, id=f"{2**42}-0")
    add_numbers(client, "busy", 5)
    add_numbers(client, "done", 3)
    streams = ["ahead", "busy", "done", "none"]
    archive(redis70.url, tmp_path, ["done"])
    bounded = Job._bounded

    async def then_more(*arguments: Any) -> Any:
        request = await bounded(*arguments)
        add_numbers(client, "busy", 9, first=6)
        return request

    monkeypatch.setattr(Job, "_bounded", then_more)
    options = NOW | {"block_ms": 60_000, "every": "1h"}
    result = redfloe.archive(redis70.url, streams, NUMBER, to=tmp_path, **options)
    assert result.offsets == {"ahead": f"{2**42}-0", "busy": "5-0", "done": "3-0"}
    monkeypatch.undo()
    assert archive(redis70.url, tmp_path, streams).offsets["busy"] == "9-0"


@pytest.mark.parametrize("stream", ["s", ["s", "t"]])
@pytest.mark.parametrize("start_id", ["-", "0", "(2-0", "3", "$", "+", 3])
def test_until_now_from_a_start(
    redis70: Server, client: redis.Redis, tmp_path: Path, stream: Any, start_id: Any
) -> None:
    last = f"{2**64 - 1}-{2**64 - 1}"
    add(client, "s", ((entry, {"n": n}) for n, entry in enumerate(["1-0", "2-0", "3-0", last])))
    options: dict[str, Any] = {"on_error": "null", "partition_by": None, "start_id": start_id}
    wanted = redfloe.read_stream(redis70.url, "s", NUMBER, start_id, on_error="null").height
    assert archive(redis70.url, tmp_path, stream, **options).entries == wanted
    assert archive(redis70.url, tmp_path, stream, **options).entries == 0


def test_streams_are_looked_after_together(
    redis70: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are; one by one only to find out which of them has lost entries."""
    streams = [f"s{n}" for n in range(20)]
    options: dict[str, Any] = {"trim_after": "1h", "max_rows": 1000}
    for last in (2, 4):
        for stream in streams:
            add_numbers(client, stream, last, first=last - 1)
        calls: list[list[bytes]] = []
        check = redfloe._core.check_offsets

        def counted(url: Any, keys: list[bytes], *arguments: Any) -> Any:
            calls.append(keys)  # noqa: B023
            return check(url, keys, *arguments)  # noqa: B023

        with monkeypatch.context() as patched:
            patched.setattr("redfloe._core.check_offsets", counted)
            assert archive(redis70.url, tmp_path, streams, **options).entries == 40
        assert len(calls) <= 6
        assert all(len(keys) == 20 for keys in calls)
    add_numbers(client, "s7", 9, first=5)
    client.xtrim("s7", minid="8-0", approximate=False)
    with pytest.raises(redfloe.DataLossError, match=r"trimmed past 4-0.*stream: s7"):
        archive(redis70.url, tmp_path, streams)
