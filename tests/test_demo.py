from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

import redfloe
from redfloe import _demo
from support.proxy import Proxy
from support.server import Server
from support.timing import eventually, within

pytestmark = pytest.mark.usefixtures("server_program")

MODULE = (sys.executable, "-m", "redfloe")
SCRIPT = (str(Path(sys.executable).with_name("redfloe")),)
DATA = Path(redfloe.__file__).with_name("data") / "flights-2013-01.parquet"
BYSTANDER = "redfloe:demo:somebody-else"


def run(
    *command: str, code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command without a terminal, and expect its exit code."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def run_python(script: str, *, code: int) -> subprocess.CompletedProcess[str]:
    """Run the demo after a few statements."""
    demo = "from redfloe.__main__ import main; sys.exit(main(['demo']))"
    return run(sys.executable, "-c", f"import sys; {script}; {demo}", code=code)


def means(output: str) -> dict[str, float]:
    """Read the aggregated table off the output: carrier to mean arrival delay."""
    rows = re.findall(r"(?m)^\W+(\w\w)\W+\d+\W+?(-?[\d.]+) +\W$", output)
    return {carrier: float(mean) for carrier, mean in rows}


def check_facts(output: str) -> None:
    for step in ("published", "read"):
        assert re.search(rf"(?m)^{step} +27,004 entries in .*[1-9][\d,]* entries/s", output)
    assert "the frame read equals the one published, with its 2,945 nulls" in output
    by_carrier = pl.read_parquet(DATA).group_by("carrier").agg(pl.mean("arr_delay").round(2))
    assert means(output) == dict(by_carrier.iter_rows())
    assert means(output)["HA"] == 27.48  # 31 flights to Honolulu; the winter's storms


def demo_keys(server: Server) -> set[bytes]:
    with server.client() as client:
        return {*client.keys("redfloe:demo:*")} - {BYSTANDER.encode()}


def test_with_a_server_of_its_own() -> None:
    done = run(*MODULE, "demo")
    assert done.stderr == ""
    assert done.stdout.startswith(f"redfloe {redfloe.__version__}: 27,004 flights")
    check_facts(done.stdout)
    [port] = re.findall(r"(?m)^server +redis://127.0.0.1:(\d+), started", done.stdout)
    with pytest.raises(redfloe.RedisConnectionError):
        redfloe.read_stream(
            redfloe.RedisConnection(f"redis://127.0.0.1:{port}", max_retries=0), "any"
        )


def test_the_page_shows_this_output() -> None:
    page = Path(__file__).parents[1].joinpath("docs/guide/demo.md").read_text()
    [shown] = re.findall(r"^```console\n\$ redfloe demo\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    varies = re.compile(r"(?m)^(redfloe|server|published|read) .*$")
    assert varies.sub(r"\1", shown) == varies.sub(r"\1", run(*SCRIPT, "demo").stdout)


def test_with_an_encoding_that_lacks_the_frame_of_frames() -> None:
    done = run(*SCRIPT, "demo", env={"PYTHONIOENCODING": "ascii"})
    assert done.stdout.isascii()
    assert done.stderr == ""
    check_facts(done.stdout)


def test_on_the_users_server() -> None:
    with Server("redis-7.0", password="hunter2") as server, server.client() as client:
        client.set(BYSTANDER, "untouched")
        client.xadd("events", {"a": 1}, id="1-1")
        done = run(*SCRIPT, "demo", "--url", server.url)
        check_facts(done.stdout)
        assert f"server     redis://:***@127.0.0.1:{server.port}, yours" in done.stdout
        assert "hunter2" not in done.stdout + done.stderr
        assert {*client.keys()} == {BYSTANDER.encode(), b"events"}
        assert client.get(BYSTANDER) == b"untouched"
        assert client.xrange("events") == [(b"1-1", {b"a": b"1"})]
        assert client.ttl(BYSTANDER) == client.ttl("events") == -1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["publishing", "reading"])
@pytest.mark.slow
def test_interrupted(redis70: Server, number: signal.Signals, moment: str) -> None:
    with redis70.client() as client, Proxy(redis70.port) as proxy:
        client.set(BYSTANDER, "untouched")
        proxy.stall_after(10, once_seen=b"XRANGE")
        process = subprocess.Popen(
            (*MODULE, "demo", "--url", proxy.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            if moment == "publishing":
                eventually(lambda: bool(demo_keys(redis70)), seconds=60)
            else:
                eventually(lambda: proxy.count(b"XRANGE") > 0, seconds=60)
            process.send_signal(number)
            with within(5):
                _, complaint = process.communicate()
        assert process.returncode == 128 + number, complaint.decode()
        assert b"Traceback" not in complaint
        time.sleep(0.2)  # for whatever were still under way
        assert client.keys() == [BYSTANDER.encode()]
        assert client.get(BYSTANDER) == b"untouched"


@pytest.mark.parametrize(
    ("command", "reply", "message"),
    [
        (b"XADD", b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "OOM|maxmemory"),
        (b"XRANGE", b"-NOPERM this user has no permissions\r\n", "NOPERM this user"),
    ],
)
@pytest.mark.slow
def test_refused_by_the_server(redis70: Server, command: bytes, reply: bytes, message: str) -> None:
    with redis70.client() as client, Proxy(redis70.port) as proxy:
        proxy.replace_reply(reply, once_seen=command, skip=3 if command == b"XADD" else 0)
        done = run(*MODULE, "demo", "--url", proxy.url, code=1)
        assert re.search(rf"^redfloe demo: .*({message})", done.stderr)
        assert client.keys() == []


@pytest.mark.slow
def test_connection_lost_while_publishing(redis70: Server) -> None:
    with redis70.client() as client, Proxy(redis70.port) as proxy:
        proxy.cut_after(5, once_seen=b"XADD", skip=1500)
        check_facts(run(*MODULE, "demo", "--url", proxy.url).stdout)
        assert client.keys() == []


@pytest.mark.slow
def test_a_key_that_cannot_be_removed_expires(redis70: Server) -> None:
    with redis70.client() as client, Proxy(redis70.port) as proxy:
        proxy.replace_reply(b"-NOPERM no\r\n", once_seen=b"UNLINK")
        done = run(*MODULE, "demo", "--url", proxy.url)
        check_facts(done.stdout)
        [key] = demo_keys(redis70)
        assert f"the key {key.decode()} could not be removed" in done.stderr
        assert 0 < client.ttl(key) <= 3600


def test_server_that_cannot_be_reached() -> None:
    with within(10):
        done = run(*MODULE, "demo", "--url", "redis://:hunter2@127.0.0.1:1", code=1)
    assert re.fullmatch(r"redfloe demo: .*127\.0\.0\.1:1.*\n", done.stderr)
    assert "hunter2" not in done.stdout + done.stderr


def test_reader_of_the_output_that_leaves() -> None:
    with subprocess.Popen(
        (*MODULE, "demo"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_without_redis_py() -> None:
    done = run_python("sys.modules['redis'] = None", code=1)
    assert re.fullmatch(r"redfloe demo: .*`pip install 'redfloe\[demo\]'`.*\n", done.stderr)


def test_without_a_server_program() -> None:
    script = "import importlib.util, os; importlib.util.find_spec = lambda _: None"
    done = run_python(f"import redis; {script}; os.environ['PATH'] = ''", code=1)
    assert re.fullmatch(r"redfloe demo: .*`pip install 'redfloe\[demo\]'`.*\n", done.stderr)


@pytest.mark.parametrize("command", [MODULE, SCRIPT])
def test_version(command: tuple[str, ...]) -> None:
    assert run(*command, "--version").stdout == f"redfloe {redfloe.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "fly"),
        (["demo", "--url"], "--url"),
        (["demo", "--url", "http://:hunter2@localhost"], "scheme is unknown"),
        (["demo", "--url", "redis://:hunter2@h:99999"], "malformed"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    done = run(*MODULE, *arguments, code=2)
    assert message in done.stderr
    assert "hunter2" not in done.stderr
    assert done.stdout == ""


def test_entry_ids_ascend_and_tell_the_scheduled_departure() -> None:
    flights = _demo.load_flights()
    assert flights.height == flights["_id"].n_unique() == 27_004
    ids = [tuple(map(int, text.split("-"))) for text in flights["_id"]]
    assert ids == sorted(ids)
    # From another column of the data, in UTC: independent of the time zone's rules.
    hour = flights["time_hour"].str.to_datetime("%+", time_zone="UTC").dt.epoch("ms")
    assert [ms for ms, _ in ids] == (hour + flights["minute"] * 60_000).to_list()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pl.col("arr_delay") + 1, "entry 1357035300000-0 was read with arr_delay = 12 instead of"),
        (pl.col("arr_delay").fill_null(0), r"arr_delay = 0 instead of None"),
        (pl.lit(None, pl.String).alias("tailnum"), "tailnum = None instead of"),
        (pl.col("arr_delay").cast(pl.Int32), "columns read differ"),
    ],
)
def test_a_frame_that_differs_is_noticed(spoil: pl.Expr, message: str) -> None:
    flights = _demo.load_flights()
    _demo.check_equal(flights, flights.clone())
    with pytest.raises(_demo.DemoError, match=message):
        _demo.check_equal(flights.with_columns(spoil), flights)
    with pytest.raises(_demo.DemoError, match="27,003 read"):
        _demo.check_equal(flights.head(-1), flights)
