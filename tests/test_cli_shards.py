"""The command line takes a sharded stream's name, where one may ask something of all its shards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import redfloe
from support.commands import command, rows, run
from support.groups import DRAIN
from support.server import Server

HITS = pl.DataFrame({"user": ["ada", "bob", "ada", "eve"], "n": [1, 2, 3, 4]})


@pytest.fixture
def hits(any_server: Server, stream: str) -> str:
    """Give a stream of four shards, one of which is empty."""
    redfloe.write_stream(any_server.url, HITS, stream, shards=4, shard_by="user")
    return stream


def test_entries_are_shown_counted_and_taken_out(
    any_server: Server, hits: str, tmp_path: Path
) -> None:
    url = any_server.url
    for name in ("head", "tail"):
        shown = rows(run(name, hits, "--json", url=url))
        assert sorted(row["n"] for row in shown) == [1, 2, 3, 4]
        assert "_stream" not in shown[0]
    assert run("count", hits, url=url).stdout == "4\n"
    assert run("count", hits, "--start", "2024-01-01", url=url).stdout == "4\n"
    assert '"user": pl.String' in run("schema", hits, url=url).stdout
    file = tmp_path / "hits.parquet"
    run("export", hits, str(file), url=url)
    assert sorted(pl.read_parquet(file)["n"].to_list()) == [1, 2, 3, 4]
    run("archive", hits, str(tmp_path / "lake"), "--until", "now", url=url)
    assert pl.read_parquet(tmp_path / "lake" / "**" / "*.parquet").height == 4
    [total] = rows(run("sql", f'select sum(n)::bigint as n from "{hits}"', "--json", url=url))
    assert total == {"n": 10}
    run("import", str(file), hits, url=url)
    assert run("count", hits, url=url).stdout == "8\n"


def test_groups_and_what_is_pending_are_those_of_the_shards(any_server: Server, hits: str) -> None:
    url = any_server.url
    taken = redfloe.read_stream(url, hits, group="g", consumer="c", auto_ack=False, count=3)
    listed = rows(run("pending", hits, "g", "--json", url=url))
    assert sorted(row["id"] for row in listed) == sorted(taken["_id"])
    assert all(row["stream"].startswith(f"{hits}:{{") for row in listed)
    oldest = rows(run("pending", hits, "g", "-n", "1", "--json", url=url))
    assert [row["id"] for row in oldest] == [min(taken["_id"])]
    for names in (["groups"], ["lag"], ["streams"], ["top", "-n", "1"]):
        found = rows(run(*names, hits, "--json", url=url))
        assert [row["stream"].partition(":{")[0] for row in found] == [hits] * 4
        assert sum(row["pending"] for row in found) == 3


@pytest.mark.parametrize("name", ["a[b]*?", "with space", 'q"', "b\\c", b"caf\xe9"])
def test_names_are_no_patterns(any_server: Server, stream: str, name: str | bytes) -> None:
    """Names with the characters of patterns, and bytes that are not UTF-8."""
    key = name if isinstance(name, bytes) else f"{stream}:{name}"
    url = any_server.url
    redfloe.write_stream(url, HITS, key, shards=4, shard_by="user")
    redfloe.create_group(url, key, "g")
    typed = key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key
    for names in (["groups"], ["lag"], ["streams"], ["top", "-n", "1"]):
        assert len(rows(run(*names, typed, "--json", url=url))) == 4
    for shown in ("head", "tail"):
        assert len(rows(run(shown, typed, "--json", url=url))) == 4
    member = ["--group", "g", "--consumer", "c", "--json"]
    assert len(rows(run("tail", typed, *member, url=url))) == 4
    assert rows(run("pending", typed, "g", "--json", url=url)) == []
    redfloe.delete_stream(url, key)


@pytest.mark.parametrize("more", [["-n", "4"], []], ids=["some", "all"])
def test_a_member_of_a_group_acknowledges_what_it_has_shown(
    any_server: Server, hits: str, more: list[str]
) -> None:
    url = any_server.url
    redfloe.read_stream(url, hits, group="g", consumer="c", count=1, auto_ack=True)
    redfloe.write_stream(url, HITS, hits)
    member = ["tail", hits, "--group", "g", "--consumer", "d", "--json"]
    shown = rows(run(*member, *more, url=url))
    assert all({*row} == {"_id", "_ts", "user", "n"} for row in shown)
    while more and len(shown) < 7:
        shown += rows(run(*member, *more, url=url))
    assert len(shown) == 7
    assert run("pending", hits, "g", url=url).stderr.strip() == "nothing is pending"
    assert rows(run(*member, url=url)) == []


def test_the_newest_entries_are_those_of_all_shards(any_server: Server, stream: str) -> None:
    url = any_server.url
    users = [f"user-{n * 7 % 11}" for n in range(30)]
    for n in range(0, 30, 3):
        rows_ = pl.DataFrame({"user": users[n : n + 3], "n": range(n, n + 3)})
        redfloe.write_stream(url, rows_, stream, shards=4, shard_by="user")
        time.sleep(0.002)  # so that the next have greater IDs, whatever their shard
    tailed = rows(run("tail", stream, "-n", "6", "--json", url=url))
    assert sorted(row["n"] for row in tailed) == [*range(24, 30)]
    headed = rows(run("head", stream, "-n", "6", "--json", url=url))
    assert sorted(row["n"] for row in headed) == [*range(6)]


def test_each_shard_is_followed_from_its_own_end(any_server: Server, stream: str) -> None:
    """An entry whose ID is less than those of other shards is shown, and none is shown twice."""
    url = any_server.url
    shards: Any = {"shards": 8, "shard_by": "user", "timestamp_column": "at"}

    def put(user: str, at: int) -> None:
        frame = pl.DataFrame({"user": [user], "at": [at], "n": [at]})
        redfloe.write_stream(url, frame, stream, **shards)

    put("ada", 10)
    put("bob", 30)
    with subprocess.Popen(
        command("tail", "-f", stream, "-n", "1", "--json"),
        env={**os.environ, "REDIS_URL": url},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        shown = [json.loads(process.stdout.readline())]
        put("ada", 20)
        put("eve", 5)
        put("bob", 40)
        shown += [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert sorted(int(row["n"]) for row in shown) == [5, 20, 30, 40]
    assert rest == ""


def test_a_table_of_all_lanes(any_server: Server, hits: str) -> None:
    schema = {"user": pl.String, "n": pl.Int64}
    with redfloe.StreamProcessor(
        any_server.url, hits, name="p", schema=schema, must_exist=True, on_idle="stop", block_ms=1
    ) as processor:
        for tx in processor:
            tx.table("t", key="user", schema={"n": pl.Int64}).upsert(
                tx.frame.group_by("user").agg(pl.col("n").sum())
            )
    shown = rows(run("table", hits, "p", "t", "--json", url=any_server.url))
    assert shown == [{"_key": "ada", "n": 4}, {"_key": "bob", "n": 2}, {"_key": "eve", "n": 4}]


def test_processors_of_a_sharded_stream(any_server: Server, hits: str) -> None:
    with redfloe.StreamProcessor(
        any_server.url, hits, name="p", on_idle="stop", block_ms=1
    ) as processor:
        for _ in processor:
            pass
    found = rows(run("processors", hits, "--json", url=any_server.url))
    assert [row["processor"] for row in found] == ["p"] * 4


def test_dead_letters_of_a_sharded_stream(any_server: Server, hits: str) -> None:
    dead = f"{hits}:dead"
    with redfloe.StreamConsumer(
        any_server.url, hits, "g", "c", dead_letter=dead, include_stream=True, **DRAIN
    ) as consumer:
        for batch in consumer:
            batch.fail(batch.frame, "no")
    listed = rows(run("dead", "list", dead, "--json", url=any_server.url))
    assert sorted(row["n"] for row in listed) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "command",
    [
        ["export", "{}", "parts/"],
        ["trim", "{}", "--maxlen", "1", "--yes"],
        ["dead", "replay", "{}", "--yes"],
        ["reset-processor", "{}", "p", "--to", "0", "--state", "keep", "--yes"],
        ["delete-processor", "{}", "p", "--yes"],
    ],
)
def test_what_needs_one_of_the_shards_names_one(
    any_server: Server, hits: str, tmp_path: Path, command: list[str]
) -> None:
    typed = [part.format(hits).replace("parts/", f"{tmp_path}/parts/") for part in command]
    done = run(*typed, url=any_server.url, code=1)
    assert "is a sharded stream, and this takes the key of a single one" in done.stderr
    assert f"{hits}:{{0-dnh}}" in done.stderr
    assert not (tmp_path / "parts").exists()


def test_shards_are_trimmed_to_an_id(any_server: Server, hits: str) -> None:
    options = ["--minid", "9999999999999", "--exact", "--yes"]
    done = run("trim", hits, *options, url=any_server.url)
    assert "4 entries" in done.stdout + done.stderr
    assert run("count", hits, url=any_server.url).stdout == "0\n"


def test_what_is_no_stream_is_none(any_server: Server, stream: str) -> None:
    with any_server.client() as client:
        client.hset(stream, mapping={"a": "b"})
    for names in (["count", stream], ["export", stream, "-", "-f", "csv"]):
        assert "WRONGTYPE" in run(*names, url=any_server.url, code=1).stderr
    shown = run("groups", stream, "--json", url=any_server.url).stdout
    assert [json.loads(line) for line in shown.splitlines()] == []
