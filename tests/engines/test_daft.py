"""What only Daft does: limits, plans, and tasks in this process or in Ray's."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import daft
import polars as pl
import pytest
import ray
import redis
from daft import col
from polars.testing import assert_frame_equal

import redfloe
from redfloe.daft import read_stream
from support.engines import ENGINES, sent
from support.processes import hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, Fields, add, add_numbers, numbers

LAST = 20_000


def test_a_limit_is_asked_of_the_server(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, LAST)
    frame = read_stream(any_server.url, stream, NUMBER, partitions=4)
    everything = sent(client, frame.count_rows)
    limited = read_stream(any_server.url, stream, NUMBER, partitions=4).limit(7)
    got: list[pl.DataFrame] = []
    assert sent(client, lambda: got.append(ENGINES["daft"].frame(limited))) < everything / 20
    assert_frame_equal(got[0], numbers(7))
    # One that comes after a filter is of what the filter leaves.
    after = read_stream(any_server.url, stream, NUMBER).where(col("n") > 900).limit(2)
    assert ENGINES["daft"].frame(after)["n"].to_list() == [901, 902]
    before = read_stream(any_server.url, stream, NUMBER).limit(902).where(col("n") > 900)
    assert ENGINES["daft"].frame(before)["n"].to_list() == [901, 902]
    none = read_stream(any_server.url, stream, NUMBER).limit(0)
    assert none.count_rows() == 0


def test_the_plan_tells_what_is_pushed_down(
    any_server: Server, client: redis.Redis, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_numbers(client, stream, 100)
    frame = read_stream(any_server.url, stream, NUMBER, partitions=3)
    frame.explain(show_all=True)
    assert "Num Scan Tasks = 3" in capsys.readouterr().out
    frame.limit(3).explain(show_all=True)
    assert "Num Scan Tasks = 1" in capsys.readouterr().out
    frame.where(col("_ts") > 90).select("n").limit(3).explain(show_all=True)
    shown = capsys.readouterr().out
    assert "DataSource: redis stream" in shown
    assert "Filter pushdown = col(_ts) > lit(90)" in shown
    assert "Projection pushdown = [n]" in shown


def test_columns_keep_their_places(any_server: Server, client: redis.Redis, stream: str) -> None:
    """Daft knows columns by their places, and names those that it wants in another order."""
    entries: list[tuple[str, Fields]] = [
        (f"{n}-0", {"shop": "ab"[n % 2], "amount": n, "more": n}) for n in range(1, 9)
    ]
    add(client, stream, entries)
    schema = {"shop": pl.String, "amount": pl.Int64, "more": pl.Int64}
    frame = read_stream(any_server.url, stream, schema, partitions=2)
    for rows in (frame, frame.where(col("_ts") > 0), frame.where(col("shop") != "c")):
        sums = rows.groupby("shop").agg(col("amount").sum()).sort("shop")
        assert sums.to_pydict() == {"shop": ["a", "b"], "amount": [20, 16]}
        some = rows.select("amount", "shop").where(col("amount") < 3)
        assert some.to_pydict() == {"amount": [1, 2], "shop": ["b", "a"]}
        assert [*some.to_pydict()] == ["amount", "shop"]
    only = frame.where((col("more") > 2) & (col("_ts") < 5)).select("amount")
    assert only.to_pydict() == {"amount": [3, 4]}


def test_operations(any_server: Server, client: redis.Redis, stream: str) -> None:
    """Filters of `between`, casts, computed columns, groups and joins are right."""
    add_numbers(client, stream, 1_000)
    frame = read_stream(any_server.url, stream, NUMBER)
    between = frame.where(col("_ts").between(10, 12) & col("n").cast("string").not_null())
    assert between.sum("n").to_pydict() == {"n": [33]}
    assert frame.where(col("n") + 0 == col("_ts")).count_rows() == 1_000
    assert frame.where(daft.lit(5) >= col("_ts")).count_rows() == 5
    assert frame.where(col("_ts").is_null()).count_rows() == 0
    grouped = frame.with_column("even", col("n") % 2).groupby("even").sum("n").sort("even")
    assert grouped.to_pydict() == {"even": [0, 1], "n": [250_500, 250_000]}
    joined = frame.where(col("_ts") < 4).join(frame.select("_ts", "n"), on="_ts")
    assert joined.count_rows() == 3


def test_a_connection_that_is_lost_while_it_reads(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, LAST)
    with Proxy(any_server.port) as proxy:
        frame = read_stream(proxy.url, stream, NUMBER, partitions=3)
        frame.explain(show_all=True)  # for which the stream is cut
        fault = proxy.cut_after(10_000, once_seen=b"XRANGE", times=3)
        assert_frame_equal(ENGINES["daft"].frame(frame).sort("_ts"), numbers(LAST))
        assert fault.hits == 3


WRITER = """
import sys, daft, time
from redfloe.daft import write_stream
rows = daft.from_pydict({"n": list(range(20_000))})
if sys.argv[3] == "dying":
    @daft.func
    def slowly(n: int) -> int:
        if n == 19_999:
            print("1", flush=True)
            time.sleep(60)
        return n
    rows = rows.into_batches(1_000).with_column("n", slowly(rows["n"]))
print(write_stream(rows, sys.argv[1], sys.argv[2], job="a day"), flush=True)
"""


def test_a_process_that_is_killed_while_it_writes(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Nothing is in the stream, and run again the job is written once."""
    with python(WRITER, any_server.url, stream, "dying") as process:
        assert hear(process) == 1
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not client.exists(stream)
    assert all(client.pttl(key) > 0 for key in client.scan_iter())
    for _ in range(2):
        with python(WRITER, any_server.url, stream, "again") as process:
            assert hear(process) == 20_000
        assert client.xlen(stream) == 20_000


ON_RAY = """
import json, os, signal, sys
import daft, polars as pl
from redfloe.daft import read_stream, write_stream
url, stream, address, marker, results = sys.argv[1:]
daft.set_runner_ray(address)

@daft.func
def dying(n: int) -> int:
    if n == 19_990 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return n

frame = read_stream(url, stream, {"n": pl.Int64}, partitions=4)
rows = frame.with_column("n", dying(daft.col("n"))).where(daft.col("_ts") > 10)
with open(results, "w") as file:  # to whose output Ray adds its own
    json.dump([rows.sum("n").to_pydict()["n"][0], write_stream(frame, url, "copy")], file)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(120)
def test_on_ray_a_worker_that_is_killed(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    """Its task is retried."""
    add_numbers(client, stream, LAST)
    address = ray.get_runtime_context().gcs_address
    marker, results = tmp_path / "died", tmp_path / "results"
    paths = str(marker), str(results)
    with python(ON_RAY, any_server.url, stream, address, *paths) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert marker.exists()
    assert json.loads(results.read_text()) == [sum(range(11, LAST + 1)), LAST]
    copy = redfloe.read_stream(any_server.url, "copy", NUMBER)
    assert sorted(copy["n"].to_list()) == [*range(1, LAST + 1)]
