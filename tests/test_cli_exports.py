"""What the command line exports comes in again as it was."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import sys
import termios
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from support.commands import piped, rows, run
from support.server import Server
from support.timing import eventually, within


def entries_with_ids(client: redis.Redis, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found: Any = client.xrange(stream)  # redis-py's types allow for None
    return list(found)


def entries(client: redis.Redis, stream: str) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in entries_with_ids(client, stream)]


def add(client: redis.Redis, stream: str, *fields: dict[Any, Any]) -> None:
    for entry in fields:
        client.xadd(stream, entry)


def files(folder: Path) -> list[str]:
    parts = (path for path in folder.rglob("*") if path.is_file() and "_redfloe" not in path.parts)
    return sorted(str(path.relative_to(folder)) for path in parts)


def test_each_value_has_a_folder_of_its_own(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    literal = "__HIVE_DEFAULT_PARTITION__"
    keys = [literal, None, "%5F" + literal[1:], "", ".", "..", "a/b", "a%2Fb", b"\xff", "%FF", "é"]
    more: dict[Any, Any]
    for n, key in enumerate(keys):
        more = {} if key is None else {"k": key}
        client.xadd(stream, {"n": n, **more})
    folder = tmp_path / "x"
    run("export", stream, str(folder), "--partition-by", "k", url=any_server.url)
    found = pl.concat(pl.read_parquet(folder / name).select("n") for name in files(folder))
    assert sorted(found["n"].to_list()) == list(range(len(keys)))
    assert len({Path(name).parent for name in files(folder)}) == len(keys)
    assert "k=%FF" in {Path(name).parts[0] for name in files(folder)}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "ndjson", "arrow"])
def test_numbers_beyond_json_and_texts_like_numbers(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    floats = ["1.5", "NaN", "inf", "-inf", "2.5"] + ["0.5"] * 300
    add(client, stream, *({"f": f, "zip": f"0{n}", "n": n} for n, f in enumerate(floats)))
    run("export", stream, str(path), url=any_server.url)
    copy = f"{stream}:copy"
    run("import", str(path), copy, "--id-column", "_id", url=any_server.url)
    without = [
        {name: value for name, value in entry.items() if name != b"_ts"}
        for entry in entries(client, copy)
    ]
    assert without == entries(client, stream)


def test_a_file_of_others_keeps_its_texts(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text('at,zip,flag,none,empty\n2024-01-31T00:00:00Z,01234,+1,,""\n')
    run("import", str(path), stream, "--timestamp-column", "at", url=any_server.url)
    assert client.xrange(stream) == [
        (b"1706659200000-0", {b"zip": b"01234", b"flag": b"+1", b"empty": b""})
    ]
    for text in ("2024-01-31", "1706659200000", "2024-01-31 00:00:00.000"):
        client.delete(stream)
        path.write_text(f"at,n\n{text},1\n")
        run("import", str(path), stream, "--timestamp-column", "at", url=any_server.url)
        assert client.xrange(stream) == [(b"1706659200000-0", {b"n": b"1"})]
    client.delete(stream)
    path.write_text("zip,n,x\n01234,1,0.5\n1,2,1\n")
    run("import", str(path), stream, "--payload", "data", url=any_server.url)
    documents = [json.loads(entry[b"data"]) for entry in entries(client, stream)]
    assert documents == [{"zip": "01234", "n": 1, "x": 0.5}, {"zip": "1", "n": 2, "x": 1.0}]
    # A key that comes late, and one whose kind changes.
    client.delete(stream)
    late = tmp_path / "x.ndjson"
    late.write_text('{"at": "2024-01-31", "n": 1}\n' * 200 + '{"n": "x", "late": 1}\n')
    run("import", str(late), stream, url=any_server.url)
    assert entries(client, stream)[-1] == {b"n": b"x", b"late": b"1"}


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_bytes_are_text_in_text(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path, suffix: str
) -> None:
    add(client, stream, {"b": b"caf\xe9", "n": 1}, {"b": b"a", "n": "inf"})
    folder, path = tmp_path / "parts", tmp_path / f"x.{suffix}"
    run("export", stream, str(path), url=any_server.url)
    run("export", stream, str(folder), "--format", suffix, url=any_server.url)
    [part] = files(folder)
    for file in (path, folder / part):
        read = pl.read_csv(file) if suffix == "csv" else pl.read_ndjson(file)
        assert read["b"].to_list() == ["caf\\xe9", "a"]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "ndjson", "arrow"])
def test_a_directory_comes_in(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path, suffix: str
) -> None:
    literal = "__HIVE_DEFAULT_PARTITION__"
    for n in range(30):
        more: dict[Any, Any] = {} if n % 3 == 0 else {"k": [literal, "a/b=c"][n % 2]}
        client.xadd(stream, {"n": n, **more}, id=f"{9 + n}-{n}")
    folder = tmp_path / "x"
    options = ["--partition-by", "k", "--partition-by", "day", "--batch-size", "7"]
    run("export", stream, f"{folder}/", "-f", suffix, *options, url=any_server.url)
    copy = f"{stream}:copy"
    run("import", str(folder), copy, "--id-column", "_id", url=any_server.url)
    there = entries_with_ids(client, stream)
    came = entries_with_ids(client, copy)
    without = [(i, {k: v for k, v in entry.items() if k != b"_ts"}) for i, entry in came]
    assert without == there
    # A directory of others, with values in the names of folders.
    for number in (1, 2):
        part = tmp_path / "y" / f"k={number}%2F"
        part.mkdir(parents=True)
        run("export", stream, str(part / f"x.{suffix}"), "--end", "9", url=any_server.url)
    (tmp_path / "y" / "_SUCCESS").touch()
    client.delete(copy)
    run("import", str(tmp_path / "y"), copy, url=any_server.url)
    assert [entry[b"k"] for entry in entries(client, copy)] == [b"1/", b"2/"]
    (tmp_path / "y" / "x.csv").write_text("a\n1\n")
    (tmp_path / "y" / "x.arrow").write_text("a\n1\n")
    done = run("import", str(tmp_path / "y"), copy, url=any_server.url, code=2)
    assert "has no files of one format; give --format" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_what_is_empty_and_what_is_not_there(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    add(client, stream, {"n": 1})
    copy = f"{stream}:copy"
    for suffix in ("parquet", "csv", "ndjson", "arrow"):
        path = tmp_path / f"x.{suffix}"
        run("export", stream, str(path), "--start", "2100-01-01", url=any_server.url)
        done = run("import", str(path), copy, "--id-column", "_id", url=any_server.url)
        assert done.stderr == f"0 rows of {path} added to {copy}\n"
        done = run("import", str(tmp_path / f"nope*.{suffix}"), copy, url=any_server.url, code=1)
        assert done.stderr == f"redfloe: no file matches '{tmp_path / f'nope*.{suffix}'}'\n"
        path.write_text("")
        code = 0 if suffix in {"csv", "ndjson"} else 1
        done = run("import", str(path), copy, url=any_server.url, code=code)
        if code:
            assert done.stderr == f"redfloe: {path} is empty, as no file of {suffix} is\n"


@pytest.mark.slow
def test_an_import_that_is_interrupted_says_how_to_go_on(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("n,m\n" + "".join(f"{n},\n" if n % 2 else ",\n" for n in range(100_000)))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        client.delete(stream)
        with piped("import", str(path), stream, url=any_server.url) as process:
            assert process.stderr is not None
            while client.xlen(stream) < 1_000:
                assert process.poll() is None
            any_server.pause()  # so that it has not ended before the signal comes
            process.send_signal(number)
            time.sleep(0.1)
            any_server.resume()
            assert process.wait() == code
            said = process.stderr.read()
        skip = re.search(r"--skip (\d+)\n", said)
        assert skip, said
        assert f"{client.xlen(stream):,} rows are in {stream}" in said
        run("import", str(path), stream, "--skip", skip[1], url=any_server.url)
        numbers = [int(entry[b"n"]) for entry in entries(client, stream)]
        assert numbers == list(range(1, 100_000, 2))


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (signal.SIGINT, ["head", "-n", "100000", "--json"]),
        (signal.SIGINT, ["export", "-", "-f", "parquet"]),
        (signal.SIGTERM, ["export", "-", "-f", "ndjson"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value.name,
)
def test_a_command_ends_though_nobody_reads_its_pipe(
    any_server: Server, stream: str, number: signal.Signals, arguments: list[str]
) -> None:
    frame = pl.DataFrame({"n": range(100_000)})
    redfloe.write_stream(any_server.url, frame, stream)
    name, *options = arguments
    with piped(name, stream, *options, url=any_server.url) as process:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        eventually(lambda: _unread(pipe) > 50_000, seconds=20)  # it has room for 65,536
        time.sleep(0.2)
        process.send_signal(number)
        with within(5):
            assert process.wait() == 128 + number


def _unread(pipe: int) -> int:
    """Count the bytes in a pipe that nobody has read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_mistyped_partition_leaves_nothing_behind(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    add(client, stream, {"n": 1})
    folder = str(tmp_path / "x")
    done = run("export", stream, folder, "--partition-by", "dya", url=any_server.url, code=1)
    assert "there is no column 'dya'" in done.stderr
    run("export", stream, folder, "--partition-by", "day", url=any_server.url)
    assert len(files(Path(folder))) == 1


def test_a_folder_s_name_that_is_too_long(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    add(client, stream, {"k": "é" * 60})
    folder = str(tmp_path / "x")
    done = run("export", stream, folder, "--partition-by", "k", url=any_server.url, code=1)
    assert "'k' is too long" in done.stderr
    assert "--partition-by" in done.stderr
    assert files(Path(folder)) == []


@pytest.mark.parametrize("changed", [["--text"], ["--start", "5-0"]])
def test_an_export_goes_on_as_it_began(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path, changed: list[str]
) -> None:
    add(client, stream, {"n": 1})
    folder = str(tmp_path / "x")
    run("export", stream, folder + "/", url=any_server.url)
    done = run("export", stream, folder + "/", *changed, url=any_server.url, code=1)
    assert "holds an export with" in done.stderr


def test_partitions_of_a_file(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    add(client, stream, {"n": 1})
    path = tmp_path / "x.parquet"
    done = run("export", stream, str(path), "--partition-by", "day", url=any_server.url, code=2)
    assert "give a directory" in " ".join(done.stderr.split())
    assert not path.exists()


@pytest.mark.slow
def test_partitions_of_odd_names(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    names = ["_type", "a=b", "a/b", "../up", "%41"]
    expected: list[dict[bytes, bytes]] = []
    for n in range(3):
        client.xadd(stream, {"n": n, **dict.fromkeys(names, f"v{n}")})
        expected.append(
            {b"n": b"%d" % n, **dict.fromkeys((name.encode() for name in names), b"v%d" % n)}
        )
    for number, name in enumerate(names):
        folder, copy = tmp_path / f"x[{number}]", f"{stream}:{number}"
        run("export", stream, f"{folder}/", "--partition-by", name, "--text", url=any_server.url)
        assert len(files(folder)) == 3
        run("import", str(folder), copy, "--id-column", "_id", url=any_server.url)
        assert entries(client, copy) == expected
    assert {path.name for path in tmp_path.iterdir()} == {f"x[{n}]" for n in range(len(names))}
    done = run(
        "export", stream, f"{tmp_path / 'y'}/", "--partition-by", "_id", url=any_server.url, code=1
    )
    assert "no column '_id'" in done.stderr


@pytest.mark.parametrize("suffix", ["parquet", "csv", "ndjson", "arrow"])
def test_a_file_s_name_is_no_pattern(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path, suffix: str
) -> None:
    add(client, stream, {"n": 1})
    path, copy = str(tmp_path / f"x[1].{suffix}"), f"{stream}:copy"
    run("export", stream, path, url=any_server.url)
    run("import", path, copy, "--id-column", "_id", url=any_server.url)
    assert entries(client, copy) == [{b"n": b"1"}]


def odd(client: redis.Redis, stream: str) -> None:
    for n in range(3):
        client.xadd(stream, {"_id": f"i{n}", "_ts": f"t{n}", "_rescued": f"r{n}", "n": n})


NAMED = [
    *("--id-column", "entry", "--timestamp-column", "at", "--rescue-column", "left"),
]


@pytest.mark.parametrize("name", ["head", "tail"])
def test_fields_called_as_other_columns_are(
    any_server: Server, client: redis.Redis, stream: str, name: str
) -> None:
    odd(client, stream)
    refused = run(name, stream, url=any_server.url, code=1)
    assert "--rescue-column" in refused.stderr
    found = rows(run(name, stream, *NAMED, "--json", url=any_server.url))
    assert [row["_id"] for row in found] == ["i0", "i1", "i2"]
    assert [row["_rescued"] for row in found] == ["r0", "r1", "r2"]
    assert {*found[0]} == {"entry", "at", "_id", "_ts", "_rescued", "n"}


def test_a_query_of_such_fields(any_server: Server, client: redis.Redis, stream: str) -> None:
    odd(client, stream)
    query = f'select _id, entry from "{stream}" order by n'
    found = rows(run("sql", query, *NAMED[:4], "--json", url=any_server.url))
    assert [row["_id"] for row in found] == ["i0", "i1", "i2"]


def test_a_directory_of_such_fields_comes_in_again(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    odd(client, stream)
    folder = tmp_path / "x"
    args = ["export", stream, str(folder), "--partition-by", "day", *NAMED]
    run(*args, url=any_server.url)
    client.xadd(stream, {"_id": "i3", "_ts": "t3", "_rescued": "r3", "n": 3})
    run(*args, url=any_server.url)
    refused = run(*args[:-6], url=any_server.url, code=1)
    assert "holds an export with --id-column 'entry'" in refused.stderr
    again = f"{stream}-again"
    run("import", str(folder), again, "--id-column", "entry", url=any_server.url)
    assert entries_with_ids(client, again) == entries_with_ids(client, stream)


@pytest.mark.parametrize("name", ["head", "schema", "export"])
def test_entries_of_many_fields(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path, name: str
) -> None:
    client.xadd(stream, {f"f{n}": n for n in range(5_010)})
    out = [str(tmp_path / "x.parquet")] if name == "export" else []
    as_json = ["--json"] if name == "head" else []
    options = ["--max-columns", "6000", *as_json]
    done = run(name, stream, *out, *options, url=any_server.url)
    if name == "head":
        assert len(rows(done)[0]) == 5_012
    elif name == "schema":
        assert done.stdout.count("pl.Int64") == 5_010
    else:
        assert pl.read_parquet(out[0])["f5009"].to_list() == [5_009]
        refused = run(
            name, stream, str(tmp_path / "y.parquet"), "--strict", url=any_server.url, code=1
        )
        assert "--max-columns=5000" in refused.stderr


def test_an_export_does_not_go_on_with_another_server_s_stream(
    redis70: Server, redis810: Server, stream: str, tmp_path: Path
) -> None:
    """The last entry is another one there, or was never there."""
    folder = str(tmp_path / "x")
    with redis70.client() as first, redis810.client() as second:
        for n in range(1, 4):
            first.xadd(stream, {"n": n}, id=f"{n}-0")
        run("export", stream, folder, url=redis70.url)
        second.xadd(stream, {"n": 1}, id="1-0")
        second.xadd(stream, {"n": 7}, id="7-0")
        refused = run("export", stream, folder, url=redis810.url, code=1)
        assert "another stream, of another server perhaps" in refused.stderr
        second.delete(stream)
        second.xadd(stream, {"n": "other"}, id="3-0")
        second.xadd(stream, {"n": 7}, id="7-0")
        refused = run("export", stream, folder, url=redis810.url, code=1)
        assert "another stream, of another server perhaps" in refused.stderr
        # What was deleted or trimmed is no reason.
        first.xadd(stream, {"n": 4}, id="4-0")
        first.xdel(stream, "3-0")
        assert "1 entry" in run("export", stream, folder, url=redis70.url).stderr
        first.xadd(stream, {"n": 5}, id="5-0")
        first.xtrim(stream, maxlen=1, approximate=False)
        assert "1 entry" in run("export", stream, folder, url=redis70.url).stderr


def test_an_export_that_begins_with_an_empty_stream(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    client.xgroup_create(stream, "g", mkstream=True)
    folder = str(tmp_path / "x")
    run("export", stream, folder, url=any_server.url)
    client.xadd(stream, {"n": 4})
    assert "1 entry" in run("export", stream, folder, url=any_server.url).stderr
    assert pl.read_parquet(f"{folder}/*.parquet")["n"].to_list() == [4]


def test_a_look_at_the_last_entry_is_quiet(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    """That it has no payload was logged when it was exported, and is not again."""
    client.xadd(stream, {"data": '{"n":1}'})
    args = ["export", stream, str(tmp_path / "x"), "--payload", "data"]
    run(*args, url=any_server.url)
    client.xadd(stream, {"data": "no JSON"})
    assert "none of 1 entry had" in run(*args, url=any_server.url).stderr
    assert "none of" not in run(*args, url=any_server.url).stderr
    client.xadd(stream, {"data": "no JSON either"})
    assert run(*args, url=any_server.url).stderr.count("none of 1 entry had") == 1
