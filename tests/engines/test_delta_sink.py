"""Delta tables that processors write: each row once, whatever dies between any two steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import deltalake
import polars as pl
import pytest
import redis

import redfloe
from redfloe import DataLossError, DeltaSink, FencedError, RedisConnection, SchemaError
from support.buckets import BUCKET, bucket
from support.consumers import World
from support.delta_lakes import check, delta, drain, read
from support.lakes import OUT, rows, work
from support.processes import hear, python
from support.processors import LANE, NAME, STREAM, Driven, processor
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import SLACK, eventually

SYNC = World(None)
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}

#: A process that dies, or stops, the n-th time that it comes to a step.
WORKER = f"""
import signal
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
from redfloe._lake.aside import LocalFiles
from redfloe._lake.delta_table import DeltaTable
from redfloe._processing.delta_staging import DeltaStaging
from support.consumers import World
from support.delta_lakes import delta
from support.lakes import work

url, to, step, number, how, options = sys.argv[1:]
number, options = int(number), json.loads(options)
counts = {{}}

def at(name):
    counts[name] = counts.get(name, 0) + 1
    if (name, counts[name]) == (step, number):
        print(json.dumps(name), flush=True)
        os.kill(os.getpid(), getattr(signal, how))

def before_and_after(cls, name):
    act = getattr(cls, name)
    def wrapped(*arguments, **keywords):
        at(f"before {{name}}")
        result = act(*arguments, **keywords)
        at(f"after {{name}}")
        return result
    setattr(cls, name, wrapped)

for cls, names in (
    (LocalFiles, ["put", "create", "delete"]),
    (Path, ["rename"]),
    (DeltaTable, ["append", "_create"]),
    (DeltaStaging, ["settle"]),
):
    for name in names:
        before_and_after(cls, name)
made, sink = delta(url, to, **options)
with made:
    for tx in made:
        work(World(None), sink, tx)
        at("before commit")
        tx.commit()
        at("after commit")
at("left")
print(json.dumps("done"), flush=True)
"""

#: Each batch puts one file and a list, which is before its commit, and deletes both after its
#: rows are in.
STEPS = [
    *(("before settle", 1), ("after settle", 1), ("before create", 1), ("after create", 1)),
    *(("before put", 3), ("after put", 3), ("before put", 4), ("after put", 4)),
    *(("before commit", 2), ("after commit", 2), ("before _create", 1), ("after _create", 1)),
    *(("before append", 1), ("before append", 2), ("after append", 2)),
    *(("before delete", 3), ("after delete", 3), ("after delete", 4)),
    *(("before append", 4), ("after append", 4), ("after delete", 8), ("left", 1)),
]
NAMES = [f"{name} {number}" for name, number in STEPS]


def start(url: str, to: Path, step: tuple[str, int], how: str, **options: Any) -> Any:
    arguments = (str(to), step[0], str(step[1]), how, json.dumps({"batch_size": 2, **options}))
    return python(WORKER, url, *arguments)


def hear_stop(process: subprocess.Popen[str], step: str) -> None:
    """Wait until it has stopped at the step."""
    assert hear(process) == step
    assert os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT) is not None


@pytest.mark.parametrize("step", STEPS, ids=NAMES)
def test_a_process_that_is_killed_at_a_step(
    redis70: Server, client: redis.Redis, tmp_path: Path, step: tuple[str, int]
) -> None:
    add_numbers(client, STREAM, 8)
    with start(redis70.url, tmp_path, step, "SIGKILL") as process:
        assert hear(process) == step[0]
        assert process.wait(20 * SLACK) == -signal.SIGKILL
    before = read(tmp_path).rows()
    drain(redis70.url, tmp_path, takeover=True, batch_size=3)
    check(client, tmp_path, 8)
    # What readers have seen stays as it was, and nothing else is left.
    assert set(before) <= set(read(tmp_path).rows())
    assert [file.name for file in tmp_path.glob("_redfloe/sinks/*/*")] == ["sink.json"]


@pytest.mark.parametrize(
    "step",
    [
        *(("before put", 3), ("after put", 4), ("before commit", 2)),
        *(("before append", 2), ("after append", 2), ("before delete", 3)),
    ],
    ids=lambda step: f"{step[0]} {step[1]}",
)
def test_a_process_that_was_superseded_changes_nothing(
    redis70: Server, client: redis.Redis, tmp_path: Path, step: tuple[str, int]
) -> None:
    """It wakes up when its successor has added the same rows, and more."""
    add_numbers(client, STREAM, 8)
    with start(redis70.url, tmp_path, step, "SIGSTOP") as process:
        hear_stop(process, step[0])
        drain(redis70.url, tmp_path, takeover=True, batch_size=3)
        check(client, tmp_path, 8)
        os.kill(process.pid, signal.SIGCONT)
        _, err = process.communicate(timeout=20 * SLACK)
        assert "FencedError" in err
    drain(redis70.url, tmp_path)
    check(client, tmp_path, 8)


def test_two_processes_of_one_name(redis70: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, STREAM, 40)
    with (
        start(redis70.url, tmp_path, ("never", 0), "SIGKILL", batch_size=10) as one,
        start(redis70.url, tmp_path, ("never", 0), "SIGKILL", batch_size=10) as other,
    ):
        assert hear(one) == hear(other) == "done"
    check(client, tmp_path, 40)


@pytest.mark.parametrize("retries", [0, 5])
def test_a_commit_whose_reply_is_lost(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World, retries: int
) -> None:
    add_numbers(client, STREAM, 6)
    processor(any_server.url, name="warm").run(lambda tx: None)  # scripts are loaded
    with Proxy(any_server.port) as proxy:
        url = RedisConnection(proxy.url, **QUICK | {"max_retries": retries})
        made, sink = delta(url, tmp_path, batch_size=2)
        with Driven(world, made) as driven:
            for number, tx in enumerate(driven):
                work(world, sink, tx)
                if number == 1:
                    proxy.cut_after(0, once_seen=b"EVALSHA")
        assert made.stats.epoch == (1 if retries else 2)
    check(client, tmp_path, 6)


def test_a_fenced_commit_is_in_neither(
    redis70: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    add_numbers(client, STREAM, 4)
    made, sink = delta(redis70.url, tmp_path)
    with pytest.raises(FencedError), Driven(world, made) as driven:  # noqa: PT012
        tx = next(driven)
        work(world, sink, tx)
        drain(redis70.url, tmp_path, takeover=True)
        world.do(tx.commit())
    drain(redis70.url, tmp_path)
    check(client, tmp_path, 4)


def test_a_standby_adds_what_was_committed_although_no_entry_comes(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 4)
    with start(redis70.url, tmp_path, ("before append", 2), "SIGKILL", lease_ms=100) as process:
        assert hear(process) == "before append"
    assert read(tmp_path)["n"].to_list() == [1, 2]
    made, sink = delta(redis70.url, tmp_path, on_idle="wait", lease_ms=100)
    ended = made.start(lambda tx: work(SYNC, sink, tx))
    eventually(lambda: read(tmp_path).height == 4)
    made.stop()
    ended.result(10 * SLACK)
    check(client, tmp_path, 4)


def test_several_writes_of_a_transaction_are_one_of_the_table(
    redis70: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    """Those of a handler that fails are not in it, and nothing is without a row."""
    add_numbers(client, STREAM, 6)
    made = processor(redis70.url, batch_size=2)
    sink = DeltaSink(made, tmp_path)
    with pytest.raises(ZeroDivisionError), Driven(world, made) as driven:  # noqa: PT012
        world.do(sink.write(next(driven), pl.DataFrame({"n": ["of the attempt that fails"]})))
        raise ZeroDivisionError
    with Driven(world, made) as driven:
        for tx in driven:
            for row in tx.frame.select("n").iter_slices(1):
                world.do(sink.write(tx, row.filter(pl.col("n") < 5)))
            world.do(sink.write(tx, tx.frame.select("n", b="n").filter(pl.col("n") == 3)))
    table = deltalake.DeltaTable(tmp_path)
    assert table.version() == 2  # it is created first
    found = pl.read_delta(str(tmp_path)).sort("n", "b").select("n", "b").rows()
    assert found == [(1, None), (2, None), (3, None), (3, 3), (4, None)]
    assert repr(sink) == f"DeltaSink({str(tmp_path)!r})"


def test_others_write_to_the_table_and_keep_it_in_order(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Another processor, somebody without one, compaction and vacuum."""
    add_numbers(client, STREAM, 4)
    deltalake.write_deltalake(
        tmp_path, pl.DataFrame({"n": [0], "parity": [0]}), partition_by=["parity"]
    )
    for name in (NAME, "other"):
        drain(redis70.url, tmp_path, name=name, batch_size=2)
    table = deltalake.DeltaTable(tmp_path)
    table.optimize.compact()
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    add_numbers(client, STREAM, 6, first=5)
    for name in (NAME, "other"):
        drain(redis70.url, tmp_path, name=name, batch_size=2)
    found = pl.read_delta(str(tmp_path))["n"].sort().to_list()
    assert found == [0, *(n for n in range(1, 7) for _ in range(2))]


def test_rows_that_do_not_fit_are_refused_before_the_commit(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 1)
    drain(redis70.url, tmp_path)
    add_numbers(client, STREAM, 2, first=2)
    made, sink = delta(redis70.url, tmp_path)
    with made:
        tx = next(made)
        frame = rows(tx)
        n = pl.col("n")
        for wrong, match in (
            (frame.with_columns(n.cast(pl.String)), "'n' is Int64 in the table .* String: cast"),
            (frame.with_columns(n + 0.5), "'n' is Int64 .*Float64"),
            (frame.with_columns(pl.lit(2**63, pl.UInt64).alias("n")), "do not fit|Decimal"),
            (frame.with_columns(new=None), "'new' has no dtype"),
            (frame.with_columns(new=pl.duration(seconds=1)), "no Duration"),
            (frame.with_columns(N="n"), "takes the fields"),
            (frame.drop("parity"), "no column 'parity' to partition by"),
        ):
            with pytest.raises(SchemaError, match=match):
                sink.write(tx, wrong)
        tx.publish(OUT, frame)
        sink.write(tx, frame.with_columns(n.cast(pl.UInt8), parity=n.cast(pl.Int32) % 2))
    check(client, tmp_path, 2)


def test_a_server_that_has_lost_commits(own: Server, tmp_path: Path) -> None:
    client = own.client()
    add_numbers(client, STREAM, 4)
    made, sink = delta(RedisConnection(own.url, **QUICK), tmp_path, batch_size=2)
    with made:
        work(SYNC, sink, next(made))
        tx = next(made)
        client.save()
        work(SYNC, sink, tx)
    own.kill()
    own.start()
    with pytest.raises(
        DataLossError, match=r"has rows of entries after 2-0, .*give the sink a new"
    ):
        drain(own.url, tmp_path)


def test_a_stream_that_was_created_again(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Its entries come before those that the table has."""
    for entry, number in (("500-0", 1), ("5-0", 2), ("6-0", 3), ("500-0", 4)):
        if number != 3:
            client.delete(STREAM)
        client.xadd(STREAM, {"n": number}, id=entry)
        drain(redis70.url, tmp_path, on_data_loss="continue")
        check(client, tmp_path, number)


def test_what_a_crash_left_of_a_file_is_deleted(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 2)
    step = ("before rename", 1)
    with start(redis70.url, tmp_path, step, "SIGKILL") as process:
        assert hear(process) == step[0]
        assert process.wait(20 * SLACK) == -signal.SIGKILL
    assert [*tmp_path.glob("_redfloe/sinks/*/*.new")]
    drain(redis70.url, tmp_path, takeover=True)
    check(client, tmp_path, 2)
    assert [file.name for file in tmp_path.glob("_redfloe/sinks/*/*")] == ["sink.json"]


def test_a_processor_that_was_reset(redis70: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, STREAM, 4)
    drain(redis70.url, tmp_path)
    redfloe.reset_processor(redis70.url, STREAM, NAME, to="0", state="drop")
    with pytest.raises(DataLossError, match="was reset"):
        drain(redis70.url, tmp_path)


def test_a_table_that_lacks_what_was_committed(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 4)
    drain(redis70.url, tmp_path)
    for file in (tmp_path / "_delta_log").iterdir():
        file.unlink()
    with pytest.raises(DataLossError, match=r"lacks the rows .* 0-0_4-0"):
        drain(redis70.url, tmp_path)


def test_what_cannot_be_right_is_refused(
    redis70: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 2)
    deltalake.write_deltalake(tmp_path, pl.DataFrame({"n": [0], "parity": [0]}))
    with pytest.raises(ValueError, match=r"has the partitions \[\], and not \['parity'\]"):
        drain(redis70.url, tmp_path)
    grouped = processor(redis70.url, group="g", consumer="c")
    with pytest.raises(ValueError, match="group"):
        DeltaSink(grouped, tmp_path)
    made = processor(redis70.url)
    with pytest.raises(TypeError, match="partition_by"):
        DeltaSink(made, tmp_path, partition_by=[1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="to is empty"):
        DeltaSink(made, "")


@pytest.mark.parametrize("killed", ["before append", "after append"])
def test_an_object_store(redis70: Server, client: redis.Redis, killed: str) -> None:
    """The next process settles it there, wherever it runs."""
    add_numbers(client, STREAM, 6)
    to = f"s3://{BUCKET}/{killed.replace(' ', '-')}/sales"
    with bucket() as options:
        made, sink = delta(redis70.url, to, options, batch_size=2)
        append = sink._staging._table.append

        def fails(*arguments: Any, **keywords: Any) -> None:
            if killed == "after append":
                append(*arguments, **keywords)
            msg = "the network is gone"
            raise OSError(msg)

        with pytest.raises(OSError, match="network"), made:  # noqa: PT012
            work(SYNC, sink, next(made))
            tx = next(made)
            work(SYNC, sink, tx)
            sink._staging._table.append = fails  # type: ignore[method-assign]
            tx.commit()
        assert client.hget(LANE, "position") == b"4-0"
        drain(redis70.url, to, options)
        check(client, to, 6, options)
