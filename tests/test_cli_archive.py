"""``redfloe archive``."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import polars as pl
import pytest
import redis

from support.archives import files, numbers, read
from support.commands import piped, rows, run
from support.server import Server
from support.streams import add, add_numbers
from support.timing import SLACK, eventually

NOW = ("--until", "now")


def test_what_is_there(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    add_numbers(client, "s", 1200)
    done = run("archive", "s", lake, *NOW, "--trim-after", "1h", url=any_server.url)
    assert done.stderr == f"1,200 entries of s archived to {lake}, 1,100 entries trimmed\n"
    client.xadd("s", {"n": "none"}, id="1201-0")
    again = run("archive", "s", lake, *NOW, "--json", url=any_server.url)
    assert rows(again) == [{"entries": 1, "offsets": {"s": "1201-0"}, "trimmed": 0, "to": lake}]
    frame = read(tmp_path / "lake")
    assert frame.schema["n"] == pl.Int64
    assert frame["_rescued"][-1] == '{"n":"none"}'


def test_several_streams_and_options(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    for stream in ("a", "b"):
        add(client, stream, [("1-0", {"data": '{"n": 1}'}), ("3600000-0", {"data": '{"n": 2}'})])
    options = ("--payload", "data", "--partition-by", "hour", "--max-rows", "1")
    run("archive", "a", "b", str(tmp_path / "x"), *options, *NOW, url=any_server.url)
    assert files(tmp_path / "x")[0] == "_stream=a/hour=1970-01-01T00/1-0_1-0.parquet"
    assert read(tmp_path / "x")["n"].to_list() == [1, 1, 2, 2]
    flat = ("--partition-by", "none", "--text", "--strict")
    run("archive", "a", str(tmp_path / "y"), *flat, *NOW, url=any_server.url)
    assert files(tmp_path / "y") == ["1-0_3600000-0.parquet"]
    assert read(tmp_path / "y").columns == ["_id", "_ts", "data"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_it_goes_on_until_a_signal(
    any_server: Server, client: redis.Redis, tmp_path: Path, number: signal.Signals
) -> None:
    """It may start before the stream does."""
    lake = str(tmp_path)
    with piped("archive", "s", lake, "--every", "10ms", url=any_server.url) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"archiving s to {lake}; Ctrl-C ends it\n"
        for last in (3, 6):
            add_numbers(client, "s", last, first=last - 2)
            eventually(lambda: files(tmp_path) and numbers(tmp_path)[-1] == last)  # noqa: B023
        process.send_signal(number)
        assert process.wait(10 * SLACK) == 128 + number
        assert process.stderr.read() in ("", "redfloe: interrupted\n")
    assert numbers(tmp_path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--every", "soon"], "every is a span of time"),
        (["--partition-by", "sku"], "--partition-by takes year, month"),
        (["--trim-after", "x"], "--trim-after is a span of time"),
        (["--until", "yesterday"], 'until "yesterday" is malformed'),
        (["--max-rows", "0"], "'--max-rows': Input should be greater than or equal to 1"),
        (["--storage-option", "x"], "'x' is no KEY=VALUE"),
        (["--on-new-fields", "drop"], "--on-new-fields"),
    ],
)
def test_what_is_refused(
    any_server: Server, client: redis.Redis, tmp_path: Path, options: list[str], message: str
) -> None:
    add_numbers(client, "s", 3)
    code = 2 if options[0] in ("--storage-option", "--on-new-fields", "--max-rows") else 1
    done = run("archive", "s", str(tmp_path), *NOW, *options, url=any_server.url, code=code)
    assert message in done.stderr
    assert files(tmp_path) == []


def test_errors_name_options(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, "s", 3)
    run("archive", "s", str(tmp_path), *NOW, url=any_server.url)
    client.xadd("s", {"new": 1}, id="4-0")
    arguments = ("archive", "s", str(tmp_path), *NOW)
    done = run(*arguments, "--on-new-fields", "raise", url=any_server.url, code=1)
    assert "has the field 'new', which the archive does not have; pass --on-new-" in done.stderr
    add_numbers(client, "s", 9, first=5)
    client.xtrim("s", minid="7-0", approximate=False)
    done = run(*arguments, url=any_server.url, code=1)
    assert "pass --on-data-loss=" in done.stderr
    done = run(*arguments, "--on-data-loss", "continue", "--json", url=any_server.url)
    assert json.loads(done.stdout)["entries"] == 3
