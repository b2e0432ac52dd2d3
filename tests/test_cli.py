"""The command line, through pipes."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import redis

import redfloe
from redfloe._cli.commands.schema import as_python
from redfloe._cli.commands.sql import interruptible
from redfloe._cli.export_directory import ExportDirectory, ExportState
from redfloe._cli.live import View, watch
from redfloe._cli.output import duration, print_json, short, size
from support.commands import SCRIPT, command, piped, rows, run
from support.groups import deliver
from support.lanes import put_lane
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import SLACK, eventually, within


@pytest.fixture
def orders(any_server: Server, stream: str) -> str:
    """A stream of 30 entries, one a minute, with a group that has had ten."""
    at = pl.datetime_range(
        pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 1, 0, 29), "1m", eager=True
    )
    frame = pl.DataFrame(
        {"at": at, "sku": ["A", "B", "C"] * 10, "price": [n / 4 for n in range(30)]}
    )
    redfloe.write_stream(any_server.url, frame, stream, timestamp_column="at")
    redfloe.read_stream(any_server.url, stream, group="billing", consumer="w1", count=10)
    return stream


# Looking


def test_help_is_quick() -> None:
    best = 9.0
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(command("--help"), capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - start)
    assert "export" in done.stdout
    assert best < 0.4 * SLACK


HELP = [
    *(
        "",
        "streams",
        "groups",
        "processors",
        "reset-processor",
        "delete-processor",
        "lag",
        "pending",
        "top",
        "exporter",
        "head",
        "tail",
        "schema",
    ),
    *(
        "count",
        "sql",
        "table",
        "export",
        "import",
        "archive",
        "demo",
        "trim",
        "dead",
        "dead list",
        "dead replay",
        "run",
    ),
]
COMPLETED = [
    "redfloe ",
    "redfloe exp",
    "redfloe export --f",
    "redfloe export --format ",
    "redfloe dead ",
]


@pytest.mark.slow
def test_neither_help_nor_completion_imports_polars() -> None:
    """In one process for all: each import would stay."""
    script = f"""if True:
        import contextlib, io, os, sys
        from redfloe.__main__ import main
        suppress = contextlib.suppress(SystemExit)
        for words in {HELP!r}:
            with contextlib.redirect_stdout(io.StringIO()) as shown:
                assert main([*words.split(), "--help"]) == 0, words
            assert "Usage: redfloe" in shown.getvalue(), words
        for shell in ("bash", "zsh"):
            for words in {COMPLETED!r}:
                os.environ.update(
                    _REDFLOE_COMPLETE=f"complete_{{shell}}",
                    _TYPER_COMPLETE_ARGS=words,
                    COMP_WORDS=words,
                    COMP_CWORD=str(len(words.split()) - (words[-1] != " ")),
                )
                with contextlib.redirect_stdout(io.StringIO()) as shown, suppress:
                    main([])
                assert shown.getvalue(), words
        print([name for name in ("polars", "redfloe._api", "duckdb") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_streams(any_server: Server, orders: str) -> None:
    pattern = orders.replace("[", "?").replace("]", "?")
    [row] = rows(run("streams", pattern, "--json", url=any_server.url))
    assert (row["stream"], row["length"], row["groups"]) == (orders, 30, 1)
    assert (row["pending"], row["entries_per_second"]) == (10, pytest.approx(1 / 60, abs=1e-3))
    assert row["memory"] > 100
    waited = time.time() - 1704067800  # since the eleventh
    assert row["lag_seconds"] == pytest.approx(waited, abs=30)
    table = run("streams", pattern, url=any_server.url).stdout
    assert "entries/s" in table
    assert orders in table
    nothing = run("streams", "no:*", url=any_server.url)
    assert (nothing.stdout, nothing.stderr) == ("", "no stream matches 'no:*'\n")


@pytest.mark.parametrize("server", ["redis-6.2", "redis-7.0"], indirect=True)  # lag: Redis 7.0
def test_groups_and_lag(server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 9)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 4)
    [row] = rows(run("groups", stream, "--json", url=server.url))
    assert (row["stream"], row["group"], row["pending"]) == (stream, "g", 4)
    assert row["last_delivered_id"] == "4-0"
    [row] = rows(run("lag", stream, "--json", url=server.url))
    assert row["lag"] == (None if server.name == "redis-6.2" else 5)
    assert row["lag_seconds"] == pytest.approx(time.time(), abs=60)  # 5-0 is of 1970

    deliver(client, stream, 5)
    [row] = rows(run("lag", stream, "--json", url=server.url))
    assert row["lag_seconds"] == 0


@pytest.mark.slow
def test_processors(any_server: Server, client: redis.Redis, stream: str) -> None:
    url = any_server.url
    nothing = run("processors", url=url)
    assert nothing.stderr == "no stream that matches '*' has a processor\n"
    add_numbers(client, stream, 9)
    put_lane(client, stream, "inventory", position="4-0", owner="host", left_ms=60_000)
    client.hset(redfloe.table_key(stream, "inventory", "stock"), "k", "{}")
    [row] = rows(run("processors", "--json", url=url))
    assert (row["processor"], row["owner"], row["position"]) == ("inventory", "host:1", "4-0")
    assert (row["held"], row["lag"], row["group"]) == (True, 5, None)
    assert 0 < row["lease_left_seconds"] < 61
    assert row["lag_seconds"] == pytest.approx(time.time(), abs=60)
    table = run("processors", stream.replace("[", "?").replace("]", "?"), url=url).stdout
    assert "host:1" in table
    assert "consumer" not in table
    put_lane(client, stream, "mail", ("g", "c-1"))
    assert "c-1" in run("processors", url=url).stdout

    reset = ["reset-processor", stream, "inventory", "--to", "0", "--state", "drop"]
    asked = run(*reset, url=url, code=1)
    assert f"inventory on {stream} is at 4-0; have it go on at 0" in asked.stderr
    runs = run(*reset, "--yes", url=url, code=1)
    assert "the processor is running: host:1 has its lane" in runs.stderr
    assert "set --takeover" in runs.stderr
    done = run(*reset, "--yes", "--takeover", url=url)
    assert done.stderr == (
        f"inventory on {stream} goes on after 0-0 (epoch 2); "
        "0 values of its state and 1 table (1 row) deleted\n"
    )
    again = ["reset-processor", stream, "inventory", "--to", "$", "--state", "keep", "--yes"]
    [row] = rows(run(*again, "--json", url=url))
    assert (row["previous_position"], row["position"]) == ("0-0", "9-0")
    nobody = run("reset-processor", stream, "x", *again[3:], url=url, code=1)
    assert "there is no processor of that name" in nobody.stderr
    run("reset-processor", stream, "inventory", "--to", "0", "--yes", url=url, code=2)
    run(*again[:4], "nope", *again[5:], url=url, code=2)

    delete = ["delete-processor", stream, "mail", "--group", "g"]
    assert "what g has of it" in run(*delete, url=url, code=1).stderr
    assert rows(run(*delete, "--yes", "--json", url=url)) == [{"deleted": True}]
    assert run(*delete, "--yes", url=url).stderr == f"{stream} has no mail\n"
    done = run("delete-processor", stream, "inventory", "--yes", url=url)
    assert done.stderr == f"inventory on {stream} deleted\n"
    # The owner that the reset has displaced is told for a day.
    [lane] = {*client.keys()} - {stream.encode()}
    assert (client.type(lane), 0 < client.ttl(lane) <= 86_400) == (b"string", True)
    assert run("processors", url=url).stdout == ""


def test_a_table(any_server: Server, client: redis.Redis, stream: str) -> None:
    where = ["table", stream, "inventory", "stock"]
    nothing = run(*where, url=any_server.url)
    assert nothing.stderr == f"inventory on {stream} has no table 'stock', or no row in it\n"
    key = redfloe.table_key(stream, "inventory", "stock")
    odd: dict[Any, Any] = {'["a",1]': '{"left":5,"name":"é"}', b"\xff": "{}", "x": "no row"}
    client.hset(key, mapping=odd)
    assert rows(run(*where, "--json", url=any_server.url)) == [
        {"_key": '["a",1]', "left": 5, "name": "é"},
        {"_key": "x", "_row": "no row"},
        {"_key": "\\xff"},
    ]
    shown = run(*where, url=any_server.url).stdout
    assert "left" in shown
    assert "no row" in shown
    client.hset(key, mapping={f"k{number:04}": f'{{"left":{number}}}' for number in range(300)})
    many = run(*where, url=any_server.url)
    assert "k0098" in many.stdout
    assert "k0099" not in many.stdout
    assert many.stderr == "203 rows more; -n 303 shows all\n"
    assert len(rows(run(*where, "--json", url=any_server.url))) == 303
    assert len(rows(run(*where, "--json", "-n", "2", url=any_server.url))) == 2
    client.set(redfloe.table_key(stream, "inventory", "text"), "x")
    wrong = run(*where[:3], "text", url=any_server.url, code=1)
    assert "other than a hash" in wrong.stderr


def test_pending(any_server: Server, orders: str) -> None:
    done = run("pending", orders, "billing", "-n", "2", "--json", url=any_server.url)
    assert [row["consumer"] for row in rows(done)] == ["w1", "w1"]
    assert rows(done)[0]["idle_seconds"] >= 0
    assert len(rows(run("pending", orders, "billing", "--json", url=any_server.url))) == 10
    own = run("pending", orders, "billing", "--consumer", "w1", "--json", url=any_server.url)
    assert len(rows(own)) == 10
    other = run("pending", orders, "billing", "--consumer", "w2", url=any_server.url)
    assert other.stderr == "nothing is pending\n"
    nothing = run("pending", orders, "billing", "--min-idle", "1000", url=any_server.url)
    assert nothing.stderr == "nothing is pending\n"
    missing = run("pending", orders, "nobody", url=any_server.url, code=1)
    assert "nobody" in missing.stderr


def test_head_and_tail(any_server: Server, orders: str) -> None:
    first, second = rows(run("head", orders, "-n", "2", "--json", url=any_server.url))
    assert first == {
        "_id": "1704067200000-0",
        "_ts": "2024-01-01T00:00:00+00:00",
        "sku": "A",
        "price": 0.0,
    }
    assert second["price"] == 0.25
    [last] = rows(run("tail", orders, "-n", "1", "--json", url=any_server.url))
    assert (last["sku"], last["price"]) == ("C", 7.25)
    [text] = rows(run("head", orders, "-n", "1", "--text", "--json", url=any_server.url))
    assert text["price"] == "0.0"
    ranged = run("head", orders, "--start", "2024-01-01T00:20Z", "--json", url=any_server.url)
    assert len(rows(ranged)) == 10
    assert "2024-01-01 00:01:00 UTC" in run("head", orders, url=any_server.url).stdout


def test_json_is_json(any_server: Server, stream: str) -> None:
    name = f'{stream}"{{'
    frame = pl.DataFrame({"x": [1.5, float("nan"), float("inf")], "y": [[1.0], [float("nan")], []]})
    redfloe.write_stream(any_server.url, frame, name)
    assert rows(run("count", name, "--json", url=any_server.url)) == [{"stream": name, "count": 3}]
    found = run("head", name, "--json", url=any_server.url).stdout
    assert [json.loads(line, parse_constant=pytest.fail)["x"] for line in found.splitlines()] == [
        *(1.5, "NaN", "inf")
    ]


@pytest.mark.parametrize("name", ["head", "tail"])
def test_values_that_the_usual_sample_lacks_are_shown(
    any_server: Server, stream: str, name: str
) -> None:
    values = ["1"] * 400
    values[199] = values[201] = "n/a"
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": values}), stream)
    found = rows(run(name, stream, "-n", "250", "--json", url=any_server.url))
    assert [row["n"] for row in found].count("n/a") == 2
    wrong = run("sql", f'select sum(n) from "{stream}"', "--text", url=any_server.url, code=1)
    assert "n" in wrong.stderr


def test_a_query_does_not_turn_values_into_nulls(any_server: Server, stream: str) -> None:
    values = ["1"] * 2_000
    values[1_000] = "n/a"
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": values}), stream)
    done = run("sql", f'select sum(n) from "{stream}"', url=any_server.url, code=1)
    assert "n/a" in done.stderr


def test_count(any_server: Server, orders: str) -> None:
    assert run("count", orders, url=any_server.url).stdout == "30\n"
    some = run("count", orders, "--start", "2024-01-01T00:10", "--json", url=any_server.url)
    assert rows(some) == [{"stream": orders, "count": 20}]


@pytest.mark.parametrize("name", ["head", "tail", "count", "schema", "export"])
def test_a_stream_that_does_not_exist(any_server: Server, name: str, tmp_path: Path) -> None:
    more = [str(tmp_path / "x.csv")] if name == "export" else []
    done = run(name, "no:such", *more, url=any_server.url, code=1)
    assert done.stderr == (
        "redfloe: there is no stream 'no:such'; `redfloe streams` lists those there are\n"
    )
    assert done.stdout == ""


def test_a_schema_is_python_to_paste(any_server: Server, stream: str) -> None:
    frame = pl.DataFrame({"sku": ["A"], "customer": [{"name": "ada", "tags": ["x"]}]})
    redfloe.write_stream(any_server.url, frame, stream, payload="data")
    done = run("schema", stream, "--payload", "data", url=any_server.url)
    pasted: dict[str, Any] = {}
    exec(done.stdout, pasted)
    assert pl.Schema(pasted["schema"]) == redfloe.infer_schema(
        any_server.url, stream, payload="data"
    )
    listed = rows(run("schema", stream, "--payload", "data", "--json", url=any_server.url))
    assert [row["field"] for row in listed] == ["sku", "customer"]


def test_a_schema_of_a_sample_and_of_all(any_server: Server, stream: str) -> None:
    redfloe.write_stream(
        any_server.url, pl.DataFrame({"n": ["1"] * 150 + ["x"] + ["1"] * 149}), stream
    )
    for options, dtype in ([], "Int64"), (["--sample", "4"], "Int64"), (["--all"], "String"):
        done = run("schema", stream, *options, url=any_server.url)
        assert f'"n": pl.{dtype},' in done.stdout


@pytest.mark.parametrize(
    "dtype",
    [
        *(pl.Int64(), pl.String(), pl.Date(), pl.Datetime("us"), pl.Datetime("ms", "UTC")),
        *(pl.List(pl.Float64), pl.Struct({"a b": pl.List(pl.Struct({"é": pl.Boolean}))})),
    ],
    ids=str,
)
def test_dtypes_as_python(dtype: pl.DataType) -> None:
    assert eval(as_python(dtype), {"pl": pl}) == dtype


def test_sql(any_server: Server, orders: str) -> None:
    query = f'select sku, count(*) as n from "{orders}" group by sku order by sku'
    found = rows(run("sql", query, "--json", url=any_server.url))
    assert found == [{"sku": sku, "n": 10} for sku in "ABC"]
    assert "sku" in run("sql", query, url=any_server.url).stdout
    wrong = run("sql", "select * from nowhere", url=any_server.url, code=1)
    assert "nowhere does not exist" in wrong.stderr


def test_top(any_server: Server, orders: str) -> None:
    pattern = orders.replace("[", "?").replace("]", "?")
    process = subprocess.Popen(
        command("top", pattern, "--interval", "0.5", "--count", "2", "--json"),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "REDIS_URL": any_server.url},
    )
    with process:
        while process.poll() is None:
            redfloe.write_stream(any_server.url, pl.DataFrame({"sku": ["D"] * 10}), orders)
            time.sleep(0.02)
        assert process.stdout is not None
        found = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert [row["stream"] for row in found] == [orders] * 2
    assert all(row["entries_per_second"] > 10 for row in found)
    assert all(row["bytes_per_second"] > 100 for row in found)
    assert found[0]["consumers"] == 1


@pytest.mark.parametrize("name", ["lag", "top"])
@pytest.mark.parametrize("form", ["--json", ""])
def test_what_goes_on_is_printed_as_it_comes(
    any_server: Server, orders: str, name: str, form: str
) -> None:
    pattern = orders.replace("[", "?").replace("]", "?")
    options = [*(["--watch"] if name == "lag" else []), "--interval", "0.1", *filter(None, [form])]
    with within(20), piped(name, pattern, *options, url=any_server.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if form:
            found = [json.loads(process.stdout.readline()) for _ in range(2)]
            assert [row["stream"] for row in found] == [orders] * 2
            times = [dt.datetime.fromisoformat(row["time"]) for row in found]
            assert times[0] < times[1]
            assert found[0]["pending"] == 10
        else:
            shown = [process.stdout.readline() for _ in range(9)]
            assert sum(orders in line for line in shown) == 3, shown
            assert not any("\x1b" in line for line in shown)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read() == "redfloe: interrupted\n"


def test_an_outage_does_not_end_what_goes_on(
    stream: str, any_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": [1]}), stream)
    with Proxy(any_server.port) as proxy:
        url = redfloe.RedisConnection(proxy.url, max_retries=0)
        looks: list[int] = []

        def look() -> View:
            looks.append(len(looks))
            if len(looks) == 2:
                proxy.cut_after(0, once_seen=b"SCAN")
            return View(redfloe.list_streams(url, stream), "", "")

        watch(look, interval=0.01, count=2, json=True)
        assert len(looks) == 3
        shown = capsys.readouterr()
        assert [json.loads(line)["length"] for line in shown.out.splitlines()] == [1, 1]
        assert shown.err.startswith("redfloe: the server closed the connection")
        proxy.cut_after(0, once_seen=b"SCAN")
        with pytest.raises(redfloe.RedisConnectionError):  # a wrong URL, say
            watch(lambda: View(redfloe.list_streams(url), "", ""), interval=0.01, count=2)


# Names and values that are no text


@pytest.mark.slow
def test_names_that_are_not_utf_8(any_server: Server, stream: str, tmp_path: Path) -> None:
    key = stream.encode() + b"\xff"
    with any_server.client() as client:
        client.xadd(key, {b"f\xfe": b"\x00\xff", "n": 1})
        client.xgroup_create(key, b"g\xfe", "0")
    typed, shown = os.fsdecode(key), f"{stream}\\xff"
    url = any_server.url
    assert rows(run("count", typed, "--json", url=url)) == [{"stream": shown, "count": 1}]
    assert rows(run("streams", typed, "--json", url=url))[0]["stream"] == shown
    [row] = rows(run("head", typed, "--json", url=url))
    assert (row["n"], row["_rescued"]) == (1, '{"f\\\\xfe":{"$base64":"AP8="}}')
    assert "nothing is pending" in run("pending", typed, os.fsdecode(b"g\xfe"), url=url).stderr
    for _ in range(2):
        done = run("export", typed, str(tmp_path / "x"), url=url)
        assert f" of {shown} exported" in done.stderr
    done = run("tail", f"no{typed}", url=url, code=1)
    assert "there is no stream" in done.stderr


def test_tables_move_no_cursor(any_server: Server, stream: str) -> None:
    frame = pl.DataFrame({"t": ["a\x1b[2J\r\nb"], "l": [["\x1b]0;x\x07"]], "e\x1b": ["é流"]})
    redfloe.write_stream(any_server.url, frame, stream)
    shown = run("head", stream, url=any_server.url).stdout
    assert r"a\x1b[2J\r\nb" in shown
    assert "é流" in shown
    assert not {*shown} & {"\x1b", "\x07", "\r"}


def test_what_has_no_column_is_shown(any_server: Server, stream: str) -> None:
    with any_server.client() as client:
        for document in ('{"a":1}', "not json"):
            client.xadd(stream, {"data": document})
    for name in ("head", "tail"):
        found = rows(run(name, stream, "--payload", "data", "--json", url=any_server.url))
        assert [row["a"] for row in found] == [1, None]
        assert [row["_rescued"] for row in found] == [None, '{"data":"not json"}']
        assert "_rescued" not in run(name, stream, url=any_server.url).stdout


def test_values_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pl.DataFrame(
        {
            "b": [b"\xff\x00", None],
            "d": pl.Series(["1.10", "-2"]).cast(pl.Decimal(10, 2)),
            "t": [dt.time(1, 2), None],
            "wait_time": [dt.timedelta(seconds=1.5), None],
            "s": [{"x": [b"a"], "d": dt.date(2024, 1, 1)}, None],
        }
    )
    print_json(frame)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "b": "/wA=",
        "d": "1.10",
        "t": "01:02:00",
        "wait_seconds": 1.5,
        "s": {"x": ["YQ=="], "d": "2024-01-01"},
    }
    assert [name for name, value in second.items() if value is not None] == ["d"]


# Following


@pytest.fixture
def following(any_server: Server, stream: str) -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def follow(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("tail", "-f", stream, *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "REDIS_URL": any_server.url, "PYTHONUNBUFFERED": ""},
        )
        started.append(process)
        return process

    yield follow
    for process in started:
        with process:
            process.kill()


def test_tail_follows_until_ctrl_c(any_server: Server, orders: str, following: Any) -> None:
    process = following("-n", "2")
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines[0].startswith("2024-01-01 00:28:00.000 1704068880000-0  sku=B  price=7.0")
    redfloe.write_stream(any_server.url, pl.DataFrame({"sku": ["new\x1b[2J"]}), orders)
    line = process.stdout.readline()
    assert line.endswith("sku=new\\x1b[2J\n")  # what would clear the screen is shown instead
    process.send_signal(signal.SIGINT)
    with within(5):
        _, error = process.communicate()
    assert (process.returncode, error) == (130, "redfloe: interrupted\n")


def test_tail_as_a_member_of_a_group(any_server: Server, orders: str, following: Any) -> None:
    process = following("--group", "billing", "--consumer", "w2", "--json")
    seen = [json.loads(process.stdout.readline())["_id"] for _ in range(20)]
    assert seen[0] == "1704067800000-0"
    redfloe.write_stream(any_server.url, pl.DataFrame({"sku": ["D"]}), orders)
    process.stdout.readline()
    # What was shown is acknowledged, also the last, and stays so after Ctrl-C.
    eventually(
        lambda: redfloe.pending_entries(any_server.url, orders, "billing", consumer="w2").is_empty()
    )
    process.send_signal(signal.SIGINT)
    with within(5):
        assert process.wait() == 130


@pytest.mark.slow
def test_tail_takes_some_as_a_member(any_server: Server, orders: str) -> None:
    member = ["--group", "billing", "--consumer", "w2", "--json"]
    some = rows(run("tail", orders, "-n", "3", *member, url=any_server.url))
    assert [row["_id"] for row in some] == [f"{1704067800000 + 60_000 * n}-0" for n in range(3)]
    rest = rows(run("tail", orders, *member, url=any_server.url))
    assert len(rest) == 17
    assert redfloe.pending_entries(any_server.url, orders, "billing", consumer="w2").is_empty()
    assert run("tail", orders, *member, url=any_server.url).stdout == ""
    both = run("tail", orders, "-f", "-n", "3", *member, url=any_server.url, code=2)
    assert "--count or --follow" in both.stderr
    nobody = ["--group", "nobody", "--consumer", "w2"]
    assert "nobody" in run("tail", orders, *nobody, url=any_server.url, code=1).stderr


def test_tail_of_nothing_and_from_nothing(
    any_server: Server, orders: str, stream: str, following: Any
) -> None:
    done = run("tail", orders, "-n", "0", url=any_server.url)
    assert (done.stdout, done.stderr) == ("", "")
    with any_server.client() as client:
        client.delete(stream)
    process = following("--json", "-n", "0")
    assert process.stderr.readline() == f"there is no stream '{stream}' yet\n"
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": [1]}), stream)
    assert json.loads(process.stdout.readline())["n"] == "1"


def test_a_reader_of_the_output_that_goes(any_server: Server, orders: str) -> None:
    # More than a pipe holds.
    redfloe.write_stream(any_server.url, pl.DataFrame({"sku": ["x" * 1_000] * 500}), orders)
    shell = f"{sys.executable} -c '{SCRIPT}' head {orders!r} -n 1000 --json | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "REDIS_URL": any_server.url},
    )
    assert done.stderr == ""
    assert done.returncode == 141


# Files


@pytest.mark.parametrize("suffix", ["parquet", "csv", "ndjson", "arrow"])
def test_a_file_goes_out_and_comes_in(
    any_server: Server, orders: str, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"orders.{suffix}"
    done = run("export", orders, str(path), url=any_server.url)
    assert done.stderr == f"30 entries of {orders} exported to {path}\n"
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    copy = f"{orders}:copy"
    done = run("import", str(path), copy, "--id-column", "_id", url=any_server.url)
    assert done.stderr == f"30 rows of {path} added to {copy}\n"
    read = [
        redfloe.read_stream(any_server.url, name, {"sku": pl.String, "price": pl.Float64})
        for name in (orders, copy)
    ]
    assert read[0].equals(read[1])


def test_an_export_that_is_interrupted_leaves_nothing(
    any_server: Server, stream: str, tmp_path: Path
) -> None:
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": range(200_000)}), stream)
    with Proxy(any_server.port) as proxy:
        fault = proxy.stall_after(10_000, once_seen=b"XRANGE", skip=5)
        with piped("export", stream, str(tmp_path / "x.parquet"), url=proxy.url) as process:
            eventually(lambda: bool(fault.hits and [*tmp_path.iterdir()]), seconds=20)
            process.send_signal(signal.SIGINT)
            with within(5):
                assert process.wait() == 130
    time.sleep(0.1)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_an_export_to_standard_output_and_to_what_is_no_file(
    any_server: Server, orders: str, tmp_path: Path
) -> None:
    done = run("export", orders, "-", "--format", "csv", url=any_server.url)
    assert done.stdout.startswith("_id,_ts,sku,price,_rescued\n1704067200000-0,2024")
    assert done.stdout.count("\n") == 31
    assert done.stderr == f"30 entries of {orders} exported to standard output\n"
    with piped("export", orders, "/dev/stdout", "-f", "ndjson", url=any_server.url) as process:
        lines = process.communicate()[0].splitlines()
    assert [json.loads(line)["sku"] for line in lines] == ["A", "B", "C"] * 10
    # Also where it is a file; as root /dev/stdout itself would be replaced.
    assert Path("/dev/stdout").is_symlink()
    done = run("export", orders, "/dev/stdout", "-f", "ndjson", url=any_server.url)
    assert Path("/dev/stdout").is_symlink()
    assert [row["sku"] for row in rows(done)] == ["A", "B", "C"] * 10
    for path in ("-", "x.csv.gz", "/dev/null", str(tmp_path / "x.txt")):
        done = run("export", orders, path, url=any_server.url, code=2)
        assert "has no suffix" in done.stderr
    text, folder = tmp_path / "x.txt", tmp_path / "parts.2024"
    run("export", orders, str(text), "--format", "ndjson", url=any_server.url)
    assert len(text.read_text().splitlines()) == 30
    run("export", orders, f"{folder}/", "--format", "csv", url=any_server.url)
    assert len([*folder.glob("*.csv")]) == 1
    done = run("export", orders, str(tmp_path / "no" / "x.csv"), url=any_server.url, code=1)
    assert done.stderr == f"redfloe: there is no directory '{tmp_path / 'no'}'\n"


def test_a_reader_of_an_export_that_goes(any_server: Server, stream: str) -> None:
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": ["x" * 100] * 20_000}), stream)
    with piped("export", stream, "-", "-f", "csv", url=any_server.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (141, "")


def test_a_file_that_fails_leaves_nothing(any_server: Server, stream: str, tmp_path: Path) -> None:
    redfloe.write_stream(
        any_server.url, pl.DataFrame({"n": [*["1"] * 10_000, "x", *["1"] * 10_000]}), stream
    )
    path = tmp_path / "x.parquet"
    path.write_text("what was there")
    done = run("export", stream, str(path), "--strict", url=any_server.url, code=1)
    assert "redfloe:" in done.stderr
    assert path.read_text() == "what was there"
    assert [*tmp_path.iterdir()] == [path]


def exported(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "**/*.parquet", hive_partitioning=True).sort("_id")


def test_a_directory_goes_on_where_it_ended(
    any_server: Server, orders: str, tmp_path: Path
) -> None:
    folder = tmp_path / "orders"
    arguments = ["export", orders, str(folder), "--partition-by", "hour", "--batch-size", "7"]
    run(*arguments, url=any_server.url)
    assert exported(folder).height == 30
    done = run(*arguments, "--json", url=any_server.url)
    assert rows(done)[0]["exported"] == 0
    at = pl.datetime_range(
        pl.datetime(2024, 1, 1, 1), pl.datetime(2024, 1, 1, 1, 9), "1m", eager=True
    )
    redfloe.write_stream(
        any_server.url,
        pl.DataFrame({"at": at, "sku": ["D"] * 10}),
        orders,
        timestamp_column="at",
    )
    done = run(*arguments, url=any_server.url)
    assert done.stderr == (f"10 entries of {orders} exported to {folder}, 30 were there\n")
    frame = exported(folder)
    assert frame["_id"].n_unique() == frame.height == 40
    assert frame["hour"].value_counts().sort("hour").rows() == [
        ("2024-01-01T00", 30),
        ("2024-01-01T01", 10),
    ]
    other = run("export", orders, str(folder), url=any_server.url, code=1)
    assert "holds an export with --partition-by ['hour'], not []" in other.stderr


def test_one_export_at_a_time(any_server: Server, orders: str, tmp_path: Path) -> None:
    wanted = ExportState(orders, "parquet", [], None)
    with ExportDirectory.opened(tmp_path / "x", wanted, lambda: pl.Schema({"sku": pl.String})):
        done = run("export", orders, str(tmp_path / "x"), url=any_server.url, code=1)
    assert done.stderr == f"redfloe: another process exports into {tmp_path / 'x'}\n"
    run("export", orders, str(tmp_path / "x"), url=any_server.url)


def test_a_stream_that_was_begun_anew_is_no_continuation(
    any_server: Server, orders: str, tmp_path: Path
) -> None:
    arguments = ["export", orders, str(tmp_path / "x")]
    run(*arguments, url=any_server.url)
    with any_server.client() as client:
        client.delete(orders)
        client.xadd(orders, {"sku": "A"}, id="5-0")
    done = run(*arguments, url=any_server.url, code=1)
    assert f"{orders} only to 5-0: it was deleted and written again" in done.stderr


def test_partitions_of_null_and_of_nothing(any_server: Server, stream: str, tmp_path: Path) -> None:
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": [1, 2], "k": ["a/b", None]}), stream)
    arguments = ["export", stream, str(tmp_path / "x"), "--partition-by"]
    wrong = run(*arguments, "week", url=any_server.url, code=1)
    assert "no column 'week'" in wrong.stderr
    run("export", stream, str(tmp_path / "y"), "--partition-by", "k", url=any_server.url)
    folders = sorted(path.name for path in (tmp_path / "y").iterdir() if path.name[0] != "_")
    assert folders == ["k=__HIVE_DEFAULT_PARTITION__", "k=a%2Fb"]


def test_a_directory_of_somebody_else_s(any_server: Server, orders: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    done = run("export", orders, str(tmp_path), url=any_server.url, code=1)
    assert "holds no export" in done.stderr
    assert [child.name for child in tmp_path.iterdir()] == ["precious"]


@pytest.mark.slow
def test_an_export_that_is_killed_at_any_time(
    any_server: Server, stream: str, tmp_path: Path
) -> None:
    frame = pl.DataFrame({"n": range(20_000)})
    redfloe.write_stream(any_server.url, frame, stream)
    folder = tmp_path / "parts"
    arguments = ["export", stream, str(folder), "--batch-size", "500", "--partition-by", "hour"]
    killed = 0
    for attempt in range(8):
        process = subprocess.Popen(
            command(*arguments),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "REDIS_URL": any_server.url},
        )
        parts = len([*folder.glob("**/*.parquet")])
        with process:
            while len([*folder.glob("**/*.parquet")]) < parts + 2 and process.poll() is None:
                time.sleep(0.001)
            time.sleep(0.002 * attempt)
            process.kill()
        killed += process.returncode == -signal.SIGKILL
    run(*arguments, url=any_server.url)
    assert killed > 2
    assert exported(folder)["n"].sort().to_list() == frame["n"].to_list()


def test_import_of_documents_and_of_few(any_server: Server, stream: str, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text('{"n": 1, "t": {"x": [1]}}\n' * 500)
    wrong = run("import", str(path), stream, url=any_server.url, code=2)
    assert "give --format" in wrong.stderr
    options = ["-f", "ndjson", "--payload", "data", "--maxlen", "10"]
    done = run("import", str(path), stream, *options, "--json", url=any_server.url)
    assert rows(done) == [{"imported": 500}]
    with any_server.client() as client:
        [(_, fields)] = client.xrange(stream, count=1)
        assert json.loads(fields[b"data"]) == {"n": 1, "t": {"x": [1]}}
        assert 10 <= client.xlen(stream) < 300  # about
    missing = run("import", f"{path}.csv", stream, url=any_server.url, code=1)
    assert "rows.csv" in missing.stderr


def test_import_of_standard_input(any_server: Server, stream: str) -> None:
    text = "n,t\n1,a\n2,b\n"
    done = run("import", "-", stream, "--format", "csv", url=any_server.url, stdin=text)
    assert done.stderr == f"2 rows of standard input added to {stream}\n"
    assert redfloe.read_stream(any_server.url, stream)["t"].to_list() == ["a", "b"]


def test_an_import_that_fails_says_how_far_it_came(
    any_server: Server, stream: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.ndjson"
    path.write_text("".join(f'{{"id": "{1 + n % 150_000}-0", "n": 1}}\n' for n in range(150_001)))
    done = run("import", str(path), stream, "--id-column", "id", url=any_server.url, code=1)
    with any_server.client() as client:
        there = client.xlen(stream)
    assert there > 0
    assert f"{there:,} rows are in {stream}; go on with --skip {there}\n" in done.stderr


# Changing


def test_trim_asks(any_server: Server, orders: str) -> None:
    trim = ["trim", orders, "--maxlen", "20", "--exact"]
    asked = run(*trim, url=any_server.url, code=1)
    assert "give --yes" in asked.stderr
    assert redfloe.stream_info(any_server.url, orders)["length"].item() == 30
    done = run(*trim, "--yes", url=any_server.url)
    assert done.stderr == f"10 entries of {orders} deleted\n"
    older = run(
        "trim",
        orders,
        "--minid",
        "2024-01-01T00:20Z",
        "--exact",
        "-y",
        "--json",
        url=any_server.url,
    )
    assert rows(older) == [{"deleted": 10}]
    run("trim", orders, url=any_server.url, code=2)


def test_dead_letters(any_server: Server, orders: str) -> None:
    dead = f"{orders}:dead"
    with redfloe.StreamConsumer(
        any_server.url, orders, "billing", "w1", dead_letter=dead, on_idle="stop", block_ms=1
    ) as consumer:
        for batch in consumer:
            batch.fail(batch.ids[:2], "no")
    found = rows(run("dead", "list", dead, "--json", url=any_server.url))
    assert {row["_dead_reason"] for row in found} == {"no"}
    count = len(found)
    run("dead", "replay", dead, url=any_server.url, code=1)
    one = run("dead", "replay", dead, "--id", found[0]["_id"], "--yes", url=any_server.url)
    assert one.stderr == f"1 dead letter replayed into {orders}\n"
    again = run("dead", "replay", dead, "-n", "1", "--yes", "--json", url=any_server.url)
    assert [row["_dead_stream"] for row in rows(again)] == [orders]
    assert again.stderr == f"1 dead letter replayed into {orders}\n"
    count -= 1
    rest = run("dead", "replay", dead, "--yes", url=any_server.url)
    assert rest.stderr == f"{count - 1} dead letter{'s' * (count > 2)} replayed into {orders}\n"
    assert redfloe.stream_info(any_server.url, orders)["length"].item() == 31 + count
    # One whose letters have all been replayed is there, and empty; a mistyped one is not.
    nothing = run("dead", "list", dead, url=any_server.url)
    assert (nothing.stdout, nothing.stderr) == ("", f"{dead} has no dead letters\n")


# Arguments and errors


def test_bare_shows_help() -> None:
    done = run(url="redis://localhost")
    assert "export" in done.stdout


def test_wrong_arguments(any_server: Server) -> None:
    assert "No such command" in run("nope", url=any_server.url, code=2).stderr
    assert "--url" in run("streams", "--url", "http://x", url=any_server.url, code=2).stderr
    assert "go together" in run("tail", "s", "--group", "g", url=any_server.url, code=2).stderr


def test_no_server() -> None:
    done = run("streams", "--url", "redis://:s3cret@127.0.0.1:1", url="", code=1)
    assert done.stderr.startswith("redfloe: ")
    assert "s3cret" not in done.stderr


def test_without_the_extra(any_server: Server, tmp_path: Path) -> None:
    """As where typer is not installed: `demo` alone, and how to get the rest."""
    hide = "import sys; sys.modules['typer'] = None; "
    for arguments, code, expected in [
        ([], 0, "redfloe[cli]"),
        (["--version"], 0, redfloe.__version__),
        (["streams"], 2, "redfloe[cli]"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", hide + SCRIPT, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert expected in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hidden", "expected"),
    [
        (["sql", "select 1"], "duckdb", "the command sql needs DuckDB: pip install duckdb"),
        (["exporter"], "prometheus_client", "the exporter needs prometheus_client: pip install"),
        (["export", "s", "x", "--progress"], "tqdm", "which is not installed: pip install tqdm"),
    ],
)
def test_a_package_that_is_missing(
    any_server: Server, arguments: list[str], hidden: str, expected: str, tmp_path: Path
) -> None:
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": [1]}), "s")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules[{hidden!r}] = None; {SCRIPT}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "REDIS_URL": any_server.url},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("redfloe: ")
    assert expected in done.stderr


def test_sql_needs_no_pyarrow(any_server: Server, orders: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"import sys; sys.modules['pyarrow'] = None; {SCRIPT}"),
            *("sql", f'select sum(price) as s from "{orders}"', "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "REDIS_URL": any_server.url},
    )
    assert (done.stdout, done.stderr) == ('{"s": 108.75}\n', "")


def test_a_query_is_interrupted() -> None:
    connection = duckdb.connect()
    connection.sql("select 1").fetchall()

    def ask() -> Any:
        timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
        timer.start()
        try:
            return connection.sql("select sum(range % 7) from range(1000000000000)").fetchall()
        finally:
            timer.cancel()

    with within(5), pytest.raises(KeyboardInterrupt):
        interruptible(ask, connection.interrupt)
    assert interruptible(lambda: 5, connection.interrupt) == 5
    with pytest.raises(duckdb.Error, match="nowhere"):
        interruptible(lambda: duckdb.connect().sql("from nowhere"), connection.interrupt)


def test_the_command_of_a_query_is_interrupted(any_server: Server, stream: str) -> None:
    """While it reads the stream, which tells that it has begun."""
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": range(5_000)}), stream)
    query = f'select sum(a.n % (b.range + 1)) from "{stream}" a, range(1000000000) b'
    with Proxy(any_server.port) as proxy, piped("sql", query, url=proxy.url) as process:
        assert process.stderr is not None
        eventually(lambda: proxy.largest_reply > 50_000)
        process.send_signal(signal.SIGINT)
        with within(10):
            assert (process.wait(), process.stderr.read()) == (130, "redfloe: interrupted\n")


def test_completion() -> None:
    for shell in ("bash", "zsh"):
        done = subprocess.run(
            [sys.executable, "-m", "redfloe"],
            capture_output=True,
            text=True,
            check=True,
            env={
                **os.environ,
                "_REDFLOE_COMPLETE": f"complete_{shell}",
                "COMP_WORDS": "redfloe str",
                "COMP_CWORD": "1",
                "_TYPER_COMPLETE_ARGS": "redfloe str",
            },
        )
        assert "streams" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (0.0123, "13 ms"), (5.25, "5.2 s"), (61, "1 min 1 s"), (3_600, "1 h 0 min")),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1_500, 2e6, 3e15)] == [
        *("0 B", "999 B", "1.5 kB", "2.0 MB", "3000.0 TB")
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0.0"), (99.94, "99.9"), (1_347.4, "1,347"), (9_390, "9,390"), (9_999.6, "10.0k")),
        *((12_345, "12.3k"), (399_900, "400k"), (999_600, "1.0M"), (3.2e15, "3,200T")),
        *((None, "-"), (dt.timedelta(seconds=3571), "59m 31s"), (dt.timedelta(days=12), "12d 0h")),
        (dt.timedelta(seconds=5.25), "5.2 s"),
    ],
    ids=str,
)
def test_short_numbers(value: Any, text: str) -> None:
    assert short("lag", value) == text


def test_short_sizes() -> None:
    sizes = [short("bytes_per_second", n) for n in (0.0, 999.4, 999.6, 9_949.0, 200_682.4, 3e15)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "9.9 kB", "201 kB", "3,000 TB"]


# Standard streams, and arguments that are wrong


@pytest.mark.parametrize(
    "arguments",
    [
        *("--help", "head --help", "--version", "streams", "groups", "tail {} -n 30"),
        *(f"export {{}} - --format {kind}" for kind in ("parquet", "csv", "ndjson", "arrow")),
    ],
)
def test_a_pipe_that_nobody_reads(any_server: Server, orders: str, arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command(*arguments.format(orders).split()),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "REDIS_URL": any_server.url},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "closed", "code", "said"),
    [
        ("head {}", ">&-", 1, "redfloe: Bad file descriptor"),
        ("head {}", ">/dev/full", 1, "redfloe: No space left on device"),
        ("--version", ">/dev/full", 1, "redfloe: standard output: No space left on device"),
        ("trim {} --maxlen 5", "<&-", 1, "nobody can be asked here"),
        ("trim {} --maxlen 5 --yes --exact", ">&- 2>&-", 0, ""),
    ],
)
def test_closed_standard_streams(
    any_server: Server, orders: str, arguments: str, closed: str, code: int, said: str
) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "-", *command(*arguments.format(orders).split())],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "REDIS_URL": any_server.url},
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.slow
def test_bounds_that_are_none_are_wrong_arguments(any_server: Server, orders: str) -> None:
    for option in ("--start", "--end"):
        for value in ("nope", "2024-13-01", "1-2-3", "-5"):
            assert option in run("head", orders, option, value, url=any_server.url, code=2).stderr
    run("trim", orders, "--yes", "--minid", "nope", url=any_server.url, code=2)
    for value in ("2024-01-01", "2024-01-01T00:05Z", "1704067200000", "(1704067200000-0", "-"):
        run("head", orders, "--start", value, url=any_server.url)


def test_a_mistyped_dead_letter_stream(any_server: Server, stream: str) -> None:
    for arguments in (["list", stream], ["replay", stream, "--yes"]):
        done = run("dead", *arguments, url=any_server.url, code=1)
        assert f"there is no stream '{stream}'" in done.stderr


def test_an_empty_url_counts_as_none(any_server: Server, orders: str) -> None:
    assert run("count", orders, "--url", "", url=any_server.url).stdout == "30\n"


def test_a_table_in_ascii(any_server: Server, orders: str) -> None:
    done = subprocess.run(
        command("head", orders),
        capture_output=True,
        check=True,
        env={**os.environ, "REDIS_URL": any_server.url, "PYTHONIOENCODING": "ascii"},
    )
    shown = done.stdout.decode("ascii")
    assert "?" not in shown
    assert "| sku" in shown
